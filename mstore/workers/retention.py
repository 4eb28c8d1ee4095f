"""Retention: chunks too old to be served are freed, series and levels that nobody uses any more go.

A pass goes through the series table in slices between two drains; nothing waits for it. What is served is exact
without it (query/retained.py), so a pass only gives memory back, hours after the first samples of a chunk are too old.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.config import shortest_s
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
_LEVELS = 65_536
"""Looked at in one go: about a millisecond."""


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
        self._waiting = self._passing = self._again = False

    def start(self) -> None:
        self._wait()

    def pass_soon(self) -> None:
        """Begin a pass now, or another one behind the one under way: what is kept, or what is used, has changed."""
        self._again = True
        if not self._passing:
            self._timers.later(0.0, self._begin)

    def remove_soon(self, slots: NDArray[np.integer[Any]]) -> None:
        """Series without a chunk that an order has emptied: the next pass takes them out, unless they are used again."""
        self._idle.hurry(slots)

    def stop(self) -> None:
        self._removal.give_up()

    # --- passes

    def _every_s(self) -> float:
        period_s = shortest_s(self._persister.config.retentions_s())
        return min(_EVERY_S_MAX, max(_EVERY_S_MIN, period_s / 64)) if period_s else _EVERY_S_MAX

    def _wait(self) -> None:
        """For the next time."""
        if not self._waiting:
            self._waiting = True
            self._timers.later(self._every_s(), self._due)

    def _due(self) -> None:
        """It is time for a pass, if anything is ever too old."""
        self._waiting = False
        if shortest_s(self._persister.config.retentions_s()) and not self._passing:
            self._begin()
        else:
            self._wait()

    def _begin(self) -> None:
        if self._passing:
            return
        if not self._clock.agrees():
            if not self._warned:
                log.error(
                    "the wall clock is %.0f s off the monotonic clock: nothing is freed until they agree"
                    " or the store is restarted",
                    self._clock.jump_s(),
                )
            self._warned = True
            self._wait()
            return
        self._warned = self._again = False
        self._passing = True
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
            self._end(persister.directory.counts()["n_levels"])
            return
        if self._removal.state is not State.IDLE:  # the sweep goes on when it is done
            self._timers.later(_REMOVAL_STEP_S, again)
            self._go_on_removing()
            return
        count = min(_SWEEP_SERIES, n_series - self._sweep_at)
        try:
            freed = self._freeing.free(
                self._sweep_at, count, self._unprotected(free_to_s, self._sweep_at, count), Why.RETENTION
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

    def _end(self, stop: int) -> None:
        """Levels that interning could not finish are unlinked, slice by slice from the last; then the pass is over."""
        start = max(1, stop - _LEVELS)
        self._persister.directory.hide_empty_levels(start, stop)
        if start > 1:
            self._timers.later(0.0, partial(self._end, start))
            return
        self._persister.slot.add("retention_passes")
        self._passing = False
        if self._again:
            self._timers.later(0.0, self._begin)
        else:
            self._wait()

    def _unprotected(self, by_metric: NDArray[np.int64], start: int, count: int) -> NDArray[np.int64]:
        """As _limits(), but of series of protected hosts everything is kept."""
        limits = self._limits(by_metric, start, count)
        if len(self._persister.store.protection):
            protected = self._persister.directory.protected_series(slice(start, start + count))
            limits[: len(protected)][protected != 0] = KEEP_ALL_S
        return limits

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
