import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

MARK: np.dtype[np.void]

def late_marks(records: Buffer, before_s: int) -> NDArray[np.void]: ...
