import numpy as np
from numpy.typing import NDArray

from mstore.kernels._gather import Gatherer

AVERAGE: int
PROPAGATE: int

TYPE: int
START: int
STEP: int
SLOTS: int
VALUES_AT: int
COUNTS_AT: int
PRESENT: int
METRIC: int

def gather(
    g: Gatherer,
    refs: NDArray[np.uint64],
    bounds: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    how: NDArray[np.uint8],
    slots_max: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.int64]] | int: ...
def grid_of(g: Gatherer, refs: NDArray[np.uint64], start: int, end: int) -> tuple[int, int, int] | int: ...
def add(
    g: Gatherer,
    refs: NDArray[np.uint64],
    end: int,
    t0: int,
    step: int,
    sums: NDArray[np.float64],
    counts: NDArray[np.uint32],
) -> int | None: ...
