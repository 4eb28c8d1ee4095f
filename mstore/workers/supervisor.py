"""The supervisor: makes the segments, starts and watches the workers, accepts and hands out connections, stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from mstore import clock, paths
from mstore import config as configuration
from mstore.config import Config
from mstore.errors import ConfigError, MstoreError, Unavailable
from mstore.ipc import messages as m
from mstore.log import set_up_logging
from mstore.persistence import files
from mstore.shm import layout
from mstore.shm.control import WORKER_FREE, Control
from mstore.shm.directory import DirectoryReader
from mstore.workers import incarnation
from mstore.workers.control_connection import ControlConnection
from mstore.workers.door import Door
from mstore.workers.family import Child
from mstore.workers.incarnation import Incarnation
from mstore.workers.process import hold_standard_descriptors, set_name
from mstore.workers.spec import WorkerSpec
from mstore.workers.startup import check_platform, prepare_dir, raise_descriptor_limit
from mstore.workers.supervisor_state import RestartPolicy, Verdict, least_loaded

log = logging.getLogger(__name__)

_HAND_OUTS_WAITING_MAX = 64
"""Connections that wait here for one worker; more wait in the listening socket, which costs no descriptor."""
_READY_S_MAX = 60.0
"""For ingest and query workers, which have nothing to read; a persister may replay for long."""
_INGEST_STOP_S_MAX = 15.0
_PERSISTER_STOP_S_MAX = 300.0
_QUERY_STOP_S_MAX = 5.0


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
        self._door = Door(store_dir, self._admit, self._may_open)
        self._children: list[Child] = []
        self._life: Incarnation | None = None
        self._control: Control | None = None
        self._stopping = asyncio.Event()
        self._renewing = False
        self._changing = asyncio.Lock()
        """Held while children and memory come or go: a stop, a restart and a renewal never overlap."""
        self._tasks: set[asyncio.Task[None]] = set()
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
            self._door.listen()
            self._begin()
            await self._ready_or_stopping()
            if self._ready.is_set() and not self._stopping.is_set():
                self._accept()
                self._announced = True
                with contextlib.suppress(OSError):  # nobody reads our standard output: no reason to stop
                    print(f"mstore ready {self._dir}", flush=True)
            await self._stopping.wait()
        finally:
            await self._end()
        return self._exit_code

    async def _ready_or_stopping(self) -> None:
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(self._ready.wait()), loop.create_task(self._stopping.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

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
        self._door.open("control")
        self._spawn(self._children[0])

    def _spawn(self, child: Child) -> None:
        life = self._life
        assert life is not None
        spec = WorkerSpec(
            child.kind, child.index, child.slot, str(self._dir), str(self._config_path) if self._config_path else None,
            life.instance, life.names, child.child_end.fileno(), life.doorbell_fd, life.ack_fds, os.getpid(),
        )  # fmt: skip
        try:
            child.spawn(spec, (spec.channel_fd, life.doorbell_fd, *life.ack_fds, self._lock_fd), self._died)
        except OSError as error:
            self._give_up(f"cannot start {child.name}: {error}")
            return
        if child.kind != "persister":
            loop = asyncio.get_running_loop()
            loop.call_later(_READY_S_MAX, self._check_ready, child, child.process)

    def _check_ready(self, child: Child, process: object) -> None:
        if child.process is process and child.alive and not child.ready:
            log.error("%s is not ready after %.0f s and is killed", child.name, _READY_S_MAX)
            child.kill()

    def _give_up(self, why: str) -> None:
        log.error("%s: the store stops", why)
        self._exit_code = 1
        self._stopping.set()

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside everything else. The loop alone would not keep the task alive, nor tell of its failure."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an unexpected error", exc_info=error)

    def _accept(self) -> None:
        for which in ("ingest", "query"):
            self._door.open(which)

    # --- connections

    def _may_open(self, which: str) -> bool:
        if self._stopping.is_set():
            return False
        return which == "control" or (self._ready.is_set() and not self._renewing)

    def _admit(self, which: str, sock: socket.socket) -> bool:
        """Take one accepted connection; False: take no more for now. raises OSError: this one is lost."""
        if which == "control":
            self._start_task(self._serve_control(sock))
            return True
        try:
            return self._hand_out(which, sock) < _HAND_OUTS_WAITING_MAX
        finally:
            sock.close()

    def _hand_out(self, kind: str, sock: socket.socket) -> int:
        """Send a connection to the least loaded worker; how many wait for that worker by now."""
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
        chosen.channel.send(["serve"], sock)
        chosen.handed_out += 1
        return chosen.channel.n_waiting

    async def _serve_control(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: ControlConnection(self), sock)
        except OSError:
            sock.close()

    def pass_to_persister(self, sock: Any, hello: bytes) -> None:
        if not self._children:
            raise Unavailable("the store is stopping")
        self._children[0].channel.send(["worker", hello], sock)

    # --- children

    def _report(self, child: Child, packet: list[Any], _fd: int | None) -> None:
        kind = packet[0]
        if kind == "ready" and not self._stopping.is_set():
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
        if child.kind == "persister":
            self._fail_pending(f"{child.name} died")
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        verdict = self._policy.died(child.name, child.kind, clock.monotonic_s())
        if child.kind == "persister" and not self._announced:
            verdict = Verdict.GIVE_UP  # it could not even start: its own message says why
        log.warning("%s died (%s): %s", child.name, how, verdict.value)
        if verdict is Verdict.RESPAWN:
            self._spawn(child)
        elif verdict is Verdict.RENEW:
            self._start_task(self._renew(self._life))
        else:
            self._give_up(f"{child.name} keeps dying" if self._announced else f"{child.name} could not start")

    async def _renew(self, life: Incarnation | None) -> None:
        """All workers and the shared memory again, from the files. Listening sockets stay: senders wait in their backlog."""
        async with self._changing:
            if self._life is not life or self._stopping.is_set():
                return  # a restart, or a stop, came first
            self._renewing = True
            self._door.shut("ingest", "query")
            for child in self._children:
                child.kill()
            for child in self._children:
                if child.process is not None:
                    await child.exited.wait()
            self._begin_again()

    def _begin_again(self) -> None:
        """The next life, unless the store is to stop: then nothing new is made that somebody would have to remove."""
        self._release()
        self._renewing = False
        if self._stopping.is_set():
            return
        try:
            self._begin()
        except (MstoreError, OSError) as error:
            # Attached readers may still hold the memory of the life before: it is not ours to wait for them.
            self._give_up(f"the store cannot be started again: {error}")

    def _fail_pending(self, why: str) -> None:
        for number in list(self._pending):
            self._settle(number, {}, Unavailable(why))

    def _release(self) -> None:
        self._fail_pending("the store was stopped or renewed before it was done")
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
        if not self._children:
            raise Unavailable("the store is stopping")
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
        newer = self._load_config()
        self._refuse_if_too_small(newer)
        self._config = newer
        async with self._changing:
            if not self._stopping.is_set():
                self._renewing = True
                self._door.shut("ingest", "query")
                await self._stop_children()
                self._begin_again()
            self._refuse_if_stopping()
        await self._ready_or_stopping()
        self._refuse_if_stopping()

    def _refuse_if_too_small(self, newer: Config) -> None:
        """A directory that cannot hold the series there are would end the store: say so while it still runs."""
        if self._life is None:
            return
        n_series = DirectoryReader(self._life.mappings["directory"].segment).counts()["n_series"]
        if newer.max_series < n_series:
            raise ConfigError(
                f"max_series = {newer.max_series}: this store has {n_series} series; allowed is that or more"
            )

    def _refuse_if_stopping(self) -> None:
        if self._stopping.is_set():  # not Unavailable: a client would ask again until its time is over
            raise MstoreError("the store stops instead of starting again: its log says why")

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
        self._stopping.set()
        self._door.close()
        async with self._changing:
            try:
                if self._control is not None:
                    self._control.state = layout.STATE_STOPPING
                await self._stop_children()
            finally:
                self._release()
        for done in self._finished:
            if not done.done():
                done.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for connection in list(self.control_connections):
            connection.close()
        await asyncio.sleep(0)


def serve(
    store_dir: Path, config_path: Path | None, ingest_workers: int | None, query_workers: int | None
) -> int:
    """Run a store in the foreground until it is stopped; the exit status. raises MstoreError when it cannot start."""
    check_platform()
    hold_standard_descriptors()
    set_up_logging("supervisor")
    raise_descriptor_limit()
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
