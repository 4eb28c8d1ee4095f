"""How fast does a store come back? Snapshot and log of a store of n series, written and read in one process.

The store lies in memory files like those of /dev/shm, made anew for every load; the files in --dir. Beside every figure
stand the machine's own: memcpy into memory touched for the first time, and reading the same file through 256 KiB reads.
`--cold` drops the files from the page cache first (posix_fadvise), so that the disk is read.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.common import memcpy_bytes_per_s
from mstore.apply.pool import Pool
from mstore.apply.store import Store
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

T0 = 1_700_000_000
STEP_S = 60
COLUMN_SAMPLES = 512
METRICS = 64


class Memory:
    """An empty store in memory files of its own."""

    def __init__(self, max_series: int, samples_bytes: int) -> None:
        lengths = (directory_bytes(max_series), layout.SAMPLES_DATA + samples_bytes)
        self._fds = [os.memfd_create("mstore-bench") for _ in lengths]
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

    def intern(self, n_series: int) -> tuple[np.ndarray, list[bytes]]:
        """(references uint64[n], log records) of series of two clusters, METRICS a host, named as collectors do."""
        refs, records = [], []
        for first in range(0, n_series, 4096):
            keys = [
                f"metric_{i % METRICS:03},cluster=c{i % (2 * METRICS) // METRICS},hostname=node{i // METRICS:05}".encode()
                for i in range(first, min(first + 4096, n_series))
            ]
            offsets = np.cumsum([0] + [len(key) for key in keys]).astype(np.int64).tobytes()
            times = np.full(len(keys), T0, np.int64).tobytes()
            found, _, _, log = self.directory.intern(b"".join(keys), offsets, times, b"")
            self.directory.publish()
            refs.append(np.frombuffer(found, np.uint64))
            records.append(log)
        return np.concatenate(refs), records


def columns(refs: np.ndarray, t: int, values: np.ndarray) -> bytes:
    """COLUMN records: COLUMN_SAMPLES of each series."""
    dtype = np.dtype([("head", layout.RUN), ("dt", "<i8"), ("values", "<f4", (COLUMN_SAMPLES,))])
    made = np.zeros(len(refs), dtype)
    head = made["head"]
    head["type"], head["vtype"], head["count"], head["t"] = (
        layout.REC_COLUMN,
        layout.TYPE_F32,
        COLUMN_SAMPLES,
        t,
    )
    head["slot"], head["generation"] = refs & 0xFFFF_FFFF, refs >> 32
    made["dt"], made["values"] = STEP_S, values
    return made.tobytes()


def fill(memory: Memory, wal: Wal, n_series: int, n_chunks: int, logged_share: float) -> int:
    """Log definitions and samples and apply them; the samples of the last `logged_share` come behind the returned
    sequence."""
    refs, records = memory.intern(n_series)
    for block in records:
        wal.append(CATALOG, 0, 0, block)
    rng = np.random.default_rng(1)
    values = rng.random(COLUMN_SAMPLES, np.float32)
    for n in range(n_chunks):
        for first in range(0, n_series, 1024):
            memory.store.apply_block(columns(refs[first : first + 1024], T0 + n * 512 * STEP_S, values + n))
    before = wal.written
    behind = refs[: int(n_series * logged_share)]
    for first in range(0, len(behind), 512):
        block = columns(behind[first : first + 512], T0 + n_chunks * 512 * STEP_S, values)
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


def drop(directory: Path) -> None:
    """Take the files out of the page cache."""
    for path in (*snapshot_dir(directory).iterdir(), *wal_dir(directory).iterdir()):
        fd = os.open(path, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_bytes_per_s(directory: Path) -> float:
    """Of the snapshot's files, in reads of 256 KiB, one after the other."""
    done, began = 0, time.perf_counter()
    buffer = bytearray(256 * KIB)
    for path in snapshot_dir(directory).iterdir():
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(buffer):
                done += n
    return done / (time.perf_counter() - began)


def first_touch_bytes_per_s(n_bytes: int) -> float:
    """Copying into shared memory that nobody has touched."""
    source = np.ones(16 * MIB, np.uint8)
    fd = os.memfd_create("mstore-bench")
    os.ftruncate(fd, n_bytes)
    mapped = mmap.mmap(fd, n_bytes)
    target = np.frombuffer(mapped, np.uint8)
    began = time.perf_counter()
    for at in range(0, n_bytes - len(source) + 1, len(source)):
        target[at : at + len(source)] = source
    took = time.perf_counter() - began
    os.close(fd)
    return n_bytes / took


def bench(directory: Path, n_series: int, n_chunks: int, logged_share: float, cold: bool) -> None:
    samples_bytes = (n_chunks + 1) * n_series * 2400 + 64 * MIB
    memory = Memory(n_series + 1024, samples_bytes)
    with log_in(directory) as wal:
        seq = fill(memory, wal, n_series, n_chunks, logged_share)
        info = snapshot(memory, directory, seq)
    memory.close()
    n_samples = info.n_slots
    if cold:
        drop(directory)
    read = read_bytes_per_s(directory)
    copy, touch = memcpy_bytes_per_s(64 * MIB), first_touch_bytes_per_s(256 * MIB)
    print(f"reading the files: {read / 1e9:.2f} GB/s")
    print(f"memcpy: {copy / 1e9:.1f} GB/s, into untouched memory {touch / 1e9:.2f} GB/s")
    if cold:
        drop(directory)
    load(directory, n_series, samples_bytes, info, read, copy)
    print(f"{n_series} series, {n_samples:,} samples in {n_chunks} chunks each")


def snapshot(memory: Memory, directory: Path, seq: int) -> SnapshotInfo:
    began = time.perf_counter()
    info = write_snapshot(
        Files(), directory, seq, DirectoryReader(memory.directory_segment).dump_definitions(),
        memory.directory_segment, memory.samples_segment, written=lambda: seq, durable=lambda: seq, pause_s=0,
    )  # fmt: skip
    took = time.perf_counter() - began
    print(
        f"snapshot, not paced: {took:.2f} s, {info.n_slots / took / 1e6:.0f} M samples/s, {info.n_bytes / MIB:.0f} MiB"
    )
    return info


def load(
    directory: Path, n_series: int, samples_bytes: int, info: SnapshotInfo, read: float, copy: float
) -> None:
    memory = Memory(n_series + 1024, samples_bytes)
    marks: dict[str, float] = {}

    def progress(what: str, done: int, whole: int) -> None:
        marks[what] = time.perf_counter()

    began = time.perf_counter()
    began_cpu_s = time.thread_time()
    report = memory.pool.recover(lambda target: recover(Files(), directory, target, progress=progress))
    took, cpu_s = time.perf_counter() - began, time.thread_time() - began_cpu_s
    memory.directory.publish()
    defined = marks["definitions"] - began
    chunks_s = marks["chunks"] - marks["definitions"]
    per_s = report.loaded.n_samples / chunks_s
    n_bytes = sum(path.stat().st_size for path in snapshot_dir(directory).glob("*.chunks"))
    all_samples = report.loaded.n_samples + report.n_samples_replayed
    print(f"recovery in all: {took:.2f} s, {all_samples / took / 1e6:.0f} M samples/s with definitions and log; "
          f"the loading thread was busy for {cpu_s:.2f} s of it")  # fmt: skip
    rate = n_bytes / chunks_s
    print(
        f"  chunks, with definitions applied: {chunks_s:.2f} s, {per_s / 1e6:.0f} M samples/s, {rate / 1e9:.2f} GB/s"
    )
    print(f"  that is {rate / read:.2f} of reading the files and {rate / copy:.2f} of memcpy")
    print(f"  reading definitions: {defined:.2f} s")
    assert report.loaded.n_samples == info.n_slots
    memory.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=3)
    parser.add_argument(
        "--logged", type=float, default=0.1, help="share of the series with a chunk behind the snapshot"
    )
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="mstore-bench-", dir=options.dir))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    try:
        bench(directory, options.series, options.chunks, options.logged, options.cold)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
