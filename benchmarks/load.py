"""The load of the ingest benchmarks: 115,000 series of one cluster, 92-byte lines, and what must be in the store afterwards.

The model is independent of mstore: a matrix of expected values, written down before a line is sent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HOSTS = 1600
HWTHREADS = 72
STEP_S = 60
CLUSTER = "alex"
METRIC = "cpu_user"


class Load:
    """n_series = hosts x 72 hwthreads of one metric; tick k is sent at t0 + k * 60.

    values  int64[n_ticks, n_series]: hundredths from 1000 to 9999; the text sent is `values / 100` with two decimals
    """

    def __init__(self, t0: int, n_ticks: int, seed: int, hosts: int = HOSTS) -> None:
        rng = np.random.default_rng(seed)
        self.t0 = t0
        self.hosts = hosts
        self.n_ticks = n_ticks
        self.n_series = hosts * HWTHREADS
        self.values: NDArray[np.int64] = rng.integers(1000, 10000, size=(n_ticks, self.n_series))
        self._texts = [b"%d.%02d" % divmod(value, 100) for value in range(10_000)]
        self._heads = [
            f"{METRIC},cluster={CLUSTER},hostname=f{host:04d},type=hwthread,type-id={thread},unit=% value=".encode()
            for host in range(hosts)
            for thread in range(HWTHREADS)
        ]

    def tick(self, k: int, order: NDArray[np.int64] | None = None) -> bytes:
        """All lines of tick k, in the given order of series."""
        time = f" {self.t0 + k * STEP_S}\n".encode()
        texts, values, heads = self._texts, self.values[k].tolist(), self._heads
        series = range(self.n_series) if order is None else order.tolist()
        return b"".join([heads[i] + texts[values[i]] + time for i in series])

    def parts(self, k: int, n_lines: int) -> list[bytes]:
        """All lines of tick k, at most so many in each."""
        series = np.arange(self.n_series)
        return [self.tick(k, series[at : at + n_lines]) for at in range(0, self.n_series, n_lines)]

    def expected(self, first: int, stop: int) -> NDArray[np.float32]:
        """float32[n_series, stop - first]: decimal text -> nearest double -> nearest float."""
        return (self.values[first:stop] / 100).astype(np.float32).T
