"""The supervisor: makes the segments, starts and watches the workers, accepts and hands out connections, stops in order."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from mstore import clock, paths
from mstore import config as configuration
from mstore.config import Config
from mstore.errors import ConfigError, MstoreError, StorageError, Unavailable, UnsupportedPlatform
from mstore.ipc import messages as m
from mstore.log import set_up_logging
from mstore.persistence import files
from mstore.shm import layout
from mstore.shm.control import WORKER_FREE, Control
from mstore.workers import incarnation
from mstore.workers.control_connection import ControlConnection
from mstore.workers.family import Child
from mstore.workers.incarnation import Incarnation
from mstore.workers.process import set_name
from mstore.workers.spec import WorkerSpec
from mstore.workers.supervisor_state import RestartPolicy, Verdict, least_loaded

log = logging.getLogger(__name__)

_BACKLOG = 4096
_ACCEPTS_PER_WAKE = 64
_INGEST_STOP_S_MAX = 15.0
_PERSISTER_STOP_S_MAX = 300.0
_QUERY_STOP_S_MAX = 5.0
_MODES = {"ingest": 0o660, "query": 0o660, "control": 0o600}


class Supervisor:
    """Owns everything that must survive a worker: segments, descriptors, listening sockets, the lock."""

    def __init__(
        self, store_dir: Path, config_path: Path | None, workers: tuple[int | None, int | None], lock_fd: int
    ) -> None:
        self._dir = store_dir
        self._config_path = config_path
        self._worker_overrides = workers
        self._config = self._load_config()
        self._lock_fd = lock_fd
        self._policy = RestartPolicy()
        self._listeners: dict[str, socket.socket] = {}
        self._children: list[Child] = []
        self._life: Incarnation | None = None
        self._control: Control | None = None
        self._stopping = asyncio.Event()
        self._renewing = False
        self._exit_code = 0
        self._ready = asyncio.Event()
        self._announced = False
        self._finished: list[asyncio.Future[None]] = []
        self._commands = itertools.count(1)
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.control_connections: set[ControlConnection] = set()

    @property
    def instance(self) -> int:
        return self._life.instance if self._life else 0

    # --- start

    async def run(self) -> int:
        """Serve until told to stop; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_quietly)
        try:
            self._listen()
            self._begin()
            waits = [loop.create_task(self._ready.wait()), loop.create_task(self._stopping.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._ready.is_set() and not self._stopping.is_set():
                self._accept()
                self._announced = True
                print(f"mstore ready {self._dir}", flush=True)
            await self._stopping.wait()
        finally:
            await self._end()
        return self._exit_code

    def _listen(self) -> None:
        for which in paths.SOCKETS:
            path = paths.socket_path(self._dir, which)
            Path(path).unlink(missing_ok=True)  # the lock is ours: nobody listens there
            sock = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            try:
                sock.bind(path)
                os.chmod(path, _MODES[which])
                sock.listen(_BACKLOG)
            except OSError as error:
                sock.close()
                raise StorageError(
                    f"cannot listen at {path}: {error.strerror}", path=path, errno=error.errno or 0
                ) from error
            self._listeners[which] = sock

    def _begin(self) -> None:
        """A new life of the shared memory and all workers; the persister first: it fills the memory from the files."""
        n_ingest, n_query = self._config.worker_counts(os.cpu_count() or 1)
        self._life = incarnation.create(self._dir, self._config, n_ingest)
        incarnation.publish_note(self._life)
        self._control = Control(self._life.mappings["control"])
        self._control.state = layout.STATE_STARTING
        self._ready.clear()
        places = [
            ("persister", 0),
            *(("ingest", k) for k in range(n_ingest)),
            *(("query", k) for k in range(n_query)),
        ]
        self._children = [Child.place(kind, index, slot) for slot, (kind, index) in enumerate(places)]
        loop = asyncio.get_running_loop()
        for child in self._children:
            child.channel.serve(loop, partial(self._report, child), lambda: None)
        self._start_accepting("control")
        self._spawn(self._children[0])

    def _spawn(self, child: Child) -> None:
        life = self._life
        assert life is not None
        spec = WorkerSpec(
            child.kind, child.index, child.slot, str(self._dir), str(self._config_path) if self._config_path else None,
            life.instance, life.names, child.child_end.fileno(), life.doorbell_fd, life.ack_fds, os.getpid(),
        )  # fmt: skip
        child.spawn(spec, (spec.channel_fd, life.doorbell_fd, *life.ack_fds, self._lock_fd), self._died)

    def _accept(self) -> None:
        for which in ("ingest", "query"):
            self._start_accepting(which)

    def _start_accepting(self, which: str) -> None:
        listener = self._listeners.get(which)
        if listener is not None:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept_from, which)

    def _stop_accepting(self, *which: str) -> None:
        for name in which:
            if name in self._listeners:
                asyncio.get_running_loop().remove_reader(self._listeners[name].fileno())

    # --- connections

    def _accept_from(self, which: str) -> None:
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                sock, _ = self._listeners[which].accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("cannot accept at %s.sock: %s", which, error)
                return
            if which == "control":
                asyncio.get_running_loop().create_task(self._serve_control(sock))
                continue
            self._hand_out(which, sock)
            sock.close()

    def _hand_out(self, kind: str, sock: socket.socket) -> None:
        assert self._control is not None
        workers = [child for child in self._children if child.kind == kind]
        slots = [self._control.worker(child.slot).snapshot() for child in workers]
        chosen = workers[
            least_loaded(
                [max(0, slot["connections_open"]) for slot in slots],
                [child.handed_out for child in workers],
                [slot["connections_total"] for slot in slots],
            )
        ]
        chosen.handed_out += 1
        chosen.channel.send(["serve"], sock)

    async def _serve_control(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: ControlConnection(self), sock)
        except OSError:
            sock.close()

    def pass_to_persister(self, sock: Any, hello: bytes) -> None:
        self._children[0].channel.send(["worker", hello], sock)

    # --- children

    def _report(self, child: Child, packet: list[Any], _fd: int | None) -> None:
        kind = packet[0]
        if kind == "ready":
            child.ready = True
            if child.kind == "persister":
                for other in self._children[1:]:
                    self._spawn(other)
            if all(one.ready for one in self._children) and self._control is not None:
                self._control.state = layout.STATE_READY
                self._ready.set()
                if self._announced:
                    self._accept()
        elif kind == "progress":
            log.info("%s: %s", child.name, packet[1])
        elif kind == "done":
            self._settle(packet[1], packet[2], None)
        elif kind == "failed":
            self._settle(packet[1], {}, MstoreError(packet[2]))
        elif kind == "fatal":
            log.error("%s: %s", child.name, packet[1])
            self._exit_code = 1
            self._stopping.set()

    def _settle(self, command: int, details: dict[str, Any], error: MstoreError | None) -> None:
        future = self._pending.pop(command, None)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(details)
        else:
            future.set_exception(error)

    def _died(self, child: Child, code: int) -> None:
        if self._control is not None:
            slot = self._control.worker(child.slot)
            if slot.state != WORKER_FREE:
                slot.release()
        if self._stopping.is_set() or self._renewing:
            return
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        verdict = self._policy.died(child.name, child.kind, clock.monotonic_s())
        if child.kind == "persister" and not self._announced:
            verdict = Verdict.GIVE_UP  # it could not even start: its own message says why
        log.warning("%s died (%s): %s", child.name, how, verdict.value)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(Unavailable(f"{child.name} died ({how})"))
        if verdict is Verdict.RESPAWN:
            self._spawn(child)
        elif verdict is Verdict.RENEW:
            asyncio.get_running_loop().create_task(self._renew())
        else:
            self._exit_code = 1
            self._stopping.set()

    async def _renew(self) -> None:
        """All workers and the shared memory again, from the files. Listening sockets stay: senders wait in their backlog."""
        self._renewing = True
        self._stop_accepting("ingest", "query")
        for child in self._children:
            child.kill()
        for child in self._children:
            if child.process is not None:
                await child.exited.wait()
        self._release()
        self._renewing = False
        self._begin()

    def _release(self) -> None:
        for child in self._children:
            child.close()
        self._children = []
        self._control = None
        if self._life is not None:
            self._life.close()
            self._life = None

    # --- commands of control.sock

    async def command(self, message: m.Message) -> dict[str, Any]:
        """Carry out an operator's command; the details of its Done."""
        if isinstance(message, m.Stop):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._finished.append(done)
            self._stopping.set()
            await done
            return {"pid": os.getpid()}
        if isinstance(message, m.Reload):
            return self._reload()
        if isinstance(message, m.Restart):
            await self._restart()
            return {"instance": self.instance}
        if isinstance(message, m.Snapshot):
            return await self._ask_persister("snapshot")
        return {}

    async def _ask_persister(self, verb: str) -> dict[str, Any]:
        number = next(self._commands)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._children[0].channel.send([verb, number])
        return await future

    def _load_config(self) -> Config:
        return configuration.with_workers(configuration.load(self._config_path), *self._worker_overrides)

    def _reload(self) -> dict[str, Any]:
        newer = self._load_config()
        later = self._config.needs_restart(newer)
        self._config = newer
        for child in self._children:
            child.channel.send(["reload"])
        return {"needs_restart": later, "warnings": list(newer.warnings)}

    def _reload_quietly(self) -> None:
        try:
            details = self._reload()
        except ConfigError as error:
            log.error("configuration not reloaded: %s", error)
            return
        log.info(
            "configuration reloaded%s",
            f"; restart for {details['needs_restart']}" if details["needs_restart"] else "",
        )

    async def _restart(self) -> None:
        """Stop all workers in order and start them again, with the configuration as it is now."""
        self._config = self._load_config()
        self._renewing = True
        self._stop_accepting("ingest", "query")
        await self._stop_children()
        self._release()
        self._renewing = False
        self._begin()
        await self._ready.wait()

    # --- stop

    async def _stop_children(self) -> None:
        """Ingest first (what it took is still acknowledged), then the persister, then the readers."""
        by_kind = {
            kind: [child for child in self._children if child.kind == kind]
            for kind in ("ingest", "persister", "query")
        }
        limits_s = {
            "ingest": _INGEST_STOP_S_MAX,
            "persister": _PERSISTER_STOP_S_MAX,
            "query": _QUERY_STOP_S_MAX,
        }
        for kind, children in by_kind.items():
            await asyncio.gather(*(child.stop(limits_s[kind]) for child in children))

    async def _end(self) -> None:
        if self._control is not None:
            self._control.state = layout.STATE_STOPPING
        self._stop_accepting(*self._listeners)
        for which, listener in self._listeners.items():
            Path(paths.socket_path(self._dir, which)).unlink(missing_ok=True)
            listener.close()
        self._listeners = {}
        await self._stop_children()
        self._release()
        for done in self._finished:
            done.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for connection in list(self.control_connections):
            connection.close()
        await asyncio.sleep(0)


def check_platform() -> None:
    """One clear line where mstore's server cannot run."""
    if sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
        raise UnsupportedPlatform(
            f"the mstore server runs on Linux on x86-64 and aarch64, not on {sys.platform} {os.uname().machine};"
            " the client library works everywhere"
        )


def prepare_dir(store_dir: Path) -> Path:
    """DIR and DIR/run, 0750; the real path."""
    try:
        store_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        paths.run_dir(store_dir).mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot use the directory {store_dir}: {error.strerror}; choose another with --dir or $MSTORE_DIR",
            path=str(store_dir), errno=error.errno or 0,
        ) from error  # fmt: skip
    return store_dir.resolve()


def serve(
    store_dir: Path, config_path: Path | None, ingest_workers: int | None, query_workers: int | None
) -> int:
    """Run a store in the foreground until it is stopped; the exit status. raises MstoreError when it cannot start."""
    check_platform()
    set_up_logging("supervisor")
    overrides = (ingest_workers, query_workers)
    config = configuration.with_workers(configuration.load(config_path), *overrides)
    for warning in config.warnings:
        log.warning("%s", warning)
    store_dir = prepare_dir(store_dir)
    for which in paths.SOCKETS:
        paths.socket_path(store_dir, which)  # says so before anything is made when a path is too long
    lock_fd = files.lock(store_dir)
    try:
        set_name("mstore")
        incarnation.remove_stale(store_dir)
        files.remove_leftovers(files.Files(), store_dir)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Supervisor(store_dir, config_path, overrides, lock_fd).run())
    finally:
        os.close(lock_fd)
