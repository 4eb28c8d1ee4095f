"""The query worker: requests in, answers out, shared memory read-only."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Callable
from typing import Any

from mstore import __version__, clock
from mstore.ipc import greeting
from mstore.ipc import messages as m
from mstore.persistence.files import wal_dir
from mstore.query.budget import Budget, Work
from mstore.query.following import Following
from mstore.query.reader import Reader
from mstore.selector import Selector
from mstore.shm.control import WORKER_READY, Control
from mstore.shm.layout import STATE_STOPPING, WORKER_QUERY
from mstore.shm.prediction import predict
from mstore.workers import memory, settings, states
from mstore.workers.answers import Answers
from mstore.workers.archive_reading import ArchiveReading
from mstore.workers.channel import Channel
from mstore.workers.feed import Feed
from mstore.workers.info import store_info
from mstore.workers.query_connection import QueryConnection
from mstore.workers.slowest import Slowest, asked
from mstore.workers.spec import WorkerSpec
from mstore.workers.subscriber import Subscriber
from mstore.workers.tasks import Tasks, take_connection


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
        self._config = settings.take(spec.config_fd)
        self._reader = Reader(
            directory.segment, samples.segment,
            retention_s=self._control.asking_retention_s(), config=lambda: self._config,
        )  # fmt: skip
        self.archive = ArchiveReading(spec, self._reader, lambda: self._control.left)
        self._samples = samples
        self.slowest = Slowest()
        self.feed = Feed(wal_dir(spec.directory), self._control, self.slot, spec.follow_fds[spec.index])
        self._channel = Channel.from_fd(spec.channel_fd)
        self._connections: set[QueryConnection] = set()
        self._tasks = Tasks()
        self._stopping = asyncio.Event()
        self._answers = Answers(self._reader, lambda: self._config, self._info)

    def opened(self, connection: QueryConnection) -> None:
        self._connections.add(connection)
        self.slot.add("connections_open")
        self.slot.add("connections_total")

    def closed(self, connection: QueryConnection) -> None:
        """Also after the worker's end, of a peer that takes its last reply slowly: the slot is given back by then."""
        if connection in self._connections:
            self._connections.remove(connection)
            self.slot.add("connections_open", -1)

    def welcome(self, hello: m.Hello) -> m.Message:
        return greeting.welcome(hello, "query", self._spec.instance, __version__)

    def answer(self, message: m.Message, budget: Budget) -> m.Message | Work[m.Message]:
        """The reply to one request, or the work that makes it; raises typed errors."""
        if self.archive.needed(message):
            return self.archive.work(message, budget)
        return self._answers.answer(message, budget)

    def answered(self, message: m.Message, budget: Budget, took_us: int) -> None:
        """Count a request that read samples, and keep it if it is among the slowest."""
        if not budget.series:
            return
        self.slot.add_query(budget.series, budget.samples, took_us)
        if took_us > self.slowest.floor_us or clock.now_ns() >= self.slowest.oldest_ns:
            self.slowest.note(
                took_us, clock.now_ns(), asked(message, budget.series, budget.samples, budget.n_bytes)
            )

    def follow(
        self, message: m.Follow, send: Callable[[m.Message], None], waiting: Callable[[], int]
    ) -> tuple[Subscriber, m.FollowBegun]:
        """A subscription to what the message selects, fed from now on; see Subscriber for the arguments."""
        reader, selector = self._reader, Selector.parse(message.selector)
        following = Following(reader.directory, lambda: reader.matching(selector, message.metrics))
        since_s = None if message.since_ms is None else message.since_ms // 1000
        subscriber, seq = self.feed.subscribe(following, reader.gatherer, send, waiting, since_s)
        return subscriber, m.FollowBegun(seq, following.n_series)

    def _info(self, message: m.Info) -> dict[str, Any]:
        found = store_info(self._spec, self._control, self._reader.directory, self._samples)
        if message.predict:
            found["prediction"] = predict(self._config, os.cpu_count() or 1).plain()
        return found

    def state(self) -> dict[str, Any]:
        """For `mstore debug`."""
        slow = [query.plain() for query in self.slowest.found(clock.now_ns())]
        return {
            "slowest_queries": slow,
            "archive": self.archive.state(),
            **states.connections(self._connections),
        }

    def _command(self, packet: list[Any], fd: int | None) -> None:
        if packet[0] == "serve" and fd is not None:
            self._tasks.start(take_connection(socket.socket(fileno=fd), lambda: QueryConnection(self)))
        elif packet[0] == "state" and fd is not None:
            states.answer(self._channel, packet[1], fd, self.state)
        elif packet[0] == "reload" and fd is not None:
            self._config = settings.take(fd)
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
        self.feed.close()
        for connection in list(self._connections):
            connection.close()
        await self.archive.stop()
        await asyncio.sleep(0)
        self._connections.clear()
        self.slot.release()


async def main(spec: WorkerSpec) -> None:
    worker = QueryWorker(spec)
    # What is here now stays: no full collection shall go through all of it while a client waits.
    gc.collect()
    gc.freeze()
    await worker.run()
