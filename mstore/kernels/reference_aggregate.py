"""The naive twin of _aggregate: the oracle of its tests, and its stand-in under MSTORE_KERNELS=reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MISSING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


def present_of(values: NDArray[Any]) -> NDArray[np.bool_]:
    """bool[n]: the slot holds a sample."""
    found: NDArray[np.bool_] = values != _MISSING if values.dtype == np.uint64 else ~np.isnan(values)
    return found


def add(sums: NDArray[np.float64], coverage: NDArray[np.uint32], values: NDArray[Any]) -> None:
    """As _aggregate.add."""
    n = len(values)
    if len(sums) != n or len(coverage) != n:
        raise ValueError(f"{n} values for {len(sums)} sums and {len(coverage)} counts")
    present = present_of(values)
    sums[present] += values[present].astype(np.float64)
    coverage[present] += np.uint32(1)


def finish(sums: NDArray[np.float64], coverage: NDArray[np.uint32], least: int, average: bool) -> None:
    """As _aggregate.finish."""
    if len(sums) != len(coverage):
        raise ValueError(f"{len(sums)} sums for {len(coverage)} counts")
    enough = coverage >= max(least, 1)
    if average:
        sums[enough] /= coverage[enough]
    sums[~enough] = np.nan


def count_present(values: NDArray[Any]) -> int:
    """As _aggregate.count_present."""
    return int(present_of(values).sum())


def bucket_means(values: NDArray[Any], factor: int) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
    """As _aggregate.bucket_means: left to right, so that the last bit is the same."""
    if factor < 1:
        raise ValueError(f"a run of {factor} slots")
    means, counts = [], []
    for at in range(0, len(values), factor):
        run = values[at : at + factor]
        kept = run[present_of(run)].tolist()
        total = 0.0
        for value in kept:
            total += float(value)
        means.append(total / len(kept) if kept else np.nan)
        counts.append(len(kept))
    return np.array(means, np.float64), np.array(counts, np.uint32)
