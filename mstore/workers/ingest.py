"""The ingest worker: many connections, one scanner, one ring."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mstore import __version__, clock, faults, limits, paths
from mstore.config import Config
from mstore.errors import Unavailable
from mstore.ingest.acks import AckQueue
from mstore.ingest.effects import Effect, NeedPaths, NeedReferences, NeedRoom, NeedTurn
from mstore.ingest.engine import Engine, Rules
from mstore.ipc import greeting
from mstore.ipc import messages as m
from mstore.kernels._lines import LineScanner
from mstore.kernels._ring import RingReader, RingWriter
from mstore.model import Ack
from mstore.shm import layout
from mstore.shm.control import WORKER_READY, Control
from mstore.shm.directory import DirectoryReader
from mstore.workers import memory, settings, states
from mstore.workers.channel import Channel
from mstore.workers.definitions import ingest_rules
from mstore.workers.ingest_connection import IngestConnection
from mstore.workers.interning import Interner
from mstore.workers.spec import WorkerSpec
from mstore.workers.tasks import Tasks, take_connection

log = logging.getLogger(__name__)

_STOP_S_MAX = 10.0


class IngestWorker:
    """The loop around an Engine: connections in, runs into the ring, acknowledgements out."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        control = memory.attach(spec, "control", writable=True)
        directory = memory.attach(spec, "directory")
        ring = memory.attach(spec, f"ring-{spec.index}", writable=True)
        self._control = Control(control)
        self.slot = self._control.worker(spec.slot)
        self.slot.claim(layout.WORKER_INGEST, spec.index, os.getpid())
        self._config = settings.take(spec.config_fd)
        self._ring_reader = RingReader(ring.segment)
        self.engine = Engine(
            LineScanner(directory.segment),
            DirectoryReader(directory.segment),
            RingWriter(ring.segment),
            self.slot,
            self._rules(),
            self._ring_bell,
            lambda: bool(self._control.flags & layout.FLAG_FULL),
            lambda: bool(self._control.flags & layout.FLAG_HOLD),
        )
        self.buffer = memoryview(bytearray(limits.RECEIVE_BYTES))
        self.bodies: list[bytearray] = []  # of large frames carried out, for the next ones
        self._acks = AckQueue()
        self._rooms: deque[asyncio.Future[None]] = deque()
        self._interner = Interner(Path(paths.socket_path(spec.directory, "control")))
        self._connections: set[IngestConnection] = set()
        self._tasks = Tasks()
        self._channel = Channel.from_fd(spec.channel_fd)
        self._ack_fd = spec.ack_fds[spec.index]
        self._stopping = asyncio.Event()

    def _rules(self) -> Rules:
        return ingest_rules(self._config, self._control.config_version)

    def _reload(self, newer: Config) -> None:
        self._config = newer
        self.engine.rules = self._rules()

    def _ring_bell(self) -> None:
        faults.hit("ingest.published")
        os.eventfd_write(self._spec.doorbell_fd, 1)

    @staticmethod
    def monotonic_s() -> float:
        return clock.monotonic_s()

    # --- what connections need

    def opened(self, connection: IngestConnection) -> None:
        self._connections.add(connection)
        self.slot.add("connections_open")
        self.slot.add("connections_total")

    def closed(self, connection: IngestConnection) -> None:
        """Also after the worker's end, of a peer that takes its last reply slowly: the slot is given back by then."""
        if connection in self._connections:
            self._connections.remove(connection)
            self.slot.add("connections_open", -1)

    def welcome(self, hello: m.Hello) -> m.Message:
        return greeting.welcome(hello, "ingest", self._spec.instance, __version__)

    def when(self, level: Ack, position: int, callback: Callable[[], None]) -> None:
        """Call back once the ring position has reached the level: at once if it has."""
        self._acks.wait(level, position, callback)
        self._advance()

    def carry_out(self, effect: Effect) -> Awaitable[Any]:
        """The effect's answer, to be awaited.

        Who needs room or a turn waits from this call on: the persister may have made it a moment ago, and its next word
        would come too late for one who begins to wait later.
        """
        if isinstance(effect, NeedReferences):
            self.slot.add("intern_requests")
            faults.hit("ingest.asking")
            return self._interner.references(effect)
        if isinstance(effect, NeedPaths):
            self.slot.add("intern_requests")
            return self._interner.paths(effect)
        if isinstance(effect, NeedRoom):
            self.slot.add("ring_full_waits")
        else:
            assert isinstance(effect, NeedTurn)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rooms.append(future)
        return future

    # --- the persister's progress

    def _position_moved(self) -> None:
        try:
            os.eventfd_read(self._ack_fd)
        except BlockingIOError:
            return
        if self._control.config_version != self.engine.rules.config_version:
            self.engine.rules = self._rules()
        self._advance()
        while self._rooms:
            future = self._rooms.popleft()
            if not future.done():
                future.set_result(None)

    def _advance(self) -> None:
        fired = self._acks.advance(self._ring_reader.drained(), self._ring_reader.durable())
        if fired:
            self.slot.add("acks", fired)

    # --- the supervisor

    def state(self) -> dict[str, Any]:
        """For `mstore debug`."""
        return {
            "acknowledgements_waiting": len(self._acks),
            "waiting_for_room": len(self._rooms),
            **states.connections(self._connections),
        }

    def _command(self, packet: list[Any], fd: int | None) -> None:
        if packet[0] == "serve" and fd is not None and self._stopping.is_set():
            os.close(
                fd
            )  # nothing was taken from it: the peer connects again, and finds the successor or nobody
        elif packet[0] == "serve" and fd is not None:
            self._tasks.start(take_connection(socket.socket(fileno=fd), lambda: IngestConnection(self)))
        elif packet[0] == "state" and fd is not None:
            states.answer(self._channel, packet[1], fd, self.state)
        elif packet[0] == "reload" and fd is not None:
            self._reload(settings.take(fd))
        elif packet[0] == "stop":
            self._stopping.set()

    def _stop_if_told(self) -> None:
        """The channel holds connections that this process cannot take: what the supervisor says waits behind them."""
        if self._control.state == layout.STATE_STOPPING:
            self._stopping.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._ack_fd, self._position_moved)
        self._channel.serve(loop, self._command, self._stopping.set, waiting=self._stop_if_told)
        self.slot.state = WORKER_READY
        self._channel.send(["ready"])
        # A successor of a killed worker may find its predecessor's bytes published but the bell not rung.
        self._ring_bell()
        await self._stopping.wait()
        await self._drain()
        self._connections.clear()
        self.slot.release()

    async def _drain(self) -> None:
        """Acknowledge what was taken, as far as the persister goes along, then close every connection."""
        for connection in self._connections:
            connection.stop_reading()
        deadline = clock.monotonic_s() + _STOP_S_MAX
        while clock.monotonic_s() < deadline and (len(self._acks) or self._busy()):
            await asyncio.sleep(0.01)
        # What still waits is told that this worker is going away.
        self._interner.close()
        while self._busy():
            while self._rooms:
                future = self._rooms.popleft()
                if not future.done():
                    future.set_exception(Unavailable("the worker is stopping"))
            await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.close()
        await asyncio.sleep(0)

    def _busy(self) -> bool:
        return not all(connection.idle for connection in self._connections)


async def main(spec: WorkerSpec) -> None:
    await IngestWorker(spec).run()
