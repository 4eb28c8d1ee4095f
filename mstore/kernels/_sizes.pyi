import numpy as np
from numpy.typing import NDArray

from mstore.kernels._gather_runs import RunReader

ROW: np.dtype[np.void]

class SizeReader(RunReader):
    def chunk_rows(self, refs: NDArray[np.uint64]) -> NDArray[np.void] | int: ...
