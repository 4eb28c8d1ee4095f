"""A reader beside the writer: every value names its place, so that a torn, stale or misplaced one shows.

grid      value of slot k of series s in generation g is g << 48 | s << 32 | k
stamped   all three columns of a row are equal, and name the row's stamp
watch     two words a series: (generation, newest slot applied) and (generation, oldest slot not yet freed);
          slots between what was read before and after a query must all be there
"""

from __future__ import annotations

import mmap
import multiprocessing
import random
import time

import numpy as np

from mstore.kernels._directory import DirectoryReader
from mstore.kernels._gather import BUSY, GONE, Gatherer
from mstore.kernels._samples import STOPPED_DONE
from mstore.kernels._segment import Segment
from mstore.shm import layout
from tests.samples_rig import Rig, column, stamped

N_GRID = 24
N_ROWS = 4
SECONDS = 2.5
HIGH, LOW, READS, CHECKED, STOP = 0, N_GRID, 2 * N_GRID, 2 * N_GRID + 1, 2 * N_GRID + 2


def name_of(generation: int, series: int, slots: np.ndarray) -> np.ndarray:
    return slots.astype("<u8") | np.uint64(generation << 48 | series << 32)


def read_grid(gather: Gatherer, rig: Rig, watch: np.ndarray, s: int) -> int:
    """One query; the number of values checked."""
    generation = int(rig.series[s]["generation"])
    high = int(watch[HIGH + s])
    found = gather.grid(generation << 32 | s, 0, (high & 0xFFFFFFFF) + 700, 1 << 30)
    low = int(watch[LOW + s])
    if isinstance(found, int):
        assert found in (GONE, BUSY), found
        return 0
    values, start = found[0], found[1]
    slots = start + np.arange(len(values))
    present = values != layout.U64_MISSING
    assert (values[present] == name_of(generation, s, slots[present])).all(), (s, generation)
    if high >> 32 == low >> 32 == generation:
        due = (slots >= low & 0xFFFFFFFF) & (slots <= high & 0xFFFFFFFF)
        assert present[due].all(), (s, generation, "hidden", slots[due & ~present][:5])
    return int(present.sum())


def read_rows(gather: Gatherer, s: int) -> int:
    found = gather.rows(1 << 32 | s, 0, 1 << 40, 1 << 30)
    if isinstance(found, int):
        assert found == BUSY, found
        return 0
    rows = found[0]
    assert (rows[:, 1] == rows[:, 2]).all(), "torn row"
    assert (rows[:, 1] == rows[:, 3]).all(), "torn row"
    assert (rows[:, 1] >> np.uint64(24) == rows[:, 0]).all(), "misplaced row"
    return len(rows)


def reader(rig: Rig, shared: mmap.mmap, seed: int) -> None:
    rng = random.Random(seed)
    watch = np.frombuffer(shared, "<u8")
    gather = Gatherer(DirectoryReader(Segment(rig.maps[0])), Segment(rig.maps[1]))
    while not watch[STOP]:
        s = rng.randrange(N_GRID + N_ROWS)
        watch[CHECKED] += read_grid(gather, rig, watch, s) if s < N_GRID else read_rows(gather, s)
        watch[READS] += 1


class Writer:
    """Random runs, frees and new generations in a segment so small that every freed chunk is taken again."""

    def __init__(self, rig: Rig, watch: np.ndarray, seed: int) -> None:
        self.rig, self.watch, self.rng = rig, watch, random.Random(seed)
        self.next = [0] * N_GRID
        self.stamp = [1] * N_ROWS
        self.version = self.n_full = 0
        for s in range(N_GRID):
            rig.add(1, type=layout.TYPE_U64)
            watch[LOW + s] = 1 << 32
        rig.add(0, n_columns=3, count=N_ROWS)

    def step(self) -> None:
        s = self.rng.randrange(N_GRID)
        choice = self.rng.random()
        if choice < 0.6:
            self.append(s, self.rng.choice([1, 5, 40, 300, 2000]))
        elif choice < 0.8:
            self.free(s, self.rng.randrange(self.next[s] + 1))
        elif choice < 0.88:
            self.begin_again(s)
        else:
            self.put_rows(self.rng.randrange(N_ROWS))

    def append(self, s: int, count: int) -> None:
        generation = int(self.rig.series[s]["generation"])
        slots = np.arange(self.next[s], self.next[s] + count)
        record = column(
            s, int(slots[0]), 1, name_of(generation, s, slots), type=layout.TYPE_U64, generation=generation
        )
        for other in self.rng.sample(range(N_GRID), N_GRID):
            if self.rig.kernel.apply(record).why == STOPPED_DONE:
                break
            self.n_full += 1
            if other != s:
                self.begin_again(other)
        else:
            for rows in range(N_GRID, N_GRID + N_ROWS):
                self.rig.kernel.free_series(rows)
            assert self.rig.kernel.apply(record).why == STOPPED_DONE
        self.next[s] += count
        self.watch[HIGH + s] = generation << 32 | self.next[s] - 1

    def free(self, s: int, before: int) -> None:
        generation = int(self.rig.series[s]["generation"])
        oldest = max(int(self.watch[LOW + s]) & 0xFFFFFFFF, before // 512 * 512)
        self.watch[LOW + s] = generation << 32 | oldest
        self.rig.kernel.free_before(s, before)

    def begin_again(self, s: int) -> None:
        """Remove the series and use its slot for a new one that starts at slot 0, in a small chunk."""
        record = self.rig.series[s]
        generation = int(record["generation"]) % 30_000 + 1
        self.watch[LOW + s] = generation << 32
        self.rig.kernel.free_series(s)
        record["flags"] = 0
        record["generation"] = generation
        record["last_t"] = np.iinfo(np.int64).min
        record["flags"] = layout.SERIES_LIVE
        self.next[s] = 0

    def put_rows(self, i: int) -> None:
        """Append, overwrite in place, and free by stamp."""
        self.version += 1
        stamps = [self.stamp[i] + k for k in range(self.rng.choice([1, 3, 60]))]
        stamps += [self.rng.randint(max(1, self.stamp[i] - 100), self.stamp[i]) for _ in range(5)]
        rows = [(t, [t << 24 | self.version & 0xFFFFFF] * 3) for t in stamps]
        self.stamp[i] = max(stamps) + 1
        if self.rig.kernel.apply(stamped(N_GRID + i, rows)).why != STOPPED_DONE or self.rng.random() < 0.2:
            newest = self.stamp[i] - self.rng.randrange(150)
            self.rig.kernel.free_range(N_GRID + i, 1, 0, newest)


def test_a_reader_beside_the_writer_never_sees_a_torn_stale_hidden_or_misplaced_value(seed: int) -> None:
    shared = mmap.mmap(-1, 8 * (2 * N_GRID + 3))
    watch = np.frombuffer(shared, "<u8")
    with Rig(64, extents=8) as rig:
        writer = Writer(rig, watch, seed)
        process = multiprocessing.get_context("fork").Process(target=reader, args=(rig, shared, seed))
        process.start()
        try:
            stop = time.monotonic() + SECONDS
            n_steps = 0
            while time.monotonic() < stop and process.is_alive():
                for _ in range(50):
                    writer.step()
                n_steps += 50
            watch[STOP] = 1
            process.join(10)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join()
            process.close()
        print(f"{n_steps} writes, {int(watch[READS])} reads of {int(watch[CHECKED])}, full {writer.n_full}")
        assert watch[READS] > 100
        assert watch[CHECKED] > 10_000
        writer.rig.open(fresh=False)
