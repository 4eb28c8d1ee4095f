"""Where `mstore export` reads: a store's memory if it may be mapped, else its socket; of a stopped store, its files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mstore.attach import attach
from mstore.client.sync import Client
from mstore.compat import source
from mstore.compat.source import Source
from mstore.errors import LayoutMismatch, NotPermitted, StoreLocked, Unavailable
from mstore.paths import run_dir
from mstore.persistence.files import snapshot_dir, wal_dir
from mstore.query.reader import Reader
from mstore.workers.look import lock_quietly
from mstore.workers.read_back import read_back


@contextlib.contextmanager
def open_source(store_dir: Path) -> Iterator[Source]:
    """A store to export from.

    raises  Unavailable when there is none, or it is just starting; StoreFull when a stopped one does not fit the
            memory; StorageError, CorruptRecord
    """
    with contextlib.ExitStack() as stack:
        try:
            found = source.attached(stack.enter_context(attach(store_dir)))
        except (NotPermitted, LayoutMismatch):  # another user's, or another version's: its socket may answer
            found = source.asked(stack.enter_context(Client(store_dir)))
        except Unavailable:
            if not any(path.is_dir() for path in (wal_dir(store_dir), snapshot_dir(store_dir))):
                raise
            found = _stopped(store_dir, stack)
        yield found


def _stopped(store_dir: Path, stack: contextlib.ExitStack) -> Source:
    """What a start would find in the files, whatever its age; they stay as they are."""
    try:
        lock_fd = lock_quietly(store_dir)
    except StoreLocked as error:
        raise Unavailable(
            f"the store in {store_dir} is starting or stopping: see {run_dir(store_dir)}"
        ) from error
    if lock_fd >= 0:
        stack.callback(os.close, lock_fd)
    found = read_back(store_dir)
    damage = found.report.in_full() if found.report.damaged else ""
    return replace(source.attached(Reader(found.directory, found.samples)), damage=damage)
