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


def all_within(times: NDArray[np.int64], newest_s: int) -> bool:
    """Whether every series holds samples of these times, whatever its step (1 s at least)."""
    return not len(times) or int(times.min()) >= newest_s - limits.SERIES_SLOTS_MAX


def without_beyond(
    times: NDArray[np.int64], steps: NDArray[np.uint32], values: Bin, vtype: int, newest_s: int
) -> tuple[bytes, int]:
    """A matrix of samples with the missing value in place of those that their series cannot hold, and how many these are.

    times   int64[m], seconds
    steps   uint32[n], seconds, of each series
    values  [m][n] of vtype, row after row
    """
    oldest = newest_s - steps.astype(np.int64) * limits.SERIES_SLOTS_MAX
    beyond = times[:, None] < oldest[None, :]
    dtype, missing = _MISSING[vtype]
    matrix = np.frombuffer(values, dtype=dtype).reshape(beyond.shape).copy()
    matrix[beyond] = missing
    return matrix.tobytes(), int(beyond.sum())
