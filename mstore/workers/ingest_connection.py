"""One client's connection to an ingest worker: bytes of the socket into a session, its effects and replies out."""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

from mstore import limits
from mstore.errors import MstoreError, ProtocolError, Timeout
from mstore.ingest.effects import Effect
from mstore.ingest.framed import FramedSession
from mstore.ingest.text import TextSession
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.model import Ack

if TYPE_CHECKING:
    from mstore.workers.ingest import IngestWorker

log = logging.getLogger(__name__)

Work = Generator[Effect, Any, None]

_RECYCLED = frozenset((m.Lines.TAG, m.Columns.TAG))
"""Messages of which nothing is kept once they are carried out."""


class IngestConnection(asyncio.BufferedProtocol):
    """Sniffs the first byte, then feeds one session, in order, one piece of work at a time.

    While a piece waits (for references or for room in the ring) reading is paused: the socket's buffer fills and
    the sender is held back. Nothing is dropped. Text is received into the worker's one large buffer, behind the
    unfinished line kept from last time; frames into the decoder's own buffers.
    """

    def __init__(self, worker: IngestWorker) -> None:
        self._worker = worker
        self._transport: asyncio.Transport | None = None
        self._carry = b""
        self._text: TextSession | None = None
        self._framed: FramedSession | None = None
        self._decoder: framing.FrameDecoder | None = None
        self._task: asyncio.Task[None] | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False
        self._ending = False

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
        if self._text is not None or (self._decoder is None and not self._carry):
            session = self._text or TextSession(self._worker.engine)
            if self._peer_is_gone():
                # Not shut down but closed: nobody vouches for the line that is not finished.
                self._carry = b""
            self._run(self._finish_text(session))
            return True  # the reply line is still to be written
        return False

    def _peer_is_gone(self) -> bool:
        """Whether the peer closed both directions. Half-closed (it waits for the reply) shows as RDHUP without HUP."""
        assert self._transport is not None
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def pause_writing(self) -> None:
        loop = asyncio.get_running_loop()
        self._stalled = loop.call_later(limits.STALLED_READER_S_MAX, self._reader_stalled)
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self._task is None and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        for timer in (self._stalled, self._watch):
            if timer is not None:
                timer.cancel()
        self._worker.closed(self)

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
        self._ending = True
        durable = session.ack is Ack.DURABLE
        self._worker.when(
            session.ack, session.position, lambda: self._write_and_close(session.reply(durable))
        )

    def _handle_frames(self, frames: Any) -> Work:
        assert self._framed is not None
        assert self._decoder is not None
        for frame in frames:
            yield from self._framed.handle(frame.request_id, m.decode_frame(frame))
            if frame.tag in _RECYCLED:
                self._decoder.recycle(frame.body)

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
        assert self._transport is not None
        self._transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._go_on(work, effect))

    async def _go_on(self, work: Work, effect: Effect) -> None:
        try:
            while True:
                try:
                    answer = await self._worker.carry_out(effect)
                except MstoreError as error:
                    effect = work.throw(error)
                else:
                    effect = work.send(answer)
        except StopIteration:
            self._task = None
            self._watch_unfinished()
            if not self._closed and self._stalled is None and self._transport is not None:
                self._transport.resume_reading()
        except MstoreError as error:
            self._task = None
            self._fail(error)
        except Exception:
            log.exception("a connection ends after an unexpected error")
            if self._transport is not None:
                self._transport.abort()
        finally:
            work.close()

    # --- replies

    def _reply(self, request_id: int, level: Ack | None, message: m.Message) -> None:
        if level is None:
            self._send(m.encode(message, request_id))
            return
        position = self._worker.engine.ring.head()
        self._worker.when(level, position, lambda: self._send(m.encode(message, request_id)))

    def _send(self, data: bytes) -> None:
        if not self._closed and self._transport is not None:
            self._transport.write(data)

    def _write_and_close(self, data: bytes) -> None:
        self._send(data)
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: MstoreError) -> None:
        """Tell the peer what was wrong, then close: after a broken protocol nothing that follows can be trusted."""
        self._worker.slot.add("errors", 1)
        if isinstance(error, ProtocolError):
            log.info("connection closed: %s", error)
        else:
            log.warning("connection closed: %s", error)
        if self._decoder is not None:
            self._write_and_close(m.encode(m.Error.of(error), 0))
        else:
            self._write_and_close(f"error={error.code} {error}\n".encode())

    # --- time limits; an idle connection has no timer

    def _watch_unfinished(self) -> None:
        pending = self._decoder is not None and self._decoder.pending_since is not None
        if pending and self._watch is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(limits.UNFINISHED_FRAME_S_MAX, self._check_unfinished)
        elif not pending and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _check_unfinished(self) -> None:
        self._watch = None
        if self._decoder is None or self._decoder.pending_since is None or self._closed:
            return
        age = self._worker.monotonic_s() - self._decoder.pending_since
        if self._task is None and age >= limits.UNFINISHED_FRAME_S_MAX:
            self._fail(
                Timeout(f"a frame stayed unfinished for {limits.UNFINISHED_FRAME_S_MAX} s: send frames whole")
            )
            return
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(max(1.0, limits.UNFINISHED_FRAME_S_MAX - age), self._check_unfinished)

    def _reader_stalled(self) -> None:
        log.info("connection closed: it took none of its replies for %d s", limits.STALLED_READER_S_MAX)
        if self._transport is not None:
            self._transport.abort()

    # --- orderly stop

    def stop_reading(self) -> None:
        """Take nothing more from the socket; what was taken is still acknowledged."""
        if self._transport is not None and not self._closed:
            self._transport.pause_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    @property
    def idle(self) -> bool:
        return self._task is None
