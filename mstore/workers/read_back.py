"""A stopped store read back into private memory, by the code and with the result of a start; its files stay as they are."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mstore.apply.refill import Refill
from mstore.apply.store import Store
from mstore.errors import MstoreError, StoreFull
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.limits import SERIES_MAX
from mstore.persistence.files import Files, ReadOnly, snapshot_dir
from mstore.persistence.recovery import Report, log_bytes_behind, recover
from mstore.persistence.rehearsal import PrivateMemory
from mstore.persistence.snapshot import list_snapshots
from mstore.persistence.snapshot_manifest import Manifest, read_manifest
from mstore.persistence.snapshot_rebuilt import series_bound
from mstore.shm import layout
from mstore.shm.directory import DirectoryWriter, create_directory, directory_bytes

_SERIES_MIN = 65_536


@dataclass(slots=True)
class ReadBack:
    """What a start would have in memory, and what it would report."""

    store: Store
    directory: Segment
    samples: Segment
    report: Report


def read_back(store_dir: Path, log_bytes: int | None = None) -> ReadBack:
    """Everything in the files, whatever its age. Call with DIR/lock held, or on a copy.

    log_bytes  of the log that a start would read; None = of all there is
    raises     StoreFull when it does not fit the machine's memory, StorageError, CorruptRecord, LayoutMismatch
    """
    files = ReadOnly()
    manifests = _manifests(files, store_dir)
    if log_bytes is None:
        log_bytes = sum(log_bytes_behind(files, store_dir, manifests[0].log_seq if manifests else 0))
    # Of chunks as the largest manifest tells, of the log as if every sample of 32 bytes began a small chunk.
    needed = max((sum(one.memory_by_age) for one in manifests), default=0) + 4 * log_bytes
    if needed > (free := _available_bytes()):
        raise StoreFull(
            f"this reads the whole store into memory: about {needed:,} bytes, {free:,} are free;"
            " copy DIR to a larger machine and do it there",
            needed=needed, free=free,
        )  # fmt: skip
    max_series = min(SERIES_MAX, max(_SERIES_MIN, series_bound(files, store_dir)))
    directory = PrivateMemory(directory_bytes(max_series))
    create_directory(directory, max_series, secrets.randbits(63))
    room = max(4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 4 * needed)
    n_bytes = layout.SAMPLES_DATA + room // layout.EXTENT_BYTES * layout.EXTENT_BYTES
    samples = PrivateMemory(n_bytes)
    np.frombuffer(samples.buffer, layout.SEGMENT_HEADER, 1)["committed_bytes"] = n_bytes
    store = Store(
        DirectoryWriter(directory.segment), Samples(directory.segment, samples.segment, -1, 0, True)
    )
    report = recover(files, store_dir, Refill(store))
    store.directory.publish()
    return ReadBack(store, directory.segment, samples.segment, report)


def _manifests(files: Files, store_dir: Path) -> list[Manifest]:
    found: list[Manifest] = []
    for seq, path in list_snapshots(files, snapshot_dir(store_dir)):
        with contextlib.suppress(MstoreError):
            found.append(read_manifest(files, path, seq))
    return found


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62
