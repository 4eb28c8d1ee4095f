"""Before samples leave memory: whoever keeps them elsewhere may hold some back, and is told what goes.

    retention   may_free() lowers the time up to which chunks are freed; what is held back is asked about at the next pass
    the cap     cannot wait: leaves() names the chunks, which are evicted then
    a command   the same: an operator's free() means what it says

Both calls are made by the persister between two drains: they must return at once. An archiver that copies does so in a
process of its own, which reads the mapped segments as every reader does, and lets go by what it answers here.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Why(Enum):
    """What makes samples leave."""

    RETENTION = "retention"
    CAP = "cap"
    COMMAND = "command"


class Leaving:
    """Nobody keeps anything: nothing is held back. What an archiver overrides."""

    def may_free(self, metric: int, before_s: int) -> int:
        """How far retention may go now: chunks of this metric that end after the answer stay for the time being.

        metric    its index in the directory; a definition belongs to one cluster
        before_s  what retention would free up to, Unix seconds
        returns   before_s, or less to hold back; INT64_MIN = keep everything
        """
        return before_s

    def leaves(self, why: Why, ranges: NDArray[np.void]) -> None:
        """These are about to be logged as freed and to go; until this returns they can be read.

        ranges  kernels._expiry.RANGE[k] {slot, generation, first, last}: chunks first..last of a grid series, rows
                stamped first..last ms of a stamped one. The same may be named twice when the log refuses at first
        """
