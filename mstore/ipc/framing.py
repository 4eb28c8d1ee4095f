"""Bytes <-> frames: no sockets, no msgpack, every length checked before anything is allocated.

A frame is a 16-byte little-endian header and a body:

    byte 0      1      2          4                  8                                  16
       +------+------+----------+------------------+----------------------------------+----------------
       | 0xC1 | tag  | flags 0  | body bytes (u32) | request id (u64)                 | body
       +------+------+----------+------------------+----------------------------------+----------------

0xC1 starts no line of line protocol (it is never part of valid UTF-8) and no msgpack value, so the first byte
of a connection tells frames from lines, and a reader that lost its place stops at the next header.
The body is a msgpack array (messages.py). docs/format/ipc.md is the whole protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from typing import NamedTuple, NoReturn

from mstore import clock, limits
from mstore.errors import FrameTooLarge, ProtocolError, UnknownMessage

MAGIC = 0xC1
HEADER = struct.Struct("<BBHIQ")
HEADER_BYTES = HEADER.size
BODY_BYTES_MAX = 2**32 - 1
"""What the length field can say; receivers allow far less (limits.py)."""

ALL_TAGS = range(1, 256)

# Small messages arrive many at a time in here; a large body is received straight into bytes of its own.
SCRATCH_BYTES = 64 * limits.KIB
DIRECT_BYTES_MIN = 16 * limits.KIB
# Recycled bytes are handed on to frames of about the same size, and only a few are kept.
BODY_STEP_BYTES = 64 * limits.KIB
SPARES_MAX = 4

Buffer = bytes | bytearray | memoryview

assert HEADER_BYTES == 16
assert DIRECT_BYTES_MIN <= SCRATCH_BYTES


class Frame(NamedTuple):
    tag: int
    request_id: int
    body: memoryview


_frame = tuple.__new__  # a third of the time of Frame(...)


def header(tag: int, body_bytes: int, request_id: int) -> bytes:
    """The 16 bytes that go before a body of `body_bytes` bytes."""
    if body_bytes > BODY_BYTES_MAX:
        raise FrameTooLarge(f"a message of {body_bytes} bytes; a frame carries at most {BODY_BYTES_MAX}")
    return HEADER.pack(MAGIC, tag, 0, body_bytes, request_id)


def encode_frame(tag: int, request_id: int, body: Buffer) -> bytes:
    """Header and body in one piece (copies the body)."""
    return b"".join((header(tag, len(body), request_id), body))


class FrameDecoder:
    """Turns the bytes of one connection into frames.

    limit   largest body in bytes; a header that announces more raises FrameTooLarge, nothing is allocated
    tags    the tags that may appear; any other raises UnknownMessage at its header

    Two ways in, not to be mixed on one decoder:

        feed(data)                      the caller owns the bytes
        receive_buffer(), received(n)   the decoder owns them (recv_into, BufferedProtocol); the bodies of
                                        large frames are received in place, without a copy

    Frames before a broken header are delivered first, then the error is raised; after it the decoder is of no
    more use (it raises the same error again) and the connection must be closed.
    Not thread-safe: one decoder belongs to one connection.

    spares  bytes of large bodies given back by recycle(), for the next large frames; decoders of one thread may
            share a list
    """

    __slots__ = (
        "_body",
        "_direct",
        "_error",
        "_filled",
        "_head",
        "_lent",
        "_limit",
        "_request_id",
        "_scratch",
        "_spares",
        "_tag",
        "_tags",
        "pending_since",
    )

    def __init__(
        self,
        limit: int = limits.FRAME_BYTES_MAX,
        tags: Container[int] = ALL_TAGS,
        spares: list[bytearray] | None = None,
    ) -> None:
        self._limit = limit
        self._tags = tags
        self._head = bytearray()
        self._body: memoryview | None = None
        self._filled = 0
        self._tag = 0
        self._request_id = 0
        self._error: ProtocolError | None = None
        self._scratch: memoryview | None = None
        self._spares: list[bytearray] = [] if spares is None else spares
        self._lent: object = None  # the bytes of the last body delivered, while they may be recycled
        self._direct = False
        self.pending_since: float | None = None
        """Monotonic seconds at which the unfinished frame began; None at a frame border. The caller closes
        connections whose frame stays unfinished for more than limits.UNFINISHED_FRAME_S_MAX."""

    @property
    def pending_bytes(self) -> int:
        """Bytes of the unfinished frame received so far, header included."""
        return len(self._head) if self._body is None else HEADER_BYTES + self._filled

    def feed(self, data: Buffer, now_s: float | None = None) -> Iterator[Frame]:
        """Take bytes; the frames they complete. All of `data` is taken in at once.

        A body is a view: of `data` where the frame lies wholly in it (valid as long as `data` is not
        overwritten), else of bytes of its own.
        """
        return self._take_in(memoryview(data), now_s)

    def receive_buffer(self) -> memoryview:
        """Where the next bytes of the connection should be put. Bodies delivered earlier may be overwritten
        now, except those of large frames, which have bytes of their own."""
        body = self._body
        if body is not None and len(body) - self._filled >= DIRECT_BYTES_MIN:
            self._direct = True
            return body[self._filled :]
        self._direct = False
        if self._scratch is None:
            self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        return self._scratch

    def received(self, n: int, now_s: float | None = None) -> Iterator[Frame]:
        """The frames completed by `n` bytes put into receive_buffer()."""
        if not self._direct:
            assert self._scratch is not None, "received() without receive_buffer()"
            return self._take_in(self._scratch[:n], now_s)
        frames: list[Frame] = []
        assert self._body is not None
        self._filled += n
        if self._filled == len(self._body):
            frames.append(self._finish(self._body))
        self._direct = False
        self._note_pending(bool(frames), now_s)
        return iter(frames)

    def recycle(self, body: memoryview) -> None:
        """Give the bytes of the body delivered last back for the next large frame; the caller keeps no view.

        Bodies that have no bytes of their own are left alone.
        """
        lent, self._lent = self._lent, None
        if body.obj is lent and isinstance(lent, bytearray) and len(self._spares) < SPARES_MAX:
            self._spares.append(lent)

    def _take_in(self, view: memoryview, now_s: float | None) -> Iterator[Frame]:
        frames: list[Frame] = []
        if self._error is None:
            try:
                self._parse(view, frames)
            except ProtocolError as error:
                self._error = error
            self._note_pending(bool(frames), now_s)
        return iter(frames) if self._error is None else self._then_raise(frames, self._error)

    def _parse(self, view: memoryview, frames: list[Frame]) -> None:
        position, end = 0, len(view)
        while position < end:
            body = self._body
            if body is not None:
                n = min(len(body) - self._filled, end - position)
                body[self._filled : self._filled + n] = view[position : position + n]
                self._filled += n
                position += n
                if self._filled == len(body):
                    frames.append(self._finish(body))
                continue
            if not self._head and end - position >= HEADER_BYTES:
                fields = HEADER.unpack_from(view, position)
                position += HEADER_BYTES
            else:
                n = min(HEADER_BYTES - len(self._head), end - position)
                self._head += view[position : position + n]
                position += n
                if len(self._head) < HEADER_BYTES:
                    if self._head[0] != MAGIC:
                        raise _bad_magic(self._head[0])
                    return
                fields = HEADER.unpack(self._head)
                self._head.clear()
            magic, tag, flags, length, request_id = fields
            if magic != MAGIC or tag not in self._tags or flags or length > self._limit:
                self._refuse(*fields)
            if end - position >= length:
                frames.append(_frame(Frame, (tag, request_id, view[position : position + length])))
                position += length
            else:
                self._tag, self._request_id = tag, request_id
                self._begin(length)

    def _refuse(self, magic: int, tag: int, flags: int, length: int, request_id: int) -> NoReturn:
        """Say what is wrong with a header."""
        if magic != MAGIC:
            raise _bad_magic(magic)
        if tag not in self._tags:
            raise UnknownMessage(f"no message has tag {tag}", tag=tag, request_id=request_id)
        if flags:
            raise ProtocolError(
                f"flags {flags:#06x} in a frame header: must be 0 in this version", request_id=request_id
            )
        raise FrameTooLarge(
            f"a frame of {length} bytes; at most {self._limit} are allowed: send several",
            length=length,
            limit=self._limit,
            request_id=request_id,
        )

    def _begin(self, length: int) -> None:
        spare = self._spares.pop() if self._spares else None
        if spare is None or not length <= len(spare) <= 2 * length + BODY_STEP_BYTES:
            spare = bytearray(-(-length // BODY_STEP_BYTES) * BODY_STEP_BYTES)
        self._body = memoryview(spare)[:length]
        self._filled = 0

    def _finish(self, body: memoryview) -> Frame:
        self._body = None
        self._filled = 0
        self._lent = body.obj
        return Frame(self._tag, self._request_id, body)

    def _note_pending(self, completed: bool, now_s: float | None) -> None:
        if self._error is not None or not (self._head or self._body is not None):
            self.pending_since = None
        elif completed or self.pending_since is None:
            self.pending_since = clock.monotonic_s() if now_s is None else now_s

    @staticmethod
    def _then_raise(frames: list[Frame], error: ProtocolError) -> Iterator[Frame]:
        yield from frames
        raise error


def _bad_magic(byte: int) -> ProtocolError:
    return ProtocolError(f"a frame must start with byte 0xc1, not {byte:#04x}")
