"""Where every process of the store is, shown on SIGUSR2 whatever it does: also when it is stuck.

    process   opens DIR/run/stacks/NAME, then registers SIGUSR2 with faulthandler: no Python code runs for it
    asker     finds the process that has this file open, truncates it, sends SIGUSR2, reads it

The file is there only after the signal is handled, and only a process that has it open is ever signalled: to any
other one SIGUSR2 would be the end. A successor opens a new file under the same name, so there is one a worker.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mstore import clock, paths
from mstore.persistence.files import lock_path
from mstore.workers.ownership import inode_of

log = logging.getLogger(__name__)

_MODE = 0o640
_QUIET_S = 0.05
"""A file that has not grown for so long is complete: writing it takes less than a millisecond."""
_LOOK_S = 0.01


def stacks_dir(store_dir: Path) -> Path:
    return paths.run_dir(store_dir) / "stacks"


def register(store_dir: Path, name: str, lock_inode: Sequence[int] | None) -> None:
    """Let SIGUSR2 write this process's stacks from now on. A DIR that does not allow it is no reason not to run.

    lock_inode  of DIR/lock as the store took it: where it is another file, DIR is another store's by now, and nothing
                is made there; None: nobody can tell whose DIR is, so nothing is made either
    """
    if lock_inode is None:
        return
    path = stacks_dir(store_dir) / name
    new = path.with_name(f".{name}.{os.getpid()}")
    try:
        if inode_of(lock_path(store_dir)) != tuple(lock_inode):
            log.info("SIGUSR2 will not show this process's stacks: %s is no longer this store's", store_dir)
            return
        path.parent.mkdir(mode=0o750, exist_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
        faulthandler.register(signal.SIGUSR2, file=fd, all_threads=True)  # the descriptor stays open for good
        new.replace(path)
    except OSError as error:
        log.info("SIGUSR2 will not show this process's stacks: %s", error)


def remove(store_dir: Path) -> None:
    """At the end of a run: no process is left that these files could be of."""
    with contextlib.suppress(OSError):
        for path in stacks_dir(store_dir).iterdir():
            path.unlink()
        stacks_dir(store_dir).rmdir()


@dataclass(slots=True)
class Stack:
    """What one process answered."""

    name: str
    pid: int
    text: str = ""
    """Empty: it did not answer in time."""


def ask(store_dir: Path, pids: Iterable[int], wait_s: float) -> list[Stack]:
    """The stacks of these processes, as far as they registered; all are asked before any is waited for.

    wait_s  for all together
    """
    folder = stacks_dir(store_dir)
    asked: list[tuple[Stack, Path]] = []
    for pid in pids:
        path = _file_of(pid, folder)
        if path is not None:
            with contextlib.suppress(OSError):  # it has just ended
                os.truncate(path, 0)
            if _signal(pid, folder):
                asked.append((Stack(path.name, pid), path))
    deadline = clock.monotonic_s() + wait_s
    for stack, path in asked:
        stack.text = _complete(path, deadline)
    return [stack for stack, _ in asked]


def open_files(pid: int) -> list[str]:
    """What /proc says a process has open; empty when it has ended or is another user's."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed since
                found.append(os.readlink(entry.path))
    return found


def _file_of(pid: int, folder: Path) -> Path | None:
    """The file in `folder` that this process has open under its present name."""
    here = os.path.realpath(folder)
    for link in open_files(pid):
        if os.path.dirname(link) == here and not link.endswith(" (deleted)"):
            return folder / os.path.basename(link)
    return None


def _signal(pid: int, folder: Path) -> bool:
    """Send SIGUSR2 to the process that has its file open, and to no other that got its number meanwhile."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if _file_of(pid, folder) is None:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGUSR2)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _complete(path: Path, deadline_s: float) -> str:
    """The file's text once it grows no more, or "" when nothing comes."""
    size, since = 0, clock.monotonic_s()
    while (now := clock.monotonic_s()) < deadline_s:
        with contextlib.suppress(OSError):
            if (found := path.stat().st_size) != size:
                size, since = found, now
        if size and now - since >= _QUIET_S:
            break
        time.sleep(_LOOK_S)
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
