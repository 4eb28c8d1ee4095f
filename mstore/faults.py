"""Points where a test may end a process: `hit("drain.written")` in the code, a file with one line from the test.

    MSTORE_FAULT=DIR in the environment of a store arms all its processes; without it a hit is one comparison.
    DIR/PROCESS (persister, ingest-0, snapshot, mstore, ...) holds "POINT N": when that process comes to the point for
    the N-th time since then, it renames the file to PROCESS.hit and is killed there.

Points stand where a death leaves something half done. They are for cold paths: once a block, a batch, a message.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_folder = os.environ.get("MSTORE_FAULT", "")
_orders = ""
"""The file with this process's."""
_order: tuple[int, int] | None = None
_hits = 0


def armed() -> bool:
    """Whether a test may end processes here: deaths are what it is about, and no reason to give up."""
    return bool(_folder)


def name_process(name: str) -> None:
    """What this process is called in orders, e.g. persister, ingest-0, query-1, snapshot; the supervisor is mstore."""
    global _orders
    _orders = f"{_folder}/{name.removeprefix('mstore:')}"


def hit(point: str) -> None:
    """This process has come to `point`; the end, if an order says so."""
    if _folder:
        _look(point)


def _look(point: str) -> None:
    """Orders are changed while we run, so the file is read each time."""
    global _order, _hits
    try:
        with open(_orders) as file:
            status = os.fstat(file.fileno())
            wanted, count = file.read().split()
    except (OSError, ValueError):
        return
    if wanted != point:
        return
    if _order != (order := (status.st_ino, status.st_mtime_ns)):
        _order, _hits = order, 0
    _hits += 1
    if _hits >= int(count):
        with contextlib.suppress(FileNotFoundError):  # withdrawn meanwhile
            Path(_orders).rename(f"{_orders}.hit")
            os.kill(os.getpid(), signal.SIGKILL)
