"""DIR/lock: one run at a time works on a store's files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from mstore.clock import monotonic_s
from mstore.errors import StorageError, StoreLocked
from mstore.persistence.files import FILE_MODE, lock_path, storage_errors

DYING_S_MAX = 5.0
"""How long the children of a killed supervisor may take to end, and with them the lock."""


def lock(directory: Path) -> int:
    """Take DIR/lock; returns the descriptor, which every process of the run is given, too.

    The lock belongs to the open file, so it is free only when the last process holding it is gone. When its
    supervisor is gone, the others are ending: they are waited for.
    raises  StoreLocked with the holder's note when another run has it
    """
    path = lock_path(directory)
    with storage_errors("open", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    deadline = monotonic_s() + DYING_S_MAX
    while (failure := _try_lock(fd)) is not None:
        holder = os.pread(fd, 64, 0).decode("ascii", "replace").strip()
        if failure.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(fd)
            raise StorageError(f"cannot lock {path}: {failure.strerror}", path=str(path)) from failure
        if _is_alive(holder) or monotonic_s() > deadline:
            os.close(fd)
            raise StoreLocked(
                f"another mstore (process {holder or '?'}) runs in {directory}: stop it or use another directory",
                holder=holder,
            ) from failure
        time.sleep(0.02)
    with contextlib.suppress(OSError):  # a full disk: a lock without a note holds as well
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _try_lock(fd: int) -> OSError | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failure:
        return failure
    return None


def _is_alive(holder: str) -> bool:
    """Whether the process that noted its number in DIR/lock exists; one that is about to note it counts as alive."""
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        pass
    return True
