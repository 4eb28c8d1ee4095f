import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

def pick(
    payload: Buffer, wanted: NDArray[np.uint32], limit: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint64], int, int, bool]: ...
