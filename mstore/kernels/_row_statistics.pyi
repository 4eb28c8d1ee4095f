import numpy as np
from numpy.typing import NDArray

def scan(
    values: NDArray[np.uint8], types: NDArray[np.int64], at: NDArray[np.int64], n: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...
