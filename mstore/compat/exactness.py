"""What a store holds exactly and a file only rounded stays as it is: an import of the store's own export loses nothing.

The files have floats of 32 or 64 bits; a u64 beyond 2^24 or 2^53 is rounded there, and an f64 in a file of f32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mstore.compat.reading import Samples
from mstore.compat.source import Source
from mstore.frames import Series
from mstore.model import SeriesPath

_WIDE = ("f64", "u64")
"""Types whose values a file may have rounded; JSON with f64 values may have been written from f32 ones."""


class Exactness:
    """Of one store.

    types  (cluster, metric) -> type of its values, of the metrics that the store has
    """

    def __init__(self, source: Source, types: dict[tuple[str, str], str]) -> None:
        self._source = source
        self._types = types

    def without_roundings(self, samples: Sequence[Samples]) -> tuple[list[Samples], int]:
        """The samples that are to be written, and how many are not: those whose slot holds what they are rounded from."""
        kept = [one for one in samples if not self._may_be_rounded(one)]
        together: dict[tuple[str, str], list[Samples]] = defaultdict(list)
        for one in samples:
            if self._may_be_rounded(one):
                together[one.path.cluster, one.path.host].append(one)
        n_left = 0
        for whose, mine in together.items():
            there = set(self._source.series(*whose))
            kept += [one for one in mine if one.path not in there]
            mine = [one for one in mine if one.path in there]
            if not mine:
                continue
            start = min(int(one.times.min()) for one in mine)
            end = max(int(one.times.max()) for one in mine) + 1
            paths = list(dict.fromkeys(one.path for one in mine))
            stored: dict[SeriesPath, Series] = dict(
                zip(paths, self._source.samples(paths, start, end), strict=True)
            )
            for one in mine:
                news = ~is_rounding(stored[one.path], one.times, one.values)
                n_left += int(np.count_nonzero(~news))
                if news.any():
                    kept.append(Samples(one.path, one.step_s, one.times[news], one.values[news]))
        return kept, n_left

    def _may_be_rounded(self, one: Samples) -> bool:
        wide = self._types.get((one.path.cluster, one.path.metric)) in _WIDE
        return wide and len(one.times) > 0 and one.values.dtype.kind == "f"


def is_rounding(stored: Series, times: NDArray[np.int64], values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """bool[n]: the slot at this very time holds another value, which becomes this one when it is rounded.

    times   int64[n], Unix seconds
    values  float32 or float64 [n]
    """
    if stored.coverage is not None or stored.columns or not len(stored):
        return np.zeros(len(times), bool)
    at = np.searchsorted(stored.times, times).clip(max=len(stored) - 1)
    there = (stored.times[at] == times) & stored.valid[at]
    held = stored.values[at]
    with np.errstate(over="ignore", invalid="ignore"):
        # An export goes by way of float64, and may so be rounded twice.
        once, twice = held.astype(values.dtype), held.astype(np.float64).astype(values.dtype)
        same: NDArray[np.bool_] = there & ((once == values) | (twice == values))
        single = values.astype(np.float32)
        likely = np.flatnonzero(there & ~same & (held.astype(np.float32) == single))
    # JSON has f32 values with their own digits or with the shortest that tell them apart, and was read as f64.
    same[likely] = [values[k] in (float(single[k]), float(str(single[k]))) for k in likely]
    with np.errstate(over="ignore", invalid="ignore"):
        other: NDArray[np.bool_] = values.astype(held.dtype) != held
    return same & other
