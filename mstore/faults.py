"""Points where a test may end a process: `hit("drain.written")` in the code, one line in a file from the test.

    MSTORE_FAULT=FILE in the environment of a store arms all its processes; without it a hit is one comparison.
    FILE holds "PROCESS POINT N": the first process of that name (persister, ingest-0, snapshot, mstore, ...; "*" =
    any) that comes to the point for the N-th time since then renames FILE to FILE.hit and is killed there.

Points stand where a death leaves something half done. They are for cold paths: once a block, a batch, a message.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_file = os.environ.get("MSTORE_FAULT", "")
_process = ""
_order: tuple[int, int] | None = None
_hits = 0


def name_process(name: str) -> None:
    """What this process is called in orders, e.g. persister, ingest-0, query-1, snapshot; the supervisor is mstore."""
    global _process
    _process = name.removeprefix("mstore:")


def hit(point: str) -> None:
    """This process has come to `point`; the end, if an order says so."""
    if _file:
        _look(point)


def _look(point: str) -> None:
    """Orders are changed while we run, so the file is read each time."""
    global _order, _hits
    try:
        with open(_file) as file:
            status = os.fstat(file.fileno())
            process, wanted, count = file.read().split()
    except (OSError, ValueError):
        return
    if wanted != point or process not in ("*", _process):
        return
    if _order != (order := (status.st_ino, status.st_mtime_ns)):
        _order, _hits = order, 0
    _hits += 1
    if _hits >= int(count):
        with contextlib.suppress(FileNotFoundError):  # another process was quicker: one order, one death
            Path(_file).rename(f"{_file}.hit")
            os.kill(os.getpid(), signal.SIGKILL)
