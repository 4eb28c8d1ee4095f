"""Samples as the numbers of a JSON document: the shortest that read back as the same value, None for what is missing.

A float32 becomes the double whose shortest text has as few digits as the float32 needs: 0.1 and not
0.10000000149011612. It has at most nine, so 1,000 samples take 4 to 9 kB of text instead of 18.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_DIGITS_MIN, _DIGITS_MAX = 6, 9
_EXACT_POWER_MAX = 22
"""Up to here a power of ten is a double, so that digits times or through it are rounded only once: 1e-14 to 1e27."""


def numbers(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> list[float | int | None]:
    """values float32, float64 or uint64 [n] -> n numbers; None where not valid, NaN or infinite.

    valid   bool[n], or None: every value that is finite
    """
    if values.dtype.kind == "u":
        plain: list[float | int | None] = values.tolist()
        missing = np.flatnonzero(~valid) if valid is not None else ()
    else:
        plain = (shortest(values) if values.dtype == np.float32 else values).tolist()
        present = np.isfinite(values)
        missing = np.flatnonzero(~(present if valid is None else present & valid))
    for index in missing:
        plain[index] = None
    return plain


def number(value: float, *, narrow: bool = False) -> float | None:
    """One value likewise. narrow: it is that of a float32"""
    if not math.isfinite(value):
        return None
    if not narrow or abs(value) > _FLOAT32_MAX:
        return value
    return float(str(np.float32(value)))


def shortest(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """float32[n] -> float64[n], each the double of the shortest decimal that is read as the same float32.

    The decimal of d digits nearest to a float32 reads back as it if any of d digits does, so the first d of
    six to nine that works is enough, and six digits are no longer than fewer: zeros at the end are not printed.
    """
    found = values.astype(np.float64)
    asked = np.flatnonzero(np.isfinite(values) & (values != 0))
    exponents = np.floor(np.log10(np.abs(found[asked]))).astype(np.int64)
    usual = (exponents >= _DIGITS_MAX - 1 - _EXACT_POWER_MAX) & (
        exponents <= _DIGITS_MIN - 1 + _EXACT_POWER_MAX
    )
    left, rare, exponents = asked[usual], asked[~usual], exponents[usual]
    for digits in range(_DIGITS_MIN, _DIGITS_MAX + 1):
        power = digits - 1 - exponents
        factor = 10.0 ** np.abs(power)
        exact = found[left]
        rounded = np.where(power >= 0, np.rint(exact * factor) / factor, np.rint(exact / factor) * factor)
        done = rounded.astype(np.float32) == values[left]
        found[left[done]] = rounded[done]
        left, exponents = left[~done], exponents[~done]
    for index in np.concatenate([left, rare]):
        found[index] = float(str(values[index]))
    return found
