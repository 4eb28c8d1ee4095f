"""`mstore archive --now` of a stopped store: its files are read back as a start would, and what they hold is archived.

With --delete what was archived leaves the files, too: what is left is written as one new snapshot, and then the older
snapshots and the log go, as `mstore check --repair` does it. A death on the way leaves files that a start reads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from mstore import clock
from mstore.archive import leavers
from mstore.archive.begun import note_begun, refuse_if_gone
from mstore.archive.lives import Memory
from mstore.archive.manifest import NOTHING_S
from mstore.archive.passes import Orders, Result, run_pass
from mstore.errors import ArchiveError
from mstore.persistence.files import (
    SNAPSHOT_SUFFIX,
    WAL_SUFFIX,
    Files,
    generation_of,
    number_of,
    snapshot_dir,
    wal_dir,
)
from mstore.persistence.snapshot import write_snapshot
from mstore.shm.directory import DirectoryReader
from mstore.workers.archive import everything
from mstore.workers.look import kept_memory, lock_quietly
from mstore.workers.read_back import ReadBack, read_back

_FREE_SERIES = 32_768


@dataclass(slots=True)
class Stopped:
    """What became of it."""

    result: Result
    n_freed: int
    """Chunks."""
    damage: str
    """What of the store could not be read, "" when all could."""


def archive_stopped(
    store_dir: Path, root: Path, *, clusters: list[str] | None, delete: bool, level: int, max_bytes: int
) -> Stopped:
    """Archive what a start would find.

    raises  StoreLocked when it runs; StoreFull when it does not fit the memory; ArchiveError, StorageError,
            CorruptRecord, LayoutMismatch
    """
    lock_fd = lock_quietly(store_dir)
    try:
        if delete:
            _refuse_kept_memory(store_dir)
        found = read_back(store_dir)
        files = Files()
        leavers.cut_behind(files, store_dir, found.report.next_seq - 1)
        paths = leavers.leavers_files(files, store_dir)
        memory = Memory(found.directory, found.samples)
        orders = Orders(
            everything(memory, clock.now_s()), clusters, level, max_bytes, paced=False, freeing=delete,
            leavers=tuple(paths),
        )  # fmt: skip
        refuse_if_gone(files, store_dir, root)
        result = run_pass(files, root, memory, orders)
        note_begun(files, store_dir, root)
        for path in paths if result.leavers_done else ():
            files.unlink(path)
        damage = found.report.in_full() if found.report.damaged else ""
        n_freed = _free(files, store_dir, found, result) if delete and not damage else 0
        return Stopped(result, n_freed, damage)
    finally:
        if lock_fd >= 0:
            os.close(lock_fd)


def _refuse_kept_memory(store_dir: Path) -> None:
    kept, _ = kept_memory(store_dir)
    if kept:
        raise ArchiveError(
            f"the memory of the last run is still in /dev/shm and would bring back what is freed: start the store, or"
            f" remove {', '.join(f'/dev/shm/{name}' for name in kept)}"
        )


def _free(files: Files, store_dir: Path, found: ReadBack, result: Result) -> int:
    """Write down what is left without the chunks of which everything is archived; their number."""
    directory = found.store.directory
    limits = np.full(directory.counts()["n_metrics"], NOTHING_S)
    for index in range(len(limits)):
        info = directory.metric(index)
        reached = result.archived_to.get(directory.level(info.cluster).name, {})
        limits[index] = reached.get(info.name, NOTHING_S)
    n_freed = 0
    table = directory.series_table()
    for at in range(0, len(table), _FREE_SERIES):
        rows = table[at : at + _FREE_SERIES]
        before_s = np.full(len(rows), NOTHING_S)
        known = rows["metric"] < len(limits)
        before_s[known] = limits[rows["metric"][known]]
        records, n_chunks = found.store.plan_free(at, len(rows), before_s)
        found.store.apply_block(records)
        n_freed += n_chunks
    if n_freed:
        _write_anew(files, store_dir, found)
    return n_freed


def _write_anew(files: Files, store_dir: Path, found: ReadBack) -> None:
    """One snapshot of what there is now, under a sequence that no block has; then everything older goes."""
    seq = found.report.next_seq
    snapshots, log = snapshot_dir(store_dir), wal_dir(store_dir)
    old = [log / name for name in files.list(log) if number_of(name, WAL_SUFFIX) is not None]
    names = files.list(snapshots)
    # Manifests before the files that they name.
    old += [snapshots / name for name in names if number_of(name, SNAPSHOT_SUFFIX) is not None]
    old += [snapshots / name for name in names if generation_of(name) is not None]
    definitions = chain(DirectoryReader(found.directory).dump_definitions(), found.store.protection.records())
    write_snapshot(
        files, store_dir, seq, definitions, found.directory, found.samples,
        written=lambda: seq, durable=lambda: seq, pause_s=0.0, verify=True,
    )  # fmt: skip
    for path in old:
        files.unlink(path)
        files.sync_path(path.parent)
