"""The values of a simulated cluster: jobs come and go on the nodes, each series walks around its job's level.

Values are whole numbers of the last decimal (mantissas: 12345 with 2 decimals is 123.45), so that the text of
a line and the float of a columns frame are the same number, bit for bit.

    node   idle | busy with a level, for an exponentially distributed time
    walk   pulled towards level * peak, pushed by noise, kept inside [0, peak]
    idle   the series' idle value: exactly 0 for rates and loads, a floor for clocks, power and temperatures
    fixed  a few series in a hundred never change
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

JOB_S_MEAN = 2400.0
IDLE_S_MEAN = 900.0
FIXED_SHARE = 0.03
PULL = 0.15
NOISE = 0.02

# Part of the peak that an idle node still shows, by what the metric's name contains; otherwise nothing.
IDLE_SHARE = (("clock", 0.4), ("power", 0.25), ("temp", 0.4), ("mem_used", 0.04), ("mem_total", 1.0))


def idle_share(metric: str) -> float:
    return next((share for word, share in IDLE_SHARE if word in metric), 0.0)


def decimals_for(peak: float) -> int:
    """2 to 4 decimals: large numbers with few, small ones with more, as collectors round them."""
    return 4 if peak <= 10 else 3 if peak <= 100 else 2


class Walk:
    """The state of n series on h nodes.

    peak      float64[n], largest value, in the metric's unit
    floor     float64[n], part of the peak that idle shows
    decimals  int64[n], 2 to 4
    node      int64[n], index of each series' node
    """

    def __init__(
        self,
        rng: np.random.Generator,
        peak: NDArray[np.float64],
        floor: NDArray[np.float64],
        decimals: NDArray[np.int64],
        node: NDArray[np.int64],
        n_nodes: int,
    ) -> None:
        self._rng = rng
        self._peak = np.rint(peak * 10.0**decimals)
        self._idle = np.rint(self._peak * floor * rng.uniform(0.9, 1.0, len(peak)))
        self._share = rng.uniform(0.8, 1.0, len(peak))
        self._fixed = rng.random(len(peak)) < FIXED_SHARE
        self._fixed_at = np.rint(self._peak * rng.uniform(floor, 1.0))
        self._node = node
        self._busy = rng.random(n_nodes) < JOB_S_MEAN / (JOB_S_MEAN + IDLE_S_MEAN)
        self._level = rng.uniform(0.2, 0.95, n_nodes)
        self._left_s = self._durations(self._busy)
        self._at = np.where(self._busy[node], self._peak * self._share * self._level[node], self._idle)

    def pass_time(self, seconds: int) -> None:
        """Let jobs end and others begin."""
        self._left_s -= seconds
        over = np.flatnonzero(self._left_s <= 0)
        if len(over):
            self._busy[over] = ~self._busy[over]
            self._level[over] = self._rng.uniform(0.2, 0.95, len(over))
            self._left_s[over] = self._durations(self._busy[over])

    def step(self, due: slice | NDArray[np.int64]) -> NDArray[np.int64]:
        """The next mantissas of the series that are due."""
        node, peak, idle = self._node[due], self._peak[due], self._idle[due]
        busy = self._busy[node]
        target = np.where(busy, np.maximum(self._level[node] * peak * self._share[due], idle), idle)
        noise = self._rng.standard_normal(len(target), dtype=np.float32)
        at = self._at[due]
        at += PULL * (target - at) + (NOISE * peak) * noise
        np.clip(at, 0.0, peak, out=at)
        # An idle series shows its idle value at once: no collector reports a decaying rate.
        at[~busy] = idle[~busy]
        self._at[due] = at
        shown = np.where(self._fixed[due], self._fixed_at[due], at)
        return np.rint(shown).astype(np.int64)

    def _durations(self, busy: NDArray[np.bool_]) -> NDArray[np.float64]:
        return self._rng.exponential(np.where(busy, JOB_S_MEAN, IDLE_S_MEAN)) + 60.0
