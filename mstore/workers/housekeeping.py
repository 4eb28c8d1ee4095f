"""What the persister does besides draining: retention and eviction in slices, moved grids, snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from mstore import clock, faults
from mstore.apply.store import split_records
from mstore.errors import Degraded, StorageError, StoreFull
from mstore.persistence.blocks import CATALOG
from mstore.persistence.files import Files
from mstore.persistence.recovery import Report
from mstore.workers.clockwatch import ClockWatch
from mstore.workers.filewatch import FileWatch
from mstore.workers.removal import Idle, Removal, State
from mstore.workers.removal_ground import StoreGround
from mstore.workers.snapshots import Answer, Snapshots

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_SWEEP_SERIES = 2048
"""Series looked at in one slice: about a millisecond between two drains if a chunk of each is freed."""
_SWEEP_PAUSE_S = 0.002
"""After a slice that freed something: most of the time is for what comes in (benchmarks/bench_acks.py)."""
_RETENTION_EVERY_S_MIN, _RETENTION_EVERY_S_MAX = 5.0, 300.0
_REMOVE_SERIES = 1024
"""Series removed in one go: their records are one block of the log."""
_REMOVAL_STEP_S, _REMOVAL_S_MAX = 0.01, 30.0
_LOG_RETRY_S = 1.0
_MARK_S = 0.5
_FREE_BYTES = 256 << 10
"""Of FREE records in one block."""


class Housekeeping:
    """Timers and slices; every change of shared memory it makes is logged first, like samples are."""

    def __init__(self, persister: Persister, files: Files, report: Report) -> None:
        self._persister = persister
        self._clock = ClockWatch()
        self._warned = False
        self._sweep_at = 0
        self._idle = Idle()
        self._removal = Removal(StoreGround(persister))
        self._removal_began_s = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self.snapshots = Snapshots(persister, files, report, self.settle_definitions)
        self.filewatch = FileWatch(persister, files, self.snapshots, report.newest.unsound)
        self.snapshots.on_taken = self.filewatch.snapshot_taken
        self._marking: asyncio.TimerHandle | None = None
        self._marked_seq = 0
        self._stopped = False

    def start(self) -> None:
        self._later(self._retention_every_s(), self._begin_retention)
        self.snapshots.start()
        self.filewatch.start()

    async def stop(self, *, snapshot: bool = True) -> None:
        """End the timers; a last snapshot, so that the next start need not replay the log. Not when memory is kept,
        unless it holds what no file does."""
        self._stopped = True
        self.filewatch.stop()
        self._removal.give_up()
        for timer in (*self._timers, self._marking):
            if timer is not None:
                timer.cancel()
        await self.snapshots.stop(take=snapshot or self.filewatch.unprotected)

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        if self._stopped:
            return
        now_due = [
            timer
            for timer in self._timers
            if not timer.cancelled() and timer.when() > asyncio.get_running_loop().time()
        ]
        self._timers = [*now_due, asyncio.get_running_loop().call_later(delay_s, call)]

    # --- retention

    def _retention_every_s(self) -> float:
        retention = self._persister.config.retention_s
        return min(_RETENTION_EVERY_S_MAX, max(_RETENTION_EVERY_S_MIN, retention / 64))

    def _begin_retention(self) -> None:
        retention = self._persister.config.retention_s
        if not retention:
            self._later(_RETENTION_EVERY_S_MAX, self._begin_retention)
            return
        if not self._clock.agrees():
            if not self._warned:
                log.error(
                    "the wall clock is %.0f s off the monotonic clock: nothing is freed until they agree"
                    " or the store is restarted",
                    self._clock.jump_s(),
                )
            self._warned = True
            self._later(self._retention_every_s(), self._begin_retention)
            return
        self._warned = False
        self._sweep_at = 0
        self._sweep(clock.now_s() - retention)

    def _sweep(self, before_s: int) -> None:
        persister = self._persister
        n_series = persister.directory.counts()["n_series"]
        if self._sweep_at >= n_series:
            persister.slot.add("retention_passes")
            self._later(self._retention_every_s(), self._begin_retention)
            return
        if self._removal.state is not State.IDLE:  # the sweep goes on when it is done
            self._later(_REMOVAL_STEP_S, lambda: self._sweep(before_s))
            self._go_on_removing()
            return
        count = min(_SWEEP_SERIES, n_series - self._sweep_at)
        try:
            freed = self.free_range(self._sweep_at, count, before_s)
        except (StorageError, Degraded) as error:
            log.warning("retention waits for the log: %s", error)
            self._later(_LOG_RETRY_S, lambda: self._sweep(before_s))
            return
        if freed:
            persister.slot.add("chunks_freed", freed)
        if not self._remove_idle(count, before_s):
            self._sweep_at += count
        if freed:
            self._later(_SWEEP_PAUSE_S, lambda: self._sweep(before_s))
        elif not self._stopped:
            asyncio.get_running_loop().call_soon(self._sweep, before_s)

    def free_range(self, start: int, count: int, before_s: int) -> int:
        """Log, then free, every chunk of these series that ends at or before `before_s`; the number freed.

        raises StorageError, Degraded: what is logged by then is freed, the rest is neither logged nor freed
        """
        persister = self._persister
        records, n_chunks = persister.store.plan_free(start, count, before_s)
        if n_chunks:
            self.settle_definitions()
            for piece in split_records(records, _FREE_BYTES):
                seq = persister.wal.write(CATALOG, 0, 0, piece)
                faults.hit("free.written")
                persister.store.apply_block(piece)
                persister.wal.note(seq, CATALOG, 0)
        return n_chunks

    # --- series that nobody uses any more

    def _remove_idle(self, count: int, before_s: int) -> bool:
        """Begin to remove series of this slice that had no chunk for a retention period; False if there are none."""
        table = self._persister.directory.series_table()
        slots = self._idle.find(table, self._sweep_at, count, clock.now_s(), before_s, _REMOVE_SERIES)
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

    def settle_definitions(self) -> None:
        """Log and publish definitions that the log refused earlier.

        raises StorageError, Degraded while it still refuses
        """
        self._persister.log_the_unlogged()
        self._persister.directory.publish()

    # --- series whose collector changed its phase

    def follow_shifts(self) -> None:
        """Give each series whose samples now fall near slot borders a new grid, from its newest chunk on."""
        for slot, t in self._persister.samples.shifts():
            series = self._persister.directory.series(slot)
            if series is None or series.next:
                continue
            try:
                anchor_s = t - series.step_s // 2
                _, records = self._persister.directory.begin_era(
                    slot, anchor_s, series.step_s, anchor_s, series.type
                )
            except StoreFull as error:  # its samples go on where they went before
                log.warning("a series keeps its old grid: %s", error)
                return
            self._persister.append_catalog(records)
            self._persister.directory.publish()
            self._persister.slot.add("eras_started")

    # --- snapshots and the log

    def snapshot(self, answer: Answer) -> None:
        """Start a snapshot, or wait for the one under way; `answer` is called with its details or the error."""
        self.snapshots.request(answer)

    def look_at_log(self) -> None:
        """Called after appending."""
        self.snapshots.look_at_log()
        if self._marking is None and not self._stopped:
            self._marking = asyncio.get_running_loop().call_later(_MARK_S, self._mark)

    def _mark(self) -> None:
        """Once writing pauses, let the log name what is durable: damage there is then told from a torn end."""
        self._marking = None
        wal = self._persister.wal
        if self._stopped:
            return
        if wal.written > self._marked_seq and wal.durable() == wal.written:
            with contextlib.suppress(StorageError, Degraded):
                wal.mark()
            self._marked_seq = wal.written
        elif wal.written > self._marked_seq:
            self._marking = asyncio.get_running_loop().call_later(_MARK_S, self._mark)
