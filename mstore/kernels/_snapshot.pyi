import numpy as np
from numpy.typing import NDArray

from mstore.kernels._segment import Segment

def series_by_cluster(
    directory: Segment,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]: ...

class ChunkCopier:
    n_series: int
    n_chunks: int
    n_slots: int
    t_min: int
    t_max: int
    def __init__(
        self,
        directory: Segment,
        samples: Segment,
        slots: NDArray[np.uint32] | None = None,
        generations: NDArray[np.uint32] | None = None,
        now_s: int = 0,
        age_s: int = 675,
    ) -> None: ...
    @property
    def n_looked(self) -> int: ...
    def memory_by_age(self) -> NDArray[np.uint64]: ...
    def fill(self, out: bytearray | NDArray[np.uint8] | memoryview) -> int: ...
