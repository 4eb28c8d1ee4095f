"""One connection of a query worker: its requests, in order, a slice of the loop's time at a time."""

from __future__ import annotations

import asyncio
import logging
import select
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from mstore import clock, faults, limits
from mstore.errors import Cancelled, InvalidRequest, LimitExceeded, MstoreError, ProtocolError, Timeout
from mstore.ipc import failure, framing, greeting
from mstore.ipc import messages as m
from mstore.query.budget import Budget, Slices, Work
from mstore.shm.control import WorkerSlot
from mstore.workers import states
from mstore.workers.feed import Feed
from mstore.workers.subscriber import Subscriber

log = logging.getLogger(__name__)

SLICE_S = 0.02
"""A request that takes longer is put aside for so long a turn of each of the others."""

_LEFT_S_MIN = 0.01
"""A timer that woke a little early waits so long again."""

_DEADLINE_MS_DEFAULT = int(limits.QUERY_SECONDS_DEFAULT * 1000)
"""For clients that give none."""


class Answering(Protocol):
    """What a connection needs of its worker."""

    slot: WorkerSlot

    def opened(self, connection: QueryConnection) -> None: ...
    def closed(self, connection: QueryConnection) -> None: ...
    def welcome(self, hello: m.Hello) -> m.Message: ...

    def answer(self, message: m.Message, budget: Budget) -> m.Message | Work[m.Message]:
        """The reply, or the work that makes it. raises typed errors"""
        ...

    def follow(
        self, message: m.Follow, send: Callable[[m.Message], None], waiting: Callable[[], int]
    ) -> tuple[Subscriber, m.FollowBegun]:
        """A subscription that is fed from now on. raises typed errors"""
        ...

    @property
    def feed(self) -> Feed:
        """What feeds the subscriptions of all connections."""
        ...

    def answered(self, message: m.Message, budget: Budget, took_us: int) -> None:
        """Told of every request that was answered by something else than an error."""
        ...


@dataclass(slots=True)
class _Request:
    request_id: int
    message: m.Message
    due_s: float
    """Monotonic time by which the answer is of use."""


@dataclass(slots=True)
class _UnderWay:
    """A request that takes more than one slice."""

    request: _Request
    budget: Budget
    slices: Slices[m.Message]
    busy_us: int
    turn: asyncio.Handle | None = None


class QueryConnection(asyncio.BufferedProtocol):
    """One client: requests are answered in order, one at a time.

    A long one is answered in slices; between two of them the loop serves whoever else has something to do. While the
    client does not take its answers no more are begun, and nothing is read: its requests wait. One that is cancelled or
    whose deadline passes stops at the end of its slice, and never begins if it has not.
    """

    def __init__(self, worker: Answering) -> None:
        self._worker = worker
        self._decoder = framing.FrameDecoder(limits.FRAME_BYTES_MAX, m.TAGS)
        self._transport: asyncio.Transport | None = None
        self._greeting_seen = False
        self._greeted = False
        self._deadline_ms = _DEADLINE_MS_DEFAULT
        self._queue: deque[_Request] = deque()
        self._under_way: _UnderWay | None = None
        self._subscribers: dict[int, Subscriber] = {}
        """By the id of the request that began them."""
        self._broken: ProtocolError | None = None
        self._ended = False
        self._stalled: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._n_sent = 0
        self._n_received = 0
        self._since_s = clock.monotonic_s()

    def state(self) -> dict[str, Any]:
        """For `mstore debug`: who is there, what came and went, what waits."""
        return {
            "peer": states.peer(self._transport),
            "age_s": round(clock.monotonic_s() - self._since_s, 3),
            "bytes_in": self._n_received,
            "bytes_out": self._n_sent,
            "waiting_bytes": self._transport.get_write_buffer_size() if self._transport is not None else 0,
            "requests_waiting": len(self._queue),
            "under_way": "" if self._under_way is None else type(self._under_way.request.message).__name__,
            "subscriptions": len(self._subscribers),
            "takes_no_answers": self._stalled is not None,
            "unfinished_frame": self._decoder.pending_since is not None,
        }

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio.Transport but are used as one.
        self._transport = cast(asyncio.Transport, transport)
        self._worker.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._stalled, self._watch):
            if timer is not None:
                timer.cancel()
        self._queue.clear()
        self._end_subscriptions()
        if self._under_way is not None:
            if self._under_way.turn is not None:
                self._under_way.turn.cancel()
            self._under_way.slices.end()
            self._under_way = None
        self._worker.closed(self)

    def eof_received(self) -> bool:
        """The client sends no more: keep the connection for the answers that are still to come."""
        self._ended = self._under_way is not None or bool(self._queue)
        return self._ended

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.receive_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._worker.slot.add("bytes_in", nbytes)
        self._n_received += nbytes
        now = clock.monotonic_s()
        try:
            for frame in self._decoder.received(nbytes):
                self._arrived(frame.request_id, m.decode(frame.tag, frame.body), now)
        except ProtocolError as error:
            self._broken = error
        self._work()
        if self._watch is not None or self._decoder.pending_since is not None:
            self._watch_unfinished()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        self._watch_reader()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self._subscribers:
            self._worker.feed.resume()
        self._work()
        self._read_on()

    # --- requests

    def _arrived(self, request_id: int, message: m.Message, now_s: float) -> None:
        if isinstance(message, m.Cancel) and self._greeting_seen:
            self._cancel(message.target)
            return
        if isinstance(message, m.Hello):
            self._deadline_ms = message.deadline_ms or _DEADLINE_MS_DEFAULT
        self._greeting_seen = True
        deadline_ms = getattr(message, "deadline_ms", 0) or self._deadline_ms
        self._queue.append(_Request(request_id, message, now_s + deadline_ms / 1000))

    def _cancel(self, target: int) -> None:
        """Requests that wait are answered now and forgotten, one under way at its next turn; one that is answered has
        nothing to cancel.
        """
        for request in [one for one in self._queue if one.request_id == target]:
            self._queue.remove(request)
            self._worker.slot.add("cancelled")
            self._send(m.Error.of(Cancelled("cancelled by its sender")), target)
        if target in self._subscribers:
            self._worker.feed.remove(self._subscribers.pop(target))
            self._send(m.Error.of(Cancelled("cancelled by its sender")), target)
        if self._under_way is not None and self._under_way.request.request_id == target:
            self._worker.slot.add("cancelled")
            self._under_way.budget.cancel()

    def _work(self) -> None:
        """Answer what waits, as long as the client takes the answers and none takes longer than a slice."""
        assert self._transport is not None
        try:
            while (
                self._queue and self._under_way is None and self._stalled is None
                and not self._transport.is_closing()
            ):  # fmt: skip
                self._handle(self._queue.popleft())
            if self._queue or self._under_way is not None:
                return
            if self._broken is not None:
                raise self._broken
            if self._ended:
                self.close()
        except ProtocolError as error:
            self._fail(error)

    def _handle(self, request: _Request) -> None:
        if not self._greeted:
            self._greet(request)
            return
        budget = Budget(request.due_s)
        began_s = ended_s = clock.monotonic_s()
        try:
            budget.check(began_s)
            if isinstance(request.message, m.Follow):
                self._follow(request.request_id, request.message)
                return
            reply = self._worker.answer(request.message, budget)
            ended_s = clock.monotonic_s()
            if isinstance(reply, m.Message):
                budget.check(ended_s)
        except Exception as error:
            self._refuse(request, error)
            return
        took_us = int((ended_s - began_s) * 1e6)
        if isinstance(reply, m.Message):
            self._reply(request, budget, reply, took_us)
        else:
            self._under_way = _UnderWay(request, budget, Slices(reply, budget), took_us)
            self._go_on(self._under_way)

    def _follow(self, request_id: int, message: m.Follow) -> None:
        """Begin a subscription; its messages carry the request's id until it is cancelled or the connection ends."""
        assert self._transport is not None
        if len(self._subscribers) >= limits.FOLLOWS_PER_CONNECTION_MAX:
            raise LimitExceeded(
                f"a connection follows at most {limits.FOLLOWS_PER_CONNECTION_MAX} selectors: cancel one",
                limit=limits.FOLLOWS_PER_CONNECTION_MAX,
            )
        if request_id in self._subscribers:
            raise InvalidRequest(f"request {request_id} follows already: use another id")
        subscriber, begun = self._worker.follow(
            message, lambda sent: self._send(sent, request_id), self._transport.get_write_buffer_size
        )
        self._subscribers[request_id] = subscriber
        self._send(begun, request_id)

    def _end_subscriptions(self) -> None:
        for subscriber in self._subscribers.values():
            self._worker.feed.remove(subscriber)
        self._subscribers.clear()

    def _go_on(self, under_way: _UnderWay) -> bool:
        """Give a long request its turn; whether it is answered by now."""
        began_us = clock.monotonic_us()
        try:
            done = under_way.slices.run(SLICE_S)
        except Exception as error:
            self._under_way = None
            self._refuse(under_way.request, error)
            return True
        under_way.busy_us += clock.monotonic_us() - began_us
        if not done:
            loop, rest_s = asyncio.get_running_loop(), under_way.slices.rest_s
            under_way.turn = (
                loop.call_later(rest_s, self._next_turn) if rest_s else loop.call_soon(self._next_turn)
            )
            return False
        self._under_way = None
        assert under_way.slices.answer is not None
        self._reply(under_way.request, under_way.budget, under_way.slices.answer, under_way.busy_us)
        return True

    def _next_turn(self) -> None:
        assert self._under_way is not None
        if self._ended and self._peer_is_gone():
            self.close()
            return
        try:
            if self._go_on(self._under_way):
                self._work()
        except ProtocolError as error:
            self._fail(error)

    def _peer_is_gone(self) -> bool:
        """Whether nobody can take an answer any more: sending no more and being closed both look like an end to read."""
        assert self._transport is not None
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

    def _greet(self, request: _Request) -> None:
        hello = greeting.accept_hello(request.message, "query")
        self._greeted = True
        self._send(self._worker.welcome(hello), request.request_id)

    def _refuse(self, request: _Request, error: Exception) -> None:
        """raises `error` itself when it is a ProtocolError"""
        self._send(failure.reply_to(request.message, error, "the query worker"), request.request_id)

    def _reply(self, request: _Request, budget: Budget, reply: m.Message, took_us: int) -> None:
        self._worker.answered(request.message, budget, took_us)
        self._send(reply, request.request_id)

    def _send(self, message: m.Message, request_id: int) -> None:
        if self._transport is not None and not self._transport.is_closing():
            parts = m.encode_parts(message, request_id)
            n_bytes = sum(map(len, parts))
            self._n_sent += n_bytes
            self._worker.slot.add("bytes_out", n_bytes)
            faults.hit("query.reply")
            self._transport.writelines(parts)

    def _fail(self, error: MstoreError) -> None:
        self._worker.slot.add("errors")
        log.info("connection closed: %s", error)
        self._queue.clear()
        self._end_subscriptions()
        self._send(m.Error.of(error), 0)
        self.close()

    # --- reading, and its time limits; an idle connection has no timer

    def _read_on(self) -> None:
        assert self._transport is not None
        if self._stalled is not None or self._transport.is_closing():
            return
        if self._decoder.pending_since is not None:
            # The peer could not send the rest of its frame while nobody read it.
            self._decoder.pending_since = clock.monotonic_s()
        self._transport.resume_reading()

    def _watch_reader(self) -> None:
        """Look again after the time in which the peer must have taken something."""
        assert self._transport is not None
        n_taken = self._n_sent - self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._stalled = loop.call_later(limits.STALLED_READER_S_MAX, self._check_reader, n_taken)

    def _check_reader(self, n_before: int) -> None:
        assert self._transport is not None
        if self._n_sent - self._transport.get_write_buffer_size() > n_before:
            self._watch_reader()
            return
        log.info("connection closed: it took none of its answers for %s s", limits.STALLED_READER_S_MAX)
        self._transport.abort()

    def _watch_unfinished(self) -> None:
        pending = self._decoder.pending_since is not None
        if pending and self._watch is None:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(limits.UNFINISHED_FRAME_S_MAX, self._check_unfinished)
        elif not pending and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _check_unfinished(self) -> None:
        self._watch = None
        since = self._decoder.pending_since
        if since is None:
            return
        left = limits.UNFINISHED_FRAME_S_MAX - (clock.monotonic_s() - since)
        if self._stalled is not None:
            left = limits.UNFINISHED_FRAME_S_MAX  # not the peer's fault: nobody reads what it sends
        elif left <= 0:
            self._fail(
                Timeout(f"a frame stayed unfinished for {limits.UNFINISHED_FRAME_S_MAX} s: send frames whole")
            )
            return
        self._watch = asyncio.get_running_loop().call_later(max(_LEFT_S_MIN, left), self._check_unfinished)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
