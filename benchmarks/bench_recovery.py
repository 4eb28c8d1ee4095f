"""How fast does a store come back? Snapshot and log of a store of n series, written and read in one process.

The store lies in nameless files in /dev/shm, made anew for every load; the files in --dir. Beside every figure
stand the machine's own: memcpy into memory touched for the first time, and reading the same file through 256 KiB reads.
`--cold` drops the files from the page cache first (posix_fadvise), so that the disk is read. The log alone is replayed
twice: samples in random order, as SCATTER records, and in runs, as steady collectors make them. After each load every
series is looked up by its name and read, outside the clock: times and bits of all samples are what was written.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Report, Result
from benchmarks.grid_values import grid_values, same_bits
from benchmarks.references import (
    drop_from_page_cache,
    first_touch,
    machine,
    memcpy_bytes_per_s,
    memory_file,
    quiet_disk,
)
from mstore.apply.pool import Pool
from mstore.apply.store import Store
from mstore.kernels._gather import Gatherer
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.limits import KIB, MIB
from mstore.persistence.blocks import CATALOG
from mstore.persistence.files import Files, snapshot_dir, wal_dir
from mstore.persistence.recovery import recover
from mstore.persistence.snapshot import SnapshotInfo, write_snapshot
from mstore.persistence.wal import Wal
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader, DirectoryWriter, create_directory, directory_bytes
from tests.samples_rig import row, scatter

T0 = 1_700_000_000
STEP_S = 60
COLUMN_SAMPLES = 512
METRICS = 64
RUN = 8192
BLOCK_BYTES = 1 * MIB
"""What a persister takes out of a ring at a time."""
SNAPSHOT_SAMPLES_PER_S = 200e6
REPLAY_RANDOM_PER_S, REPLAY_RUNS_PER_S = 15e6, 50e6
Records: TypeAlias = "Callable[[NDArray[np.int64], int, NDArray[np.float32]], list[bytes]]"
"""(slots, time, a value each) -> records of one sample each."""


def path_of(i: int) -> tuple[str, str, str]:
    """(cluster, host, metric) of series i."""
    return f"c{i % (2 * METRICS) // METRICS}", f"node{i // METRICS:05}", f"metric_{i % METRICS:03}"


class Memory:
    """An empty store in memory files of its own."""

    def __init__(self, max_series: int, samples_bytes: int) -> None:
        lengths = (directory_bytes(max_series), layout.SAMPLES_DATA + samples_bytes)
        self._fds = [memory_file() for _ in lengths]
        for fd, length in zip(self._fds, lengths, strict=True):
            os.ftruncate(fd, length)
        self.maps = [mmap.mmap(fd, length) for fd, length in zip(self._fds, lengths, strict=True)]
        self.directory_segment, self.samples_segment = (Segment(mapped, True) for mapped in self.maps)
        place = SimpleNamespace(segment=self.directory_segment, fd=self._fds[0])
        create_directory(place, max_series, 7)
        self.directory = DirectoryWriter(self.directory_segment, self._fds[0])
        samples = Samples(self.directory_segment, self.samples_segment, self._fds[1], 0, True)
        self.store = Store(self.directory, samples)
        self.directory.set_policy(True, STEP_S, 1, max_series, 4 * max_series)
        self.pool = Pool(self.store, 0)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def intern(self, n_series: int) -> tuple[NDArray[np.uint64], list[bytes]]:
        """(references uint64[n], log records) of series of two clusters, METRICS a host, named as collectors do."""
        refs, records = [], []
        for first in range(0, n_series, 4096):
            names = [path_of(i) for i in range(first, min(first + 4096, n_series))]
            keys = [f"{metric},cluster={cluster},hostname={host}".encode() for cluster, host, metric in names]
            offsets = np.cumsum([0] + [len(key) for key in keys]).astype(np.int64).tobytes()
            times = np.full(len(keys), T0, np.int64).tobytes()
            found, _, _, log = self.directory.intern(b"".join(keys), offsets, times, b"")
            self.directory.publish()
            refs.append(np.frombuffer(found, np.uint64))
            records.append(log)
        return np.concatenate(refs), records

    def compare(self, n_samples: NDArray[np.int64]) -> None:
        """Series i holds grid_values of its first n_samples[i] slots and nothing around them, by name, time and bits."""
        gatherer = Gatherer(self.directory, self.samples_segment)
        most = int(n_samples.max())
        slots = np.arange(-1, most + 1)
        for first in range(0, len(n_samples), 1024):
            held = n_samples[first : first + 1024]
            numbers = np.arange(first, first + len(held))
            expected = grid_values(numbers, slots)
            expected[(slots < 0) | (slots >= held[:, None])] = np.nan
            for i, wanted in zip(numbers.tolist(), expected, strict=True):
                ref = self.directory.find_series_path(*path_of(i))
                assert ref >= 0, f"series {i} is not there"
                found = gatherer.grid(ref, T0 - STEP_S, T0 + (most + 1) * STEP_S, len(slots))
                assert not isinstance(found, int), f"series {i}: status {found}"
                values, start_s, step_s = found[:3]
                assert (start_s, step_s) == (T0 - STEP_S, STEP_S), f"series {i} is of other times"
                assert same_bits(values, wanted), f"series {i}: what was loaded is not what was written"


def columns(refs: NDArray[np.uint64], first: int, n: int) -> bytes:
    """COLUMN records: chunk n of each of these series, the first of which is series `first`."""
    slots = np.arange(n * COLUMN_SAMPLES, (n + 1) * COLUMN_SAMPLES)
    dtype = np.dtype([("head", layout.RUN), ("dt", "<i8"), ("values", "<f4", (COLUMN_SAMPLES,))])
    made = np.zeros(len(refs), dtype)
    head = made["head"]
    head["type"], head["vtype"], head["count"], head["t"] = (
        layout.REC_COLUMN,
        layout.TYPE_F32,
        COLUMN_SAMPLES,
        T0 + n * COLUMN_SAMPLES * STEP_S,
    )
    head["slot"], head["generation"] = refs & 0xFFFF_FFFF, refs >> 32
    made["dt"], made["values"] = STEP_S, grid_values(np.arange(first, first + len(refs)), slots)
    return made.tobytes()


def fill(memory: Memory, wal: Wal, n_series: int, n_chunks: int, logged_share: float) -> int:
    """Log definitions and samples and apply them; the samples of the last `logged_share` come behind the returned
    sequence."""
    refs, records = memory.intern(n_series)
    for block in records:
        wal.append(CATALOG, 0, 0, block)
    for n in range(n_chunks):
        for first in range(0, n_series, 1024):
            memory.store.apply_block(columns(refs[first : first + 1024], first, n))
    before = wal.written
    behind = refs[: int(n_series * logged_share)]
    for first in range(0, len(behind), 512):
        block = columns(behind[first : first + 512], first, n_chunks)
        seq = wal.write(CATALOG, 0, 0, block)
        memory.store.apply_block(block)
        wal.note(seq, CATALOG, 0)
    assert wal.flush(60)
    return before


@contextlib.contextmanager
def log_in(directory: Path) -> Iterator[Wal]:
    files = Files()
    files.mkdir(wal_dir(directory))
    dir_fd = files.open_dir(wal_dir(directory))
    committer = files.committer(Segment(bytearray(8192), True), [], [], -1, 0, dir_fd)
    wal = Wal(files, wal_dir(directory), 1, committer, dir_fd=dir_fd)
    try:
        yield wal
    finally:
        wal.close()


def read_bytes_per_s(directory: Path) -> float:
    """Of the snapshot's files, in reads of 256 KiB, one after the other."""
    done, began = 0, time.perf_counter()
    buffer = bytearray(256 * KIB)
    for path in snapshot_dir(directory).iterdir():
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(buffer):
                done += n
    return done / (time.perf_counter() - began)


@dataclass
class Sizes:
    n_series: int = 514_000
    n_chunks: int = 1
    logged_share: float = 0.1
    """Of the series: with a chunk behind the snapshot."""
    replayed_series: int = 100_000
    ticks: int = 600
    """In the log that is replayed alone; a third of them in random order."""
    copied_bytes: int = 256 * MIB


def bench_snapshot(report: Report, directory: Path, sizes: Sizes, cold: bool) -> None:
    """Write a snapshot and a log, and read them back, the way a start does."""
    samples_bytes = (sizes.n_chunks + 1) * sizes.n_series * 2400 + 64 * MIB
    memory = Memory(sizes.n_series + 1024, samples_bytes)
    with log_in(directory) as wal:
        seq = fill(memory, wal, sizes.n_series, sizes.n_chunks, sizes.logged_share)
        info = snapshot(report, memory, directory, seq)
    memory.close()
    if cold:
        drop_from_page_cache(snapshot_dir(directory), wal_dir(directory))
    read = read_bytes_per_s(directory)
    copy, (_, touch) = memcpy_bytes_per_s(sizes.copied_bytes // 4), first_touch(sizes.copied_bytes)
    report.add(
        Result(f"reading the snapshot's files, {'cold' if cold else 'in the page cache'}", read / 1e9, "GB/s",
               reference=f"{read / copy:.2f} of memcpy {copy / 1e9:.1f} GB/s; {touch}"),
    )  # fmt: skip
    if cold:
        drop_from_page_cache(snapshot_dir(directory), wal_dir(directory))
    load(report, directory, sizes, samples_bytes, info, read)


def snapshot(report: Report, memory: Memory, directory: Path, seq: int) -> SnapshotInfo:
    began = time.perf_counter()
    info = write_snapshot(
        Files(), directory, seq, DirectoryReader(memory.directory_segment).dump_definitions(),
        memory.directory_segment, memory.samples_segment, written=lambda: seq, durable=lambda: seq, pause_s=0,
    )  # fmt: skip
    took = time.perf_counter() - began
    report.add(
        Result("snapshot, not paced", info.n_slots / took, "samples/s",
               reference=f"{info.n_bytes / MIB:.0f} MiB in {took:.2f} s; {quiet_disk(directory)}"),
    )  # fmt: skip
    return info


def load(
    report: Report, directory: Path, sizes: Sizes, samples_bytes: int, info: SnapshotInfo, read: float
) -> None:
    memory = Memory(sizes.n_series + 1024, samples_bytes)
    marks: dict[str, float] = {}

    def progress(what: str, done: int, whole: int) -> None:
        marks[what] = time.perf_counter()

    began, began_cpu_s = time.perf_counter(), time.thread_time()
    found = memory.pool.recover(lambda target: recover(Files(), directory, target, progress=progress))
    took, cpu_s = time.perf_counter() - began, time.thread_time() - began_cpu_s
    memory.directory.publish()
    assert found.loaded.n_samples == info.n_slots
    n_samples = np.full(sizes.n_series, sizes.n_chunks * COLUMN_SAMPLES)
    n_samples[: int(sizes.n_series * sizes.logged_share)] += COLUMN_SAMPLES
    memory.compare(n_samples)
    chunks_s = marks["chunks"] - marks["definitions"]
    n_bytes = sum(path.stat().st_size for path in snapshot_dir(directory).glob("*.chunks"))
    # The disk itself is a bound: half of its speed is enough.
    budget = min(SNAPSHOT_SAMPLES_PER_S, 0.5 * read * info.n_slots / n_bytes)
    share = n_bytes / chunks_s / read
    n_all = found.loaded.n_samples + found.n_samples_replayed
    report.add(
        Result("cold start, chunks of snapshots", found.loaded.n_samples / chunks_s, "samples/s", budget,
               reference=f"all equal; {share:.2f} of reading the files; {n_bytes / chunks_s / 1e9:.2f} GB/s"),
        Result("  with definitions, log and all", n_all / took, "samples/s",
               reference=f"{sizes.n_series:,} series in {took:.2f} s, loading thread busy {cpu_s:.2f} s"),
    )  # fmt: skip
    memory.close()


def bench_replay(report: Report, sizes: Sizes) -> None:
    """The log alone, tick by tick, in blocks as large as those of a persister that is behind."""
    rng = np.random.default_rng(2)

    def runs(slots: NDArray[np.int64], t: int, values: NDArray[np.float32]) -> list[bytes]:
        return [row(int(slots[i]), t, values[i : i + RUN]) for i in range(0, len(slots), RUN)]

    def shuffled(slots: NDArray[np.int64], t: int, values: NDArray[np.float32]) -> list[bytes]:
        order = rng.permutation(len(slots))
        refs = np.ones((len(slots), 2), "<u4")
        refs[:, 0], values = slots[order], values[order]
        return [scatter(refs[i : i + RUN], t, values[i : i + RUN]) for i in range(0, len(slots), RUN)]

    for name, records, ticks, budget in (
        ("in random order", shuffled, sizes.ticks // 3, REPLAY_RANDOM_PER_S),
        ("in runs", runs, sizes.ticks, REPLAY_RUNS_PER_S),
    ):
        with tempfile.TemporaryDirectory(prefix="mstore-bench-") as folder:
            directory = Path(folder)
            defined, n_bytes = write_log(directory, sizes.replayed_series, ticks, records)
            read_s, disk = reading_s(directory), quiet_disk(directory)
            samples_s, cpu_s, all_s = replay(directory, sizes.replayed_series, ticks, defined)
        report.add(
            Result(f"log replay, {name}", ticks * sizes.replayed_series / samples_s, "samples/s", budget,
                   reference=f"all equal; {n_bytes / MIB:.1f} MiB in {samples_s:.2f} s (CPU {cpu_s:.2f} s), {all_s:.2f} s"
                   f" with definitions and the end made durable; reading the files alone {read_s:.2f} s, {disk}"),
        )  # fmt: skip


def reading_s(directory: Path) -> float:
    began = time.perf_counter()
    for path in sorted(wal_dir(directory).iterdir()):
        Files().read(path)
    return time.perf_counter() - began


def replay(directory: Path, n_series: int, ticks: int, defined: int) -> tuple[float, float, float]:
    """Seconds from the first block behind `defined` bytes of definitions to the last, of the clock and of CPU; of all."""
    memory = Memory(n_series + 1024, n_series * 2400 * (1 + ticks // COLUMN_SAMPLES) + 64 * MIB)
    marks: list[tuple[int, float, float]] = []

    def progress(what: str, done: int, whole: int) -> None:
        if what == "log":
            marks.append((done, time.perf_counter(), time.process_time()))

    began = time.perf_counter()
    found = memory.pool.recover(lambda target: recover(Files(), directory, target, progress=progress))
    took = time.perf_counter() - began
    assert found.n_samples_replayed == ticks * n_series
    memory.directory.publish()
    memory.compare(np.full(n_series, ticks))
    memory.close()
    _, start, start_cpu = next(mark for mark in marks if mark[0] >= defined)
    _, stop, stop_cpu = marks[-1]
    return stop - start, stop_cpu - start_cpu, took


def write_log(directory: Path, n_series: int, ticks: int, records: Records) -> tuple[int, int]:
    """Definitions and samples of n series in the log, nothing applied; bytes of the former and of the latter."""
    memory = Memory(n_series + 1024, 64 * MIB)
    refs, definitions = memory.intern(n_series)
    memory.close()
    slots = (refs & 0xFFFF_FFFF).astype(np.int64)
    assert np.array_equal(slots, np.arange(slots[0], slots[0] + n_series)), "runs are possible"
    n_bytes = 0
    with log_in(directory) as wal:
        for block in definitions:
            wal.append(CATALOG, 0, 0, block)
        waiting: list[bytes] = []
        for tick in range(ticks):
            values = grid_values(np.arange(n_series), np.array([tick]))[:, 0]
            for record in records(slots, T0 + tick * STEP_S, values):
                if sum(map(len, waiting)) + len(record) > BLOCK_BYTES:
                    wal.append(CATALOG, 0, 0, b"".join(waiting))
                    waiting.clear()
                waiting.append(record)
                n_bytes += len(record)
        wal.append(CATALOG, 0, 0, b"".join(waiting))
        assert wal.flush(60)
    return sum(map(len, definitions)), n_bytes


def run(report: Report, *, small: bool = False, cold: bool = False) -> None:
    sizes = Sizes(2000, 1, 0.1, 2000, 12, 32 * MIB) if small else Sizes()
    with tempfile.TemporaryDirectory(prefix="mstore-bench-") as folder:
        bench_snapshot(report, Path(folder), sizes, cold)
    bench_replay(report, sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    defaults = Sizes()
    parser.add_argument("--series", type=int, default=defaults.n_series)
    parser.add_argument("--chunks", type=int, default=defaults.n_chunks)
    parser.add_argument(
        "--logged",
        type=float,
        default=defaults.logged_share,
        help="share of the series with a chunk behind the snapshot",
    )
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    print(machine())
    sizes = Sizes(options.series, options.chunks, options.logged)
    with tempfile.TemporaryDirectory(prefix="mstore-bench-", dir=options.dir) as folder:
        bench_snapshot(Report(), Path(folder), sizes, options.cold)
    bench_replay(Report(), sizes)


if __name__ == "__main__":
    main()
