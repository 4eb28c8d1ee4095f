"""How fast do sample records become chunks? Samples a second on one core, beside memcpy on the same core.

    python benchmarks/bench_apply.py [--series 115000] [--ticks 200]

row        every series once a tick, in order of slots: what steady collectors make
together   the same, four ticks in one block: what a persister meets that is behind
scatter    every series once a tick, in random order: the worst a replay meets
column     8192 consecutive values of one series at a time: backfill
first      the first sample of every series: a chunk each, fresh memory
fill       ticks 1 to 130: both promotions of every series
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.samples_rig import Rig, column, row, scatter

STEP_S = 60
RUN = 8192
COPY_BYTES = 64 << 20


def memcpy_bytes_per_s() -> float:
    source, target = np.ones(COPY_BYTES, np.uint8), np.ones(COPY_BYTES, np.uint8)
    best = float("inf")
    for _ in range(5):
        began = perf_counter()
        target[:] = source
        best = min(best, perf_counter() - began)
    return COPY_BYTES / best


def apply_all(rig: Rig, blocks: list[bytes]) -> float:
    began = perf_counter()
    for block in blocks:
        result = rig.kernel.apply(block)
        assert result.why == 0, "the segment is too small"
        assert result.n_stale == 0
    return perf_counter() - began


class Run:
    """One rig; each method applies some ticks and returns samples a second."""

    def __init__(self, n_series: int, seed: int) -> None:
        self.n = n_series
        self.rig = Rig(n_series, extents=n_series // 40 + 200)
        self.rig.add(STEP_S, anchor_s=-STEP_S // 2, count=n_series)
        self.rng = np.random.default_rng(seed)
        self.values = self.rng.random(n_series, np.float32)
        self.tick = 0

    def rows(self, ticks: int, in_a_block: int = 1) -> float:
        spent = 0.0
        for _ in range(0, ticks, in_a_block):
            parts = []
            for _ in range(in_a_block):
                t = self.tick * STEP_S
                parts += [row(i, t, self.values[i : i + RUN]) for i in range(0, self.n, RUN)]
                self.tick += 1
            spent += apply_all(self.rig, [b"".join(parts)])
        return -(-ticks // in_a_block) * in_a_block * self.n / spent

    def scatters(self, ticks: int) -> float:
        spent = 0.0
        for _ in range(ticks):
            refs = np.ones((self.n, 2), "<u4")
            refs[:, 0] = self.rng.permutation(self.n)
            t = self.tick * STEP_S
            parts = [scatter(refs[i : i + RUN], t, self.values[i : i + RUN]) for i in range(0, self.n, RUN)]
            spent += apply_all(self.rig, [b"".join(parts)])
            self.tick += 1
        return ticks * self.n / spent

    def columns(self, n_runs: int) -> float:
        values = self.rng.random(RUN, np.float32)
        blocks = [column(slot, self.tick * STEP_S, STEP_S, values) for slot in range(n_runs)]
        return n_runs * RUN / apply_all(self.rig, blocks)


def main(n_series: int, ticks: int, seed: int) -> dict[str, float]:
    run = Run(n_series, seed)
    copied = memcpy_bytes_per_s()
    speeds = {
        "first": run.rows(1),
        "fill": run.rows(min(ticks, 130)),
        "row": run.rows(ticks),
        "together": run.rows(ticks // 2, in_a_block=4),
        "scatter": run.scatters(max(1, ticks // 4)),
        "column": run.columns(min(40, n_series)),
    }
    stats = run.rig.kernel.stats()
    chunk_bytes = sum(entry.chunks * entry.chunk_bytes for entry in stats.values())
    print(f"{platform.machine()}, {os.cpu_count()} cpus, {n_series} f32 series, {ticks} ticks, seed {seed}")
    print(f"memcpy    {copied / 1e9:8.1f} GB/s")
    for name, speed in speeds.items():
        ratio = speed * 4 / copied
        print(
            f"{name:<9} {speed / 1e6:8.1f} M samples/s  {1e9 / speed:6.1f} ns  {100 * ratio:5.2f} % of memcpy"
        )
    print(f"chunks    {chunk_bytes / 1e6:8.1f} MB in {run.rig.kernel.used_bytes() / 1e6:.1f} MB of extents")
    run.rig.close()
    return speeds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speed of applying sample records.")
    parser.add_argument("--series", type=int, default=115_000)
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    main(given.series, given.ticks, given.seed)
