"""Child processes: started by exec with inherited descriptors, watched by pidfd."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from mstore.shm.control import Control
from mstore.workers.channel import Channel
from mstore.workers.process import SUPERVISORS_SIGNALS
from mstore.workers.spec import WorkerSpec
from mstore.workers.supervisor_state import least_loaded

log = logging.getLogger(__name__)


@dataclass
class Child:
    """One worker's place: the pair of channel ends outlives the process, so a successor finds what waits in it."""

    name: str
    kind: str
    index: int
    slot: int
    channel: Channel
    child_end: socket.socket
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    handed_out: int = 0
    pidfd: int = -1
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def place(cls, kind: str, index: int, slot: int) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        name = kind if kind == "persister" else f"{kind}-{index}"
        return cls(name, kind, index, slot, Channel(ours), theirs)

    def spawn(self, spec: WorkerSpec, pass_fds: tuple[int, ...], died: Callable[[Child, int], None]) -> None:
        """Start the process; `died(child, return code)` is called once when it has ended."""
        self.ready = False
        # The child inherits the mask: Ctrl-C or a hang-up before it ignores them must not end it (run_worker).
        held = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISORS_SIGNALS)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"mstore.workers.{self.kind}", spec.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _is_open(sys.stderr) else subprocess.DEVNULL,
                pass_fds=pass_fds,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        self.exited.clear()
        self.pidfd = os.pidfd_open(self.process.pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(self.pidfd, self._ended, loop, died)

    def _ended(self, loop: asyncio.AbstractEventLoop, died: Callable[[Child, int], None]) -> None:
        assert self.process is not None
        loop.remove_reader(self.pidfd)
        os.close(self.pidfd)
        self.pidfd = -1
        code = self.process.wait()
        self.exited.set()
        died(self, code)

    @property
    def alive(self) -> bool:
        return self.process is not None and not self.exited.is_set()

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
            self.process.send_signal(signal.SIGKILL)

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


def _is_open(stream: TextIO) -> bool:
    try:
        return os.fstat(stream.fileno()).st_mode != 0
    except (AttributeError, OSError, ValueError):
        return False
