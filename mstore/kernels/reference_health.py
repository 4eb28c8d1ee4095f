"""The naive twin of _health: levels and series by the directory's listing functions, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.kernels._directory import DirectoryReader

ABSENT, FRESH, STALE = 0, 1, 2
_GRID = 1
_NO_SAMPLE = -(1 << 63)

# Places in DirectoryReader.series_fields().
_GENERATION, _KIND, _STEP_S, _METRIC, _PREV, _LAST_T, _N_CHUNKS = 1, 2, 6, 8, 9, 12, 15


def scan(
    directory: DirectoryReader,
    hosts: NDArray[np.uint32],
    columns: NDArray[np.int32],
    oldest_s: NDArray[np.int64],
    now_s: int,
    steps_max: int,
    states: NDArray[np.uint8],
) -> bool:
    """As _health.scan."""
    for row, host in enumerate(hosts.tolist()):
        levels = [host]
        while levels:
            level = levels.pop()
            levels += directory.children(level)
            for slot in directory.level_series(level):
                series = directory.series_fields(slot)
                assert series is not None
                metric = series[_METRIC]
                column = int(columns[metric]) if metric < len(columns) else -1
                if column >= 0:
                    state = _state(directory, series, now_s, steps_max, int(oldest_s[column]))
                    states[row, column] = max(states[row, column], state)
    return True


def _state(
    directory: DirectoryReader, newest: tuple[Any, ...], now_s: int, steps_max: int, oldest_s: int
) -> int:
    series = newest
    while not series[_N_CHUNKS]:
        generation, slot = series[_PREV] >> 32, series[_PREV] & 0xFFFF_FFFF
        before = directory.series_fields(slot) if series[_PREV] else None
        if before is None or before[_GENERATION] != generation:
            return ABSENT
        series = before
    last_t, step_s = series[_LAST_T], series[_STEP_S]
    if last_t == _NO_SAMPLE:
        return ABSENT
    if series[_KIND] != _GRID:
        return FRESH if last_t // 1000 >= oldest_s else ABSENT
    if last_t < oldest_s:
        return ABSENT
    return FRESH if now_s - (last_t - step_s // 2 + step_s) <= steps_max * step_s else STALE
