"""How the store's processes are started: a nursery forks them, and they are this process's children."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mstore import clock, faults
from mstore.errors import MstoreError
from mstore.workers.process import SUPERVISORS_SIGNALS
from mstore.workers.scarce import told_of_start

log = logging.getLogger(__name__)

ORDER_BYTES_MAX = 128 << 10
"""Of one order: as much as the system takes for one argument of a command."""
DESCRIPTORS_MAX = 250
"""That go with one order: the system's limit for one message is 253."""
SOCKET_FD = 3
"""Where a nursery that was started by exec finds its end of the socket pair."""
GO = b"g"
"""The word on which a forked process begins."""

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.002
_ANSWER_S_MAX = 10.0
"""For an order, which takes milliseconds: the owner's loop stands still meanwhile."""
_LOADED_S_MAX = 60.0
"""For the first order of a nursery that was started anew: it loads all modules before, on a busy machine for seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Process:
    """A child that runs, or has ended and was not waited for yet."""

    pid: int
    pidfd: int
    """The owner of this value closes it."""

    def end(self) -> None:
        """Kill and bury it, where nobody can watch it."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)


class Nursery:
    """The owner's side of a nursery (see workers/nursery.py). Calls block for milliseconds, and for as long as the
    modules take to load where the nursery was killed and is started anew; _ANSWER_S_MAX more where it was stopped."""

    def __init__(self, name: str, store_dir: Path, apart: bool, sock: socket.socket, pidfd: int) -> None:
        self._name = name
        self._apart = apart
        self._store_dir = store_dir
        self._sock = sock
        self._pidfd = pidfd

    @classmethod
    def fork(cls, name: str, store_dir: Path, *, apart: bool = False) -> Nursery:
        """Of this process as it is: to be called before it has threads, an event loop, or descriptors of value.

        name   what ps shows it as
        apart  in a session of its own, with all that it forks: what a terminal sends does not come there

        From now on this process is given the orphans among its descendants (see reap).
        raises MstoreError: the system gives no process
        """
        if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError("prctl(PR_SET_CHILD_SUBREAPER) failed")
        # Ignored, as whoever started us may have left it, no exit status is kept.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from mstore.workers import nursery  # here: who only has a nursery needs not all modules of the others

        owner = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError as error:
            raise MstoreError(f"cannot start the process {name}: {told_of_start(error)}") from error
        if not pid:
            nursery.serve(theirs, owner, name, store_dir, apart)
        theirs.close()
        return cls(name, store_dir, apart, ours, _pidfd_of(pid))

    def start(self, main: str, argument: str, descriptors: Mapping[int, int]) -> Process:
        """A new process that runs main(argument).

        main         a name in nursery.MAINS
        descriptors  by the number that they have there; it has no others but 0, 1 and 2
        raises OSError: there is none
        """
        try:
            return self._start(main, argument, descriptors, _ANSWER_S_MAX)
        except (ConnectionError, EOFError, TimeoutError) as error:
            how = "does not answer" if isinstance(error, TimeoutError) else "has died"
            log.warning("the process %s %s: a new one is started", self._name, how)
            self._start_anew()
        try:
            return self._start(main, argument, descriptors, _LOADED_S_MAX)
        except EOFError:
            raise OSError(f"the process {self._name} died again") from None
        except TimeoutError:
            raise OSError(f"the process {self._name} does not answer") from None

    def _start(self, main: str, argument: str, descriptors: Mapping[int, int], timeout_s: float) -> Process:
        go, writing = os.pipe()
        try:
            of_go = max(descriptors, default=2) + 1  # one that none of them has
            order = {"main": main, "argument": argument, "numbers": [of_go, *descriptors]}
            pid = self._ask(json.dumps(order).encode(), [go, *descriptors.values()], timeout_s)
            pidfd = _pidfd_of(pid)
            os.write(writing, GO)
            return Process(pid, pidfd)
        finally:
            os.close(go)
            os.close(writing)  # without the word before, it ends

    def _ask(self, order: bytes, descriptors: list[int], timeout_s: float) -> int:
        if len(order) > ORDER_BYTES_MAX or len(descriptors) > DESCRIPTORS_MAX:
            raise OSError(
                f"{len(order)} bytes and {len(descriptors)} descriptors for a new process, at most "
                f"{ORDER_BYTES_MAX} and {DESCRIPTORS_MAX} are possible"
            )
        if self._pidfd < 0:
            raise EOFError  # it could not be started anew
        self._sock.settimeout(timeout_s)
        socket.send_fds(self._sock, [order], descriptors)
        faults.hit("births.ordered")
        try:
            answer = self._sock.recv(ORDER_BYTES_MAX)
        except BaseException:
            self.close()  # what it says later would be taken for the answer to the next order: another one's pid
            raise
        if not answer:
            raise EOFError
        if isinstance(told := json.loads(answer), int):
            return told
        raise OSError(told)

    def _start_anew(self) -> None:
        """By exec: this process has an event loop by now, and what a fork of it would do with that is nobody's wish."""
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            sys.executable, "-P", "-m", "mstore.workers.nursery", str(os.getpid()), self._name, str(self._store_dir),
            "apart" if self._apart else "",
        ]  # fmt: skip
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), SOCKET_FD)]
        try:
            with theirs:
                pid = os.posix_spawn(
                    sys.executable, command, os.environ, file_actions=actions, setsigmask=SUPERVISORS_SIGNALS
                )
            self._pidfd = _pidfd_of(pid)
        except OSError:
            ours.close()
            raise
        self._sock = ours

    def close(self) -> None:
        """End the nursery: who was started stays."""
        self._sock.close()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it had ended, and reap() saw that
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
            self._pidfd = -1


def _pidfd_of(child: int) -> int:
    """raises OSError: there is none, and the child has ended"""
    try:
        return os.pidfd_open(child)
    except OSError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def reap(watched: Collection[int]) -> None:
    """Bury the dead children that nobody asks for: a nursery, and the helpers of a worker that was killed.

    watched  pids whose exit status somebody waits for: they are left alone
    """
    with contextlib.suppress(ChildProcessError):
        while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if dead.si_pid in watched:
                return  # it hides those behind it until it is waited for, which is soon
            os.waitpid(dead.si_pid, 0)


def reap_all(timeout_s: float) -> None:
    """Wait for the last children: orphans that are dying with whoever started them. Who ends after this ends alone.

    The first process of a container is also given the orphans of others, who end when they like: nobody waits for these.
    """
    deadline_s = clock.monotonic_s() + timeout_s
    with contextlib.suppress(ChildProcessError):
        while True:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
                continue
            if clock.monotonic_s() >= deadline_s or not any(map(_is_ours, _children())):
                return
            time.sleep(_LOOK_S)


def _children() -> list[int]:
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # of a thread that has just ended
            found += map(int, path.read_text().split())
    return found


def _is_ours(pid: int) -> bool:
    """Whether a process is a store's, or has ended: it was given a name (process.set_name), or runs a module of ours."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
    return not line or line.startswith(b"mstore: ") or b"mstore.workers." in line
