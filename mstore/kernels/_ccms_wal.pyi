import numpy as np
from numpy.typing import NDArray

RECORD_MAGIC: int
PAYLOAD_BYTES_MAX: int
RECORD_BYTES_MIN: int
END: int
FULL: int
BAD_MAGIC: int
BAD_LENGTH: int
SHORT: int
BAD_CRC: int

def scan(
    data: bytes | memoryview, start: int, n_max: int
) -> tuple[
    int,
    int,
    NDArray[np.int64],
    NDArray[np.uint32],
    NDArray[np.uint32],
    NDArray[np.int64],
    NDArray[np.uint32],
    int,
    int,
]: ...
