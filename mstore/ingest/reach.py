"""How far back a grid series can hold a sample: its link table spans so many slots, and the newest must always fit.

A sample further back would be acknowledged and have no place beside the newest one. So it is refused as too_late, measured
from the newest time that is accepted at all. With a retention below 194 days nothing here ever refuses a sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.ipc.checks import Bin
from mstore.shm import layout

_MISSING: dict[int, tuple[str, Any]] = {
    layout.TYPE_F32: ("<f4", np.nan),
    layout.TYPE_F64: ("<f8", np.nan),
    layout.TYPE_U64: ("<u8", layout.U64_MISSING),
}
"""dtype and missing value of each value type."""


def oldest_s(steps: NDArray[np.uint32], newest_s: int) -> NDArray[np.int64]:
    """int64[n]: the first second that a grid series of each of these steps (seconds) can hold beside `newest_s`."""
    return newest_s - steps.astype(np.int64) * limits.SERIES_SLOTS_MAX


def all_within(times: NDArray[np.int64], newest_s: int) -> bool:
    """Whether every series holds samples of these times, whatever its step (1 s at least)."""
    return not len(times) or int(times.min()) >= newest_s - limits.SERIES_SLOTS_MAX


def without_older(
    times: NDArray[np.int64], oldest: NDArray[np.int64], values: Bin, vtype: int
) -> tuple[bytes, int]:
    """A matrix of samples with the missing value in place of those that are too old for their series; how many these are.

    times   int64[m], seconds
    oldest  int64[n], the first second of each series
    values  [m][n] of vtype, row after row
    """
    older = times[:, None] < oldest[None, :]
    dtype, missing = _MISSING[vtype]
    matrix = np.frombuffer(values, dtype=dtype).reshape(older.shape).copy()
    matrix[older] = missing
    return matrix.tobytes(), int(older.sum())
