from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from mstore.kernels._ring import RingWriter

class ColumnEncoder:
    n_written: int
    n_bad: int
    def __init__(
        self, refs: Buffer | NDArray[Any], times: Buffer | NDArray[Any], values: Buffer, vtype: int
    ) -> None: ...
    def encode(self, ring: RingWriter) -> bool: ...

class RowEncoder:
    n_written: int
    n_bad: int
    def __init__(self, ref: int, stamps: Buffer | NDArray[Any], values: Buffer, types: Buffer) -> None: ...
    def encode(self, ring: RingWriter) -> bool: ...

def same(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> bool: ...
def stale(refs: NDArray[np.uint64], words: NDArray[np.uint64]) -> NDArray[np.intp]: ...
