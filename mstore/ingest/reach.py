"""What a grid series can hold, by the time of a sample: how far back it reaches, and in which type it was then.

A series' link table spans so many slots, and the newest must always fit: a sample further back would be acknowledged and
have no place beside the newest one, so it is refused as too_late, measured from the newest time that is accepted at all.
With a retention below 194 days nothing here ever refuses a sample for that. A sample from before a change of the series'
type or step belongs to the era of its time: how far that one reaches is told by its own step and end, and a number that
its type lacks is out_of_range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.ingest.tally import Tally
from mstore.ipc.checks import Bin
from mstore.kernels._eras import fit
from mstore.model import Reason
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

_MISSING: dict[int, tuple[str, Any]] = {
    layout.TYPE_F32: ("<f4", np.nan),
    layout.TYPE_F64: ("<f8", np.nan),
    layout.TYPE_U64: ("<u8", layout.U64_MISSING),
}
"""dtype and missing value of each value type."""


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


def held(
    directory: DirectoryReader,
    refs: NDArray[np.uint64],
    times: NDArray[np.int64],
    values: Bin,
    vtype: int,
    newest_s: int,
    tally: Tally,
) -> tuple[Bin, int]:
    """The samples that their series can hold, within the worker's epoch: nearly always all of them, at one look.

    refs     uint64[n], of series whose type is `vtype` now; 0 where all values are missing
    times    int64[m], m >= 1, seconds
    values   [m][n] of vtype, row after row
    returns  (values with the missing value in place of the others, which are counted; the number of these)
    """
    # Whatever the step, which is 1 s at least.
    if int(times.min()) >= max(newest_s - limits.SERIES_SLOTS_MAX, directory.grids_changed_s()):
        return values, 0
    values, n_late, n_out_of_range = fit(directory.segment, refs, times, values, vtype, newest_s)
    tally.refuse(Reason.TOO_LATE, n_late)
    tally.refuse(Reason.OUT_OF_RANGE, n_out_of_range)
    return values, n_late + n_out_of_range
