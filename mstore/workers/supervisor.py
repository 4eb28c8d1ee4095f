"""The supervisor: makes the segments, starts and watches the workers, accepts and hands out connections, stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from mstore import clock, faults
from mstore.config import Config
from mstore.errors import ConfigError, MstoreError, from_wire
from mstore.shm import layout
from mstore.shm.control import WORKER_FREE, Control, Counted
from mstore.shm.directory import DirectoryReader
from mstore.workers import lives
from mstore.workers.births import Nursery, reap
from mstore.workers.commands import Commands
from mstore.workers.door import Door
from mstore.workers.family import Child, children_at, kill_all, least_loaded_child, places, stop_in_order
from mstore.workers.ground import LOOK_S, Ground
from mstore.workers.heartbeat import Heartbeat
from mstore.workers.incarnation import Incarnation
from mstore.workers.process import SUPERVISORS_SIGNALS
from mstore.workers.questions import Questions
from mstore.workers.scarce import told_of_start
from mstore.workers.settings import Settings
from mstore.workers.spec import WorkerSpec
from mstore.workers.supervisor_state import RestartPolicy, Verdict
from mstore.workers.systemd import Service
from mstore.workers.tasks import Tasks

log = logging.getLogger(__name__)

_HAND_OUTS_WAITING_MAX = 64
"""Connections that wait here for one worker; more wait in the listening socket, which costs no descriptor."""
_DEATHS_ARMED_MAX = 1 << 30
"""While a test kills workers by the hundred, the next one is always started."""
_READY_S_MAX = 60.0
"""For ingest and query workers, which have nothing to read; a persister may replay for long."""


class Supervisor:
    """Owns everything that must survive a worker: segments, descriptors, listening sockets, the lock."""

    def __init__(
        self, store_dir: Path, settings: Settings, lock_fd: int, service: Service, nursery: Nursery
    ) -> None:
        self.store_dir = store_dir
        self._settings = settings
        self._lock_fd = lock_fd
        self._nursery = nursery
        self._policy = RestartPolicy() if not faults.armed() else RestartPolicy(deaths_max=_DEATHS_ARMED_MAX)
        self._door = Door(store_dir, self._admit, self._may_open, service.sockets)
        self._ground = Ground(store_dir, lock_fd, self._door)
        self._ground_lost = False
        self._notifier = service.notifier
        self._heartbeat = Heartbeat(service.notifier, self._ask_if_alive, self._persister_progress)
        self.children: list[Child] = []
        self.life: Incarnation | None = None
        self.control: Control | None = None
        self.started_s = clock.now_s()
        self._counted: Counted | None = None
        """What was counted since then, while there is no memory to count in."""
        self._stopping = asyncio.Event()
        self.renewing = False
        self._changing = asyncio.Lock()
        """Held while children and memory come or go: a stop, a restart and a renewal never overlap."""
        self._tasks = Tasks()
        self._exit_code = 0
        self._memory = ""
        """What the stop command says about the memory: "keep", "free" or nothing."""
        self._ready = asyncio.Event()
        self._announced = False
        self._finished: list[asyncio.Future[None]] = []
        self._commands = Commands(self)
        self.questions = Questions()

    @property
    def config(self) -> Config:
        return self._settings.current

    @property
    def instance(self) -> int:
        return self.life.instance if self.life else 0

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    # --- start

    async def run(self) -> int:
        """Serve until told to stop; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_quietly)
        # Those that came while there was nobody to stop have waited (mstore.__main__); those that come after the end
        # change nothing any more.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISORS_SIGNALS)
        try:
            self._heartbeat.start()
            self._door.listen()
            self._look_around()
            self._notifier.status("starting: reading snapshot and log")
            if not self._stopping.is_set():
                self._begin()
            await self._ready_or_stopping()
            if self._ready.is_set() and not self._stopping.is_set():
                self._accept()
                self._announced = True
                self._heartbeat.started()
                self._notifier.ready(self._summary())
                with contextlib.suppress(OSError):  # nobody reads our standard output: no reason to stop
                    print(f"mstore ready {self.store_dir}", flush=True)
            await self._stopping.wait()
            if not self._announced and not self._exit_code:
                log.info("asked to stop before the store was ready: it ends")
        finally:
            self._notifier.stopping("stopping: acknowledging, writing what is not yet on disk")
            await self._end()
            signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISORS_SIGNALS)
            self._heartbeat.stop()
        return self._exit_code

    async def _ready_or_stopping(self) -> None:
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(self._ready.wait()), loop.create_task(self._stopping.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _begin(self, *, adopt: bool = True) -> None:
        """A new life of all workers over kept or new memory; the persister first: it fills or adopts the memory."""
        workers = places(*self.config.worker_counts(os.cpu_count() or 1))
        self.life, self.control = lives.begin(
            self.store_dir, self.config, workers, self._counted, adopt=adopt
        )
        self._ready.clear()
        self.children = children_at(workers)
        loop = asyncio.get_running_loop()
        for child in self.children:
            child.channel.serve(loop, partial(self._report, child), lambda: None)
        self._door.open("control")
        for child in self.children if self.life.adopted else self.children[:1]:
            self._spawn(child)

    def _spawn(self, child: Child) -> None:
        if (
            self._stopping.is_set()
        ):  # perhaps because the one before could not be started, which took its time
            return
        life = self.life
        assert life is not None
        follow_fds = tuple(one.bell_fd for one in self.children if one.kind == "query")
        spec = WorkerSpec(
            child.kind, child.index, child.slot, str(self.store_dir), self._settings.fd, life.instance,
            life.names, child.child_end.fileno(), life.doorbell_fd, life.ack_fds, follow_fds, os.getpid(),
            life.adopted, life.fds, self._settings.strict, self._ground.lock_inode, self._lock_fd, self.started_s,
        )  # fmt: skip
        try:
            inherited = (
                spec.channel_fd, spec.config_fd, life.doorbell_fd, *life.ack_fds, *follow_fds, *life.fds.values(),
                self._lock_fd,
            )  # fmt: skip
            child.spawn(self._nursery, spec, inherited, self._died)
            faults.hit("supervisor.spawned")
        except OSError as error:
            self._give_up(f"cannot start {child.name}: {told_of_start(error)}")
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

    def _accept(self) -> None:
        for which in ("ingest", "query"):
            self._door.open(which)

    # --- what it stands on, and who watches over it

    def _look_around(self) -> None:
        """Every few seconds: stop when DIR is no longer this store's, mend what only lost its name."""
        if self._stopping.is_set():
            return
        if why := self._ground.lost():
            self._ground_lost = True
            self._give_up(why)
            return
        self._mend()
        self._bury()
        asyncio.get_running_loop().call_later(LOOK_S, self._look_around)

    def _mend(self) -> None:
        """Of DIR/run, what somebody removed."""
        self._ground.mend()
        if self.life is not None:
            lives.mend(self.life, self.store_dir)

    def _summary(self) -> str:
        counts = Counter(child.kind for child in self.children)
        state = "ready" if self._ready.is_set() else "starting"
        return f"{state}: {counts['ingest']} ingest and {counts['query']} query workers, {self.store_dir}"

    def _ask_if_alive(self) -> None:
        self.children[0].channel.send(["alive"])

    def _persister_progress(self) -> float | None:
        """See Heartbeat. A stop ends by time limits of its own; a renewal waits for killed processes, for nothing else."""
        if self._stopping.is_set() or self.renewing or not self.children:
            return asyncio.get_running_loop().time()
        persister = self.children[0]
        return None if persister.ready else persister.cpu_s()

    # --- connections

    def _may_open(self, which: str) -> bool:
        if self._stopping.is_set():
            return False
        return which == "control" or (self._ready.is_set() and not self.renewing)

    def _admit(self, which: str, sock: socket.socket) -> bool:
        """Take one accepted connection; False: take no more for now. raises OSError: this one is lost."""
        if which == "control":
            self._commands.serve(sock)
            return True
        try:
            return self._hand_out(which, sock) < _HAND_OUTS_WAITING_MAX
        finally:
            sock.close()

    def _hand_out(self, kind: str, sock: socket.socket) -> int:
        """Send a connection to the least loaded worker; how many wait for that worker by now."""
        assert self.control is not None
        chosen = least_loaded_child(self.children, kind, self.control)
        faults.hit("supervisor.handing_out")
        chosen.channel.send(["serve"], sock)
        chosen.handed_out += 1
        return chosen.channel.n_waiting

    # --- children

    def _report(self, child: Child, packet: list[Any], _fd: int | None) -> None:
        kind = packet[0]
        if kind == "ready" and not self._stopping.is_set():
            child.ready = True
            if child.kind == "persister":
                for other in self.children[1:]:
                    if other.process is None:  # over kept memory all start at once: it is whole already
                        self._spawn(other)
            if all(one.ready for one in self.children) and self.control is not None:
                self.control.state = layout.STATE_READY
                self._ready.set()
                if self._announced:
                    self._accept()
                    self._notifier.status(self._summary())
        elif kind == "alive":
            self._heartbeat.answered()
        elif kind == "progress":
            log.info("%s: %s", child.name, packet[1])
            self._notifier.status(f"starting: {packet[1]}")
        elif kind == "done":
            self.questions.settle(packet[1], packet[2])
        elif kind == "failed":
            self.questions.settle(packet[1], {}, from_wire(*packet[2:5]))
        elif kind == "fatal":
            log.error("%s: %s", child.name, packet[1])
            self._exit_code = 1
            self._stopping.set()

    def _bury(self) -> None:
        reap([one.process.pid for one in self.children if one.process is not None and one.alive])

    def _died(self, child: Child, code: int) -> None:
        self._bury()  # what it had started is an orphan now, and given to us
        if self.control is not None:
            slot = self.control.worker(child.slot)
            if slot.state != WORKER_FREE:
                slot.release()
        if self._stopping.is_set() or self.renewing:
            return
        if child.kind == "persister":
            self.questions.fail_all(f"{child.name} died")
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        verdict = self._policy.died(child.name, child.kind, clock.monotonic_s())
        adopting = (
            child.kind == "persister" and not child.ready and self.life is not None and self.life.adopted
        )
        if child.kind == "persister" and not self._announced and not adopting:
            verdict = Verdict.GIVE_UP  # it could not even start: its own message says why
        log.warning("%s died (%s): %s", child.name, how, verdict.value)
        if self.control is not None and verdict is not Verdict.GIVE_UP:
            self.control.worker(child.slot).add("restarts")
        if verdict is Verdict.RESPAWN:
            self._spawn(child)
        elif verdict is Verdict.RENEW:
            # Memory that the persister did not survive adopting is not offered to the next one.
            self._tasks.start(self._renew(self.life, keep=not adopting))
        else:
            self._give_up(f"{child.name} keeps dying" if self._announced else f"{child.name} could not start")

    async def _renew(self, life: Incarnation | None, *, keep: bool) -> None:
        """All workers again, over the same memory or from the files. Senders wait in the listening sockets."""
        async with self._changing:
            if self.life is not life or self._stopping.is_set():
                return  # a restart, or a stop, came first
            self._notifier.status("starting again: the persister died")
            self._mend_before_the_end(keep=keep)
            await self._begin_again(kill_all(self.children), keep=keep)

    async def _begin_again(self, ending: Coroutine[Any, Any, None], *, keep: bool) -> None:
        """The next life, once all children have ended; held under _changing. Not when the store is to stop by then:
        nothing new is made that somebody would have to remove.

        keep  over the same memory, if it can be adopted
        """
        self.renewing = True
        self._door.shut("ingest", "query")
        try:
            await ending
            faults.hit("supervisor.renewing")
            ends = self._stopping.is_set()
            # The stop that waits for us finds no memory any more: what it would keep is put aside here.
            self._release(keep=keep and (not ends or self._shelve()))
            self.renewing = False
            if not ends:
                self._begin(adopt=keep)
        except Exception as error:
            # Attached readers may still hold the memory of the life before: it is not ours to wait for them.
            self._give_up(f"the store cannot be started again: {error}")
            if not isinstance(error, (MstoreError, OSError)):
                raise

    def _mend_before_the_end(self, *, keep: bool) -> None:
        """Who takes the memory over finds it by what is in DIR/run, and that may have been removed since the last look.

        So may the names of the memory itself: whether it can be kept is to be asked after this.
        """
        if keep and not self._ground_lost and not self._ground.lost():
            self._mend()

    def _release(self, *, keep: bool = False) -> None:
        self.questions.fail_all("the store was stopped or renewed before it was done")
        for child in self.children:
            child.close()
        self.children = []
        if self.control is not None:
            self._counted = self.control.counted()
            self.control = None
        if self.life is not None:
            self.life.close(keep=keep)
            self.life = None

    # --- what an operator may ask for

    async def stop(self, memory: str = "") -> None:
        """End the store, and return when it has ended but for its last connections. memory: one of messages.MEMORY"""
        self._memory = memory
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finished.append(done)
        self._stopping.set()
        await done

    def reload(self) -> dict[str, Any]:
        if self._announced:  # before that, ready() would end the start for the manager
            self._notifier.reloading()
        try:
            later = self._settings.reload()
        finally:
            if self._announced:
                self._notifier.ready(self._summary())
        for child in self.children:
            child.channel.send(["reload"], self._settings.fd)
        return {"needs_restart": later, "warnings": list(self.config.warnings)}

    def _reload_quietly(self) -> None:
        try:
            details = self.reload()
        except ConfigError as error:
            log.error("configuration not reloaded: %s", error)
            return
        log.info(
            "configuration reloaded%s",
            f"; restart for {details['needs_restart']}" if details["needs_restart"] else "",
        )

    async def restart(self, *, keep: bool) -> None:
        """Stop all workers in order and start them again, with the configuration as it is now.

        Memory that the configuration does not fit any more is given up: then a snapshot is written before.
        """
        async with self._changing:
            self._refuse_if_stopping()
            newer = self._settings.for_restart(self._n_series())
            self._mend_before_the_end(keep=keep)
            if keep and self.life is not None and (reason := lives.misfit(self.life, newer)):
                log.info("the memory is made anew: %s", reason)
                keep = False
            self._settings.take(newer)
            await self._begin_again(
                stop_in_order(self.children, newer.snapshot_stop_limit_s, keep=keep), keep=keep
            )
        await self._ready_or_stopping()
        self._refuse_if_stopping()

    def _n_series(self) -> int:
        if self.life is None:
            return 0
        return DirectoryReader(self.life.mappings["directory"].segment).counts()["n_series"]

    def _refuse_if_stopping(self) -> None:
        if self._stopping.is_set():  # not Unavailable: a client would ask again until its time is over
            raise MstoreError("the store stops instead of starting again: its log says why")

    # --- stop

    def _keeps_memory(self) -> bool:
        """Whether a stop leaves the memory: as the command or the configuration says, if there is data in it."""
        wanted = self._memory == "keep" or (not self._memory and self.config.keep_memory)
        if self.life is None or self.life.removed:  # nobody would find it: a last snapshot is taken instead
            return False
        return wanted and not self._exit_code and self.control is not None and self.control.applied > 0

    def _shelve(self) -> bool:
        """Put the memory aside for a next start, if it is to be kept; False: it goes."""
        return self._keeps_memory() and self.life is not None and self.life.shelve()

    async def _end(self) -> None:
        self._stopping.set()
        self._door.close()
        async with self._changing:
            self._mend_before_the_end(keep=self._keeps_memory())
            keep, shelved = self._keeps_memory(), False
            try:
                if self.control is not None:
                    self.control.state = layout.STATE_STOPPING
                # A last snapshot would go where DIR was, which is perhaps another store's by now.
                limit_s = self.config.snapshot_stop_limit_s
                await stop_in_order(self.children, limit_s, keep=keep or self._ground_lost)
                shelved = keep and self._shelve()
                if self.life is not None and self.life.adopted and not (shelved or self._announced):
                    log.info("the memory that the run before left goes, too: the next start reads the files")
            finally:
                self._release(keep=shelved)
        for done in self._finished:
            if not done.done():
                done.set_result(None)
        await self._commands.close()
        await asyncio.sleep(0)
