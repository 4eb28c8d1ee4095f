"""What the memory cap costs is said: how much was evicted, of which time, and what to do; once a minute at most."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.apply.store import Store
from mstore.config import format_size
from mstore.kernels._expiry import RANGE
from mstore.persistence.tally import records
from mstore.shm import layout
from mstore.times import utc_text

log = logging.getLogger(__name__)

TELL_EVERY_S = 60.0
_T_MAX_S = 1 << 40


class Evictions:
    """Owned by the persister.

    cap_bytes  memory_cap as it is now; 0 = none, so it is /dev/shm that is full
    """

    def __init__(self, store: Store, cap_bytes: Callable[[], int]) -> None:
        self._store = store
        self._cap_bytes = cap_bytes
        self._forget()
        self._told_s = -TELL_EVERY_S
        self._timer: asyncio.TimerHandle | None = None

    def _forget(self) -> None:
        self._n_chunks = self._n_bytes = 0
        self._oldest_s, self._newest_s = _T_MAX_S, -_T_MAX_S

    def note(self, evicted: bytes) -> None:
        """EVICT records that are about to be applied."""
        view = memoryview(evicted)
        for record in records(view):
            ranges = np.frombuffer(view[record.start + layout.RECORD.itemsize : record.stop], RANGE)
            n_chunks, n_bytes = self._store.samples.chunks_in(ranges)
            self._n_chunks += n_chunks
            self._n_bytes += n_bytes
            self._add_times(ranges)
        wait_s = self._told_s + TELL_EVERY_S - clock.monotonic_s()
        if wait_s <= 0:
            self._tell()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._tell)

    def stop(self) -> None:
        """Say what has not been said yet."""
        if self._timer is not None:
            self._tell()

    def _add_times(self, ranges: NDArray[np.void]) -> None:
        """Seconds that the ranges span: chunks of grid series, stamps (ms) of others."""
        series = self._store.directory.series_table()[ranges["slot"]]
        grid = series["kind"] == layout.KIND_GRID
        span_s = series["step_s"].astype(np.int64) * layout.CHUNK_SLOTS
        first = np.where(grid, series["anchor_s"] + np.clip(ranges["first"], -_T_MAX_S, _T_MAX_S) * span_s,
                         np.maximum(ranges["first"] // 1000, -_T_MAX_S))  # fmt: skip
        last = np.where(grid, series["anchor_s"] + (ranges["last"] + 1) * span_s, ranges["last"] // 1000)
        known = first > -_T_MAX_S  # rows are evicted up to a stamp, from wherever they begin
        if known.any():
            self._oldest_s = min(self._oldest_s, int(first[known].min()))
        if len(last):
            self._newest_s = max(self._newest_s, int(last.max()))

    def _tell(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._n_chunks:
            return
        cap = self._cap_bytes()
        full = f"memory_cap, {format_size(cap)}, is reached" if cap else "/dev/shm is full"
        since = f" from {utc_text(self._oldest_s)}" if self._oldest_s < _T_MAX_S else ""
        log.warning(
            "%s: %d chunks of the oldest samples, %d bytes, were evicted:%s up to %s. They are gone for good; raise"
            " memory_cap or enlarge /dev/shm, or lower retention to choose yourself what goes",
            full, self._n_chunks, self._n_bytes, since, utc_text(self._newest_s),
        )  # fmt: skip
        self._told_s = clock.monotonic_s()
        self._forget()
