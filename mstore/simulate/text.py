"""Whole arrays of samples to line protocol at once, by numpy.

A line is laid out in a row of fixed width, and a mask says which of its bytes count:

    key, right-aligned | " value=" | integer digits | "." | 4 decimals | " " timestamp "\\n"
    -----------------------------   --------------   ---   ----------   ------------------
    the same at every tick           leading zeros    \\ masked beyond     one for all rows
                                     masked           / the series' own

Rows are worked on in slabs that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mstore.model import SeriesPath

DECIMALS_MAX = 4
SLAB_ROWS = 4096
_VALUE = b" value="


class LineFormatter:
    """Formats samples of a fixed list of series.

    keys      measurement and tags of each series, already escaped
    decimals  int64[n], 0 to 4: a mantissa m means m / 10**decimals
    """

    def __init__(self, keys: Sequence[bytes], decimals: NDArray[np.int64]) -> None:
        self._width = max((len(key) for key in keys), default=0) + len(_VALUE)
        n_rows = len(keys)
        heads = b"".join((key + _VALUE).rjust(self._width, b"\0") for key in keys)
        self._heads = np.frombuffer(heads, np.uint8).reshape(n_rows, self._width)
        self._decimals = decimals
        self._scale = 10**decimals
        self._fill = 10 ** (DECIMALS_MAX - decimals)

    def format(self, index: slice | NDArray[np.int64], mantissas: NDArray[np.int64], t_s: int) -> bytes:
        """The lines of the series `index` with these mantissas (>= 0), all at one timestamp."""
        heads, decimals = self._heads[index], self._decimals[index]
        scale, fill = self._scale[index], self._fill[index]
        slabs = range(0, len(mantissas), SLAB_ROWS)
        return b"".join(
            self._slab(heads[i : i + SLAB_ROWS], decimals[i : i + SLAB_ROWS], scale[i : i + SLAB_ROWS],
                       fill[i : i + SLAB_ROWS], mantissas[i : i + SLAB_ROWS], t_s)
            for i in slabs
        )  # fmt: skip

    def _slab(
        self,
        heads: NDArray[np.uint8],
        decimals: NDArray[np.int64],
        scale: NDArray[np.int64],
        fill: NDArray[np.int64],
        mantissas: NDArray[np.int64],
        t_s: int,
    ) -> bytes:
        whole, part = np.divmod(mantissas, scale)
        n_digits = len(str(int(whole.max(initial=0))))
        tail = np.frombuffer(b" %d\n" % t_s, np.uint8)
        point = self._width + n_digits
        rows = np.empty((len(heads), point + 1 + DECIMALS_MAX + len(tail)), np.uint8)
        rows[:, : self._width] = heads
        _digits(rows[:, self._width : point], whole)
        rows[:, point] = ord(".")
        _digits(rows[:, point + 1 : point + 1 + DECIMALS_MAX], part * fill)
        rows[:, point + 1 + DECIMALS_MAX :] = tail
        keep = np.ones(rows.shape, np.bool_)
        np.not_equal(heads, 0, out=keep[:, : self._width])
        for place in range(1, n_digits):
            keep[:, point - 1 - place] = whole >= 10**place
        # Zero is "0", as collectors write it; otherwise the series' own number of decimals.
        shown = np.where(mantissas == 0, 0, decimals)
        keep[:, point] = shown > 0
        for place in range(DECIMALS_MAX):
            keep[:, point + 1 + place] = shown > place
        return rows[keep].tobytes()


def _digits(into: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
    """Decimal digits of each number, right-aligned with leading zeros, as ASCII."""
    # 32-bit division is several times faster, and nearly every value fits.
    rest = numbers.astype(np.uint32) if numbers.max(initial=0) < 1 << 32 else numbers.astype(np.uint64)
    for column in range(into.shape[1] - 1, -1, -1):
        quotient = rest // 10
        into[:, column] = (rest - quotient * 10).astype(np.uint8) + 48
        rest = quotient


def series_key(path: SeriesPath) -> bytes:
    """Measurement and tags of a series' lines, in the order ClusterCockpit's collectors write them."""
    tags = (
        ("cluster", path.cluster),
        ("hostname", path.host),
        ("type", path.type),
        ("type-id", path.type_id),
        ("stype", path.subtype),
        ("stype-id", path.subtype_id),
    )
    text = _escape(path.metric, ", ") + "".join(
        f",{name}={_escape(value, ', =')}" for name, value in tags if value
    )
    return text.encode()


def _escape(text: str, special: str) -> str:
    return "".join("\\" + char if char in special else char for char in text)
