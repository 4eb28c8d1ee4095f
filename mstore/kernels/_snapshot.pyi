import numpy as np
from numpy.typing import NDArray

from mstore.kernels._segment import Segment

class ChunkCopier:
    n_series: int
    n_chunks: int
    n_slots: int
    t_min: int
    t_max: int
    def __init__(self, directory: Segment, samples: Segment) -> None: ...
    def fill(self, out: bytearray | NDArray[np.uint8] | memoryview) -> int: ...
