"""How fast are first sight, look-up and replay of series, and what does one cost in memory?

Sizes below. First sight is also given as a ratio to Python dict insertions of the same keys in the same
run, as machines are noisy.
Run: python benchmarks/bench_directory.py [--tiny]
"""

from __future__ import annotations

import mmap
import os
import platform
import sys
import time
from types import SimpleNamespace

import numpy as np

from mstore.kernels._segment import Segment
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader, DirectoryWriter, create_directory, directory_bytes

HOSTS = 1600
THREADS = 72
SLICE = 256
KEY_BYTES = 80
LOOKUPS = 100_000


def make(max_series: int) -> tuple[DirectoryWriter, mmap.mmap, int]:
    fd = os.memfd_create("bench_directory")
    n = directory_bytes(max_series)
    os.ftruncate(fd, n)
    memory = mmap.mmap(fd, n)
    segment = Segment(memory, True)
    create_directory(SimpleNamespace(segment=segment, fd=fd), max_series, 7)
    return DirectoryWriter(segment, fd), memory, fd


def slices(keys: list[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    found = []
    for i in range(0, len(keys), SLICE):
        part = keys[i : i + SLICE]
        offsets = np.cumsum([0] + [len(key) for key in part]).astype("<i8").tobytes()
        found.append((b"".join(part), offsets, np.full(len(part), 1_700_000_000, "<i8").tobytes()))
    return found


def main(tiny: bool = False) -> dict[str, float]:
    hosts = 20 if tiny else HOSTS
    names = [
        b"cpu_user,cluster=fritz,hostname=f%04d,type=hwthread,type-id=%d,unit=" % (host, thread)
        for host in range(hosts)
        for thread in range(THREADS)
    ]
    keys = [name.ljust(KEY_BYTES, b"x") for name in names]
    n = len(keys)
    start = time.perf_counter()
    seen = {key + b"": i for i, key in enumerate(keys)}
    dict_s = time.perf_counter() - start
    assert len(seen) == n

    writer, memory, fd = make(max(2 * n, 1000))
    parts = slices(keys)
    log_bytes = 0
    start = time.perf_counter()
    for text, offsets, times in parts:
        log_bytes += len(writer.intern(text, offsets, times, b"")[3])
        writer.publish()
    first_s = time.perf_counter() - start
    start = time.perf_counter()
    for text, offsets, times in parts:
        writer.intern(text, offsets, times, b"")
    known_s = time.perf_counter() - start

    reader = DirectoryReader(Segment(mmap.mmap(fd, len(memory), prot=mmap.PROT_READ), False))
    lookups = 1000 if tiny else LOOKUPS
    hosts_in_turn = [f"f{i % hosts:04d}" for i in range(lookups)]
    find = reader.find_series_path
    start = time.perf_counter()
    for host in hosts_in_turn:
        find("fritz", host, "cpu_user", "hwthread", "12", "", "")
    lookup_s = time.perf_counter() - start

    start = time.perf_counter()
    blocks = list(reader.dump_definitions())
    dump_s = time.perf_counter() - start
    copy, _, copy_fd = make(max(2 * n, 1000))
    start = time.perf_counter()
    for block in blocks:
        copy.apply_definition(block)
    replay_s = time.perf_counter() - start
    counts = reader.counts()
    used = sum(counts[f"{name}_used"] for name in layout.REGION_NAMES)
    os.close(fd)
    os.close(copy_fd)
    found = {
        "first sight, k keys/s": n / first_s / 1e3,
        "first sight / dict insertions": dict_s / first_s,
        "known keys, k keys/s": n / known_s / 1e3,
        "find_series_path, ns": lookup_s / lookups * 1e9,
        "dump, k series/s": n / dump_s / 1e3,
        "replay, k series/s": n / replay_s / 1e3,
        "log, bytes a series": log_bytes / n,
        "memory, bytes a series": used / n,
        "of that tables": counts["tables_used"] / n,
    }
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    print(f"{n} series, keys of {KEY_BYTES} bytes, slices of {SLICE}; {machine}")
    for name, value in found.items():
        print(f"  {name:32s} {value:10.2f}")
    return found


if __name__ == "__main__":
    main("--tiny" in sys.argv)
