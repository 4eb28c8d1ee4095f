import numpy as np
from numpy.typing import NDArray

from mstore.kernels._gather import Gatherer

LANES: int

Words = NDArray[np.uint64]
Times = NDArray[np.int64]
Flags = NDArray[np.uint8]

def scan(
    g: Gatherer, refs: NDArray[np.uint64], start: int, end: int
) -> tuple[NDArray[np.uint64], NDArray[np.float64], Words, Times, Flags] | int: ...
def newest(
    g: Gatherer, refs: NDArray[np.uint64], start: int, end: int
) -> tuple[Words, Times, Flags] | int: ...
def runs(
    g: Gatherer, refs: NDArray[np.uint64], start: int, end: int, level: float, below: bool, gap_s: int
) -> tuple[Words, Times, Flags, Times, NDArray[np.float64]] | int: ...
def values(g: Gatherer, refs: NDArray[np.uint64], start: int, end: int, into: Words) -> tuple[int] | int: ...
