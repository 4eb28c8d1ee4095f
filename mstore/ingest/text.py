"""A plain line-protocol connection as a state machine: bytes in, effects and one reply line out."""

from __future__ import annotations

from mstore import limits
from mstore.errors import MstoreError, ProtocolError
from mstore.ingest.effects import Steps
from mstore.ingest.engine import Engine, LineState, is_name
from mstore.model import Ack, Precision

_HEADER = b"# mstore"
_AFTER_HEADER = (b" ", b"\t", b"\r", b"\n", b"")
_PRECISIONS = {"s": Precision.S, "ms": Precision.MS, "us": Precision.US, "ns": Precision.NS}
_ACKS = {"durable": Ack.DURABLE, "memory": Ack.MEMORY}


class TextSession:
    """One connection that began with anything but a frame.

    The first line may be `# mstore cluster=NAME precision=s|ms|us|ns ack=durable|memory`. When the peer shuts
    down its sending side, finish() stores a last line without newline, and reply() is the answer once
    `position` of the ring has reached the level `ack`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ack = Ack.DURABLE
        self.position = engine.ring.head()
        self._state = LineState()
        self._at_start = True

    def consume(self, data: memoryview | bytes) -> Steps:
        """Work on `data`, the unused rest of earlier calls in front; returns the rest to keep."""
        return self._work(data, final=False)

    def finish(self, data: bytes) -> Steps:
        """The peer will send nothing more: `data` is all that is left."""
        return self._work(data, final=True)

    def reply(self, durable: bool) -> bytes:
        return f"{self._state.tally.words(durable)}\n".encode()

    def error_reply(self, error: MstoreError, durable: bool) -> bytes:
        """Instead of reply(), after an error: what became of the lines before it, if there were any.

        Like reply() it may be sent once the ring's head of this moment has reached the level `ack`.
        """
        counts = f"{self._state.tally.words(durable)} " if self.has_counts else ""
        return f"error={error.code} {counts}{error}\n".encode()

    @property
    def waits(self) -> bool:
        """Whether the reply counts anything that is to be stored first."""
        return self._state.tally.written > 0 or not self._state.exact

    @property
    def has_counts(self) -> bool:
        """Whether lines were taken, and it is known exactly which."""
        return self._state.exact and self._state.tally.total > 0

    def _work(self, data: memoryview | bytes, *, final: bool) -> Steps:
        if self._at_start:
            used = self._read_header(data, final)
            if used is None:
                return bytes(data)
            data = data[used:]
        rest = yield from self._engine.take_lines(data, self._state, final=final)
        self.position = self._engine.ring.head()
        return rest

    def _read_header(self, data: memoryview | bytes, final: bool) -> int | None:
        """Bytes used by a header line; 0 when there is none; None when more bytes are needed to tell."""
        head = bytes(data[: limits.KEY_BYTES_MAX])
        if not final and len(head) < len(_HEADER) and _HEADER.startswith(head):
            return None
        if head.startswith(_HEADER) and head[len(_HEADER) : len(_HEADER) + 1] in _AFTER_HEADER:
            end = head.find(b"\n")
            if end < 0 and not final:
                if len(head) >= limits.KEY_BYTES_MAX:
                    raise ProtocolError(f"the header line is longer than {limits.KEY_BYTES_MAX} bytes")
                return None
            self._apply_header(head[: end if end >= 0 else None])
            self._at_start = False
            return end + 1 if end >= 0 else len(data)
        self._at_start = False
        return 0

    def _apply_header(self, line: bytes) -> None:
        for word in line.split()[2:]:
            name, _, raw = word.partition(b"=")
            value = raw.decode("utf-8", "replace")
            if name == b"cluster" and is_name(raw):
                self._state.cluster = raw
            elif name == b"precision" and value in _PRECISIONS:
                self._state.precision = _PRECISIONS[value]
            elif name == b"ack" and value in _ACKS:
                self.ack = _ACKS[value]
            else:
                raise ProtocolError(
                    f"{word.decode('utf-8', 'replace')!r} in the header line: allowed are cluster=NAME,"
                    " precision=s|ms|us|ns, ack=durable|memory"
                )
