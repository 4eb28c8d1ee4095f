from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from mstore.kernels._samples import Samples

class LoadResult(NamedTuple):
    stopped_at: int
    n_loaded: int
    n_samples: int
    n_stale: int
    n_expired: int
    n_older: int

def prefault(samples: Samples, start: int, n_bytes: int) -> bool: ...
def load_chunks(
    samples: Samples,
    payload: Buffer,
    at: int = 0,
    expired_s: int = ...,
    older_s: int = ...,
    protected: NDArray[np.uint8] | None = None,
    kept_from: NDArray[np.int64] | None = None,
) -> LoadResult: ...
