"""One client's connection to an ingest worker: bytes of the socket into a session, its effects and replies out."""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, cast

from mstore import faults, limits
from mstore.errors import Cancelled, MstoreError, ProtocolError, Timeout
from mstore.ingest.effects import Effect
from mstore.ingest.framed import FramedSession
from mstore.ingest.text import TextSession
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.model import Ack
from mstore.workers import states

if TYPE_CHECKING:
    from mstore.workers.ingest import IngestWorker

log = logging.getLogger(__name__)

Work = Generator[Effect, Any, None]

_LEFT_S_MIN = 0.01
"""A timer that woke a little early waits so long again."""

_RECYCLED = frozenset((m.Lines.TAG, m.Columns.TAG))
"""Messages of which nothing is kept once they are carried out."""


class _Request:
    """One request of a framed connection, from its arrival to its reply."""

    __slots__ = ("n_bytes", "open", "request_id", "timer")

    def __init__(self, request_id: int, n_bytes: int) -> None:
        self.request_id = request_id
        self.n_bytes = n_bytes
        """Of its frame's body."""
        self.open = True
        """No reply has been sent."""
        self.timer: asyncio.TimerHandle | None = None


_Arrival = tuple[_Request, m.Message, framing.Frame]


class IngestConnection(asyncio.BufferedProtocol):
    """Sniffs the first byte, then feeds one session, in order, one piece of work at a time.

    While a piece waits (for references or for room in the ring) reading is paused: the socket's buffer fills and
    the sender is held back. Nothing is dropped. Text is received into the worker's one large buffer, behind the
    unfinished line kept from last time; frames into the decoder's own buffers.

    A request whose deadline passes is answered by Timeout at once, one that is cancelled by Cancelled; its own reply
    is dropped then. If it has not begun it never does; otherwise what it wrote may be stored.
    """

    def __init__(self, worker: IngestWorker) -> None:
        self._worker = worker
        self._transport: asyncio.Transport | None = None
        self._carry = b""
        self._text: TextSession | None = None
        self._framed: FramedSession | None = None
        self._decoder: framing.FrameDecoder | None = None
        self._open: dict[int, _Request] = {}
        self._current: _Request | None = None
        self._greeting_seen = False
        self._deadline_ms = 0
        self._task: asyncio.Task[None] | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._n_sent = 0
        self._n_received = 0
        self._since_s = worker.monotonic_s()
        self._closed = False
        self._no_more = False
        """The peer has sent all it will, or nothing more is taken from it."""

    def state(self) -> dict[str, Any]:
        """For `mstore debug`: who is there, what came and went, what is not acknowledged yet."""
        framed = self._decoder is not None
        return {
            "peer": states.peer(self._transport),
            "protocol": "frames" if framed else "text",
            "age_s": round(self._worker.monotonic_s() - self._since_s, 3),
            "bytes_in": self._n_received,
            "bytes_out": self._n_sent,
            # Text is acknowledged once, at its end.
            "waiting_bytes": sum(one.n_bytes for one in self._open.values()) if framed else self._n_received,
            "requests_open": len(self._open),
            "busy": self._task is not None,
            "takes_no_replies": self._stalled is not None,
            "peer_is_done": self._no_more,
        }

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio.Transport but are used as one.
        self._transport = cast(asyncio.Transport, transport)
        self._worker.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._decoder is not None:
            return self._decoder.receive_buffer()
        n = len(self._carry)
        self._worker.buffer[:n] = self._carry
        return self._worker.buffer[n:]

    def buffer_updated(self, nbytes: int) -> None:
        self._worker.slot.add("bytes_in", nbytes)
        self._n_received += nbytes
        if self._decoder is not None:
            self._run(self._handle_frames(self._decoder.received(nbytes)))
            return
        view = self._worker.buffer[: len(self._carry) + nbytes]
        if self._text is None:
            if view[0] == framing.MAGIC:
                self._begin_frames(bytes(view))
                return
            self._text = TextSession(self._worker.engine)
        self._run(self._handle_text(view))

    def eof_received(self) -> bool:
        self._no_more = True
        gone = self._peer_is_gone()
        if self._decoder is not None:
            # Replies that are still due go out first, when there is somebody to read them.
            return bool(self._open) and not gone
        session = self._text or TextSession(self._worker.engine)
        if gone:
            # Not shut down but closed: nobody vouches for the line that is not finished.
            self._carry = b""
        self._run(self._finish_text(session))
        return True  # the reply line is still to be written

    def _peer_is_gone(self) -> bool:
        """Whether the peer closed both directions. Half-closed (it waits for the reply) shows as RDHUP without HUP."""
        assert self._transport is not None
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        self._watch_reader()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        timers = [self._stalled, self._watch, *(request.timer for request in self._open.values())]
        for timer in timers:
            if timer is not None:
                timer.cancel()
        self._open.clear()
        if self._framed is not None:
            self._framed.close()
        self._worker.closed(self)

    def _read_on(self) -> None:
        """Resume reading, unless something still holds it back."""
        if self._task is not None or self._stalled is not None or self._no_more or self._closed:
            return
        if self._decoder is not None and self._decoder.pending_since is not None:
            # The peer could not send the rest of its frame while nobody read it.
            self._decoder.pending_since = self._worker.monotonic_s()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- work

    def _begin_frames(self, first: bytes) -> None:
        self._decoder = framing.FrameDecoder(limits.FRAME_BYTES_MAX, m.TAGS, self._worker.bodies)
        self._framed = FramedSession(self._worker.engine, self._reply, self._worker.welcome)
        self._run(self._handle_frames(self._decoder.feed(first)))

    def _handle_text(self, data: memoryview) -> Work:
        assert self._text is not None
        self._carry = yield from self._text.consume(data)

    def _finish_text(self, session: TextSession) -> Work:
        carry, self._carry = self._carry, b""
        yield from session.finish(carry)
        durable = session.ack is Ack.DURABLE
        self._when_stored(session, session.position, lambda: self._write_and_close(session.reply(durable)))

    def _when_stored(self, session: TextSession, position: int, answer: Callable[[], None]) -> None:
        """Answer once what the session wrote, up to this position of the ring, is stored; if it wrote nothing, at once."""
        if session.waits:
            self._worker.when(session.ack, position, answer)
        else:
            answer()

    def _handle_frames(self, frames: Iterator[framing.Frame]) -> Work:
        assert self._framed is not None
        assert self._decoder is not None
        arrived, broken = self._arrived(frames)
        for request, message, frame in arrived:
            if request.open:
                self._current = request
                yield from self._framed.handle(request.request_id, message)
            if frame.tag in _RECYCLED:
                self._decoder.recycle(frame.body)
        if broken is not None:
            raise broken

    def _arrived(self, frames: Iterator[framing.Frame]) -> tuple[list[_Arrival], ProtocolError | None]:
        """The requests that are here, their deadlines running; those before a broken frame, and what is wrong with it.

        A Cancel takes effect at its arrival: before the requests that arrived with it.
        """
        arrived: list[_Arrival] = []
        try:
            for frame in frames:
                message = m.decode_frame(frame)
                if isinstance(message, m.Cancel) and self._greeting_seen:
                    self._cancel(message.target)
                    continue
                request = _Request(frame.request_id, len(frame.body))
                self._open[frame.request_id] = request
                self._set_deadline(request, message)
                arrived.append((request, message, frame))
                self._greeting_seen = True
        except ProtocolError as error:
            return arrived, error
        return arrived, None

    def _set_deadline(self, request: _Request, message: m.Message) -> None:
        if isinstance(message, m.Hello):
            self._deadline_ms = message.deadline_ms
            return
        deadline_ms = getattr(message, "deadline_ms", 0) or self._deadline_ms
        if deadline_ms:
            loop = asyncio.get_running_loop()
            request.timer = loop.call_later(deadline_ms / 1000, self._too_late, request, deadline_ms)

    def _too_late(self, request: _Request, deadline_ms: int) -> None:
        error = Timeout(
            f"not done within {deadline_ms} ms; a write may or may not have been stored, sending it again is safe"
        )
        self._answer(request, m.Error.of(error))

    def _cancel(self, target: int) -> None:
        request = self._open.get(target)
        if request is not None:
            self._worker.slot.add("cancelled")
            self._answer(request, m.Error.of(Cancelled("cancelled by its sender")))

    def _run(self, work: Work) -> None:
        """Carry the work out at once as far as it goes; the rest, if any, as a task with reading paused."""
        try:
            effect = next(work)
        except StopIteration:
            self._watch_unfinished()
            return
        except MstoreError as error:
            self._fail(error)
            return
        except Exception as error:
            self._fail_unexpectedly(error)
            return
        assert self._transport is not None
        faults.hit("ingest.waiting")
        self._transport.pause_reading()
        answer = self._worker.carry_out(effect)
        self._task = asyncio.get_running_loop().create_task(self._go_on(work, answer))

    async def _go_on(self, work: Work, answer: Awaitable[Any]) -> None:
        try:
            while True:
                try:
                    found = await answer
                except MstoreError as error:
                    effect = work.throw(error)
                else:
                    effect = work.send(found)
                answer = self._worker.carry_out(effect)
        except StopIteration:
            self._task = None
            self._read_on()
            self._watch_unfinished()
        except MstoreError as error:
            self._task = None
            self._fail(error)
        except Exception as error:
            self._task = None
            self._fail_unexpectedly(error)
        finally:
            work.close()

    # --- replies

    def _reply(self, request_id: int, level: Ack | None, message: m.Message) -> None:
        request = self._current
        assert request is not None
        assert request.request_id == request_id, "one request at a time"
        if level is None:
            self._answer(request, message)
        else:
            position = self._worker.engine.ring.head()
            self._worker.when(level, position, lambda: self._answer(request, message))

    def _answer(self, request: _Request, message: m.Message) -> None:
        """The one reply of a request; later ones are dropped."""
        if not request.open:
            return
        request.open = False
        if request.timer is not None:
            request.timer.cancel()
        if self._open.get(request.request_id) is request:
            del self._open[request.request_id]
        faults.hit("ingest.reply")
        self._send(m.encode(message, request.request_id))
        if self._no_more and not self._open and self._task is None:
            self.close()

    def _send(self, data: bytes) -> None:
        if not self._closed and self._transport is not None and not self._transport.is_closing():
            self._n_sent += len(data)
            self._transport.write(data)

    def _write_and_close(self, data: bytes) -> None:
        self._send(data)
        self.close()

    def _fail(self, error: MstoreError) -> None:
        """Tell the peer what was wrong, then close: after a broken protocol nothing that follows can be trusted."""
        self._worker.slot.add("errors", 1)
        if isinstance(error, ProtocolError):
            log.info("connection closed: %s", error)
        else:
            log.warning("connection closed: %s", error)
        if self._decoder is not None:
            self._write_and_close(m.encode(m.Error.of(error), 0))
        elif self._text is not None and self._text.has_counts:
            session, durable = self._text, self._text.ack is Ack.DURABLE
            self.stop_reading()
            position = self._worker.engine.ring.head()
            self._when_stored(
                session, position, lambda: self._write_and_close(session.error_reply(error, durable))
            )
        else:
            self._write_and_close(f"error={error.code} {error}\n".encode())

    def _fail_unexpectedly(self, error: Exception) -> None:
        log.exception("a connection ends after an unexpected error", exc_info=error)
        self._fail(MstoreError(f"the ingest worker failed: {type(error).__name__}: {error}"))

    # --- time limits; an idle connection has no timer

    def _watch_unfinished(self) -> None:
        pending = self._decoder is not None and self._decoder.pending_since is not None and not self._closed
        if pending and self._watch is None:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(limits.UNFINISHED_FRAME_S_MAX, self._check_unfinished)
        elif not pending and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _check_unfinished(self) -> None:
        self._watch = None
        if self._decoder is None or self._decoder.pending_since is None or self._closed:
            return
        left = limits.UNFINISHED_FRAME_S_MAX - (self._worker.monotonic_s() - self._decoder.pending_since)
        if self._task is not None or self._stalled is not None:
            left = limits.UNFINISHED_FRAME_S_MAX  # not the peer's fault: nobody reads what it sends
        elif left <= 0:
            self._fail(
                Timeout(f"a frame stayed unfinished for {limits.UNFINISHED_FRAME_S_MAX} s: send frames whole")
            )
            return
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(max(_LEFT_S_MIN, left), self._check_unfinished)

    def _watch_reader(self) -> None:
        """Look again after the time in which the peer must have taken something."""
        loop = asyncio.get_running_loop()
        self._stalled = loop.call_later(limits.STALLED_READER_S_MAX, self._check_reader, self._n_taken())

    def _n_taken(self) -> int:
        assert self._transport is not None
        return self._n_sent - self._transport.get_write_buffer_size()

    def _check_reader(self, n_before: int) -> None:
        if self._n_taken() > n_before:
            self._watch_reader()
            return
        log.info("connection closed: it took none of its replies for %s s", limits.STALLED_READER_S_MAX)
        assert self._transport is not None
        self._transport.abort()

    # --- orderly stop

    def stop_reading(self) -> None:
        """Take nothing more from the socket; what was taken is still acknowledged."""
        self._no_more = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    @property
    def idle(self) -> bool:
        return self._task is None
