"""The naive twin of _row_statistics: row by row, as reference_statistics scans one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mstore.kernels import reference_statistics

_DTYPES = {1: "<f4", 2: "<f8", 3: "<u8"}


def scan(
    values: NDArray[np.uint8], types: NDArray[np.int64], at: NDArray[np.int64], n: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """As _row_statistics.scan."""
    numbers = np.full((len(types), 3), math.nan)
    counts = np.zeros(len(types), np.int64)
    for row, (kind, first, size) in enumerate(zip(types.tolist(), at.tolist(), n.tolist(), strict=True)):
        samples = np.frombuffer(values.tobytes(), _DTYPES[kind], size, first)
        count, _, _, low, high, total = reference_statistics.scan(samples)
        if count:
            counts[row] = count
            with np.errstate(over="ignore"):
                numbers[row] = float(low), float(high), total / count
    return numbers, counts
