"""Retention: chunks too old to be served are freed, series and levels that nobody uses any more go.

A pass goes through the series table in slices between two drains; nothing waits for it. What is served is exact
without it (query/retained.py), so a pass only gives memory back, hours after the first samples of a chunk are too old.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.errors import Degraded, StorageError
from mstore.shm.directory import KEEP_ALL_S
from mstore.workers.clockwatch import ClockWatch
from mstore.workers.freeing import Freeing
from mstore.workers.leaving import Why
from mstore.workers.removal import Idle, Removal, State
from mstore.workers.removal_ground import StoreGround
from mstore.workers.timers import Timers

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_SWEEP_SERIES = 2048
"""Series looked at in one slice: about a millisecond between two drains if a chunk of each is freed."""
_SWEEP_PAUSE_S = 0.002
"""After a slice that freed something: most of the time is for what comes in (benchmarks/bench_acks.py)."""
_EVERY_S_MIN, _EVERY_S_MAX = 5.0, 300.0
_REMOVE_SERIES = 1024
"""Series removed in one go: their records are one block of the log."""
_REMOVAL_STEP_S, _REMOVAL_S_MAX = 0.01, 30.0
_LOG_RETRY_S = 1.0


class Retention:
    """Timers and slices; owned by the persister's housekeeping."""

    def __init__(self, persister: Persister, timers: Timers, freeing: Freeing) -> None:
        self._persister = persister
        self._timers = timers
        self._freeing = freeing
        self._clock = ClockWatch()
        self._warned = False
        self._sweep_at = 0
        self._idle = Idle()
        self._removal = Removal(StoreGround(persister))
        self._removal_began_s = 0.0

    def start(self) -> None:
        self._timers.later(self._every_s(), self._begin)

    def stop(self) -> None:
        self._removal.give_up()

    # --- passes

    def _every_s(self) -> float:
        shortest_s = min(self._persister.config.retentions_s() - {0}, default=0)
        return min(_EVERY_S_MAX, max(_EVERY_S_MIN, shortest_s / 64)) if shortest_s else _EVERY_S_MAX

    def _begin(self) -> None:
        if not self._persister.config.retentions_s() - {0}:
            self._timers.later(_EVERY_S_MAX, self._begin)
            return
        if not self._clock.agrees():
            if not self._warned:
                log.error(
                    "the wall clock is %.0f s off the monotonic clock: nothing is freed until they agree"
                    " or the store is restarted",
                    self._clock.jump_s(),
                )
            self._warned = True
            self._timers.later(self._every_s(), self._begin)
            return
        self._warned = False
        self._sweep_at = 0
        kept_from_s = self._persister.directory.kept_from_s(clock.now_s(), self._persister.config.retention_s)
        may_free = self._freeing.leaving.may_free
        free_to_s = np.array([may_free(index, int(from_s)) for index, from_s in enumerate(kept_from_s)])
        self._sweep(kept_from_s, np.minimum(free_to_s.astype(np.int64), kept_from_s))

    def _sweep(self, kept_from_s: NDArray[np.int64], free_to_s: NDArray[np.int64]) -> None:
        """One slice, and the next one later. Both limits are int64[n_metrics], by metric; KEEP_ALL_S = no limit."""
        persister = self._persister
        again = partial(self._sweep, kept_from_s, free_to_s)
        n_series = persister.directory.counts()["n_series"]
        if self._sweep_at >= n_series:
            persister.slot.add("retention_passes")
            self._timers.later(self._every_s(), self._begin)
            return
        if self._removal.state is not State.IDLE:  # the sweep goes on when it is done
            self._timers.later(_REMOVAL_STEP_S, again)
            self._go_on_removing()
            return
        count = min(_SWEEP_SERIES, n_series - self._sweep_at)
        try:
            freed = self._freeing.free(
                self._sweep_at, count, self._limits(free_to_s, self._sweep_at, count), Why.RETENTION
            )
        except (StorageError, Degraded) as error:
            log.warning("retention waits for the log: %s", error)
            self._timers.later(_LOG_RETRY_S, again)
            return
        if freed:
            persister.slot.add("chunks_freed", freed)
        if not self._remove_idle(count, self._limits(kept_from_s, self._sweep_at, count)):
            self._sweep_at += count
        self._timers.later(_SWEEP_PAUSE_S if freed else 0.0, again)

    def _limits(self, by_metric: NDArray[np.int64], start: int, count: int) -> NDArray[np.int64]:
        """int64[count]: what is said of their metric, for some rows of the series table."""
        metrics = self._persister.directory.series_table()["metric"][start : start + count]
        # A metric that was made during this pass has nothing old. A free slot's metric is 0, and its flags tell.
        known = metrics < len(by_metric)
        limits = np.full(count, KEEP_ALL_S)
        limits[: len(metrics)][known] = by_metric[metrics[known]]
        return limits

    # --- series that nobody uses any more

    def _remove_idle(self, count: int, kept_from_s: NDArray[np.int64]) -> bool:
        """Begin to remove series of this slice that had no chunk for a retention period; False if there are none."""
        table = self._persister.directory.series_table()
        slots = self._idle.find(table, self._sweep_at, clock.now_s(), kept_from_s, _REMOVE_SERIES)
        if not slots:
            return False
        self._removal.begin(slots)
        self._idle.forget(slots)
        self._removal_began_s = clock.monotonic_s()
        return True

    def _go_on_removing(self) -> None:
        before = self._removal.removed
        if self._removal.step() is not State.IDLE:
            if clock.monotonic_s() - self._removal_began_s > _REMOVAL_S_MAX:
                log.info("series are not removed now: a worker has been busy for %.0f s", _REMOVAL_S_MAX)
                self._removal.give_up()
        elif self._removal.removed > before:
            self._persister.slot.add("series_removed", self._removal.removed - before)
