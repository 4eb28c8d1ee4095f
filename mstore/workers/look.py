"""Looking at a store's directory from outside: whether a store runs there, and keeping one from starting meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from mstore.errors import MstoreError, StorageError, StoreLocked
from mstore.paths import run_dir
from mstore.persistence import files, store_lock
from mstore.shm import layout, segment
from mstore.shm.control import Control
from mstore.shm.directory import DirectoryReader
from mstore.shm.note import read_note
from mstore.workers.incarnation import INSTANCE_NOTE, KEPT_NOTE, remove_stale


def lock_quietly(store_dir: Path) -> int:
    """Take DIR/lock for as long as the descriptor is open; -1 for a copy without a lock file. raises StoreLocked

    Who may not write takes a shared lock on the file as it is: that keeps a store from starting, too.
    """
    path = files.lock_path(store_dir)
    if not path.exists():
        return -1
    if os.access(path, os.W_OK):
        return store_lock.lock(store_dir)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}", path=str(path)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StoreLocked(f"a store runs in {store_dir}") from None
    return fd


def holder(store_dir: Path) -> int:
    """Process that noted its number in DIR/lock last; 0 when there is none."""
    try:
        text = files.lock_path(store_dir).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def kept_memory(store_dir: Path) -> tuple[list[str], bool]:
    """(segments in /dev/shm of a run of `store_dir` that is gone, whether the next start may adopt them).

    Call with DIR/lock held. Whether it really does, it decides when it reads log and links.
    """
    names = segment.stale(segment.name_prefix(store_dir))
    for note in (INSTANCE_NOTE, KEPT_NOTE):
        if names and (run_dir(store_dir) / note).exists():
            return names, _may_be_adopted(run_dir(store_dir) / note)
    return names, False


def free_kept_memory(store_dir: Path) -> list[str]:
    """Give back the memory that a stop kept; names of the segments. Nothing is lost: the log has all of it.

    raises  StoreLocked while a store runs; nothing is freed then
    """
    if not kept_memory(store_dir)[0]:
        return []
    fd = store_lock.lock(store_dir)
    try:
        return remove_stale(store_dir)
    finally:
        os.close(fd)


def _may_be_adopted(note: Path) -> bool:
    kinds = {"control": layout.SEG_CONTROL, "directory": layout.SEG_DIRECTORY, "samples": layout.SEG_SAMPLES}
    with contextlib.ExitStack() as stack:
        try:
            instance, names = read_note(note)
            mapped = {
                role: stack.enter_context(segment.attach(names[role], kind, instance))
                for role, kind in kinds.items()
            }
            counts = DirectoryReader(mapped["directory"].segment).counts()
            return bool(Control(mapped["control"]).applied) and not counts["critical"] & 1
        except (MstoreError, OSError):
            return False
