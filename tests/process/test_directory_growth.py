"""Hash tables double in their place while other processes look things up: nothing published is ever missed."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random

import numpy as np
from numpy.typing import NDArray

from mstore.kernels._segment import Segment
from mstore.shm.directory import DirectoryReader
from tests.directory_rig import Rig

N_SERIES = 60_000
BATCH = 500


def key(i: int) -> bytes:
    return b"m%d,cluster=c,hostname=h%d,type=core,type-id=%d" % (i % 9, i // 9, i % 4)


PUBLISHED, LOOKED, MISSED = range(3)


def look_up(fd: int, length: int, words: NDArray[np.int64], seed: int) -> None:
    """Until everything is published: look up what is, by key and by path."""
    rng = random.Random(seed)
    reader = DirectoryReader(Segment(mmap.mmap(fd, length, prot=mmap.PROT_READ), False))
    while (n := int(words[PUBLISHED])) < N_SERIES:
        for _ in range(200 if n else 0):
            i = n - 1 - min(int(rng.expovariate(0.001)), n - 1) if rng.random() < 0.5 else rng.randrange(n)
            ref = reader.lookup_key(key(i), 0)
            path = reader.find_series_path("c", f"h{i // 9}", f"m{i % 9}", "core", str(i % 4))
            words[MISSED] += ref == 0 or path != ref
            words[LOOKED] += 1


def test_readers_find_every_published_name_while_all_tables_grow(seed: int) -> None:
    rig = Rig(100_000)
    context = multiprocessing.get_context("fork")
    words = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)
    length = os.fstat(rig.fd).st_size
    reader = context.Process(target=look_up, args=(rig.fd, length, words, seed))
    reader.start()
    try:
        for first in range(0, N_SERIES, BATCH):
            rig.intern([key(i) for i in range(first, first + BATCH)])
            words[PUBLISHED] = first + BATCH
    finally:
        words[PUBLISHED] = N_SERIES
        reader.join(60)
        if reader.is_alive():
            reader.kill()
    print(f"{words[LOOKED]} looked up while {N_SERIES} were made, {words[MISSED]} missed")
    assert words[LOOKED] > 1000
    assert words[MISSED] == 0
    rig.reader.validate()
    rig.close()
