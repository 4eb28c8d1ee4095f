"""A real ingest worker in the test's own loop, over segments of its own, with a persister made of a few lines.

The persister can be held at each of its steps (interning, applying, syncing), so that a test decides what a
connection waits for. Nothing listens at an address but control.sock; clients are one end of a socket pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from mstore.config import Config
from mstore.config import parse as parse_config
from mstore.errors import MstoreError
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.kernels._ring import RingReader
from mstore.kernels.reference_samples import parse
from mstore.shm import layout
from mstore.shm.control import Control
from mstore.shm.directory import DirectoryWriter
from mstore.shm.segment import Mapping
from mstore.workers import incarnation, memory, settings
from mstore.workers.channel import Channel
from mstore.workers.ingest import IngestWorker
from mstore.workers.ingest_connection import IngestConnection
from mstore.workers.intern_connection import InternConnection
from mstore.workers.path_interning import PathInterner
from mstore.workers.spec import WorkerSpec
from tests.ingest_rig import NOW_S, line

FORGETS_TO_PAUSE = (3, 12) <= sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)
"""asyncio's own loop never calls pause_writing() for writelines() (CVE-2024-12254); uvloop, on which stores run, does."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
PATIENCE_S = 20.0
HELLO = (1, m.Hello(1, "ingest", cluster="c"))


class TestPersister:
    """What an InternConnection needs of a Persister; the log is a list."""

    __test__ = False

    def __init__(self, directory: DirectoryWriter, spec: Any = None) -> None:
        self.directory = directory
        self.directory.set_policy(True, 60, 1, 1000, 4000)
        self.interner = PathInterner(directory, lambda cluster, metric: None, True, 60)
        self.spec = spec
        self.log: list[bytes] = []
        self.unlogged: list[bytes] = []
        self.refusal: MstoreError | None = None
        """What the log answers to everything."""
        self.connections: set[InternConnection] = set()

    def append_catalog(self, records: bytes) -> None:
        self.unlogged.append(records)
        self.log_the_unlogged()

    def log_the_unlogged(self) -> None:
        if not self.unlogged:
            return
        if self.refusal is not None:
            raise self.refusal
        self.log += self.unlogged
        self.unlogged.clear()
        self.directory.publish()

    def admit(self) -> None:
        pass

    def opened(self, connection: InternConnection) -> None:
        self.connections.add(connection)

    def closed(self, connection: InternConnection) -> None:
        self.connections.discard(connection)


class Client:
    """The other end of a connection: bytes, or frames."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._decoder = framing.FrameDecoder(1 << 30, m.TAGS)
        self._frames: list[tuple[int, m.Message]] = []
        self._ids = iter(range(2, 1_000_000))

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(self._loop.sock_sendall(self.sock, data), PATIENCE_S)

    async def hello(self, **fields: Any) -> m.Message:
        fields = {"cluster": "c", **fields}
        await self.send(m.encode(m.Hello(m.VERSION, **{"role": "ingest", **fields}), 1))
        request_id, reply = await self.reply()
        assert request_id == 1
        return reply

    async def ask(self, message: m.Message) -> int:
        """Send a request; its id."""
        request_id = next(self._ids)
        await self.send(m.encode(message, request_id))
        return request_id

    async def receive(self, n: int = 65536) -> bytes:
        return await asyncio.wait_for(self._loop.sock_recv(self.sock, n), PATIENCE_S)

    async def reply(self) -> tuple[int, m.Message]:
        """The next frame: (request id, message)."""
        while not self._frames:
            data = await self.receive()
            assert data, "closed without a reply"
            self._frames += [(frame.request_id, m.decode_frame(frame)) for frame in self._decoder.feed(data)]
        return self._frames.pop(0)

    async def rest(self) -> bytes:
        """All bytes up to the end."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while data := await self.receive():
                found += data
        return found

    async def closed(self) -> bool:
        """Waits for the end; no frame may come before it."""
        return not self._frames and await self.rest() == b""

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()


class Supervised:
    """What a worker in the test's own loop has of a supervisor: its channel, and clients that come by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.channels = [Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
        self.clients: list[Client] = []
        self.worker: Any
        self._attached: list[Mapping] = []
        attach = memory.attach

        def remembered(*args: Any, **options: Any) -> Mapping:
            self._attached.append(attach(*args, **options))
            return self._attached[-1]

        monkeypatch.setattr(memory, "attach", remembered)

    def connect(self, *, send_buffer: int = 0) -> Client:
        """A connection handed to the worker as the supervisor does."""
        ours, theirs = socket.socketpair()
        if send_buffer:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        with theirs:
            self.channels[0].send(["serve"], theirs)
        self.clients.append(Client(ours))
        return self.clients[-1]

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Wait for something that has no event to wait for."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)
        assert condition(), what

    def forget_worker(self) -> None:
        """The worker has ended: close what it held, as the end of its process would."""
        self.worker._channel.stop()
        self.worker._channel.sock.close()
        self.channels[0].sock.close()
        vars(self.worker).clear()
        for mapping in self._attached:
            mapping.close()


class WorkerRig(Supervised):
    """Worker and persister; `async with` runs and stops them."""

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, ring_bytes: int = 1 << 16,
        config: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(monkeypatch)
        (directory / "run").mkdir()
        self.path = directory
        self.life = incarnation.create(directory, Config(max_series=1000, ring_bytes=ring_bytes), 1)
        self.spec = WorkerSpec(
            "ingest", 0, 1, str(directory), settings.hand_over(parse_config(config or "")), self.life.instance,
            self.life.names, self.channels[1].sock.detach(), self.life.doorbell_fd,
            self.life.ack_fds, (), os.getpid(),
        )  # fmt: skip
        mappings = self.life.mappings
        self.control = Control(mappings["control"])
        self.control.config_version = 1
        writer = DirectoryWriter(mappings["directory"].segment, mappings["directory"].fd)
        self.persister = TestPersister(writer, self.spec)
        self.ring = RingReader(mappings["ring-0"].segment)
        self.stored: list[float] = []
        """Values of the samples applied, in order."""
        self.applying = self.syncing = True

    async def __aenter__(self) -> WorkerRig:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: InternConnection(self.persister), str(self.path / "run" / "control.sock")  # type: ignore[arg-type]
        )  # fmt: skip
        self.worker = IngestWorker(self.spec)
        self._task = loop.create_task(self.worker.run())
        loop.add_reader(self.life.doorbell_fd, self.drain)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        self.applying = self.syncing = True
        self.persister.refusal = None
        self.drain()
        await self.stop()
        self._server.close()
        for connection in list(self.persister.connections):
            assert connection._transport is not None
            connection._transport.abort()
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        for fd in (self.life.doorbell_fd, *self.life.ack_fds):
            loop.remove_reader(fd)
        vars(self.worker.engine).clear()
        vars(self.persister).clear()
        del self.ring, self.control
        self.forget_worker()
        self.life.close()

    def reload(self, config: str) -> None:
        """Hand the worker another configuration, as the supervisor does."""
        fd = settings.hand_over(parse_config(config))
        self.channels[0].send(["reload"], fd)
        os.close(fd)

    async def stop(self) -> None:
        """Tell the worker to stop, and wait until it has."""
        self.channels[0].send(["stop"])
        await asyncio.wait_for(asyncio.shield(self._task), PATIENCE_S)

    # --- the persister

    def drain(self) -> None:
        """Apply what the ring holds and make it durable, as far as the test lets it."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.life.doorbell_fd)
        self.control.validate()
        start, head = self.ring.drained(), self.ring.head()
        if self.applying:
            while start < head:
                records = bytes(self.ring.view(start, head - start))
                start += len(records)
                for _, _, _, _, vtype, value in parse(records):
                    self.stored.append(float(np.frombuffer(value, layout.TYPE_DTYPES[vtype])[0]))
            self.ring.set_drained(head)
        if self.syncing:
            self.ring.set_durable(self.ring.drained())
        os.eventfd_write(self.life.ack_fds[0], 1)

    def undrained(self) -> int:
        """How many samples are published and not applied."""
        start, head, found = self.ring.drained(), self.ring.head(), 0
        while start < head:
            records = bytes(self.ring.view(start, head - start))
            start += len(records)
            found += len(list(parse(records)))
        return found

    def counter(self, name: str) -> int:
        return self.control.worker(1).snapshot()[name]


MakeRig = Callable[..., WorkerRig]


def play(loop: str, scene: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine on one kind of loop."""

    async def main() -> None:
        async with asyncio.timeout(3 * PATIENCE_S):
            await scene()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@contextlib.contextmanager
def descriptors_left(n: int) -> Iterator[None]:
    """This process may open just n more descriptors, as if RLIMIT_NOFILE were reached."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = left = 0
    while left < n or _is_open(limit):
        left += not _is_open(limit)
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# --- what tests say


def lines(n: int, host: str = "a", first: int = 0) -> bytes:
    return b"".join(line("load,cluster=c", host, first + i, NOW_S - i) for i in range(n))


async def quiet(seconds: float = 0.05) -> None:
    """Let everything happen that is going to happen."""
    await asyncio.sleep(seconds)


def only(rig: WorkerRig) -> IngestConnection:
    (connection,) = rig.worker._connections
    return connection


def frames(*messages: tuple[int, m.Message]) -> bytes:
    return b"".join(m.encode(message, request_id) for request_id, message in messages)
