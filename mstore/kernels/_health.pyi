import numpy as np
from numpy.typing import NDArray

from mstore.kernels._directory import DirectoryReader

ABSENT: int
FRESH: int
STALE: int

def scan(
    directory: DirectoryReader,
    hosts: NDArray[np.uint32],
    columns: NDArray[np.int32],
    oldest_s: NDArray[np.int64],
    now_s: int,
    steps_max: int,
    states: NDArray[np.uint8],
) -> bool: ...
