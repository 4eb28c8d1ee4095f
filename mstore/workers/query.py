"""The query worker: requests in, answers out, shared memory read-only."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, cast

from mstore import __version__, clock, faults, limits
from mstore.errors import (
    Cancelled,
    LimitExceeded,
    MstoreError,
    ProtocolError,
    Timeout,
    UnknownMessage,
)
from mstore.frames import Series
from mstore.ipc import failure, framing, greeting
from mstore.ipc import messages as m
from mstore.query.catalog import MetricInfo
from mstore.query.reader import Reader
from mstore.shm.control import WORKER_READY, Control
from mstore.shm.layout import STATE_STOPPING, WORKER_QUERY
from mstore.workers import memory, states
from mstore.workers.channel import Channel
from mstore.workers.info import store_info
from mstore.workers.process import run_worker
from mstore.workers.slowest import Slowest, asked
from mstore.workers.spec import WorkerSpec
from mstore.workers.tasks import Tasks, take_connection

log = logging.getLogger(__name__)

_LEFT_S_MIN = 0.01
"""A timer that woke a little early waits so long again."""

_DEADLINE_MS_DEFAULT = int(limits.QUERY_SECONDS_DEFAULT * 1000)
"""For clients that give none."""


@dataclass(slots=True)
class _Request:
    request_id: int
    message: m.Message
    due_s: float
    """Monotonic time by which the answer is of use."""


class QueryConnection(asyncio.BufferedProtocol):
    """One client: requests are answered in order, each by one look at shared memory.

    While the client does not take its answers no more are made, and nothing is read: its requests wait. One that is
    cancelled before it has begun never does, nor does one whose deadline has passed.
    """

    def __init__(self, worker: QueryWorker) -> None:
        self._worker = worker
        self._decoder = framing.FrameDecoder(limits.FRAME_BYTES_MAX, m.TAGS)
        self._transport: asyncio.Transport | None = None
        self._greeting_seen = False
        self._greeted = False
        self._deadline_ms = _DEADLINE_MS_DEFAULT
        self._queue: deque[_Request] = deque()
        self._broken: ProtocolError | None = None
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
        self._worker.closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.receive_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._worker.slot.add("bytes_in", nbytes)
        self._n_received += nbytes
        now = clock.monotonic_s()
        try:
            for frame in self._decoder.received(nbytes):
                self._arrived(frame.request_id, m.decode_frame(frame), now)
        except ProtocolError as error:
            self._broken = error
        self._work()
        self._watch_unfinished()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        self._watch_reader()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
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
        """Requests that have not begun are answered now and forgotten; one that is answered has nothing to cancel."""
        for request in [one for one in self._queue if one.request_id == target]:
            self._queue.remove(request)
            self._worker.slot.add("cancelled")
            self._send(m.Error.of(Cancelled("cancelled by its sender")), target)

    def _work(self) -> None:
        """Answer what waits, as long as the client takes the answers."""
        assert self._transport is not None
        try:
            while self._queue and self._stalled is None and not self._transport.is_closing():
                self._handle(self._queue.popleft())
            if self._broken is not None and not self._queue:
                raise self._broken
        except ProtocolError as error:
            self._fail(error)

    def _handle(self, request: _Request) -> None:
        if not self._greeted:
            self._greet(request)
            return
        reply = self._answer(request.message) if clock.monotonic_s() < request.due_s else None
        if reply is None or clock.monotonic_s() >= request.due_s:
            reply = m.Error.of(Timeout("not done within the deadline"))
        self._send(reply, request.request_id)

    def _greet(self, request: _Request) -> None:
        hello = greeting.accept_hello(request.message, "query")
        self._greeted = True
        self._send(self._worker.welcome(hello), request.request_id)

    def _answer(self, message: m.Message) -> m.Message:
        try:
            return self._worker.answer(message)
        except Exception as error:
            return failure.reply_to(message, error, "the query worker")

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


class QueryWorker:
    """A Reader behind a socket."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        control = memory.attach(spec, "control", writable=True)
        directory = memory.attach(spec, "directory")
        samples = memory.attach(spec, "samples")
        self._control = Control(control)
        self.slot = self._control.worker(spec.slot)
        self.slot.claim(WORKER_QUERY, spec.index, os.getpid())
        self._reader = Reader(
            directory.segment, samples.segment, retention_s=lambda: self._control.retention_s
        )
        self._samples = samples
        self.slowest = Slowest()
        self._channel = Channel.from_fd(spec.channel_fd)
        self._connections: set[QueryConnection] = set()
        self._tasks = Tasks()
        self._stopping = asyncio.Event()

    def opened(self, connection: QueryConnection) -> None:
        self._connections.add(connection)
        self.slot.add("connections_open")
        self.slot.add("connections_total")

    def closed(self, connection: QueryConnection) -> None:
        self._connections.discard(connection)
        self.slot.add("connections_open", -1)

    def welcome(self, hello: m.Hello) -> m.Message:
        return greeting.welcome(hello, "query", self._spec.instance, __version__)

    def answer(self, message: m.Message) -> m.Message:
        """The reply to one request; raises typed errors."""
        if isinstance(message, m.Query):
            return self._query(message)
        if isinstance(message, m.Children):
            return m.Names(self._reader.children(*message.path))
        if isinstance(message, m.Paths):
            return m.Names([list(path) for path in self._reader.paths(message.depth)])
        if isinstance(message, m.Metrics):
            return m.MetricList([_plain(metric) for metric in self._reader.metrics(message.cluster)])
        if isinstance(message, m.Info):
            return m.InfoReply(store_info(self._spec, self._control, self._reader.directory, self._samples))
        if isinstance(message, m.Ping):
            return m.Done({})
        raise UnknownMessage(f"{type(message).__name__} is not a message of query.sock")

    def _query(self, q: m.Query) -> m.Message:
        began_us = clock.monotonic_us()
        found = self._reader.query(
            q.cluster, q.host, q.metric, q.start, q.end, type=q.type, type_ids=q.type_ids, subtype=q.subtype,
            subtype_ids=q.subtype_ids, aggregate=q.aggregate, resolution=q.resolution,
        )  # fmt: skip
        many = isinstance(found, list)
        series: list[Series] = found if isinstance(found, list) else [found]
        n_bytes = n_samples = 0
        for one in series:
            n_bytes += one.values.nbytes
            n_samples += len(one.values)
        if n_bytes > limits.ANSWER_BYTES_MAX:
            raise LimitExceeded(
                f"an answer of {n_bytes} bytes; at most {limits.ANSWER_BYTES_MAX}: ask for less at a time",
                limit=limits.ANSWER_BYTES_MAX,
            )
        us = clock.monotonic_us() - began_us
        self.slot.add_query(len(series), n_samples, us)
        if us > self.slowest.floor_us or clock.now_ns() >= self.slowest.oldest_ns:
            self.slowest.note(us, clock.now_ns(), asked(q, len(series), n_samples, n_bytes))
        return m.Answer(many, [one.to_wire() for one in series])

    def state(self) -> dict[str, Any]:
        """For `mstore debug`."""
        slow = [query.plain() for query in self.slowest.found(clock.now_ns())]
        return {"slowest_queries": slow, **states.connections(self._connections)}

    def _command(self, packet: list[Any], fd: int | None) -> None:
        if packet[0] == "serve" and fd is not None:
            self._tasks.start(take_connection(socket.socket(fileno=fd), lambda: QueryConnection(self)))
        elif packet[0] == "state" and fd is not None:
            states.answer(self._channel, packet[1], fd, self.state)
        elif fd is not None:
            os.close(fd)  # a newer configuration
        elif packet[0] == "stop":
            self._stopping.set()

    def _stop_if_told(self) -> None:
        """The channel holds connections that this process cannot take: what the supervisor says waits behind them."""
        if self._control.state == STATE_STOPPING:
            self._stopping.set()

    async def run(self) -> None:
        self._channel.serve(
            asyncio.get_running_loop(), self._command, self._stopping.set, waiting=self._stop_if_told
        )
        self.slot.state = WORKER_READY
        self._channel.send(["ready"])
        await self._stopping.wait()
        for connection in list(self._connections):
            connection.close()
        await asyncio.sleep(0)
        self.slot.release()


def _plain(metric: MetricInfo) -> dict[str, Any]:
    return {**asdict(metric), "columns": [list(column) for column in metric.columns]}


async def main(spec: WorkerSpec) -> None:
    os.close(spec.config_fd)  # nothing here depends on the configuration
    worker = QueryWorker(spec)
    # What is here now stays: no full collection shall go through all of it while a client waits.
    gc.collect()
    gc.freeze()
    await worker.run()


if __name__ == "__main__":
    run_worker(main)
