from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from mstore.kernels._segment import Segment

def fit(
    directory: Segment,
    refs: Buffer | NDArray[np.uint64],
    times: Buffer | NDArray[np.int64],
    values: Any,
    vtype: int,
    newest_s: int,
) -> tuple[bytes, int, int]: ...
