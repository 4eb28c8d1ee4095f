"""The naive twin of _statistics: the oracle of its tests, and its stand-in under MSTORE_KERNELS=reference."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from mstore.kernels.reference_aggregate import present_of

LANES = 8


def scan(values: NDArray[Any]) -> tuple[int, int, int, int | float, int | float, int | float]:
    """As _statistics.scan, sample by sample, added in the same order."""
    samples = [
        (place, value)
        for place, (value, present) in enumerate(
            zip(values.tolist(), present_of(values).tolist(), strict=True)
        )
        if present
    ]
    if not samples:
        return 0, 0, 0, 0, 0, 0
    low = min(value for _, value in samples)
    high = max(value for _, value in samples)
    total: int | float = 0
    if values.dtype.kind == "u":
        for _, value in samples:
            total += value
    else:
        low, high = low + 0.0, high + 0.0
        lanes = [0.0] * LANES
        for place, value in samples:
            lanes[place % LANES] += value
        total = 0.0
        for lane in lanes:
            total += lane
    return len(samples), samples[0][0], samples[-1][0], low, high, total
