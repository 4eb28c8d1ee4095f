"""A value for every slot of every series, each with bits of its own: what is swapped, moved or left out is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ONE = np.uint32(0x3F80_0000)
_SERIES, _SLOT, _MIX = np.uint32(0x9E37_79B1), np.uint32(0x85EB_CA77), np.uint32(0xC2B2_AE3D)


def grid_values(series: NDArray[np.integer[Any]], slots: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """float32[series, slots], from 1 up to 2: 23 bits of a hash of both numbers are the fraction."""
    bits = (series.astype(np.uint32) * _SERIES)[:, None] + (slots.astype(np.uint32) * _SLOT)[None, :]
    bits ^= bits >> np.uint32(15)
    bits *= _MIX
    bits >>= np.uint32(9)
    bits |= _ONE
    return bits.view(np.float32)


def same_bits(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Also where both are NaN."""
    return found.dtype == expected.dtype and np.array_equal(found.view(np.uint32), expected.view(np.uint32))
