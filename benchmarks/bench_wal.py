"""What does the log cost? One block of 100 kB: crc, pwrite, the Python around them, and the commit.

Every durable figure stands beside the disk's own fdatasync of the same bytes in the same run.
Run: python benchmarks/bench_wal.py [--blocks 2000] [--dir DIR]   (DIR on the disk that is to be measured)
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from crc32c import crc32c

from mstore.kernels._segment import Segment
from mstore.kernels._snapshot import ChunkCopier
from mstore.limits import KIB, MIB, WAL_SEGMENT_BYTES
from mstore.persistence.blocks import BLOCK_HEADER_BYTES
from mstore.persistence.files import Files, wal_dir
from mstore.persistence.replay import LogReader
from mstore.persistence.snapshot import check_snapshot, write_snapshot
from mstore.persistence.wal import Wal
from mstore.shm import layout

BLOCK_BYTES = 100_000


def percentile(times_us: list[float], share: float) -> float:
    return float(np.percentile(np.array(times_us), share))


def each_us(n: int, work: Callable[[int], object]) -> list[float]:
    found = []
    for i in range(n):
        began = time.perf_counter()
        work(i)
        found.append((time.perf_counter() - began) * 1e6)
    return found


def show(name: str, times_us: list[float], more: str = "") -> float:
    middle = percentile(times_us, 50)
    print(f"{name:44} p50 {middle:9.1f} us   p99 {percentile(times_us, 99):9.1f} us   {more}")
    return middle


def open_wal(directory: Path, next_seq: int = 1) -> Wal:
    files = Files()
    files.mkdir(wal_dir(directory))
    dir_fd = files.open_dir(wal_dir(directory))
    control, ring = bytearray(8192), bytearray(8192)
    committer = files.committer(Segment(control, True), [Segment(ring, True)], [-1], -1, next_seq - 1, dir_fd)
    return Wal(files, wal_dir(directory), next_seq, committer, dir_fd=dir_fd)


def bench_parts(directory: Path, payload: memoryview, n: int) -> tuple[float, float]:
    """crc, pwrite and a quiet fdatasync of the same bytes, alone."""
    crc = show("crc32c of a block", each_us(n, lambda i: crc32c(payload)))
    fd = os.open(directory / "plain", os.O_RDWR | os.O_CREAT)
    per_file = WAL_SEGMENT_BYTES // BLOCK_BYTES - 1
    os.pwrite(fd, bytes(WAL_SEGMENT_BYTES), 0)
    os.fdatasync(fd)
    pwrite = show(
        "pwrite of a block", each_us(n, lambda i: os.pwrite(fd, payload, i % per_file * BLOCK_BYTES))
    )
    os.fdatasync(fd)

    def commit(i: int) -> None:
        os.pwrite(fd, payload, i % per_file * BLOCK_BYTES)
        os.fdatasync(fd)

    show("the disk: pwrite + fdatasync of a block", each_us(n // 10, commit))
    os.close(fd)
    return crc, pwrite


def bench_append(directory: Path, payload: memoryview, n: int, crc_us: float, pwrite_us: float) -> None:
    wal = open_wal(directory)
    wal._spares.settle()
    times: list[float] = []
    per_segment = WAL_SEGMENT_BYTES // (BLOCK_BYTES + BLOCK_HEADER_BYTES)
    for i in range(n):
        began = time.perf_counter()
        wal.append(0, i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES, payload)
        times.append((time.perf_counter() - began) * 1e6)
        if i % 20 == 0:  # let the commit thread have the core, as a persister that waits for work does
            wal.flush(10)
        if i % per_segment == 0:
            wal.retire(wal.durable())
    wal.flush(10)
    middle = show("append of a block", times, f"{len(payload) / percentile(times, 50):.0f} MB/s")
    print(f"{'  besides crc and pwrite':44}     {middle - crc_us - pwrite_us:9.1f} us")
    small = memoryview(bytes(64))
    show("append of 64 bytes", each_us(n, lambda i: wal.append(0, 0, i, small)))
    wal.flush(10)
    show(
        "append + wait until durable",
        each_us(n // 10, lambda i: (wal.append(0, 0, i, payload), wal.flush(10))),
    )
    assert wal.close()


def bench_replay(directory: Path, n: int) -> None:
    began = time.perf_counter()
    seen = 0

    def apply(payload: memoryview) -> None:
        nonlocal seen
        seen += len(payload)

    LogReader(Files(), directory, 0).replay(apply)
    took = time.perf_counter() - began
    read = time.perf_counter()
    for name in os.listdir(wal_dir(directory)):
        Files().read(wal_dir(directory) / name)
    alone = time.perf_counter() - read
    print(
        f"replay without applying: {seen / took / 1e6:.0f} MB/s; "
        f"reading the same files: {alone / took:.2f} of the time"
    )


def big_store(n_series: int) -> tuple[bytearray, bytearray]:
    """n_series full f32 chunks, one a series."""
    series_at = 2 * layout.PAGE_BYTES
    size = layout.SIZE_CLASS_BYTES[layout.CLASS_FULL_4]
    store = bytearray(series_at + n_series * layout.SERIES.itemsize)
    samples = bytearray(layout.SAMPLES_DATA + n_series * size)
    words = np.frombuffer(store, layout.DIRECTORY, count=1, offset=layout.DIRECTORY_AT)
    words["regions"]["offset"][0, layout.REGION_NAMES.index("series")] = series_at
    words["n_series"], words["n_levels"] = n_series, 1  # all of the root, as one cluster
    np.frombuffer(samples, layout.SEGMENT_HEADER, count=1)["committed_bytes"] = len(samples)
    series = np.frombuffer(store, layout.SERIES, count=n_series, offset=series_at)
    series["generation"], series["kind"], series["type"], series["flags"], series["step_s"] = 1, 1, 1, 1, 60
    offsets = layout.SAMPLES_DATA + np.arange(n_series, dtype=np.uint64) * np.uint64(size)
    series["link0"] = offsets >> np.uint64(6) | np.uint64(2 << 36) | np.uint64(1 << 40)
    chunk = np.dtype([("header", layout.CHUNK), ("values", "<f4", (512,))])
    chunks = np.frombuffer(samples, chunk, count=n_series, offset=layout.SAMPLES_DATA)
    chunks["values"] = 1.5
    header = chunks["header"]
    header["series"], header["generation"], header["kind"], header["type"] = np.arange(n_series), 1, 1, 1
    header["step_s"], header["capacity"], header["size_class"] = 60, 512, 2
    return store, samples


def bench_snapshot(directory: Path, n_series: int) -> None:
    store, samples = big_store(n_series)
    segments = Segment(store), Segment(samples)
    scratch = bytearray(256 * KIB)
    began = time.perf_counter()
    copier = ChunkCopier(*segments)
    while copier.fill(scratch):
        pass
    took = time.perf_counter() - began
    began = time.perf_counter()
    copied = bytes(samples)
    plain = time.perf_counter() - began
    print(
        f"copying chunks: {copier.n_slots / took / 1e6:.0f} M samples/s; "
        f"a first copy of the whole segment: {plain / took:.2f} of the time"
    )
    del copied
    for pause_s in (0.0, 0.0005):
        began = time.perf_counter()
        info = write_snapshot(
            Files(), directory, 1, [], *segments, written=lambda: 1, durable=lambda: 1, pause_s=pause_s
        )
        took = time.perf_counter() - began
        print(
            f"snapshot, pause {pause_s * 1e6:3.0f} us: {info.n_slots / took / 1e6:.0f} M samples/s, "
            f"{info.n_bytes / MIB:.0f} MiB"
        )
    began = time.perf_counter()
    check_snapshot(Files(), info.path, 1)
    took = time.perf_counter() - began
    print(
        f"checking: {info.n_slots / took / 1e6:.0f} M samples/s, {took / info.n_chunks * 1e6:.2f} us a chunk"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--blocks", type=int, default=2000)
    parser.add_argument("--series", type=int, default=50_000)
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="mstore-bench-", dir=options.dir))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    try:
        payload = memoryview(np.random.default_rng(1).bytes(BLOCK_BYTES))
        crc_us, pwrite_us = bench_parts(directory, payload, options.blocks)
        bench_append(directory, payload, options.blocks, crc_us, pwrite_us)
        bench_replay(directory, options.blocks)
        bench_snapshot(directory, options.series)
    finally:
        shutil.rmtree(directory)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
