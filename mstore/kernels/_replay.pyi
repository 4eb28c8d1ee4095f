from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from mstore.kernels._intern import Interner
from mstore.kernels._segment import Segment

def create(segment: Segment, fd: int, sizes: list[int], max_series: int, seed: int) -> None: ...

class DirectoryWriter(Interner):
    def apply(self, records: Buffer) -> int: ...
    def ignore_metrics(self, indices: Collection[int]) -> None: ...
    def ignores(self, index: int) -> bool: ...
    def newest_grids_unlike(
        self,
        types: NDArray[np.uint8],
        steps: NDArray[np.uint32] | None = None,
        without: int = 0,
        limit: int = 0xFFFF_FFFF,
    ) -> list[int]: ...
    def rebuild_keys(self) -> tuple[int, int]: ...
