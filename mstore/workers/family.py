"""Child processes: forked by the nursery, watched by pidfd, stopped in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mstore.shm.control import Control
from mstore.workers.births import Nursery, Process
from mstore.workers.channel import Channel
from mstore.workers.spec import WorkerSpec
from mstore.workers.supervisor_state import least_loaded

log = logging.getLogger(__name__)

Place: TypeAlias = tuple[str, int]
"""A worker's kind, and which of its kind it is."""

STOP_S_MAX = {"ingest": 15.0, "persister": 180.0, "query": 5.0}
"""By kind, in the order of a stop; the persister's beside the time that the last snapshot may take."""


@dataclass
class Child:
    """One worker's place: the pair of channel ends outlives the process, so a successor finds what waits in it."""

    name: str
    kind: str
    index: int
    slot: int
    channel: Channel
    child_end: socket.socket
    process: Process | None = None
    ready: bool = False
    bell_fd: int = -1
    """eventfd of a query worker: a block is applied, and somebody there follows."""
    handed_out: int = 0
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.exited.set()

    @classmethod
    def place(cls, kind: str, index: int, slot: int) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        name = kind if kind == "persister" else f"{kind}-{index}"
        bell_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if kind == "query" else -1
        return cls(name, kind, index, slot, Channel(ours), theirs, bell_fd=bell_fd)

    def spawn(
        self,
        nursery: Nursery,
        spec: WorkerSpec,
        pass_fds: tuple[int, ...],
        died: Callable[[Child, int], None],
    ) -> None:
        """Start the process; `died(child, return code)` is called once when it has ended. raises OSError: there is none"""
        self.ready = False
        self.process = nursery.start(spec.kind, spec.to_json(), {fd: fd for fd in pass_fds})
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self.process.pidfd, self._ended, loop, died)
        except OSError:  # nobody would hear of its end: whoever waits for that would wait for good
            self.process.end()
            raise
        self.exited.clear()

    def _ended(self, loop: asyncio.AbstractEventLoop, died: Callable[[Child, int], None]) -> None:
        assert self.process is not None
        loop.remove_reader(self.process.pidfd)
        os.close(self.process.pidfd)
        _, status = os.waitpid(self.process.pid, 0)
        self.exited.set()
        died(self, os.waitstatus_to_exitcode(status))

    @property
    def alive(self) -> bool:
        return not self.exited.is_set()

    def cpu_s(self) -> float:
        """Processor time that the process has used; 0.0 when there is none. Grows in steps of a clock tick."""
        if not self.alive or self.process is None:
            return 0.0
        try:
            # The name in brackets may hold anything; utime and stime are the 12th and 13th field behind it.
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        if self.alive and self.process is not None:
            signal.pidfd_send_signal(self.process.pidfd, signal.SIGKILL)

    async def stop(self, timeout_s: float, memory: str = "free") -> None:
        """Ask the process to end; kill it after `timeout_s`. memory: "keep" or "free", for the persister.

        One that is not ready is killed at once: it has taken nothing yet, and a persister that reads its files
        does not listen. What it read is there for the next start, unchanged.
        """
        if not self.alive:
            return
        if self.ready:
            self.channel.send(["stop", memory])
        else:
            self.kill()
        try:
            await asyncio.wait_for(self.exited.wait(), timeout_s)
        except TimeoutError:
            log.warning("%s did not stop within %.0f s and is killed", self.name, timeout_s)
            self.kill()
            await self.exited.wait()

    def close(self) -> None:
        self.channel.close()
        self.child_end.close()
        if self.bell_fd >= 0:
            os.close(self.bell_fd)


def places(n_ingest: int, n_query: int) -> list[Place]:
    """Who claims slot 0, 1, ...: the persister first, then its workers."""
    return [
        ("persister", 0),
        *(("ingest", k) for k in range(n_ingest)),
        *(("query", k) for k in range(n_query)),
    ]


def children_at(kinds: Sequence[Place]) -> list[Child]:
    """The family before anybody is started."""
    return [Child.place(kind, index, slot) for slot, (kind, index) in enumerate(kinds)]


async def stop_in_order(children: Sequence[Child], snapshot_s_max: float, *, keep: bool) -> None:
    """Ingest first (what it took is still acknowledged), then the persister, then the readers.

    snapshot_s_max  how long the persister's last snapshot may take
    keep            the memory stays: no last snapshot
    """
    for kind, limit_s in STOP_S_MAX.items():
        limit_s += snapshot_s_max if kind == "persister" else 0.0
        alike = (child for child in children if child.kind == kind)
        await asyncio.gather(*(child.stop(limit_s, "keep" if keep else "free") for child in alike))


async def kill_all(children: Sequence[Child]) -> None:
    """End them at once, and return when none of them can touch the memory any more."""
    for child in children:
        child.kill()
    for child in children:
        await child.exited.wait()


def least_loaded_child(children: Sequence[Child], kind: str, control: Control) -> Child:
    """Who gets the next connection for a worker of this kind."""
    workers = [child for child in children if child.kind == kind]
    slots = [control.worker(child.slot).snapshot() for child in workers]
    return workers[
        least_loaded(
            [max(0, slot["connections_open"]) for slot in slots],
            [child.handed_out for child in workers],
            [slot["connections_total"] for slot in slots],
        )
    ]
