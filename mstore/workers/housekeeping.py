"""What the persister does besides draining: retention and eviction in slices, moved grids, snapshots."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mstore import clock
from mstore.errors import MstoreError, StorageError
from mstore.persistence.files import Files
from mstore.persistence.recovery import Report
from mstore.workers.clockwatch import ClockWatch

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_SWEEP_SERIES = 16_384
"""Series looked at in one slice: about a millisecond between two drains."""
_RETENTION_EVERY_S_MIN, _RETENTION_EVERY_S_MAX = 5.0, 300.0
_STOP_SNAPSHOT_S_MAX = 120.0

Answer = Callable[[dict[str, Any], MstoreError | None], None]


class Housekeeping:
    """Timers and slices; every change of shared memory it makes is logged first, like samples are."""

    def __init__(self, persister: Persister, files: Files, report: Report) -> None:
        self._persister = persister
        self._files = files
        self._clock = ClockWatch()
        self._warned = False
        self._sweep_at = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._snapshot_task: asyncio.Task[None] | None = None
        self._snapshot_process: asyncio.subprocess.Process | None = None
        self._waiting: list[Answer] = []
        self._last_snapshot_s = clock.monotonic_s()
        self._bytes_at_snapshot = 0
        self._snapshot_seq = report.snapshot_seq

    def start(self) -> None:
        self._later(self._retention_every_s(), self._begin_retention)
        interval = self._persister.config.snapshot_interval_s
        if interval:
            self._later(interval, self._snapshot_by_time)

    async def stop(self) -> None:
        """End the timers; a last snapshot, so that the next start need not replay the log."""
        for timer in self._timers:
            timer.cancel()
        if self._snapshot_task is None and self._persister.wal.written > self._snapshot_seq:
            self.snapshot(lambda _details, _error: None)
        if self._snapshot_task is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._snapshot_task), _STOP_SNAPSHOT_S_MAX)
            except TimeoutError:
                log.warning("the last snapshot took too long and was given up: the log holds everything")
                if self._snapshot_process is not None:
                    self._snapshot_process.kill()
                await self._snapshot_task

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
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
                    "the wall clock is %.0f s off the monotonic clock: nothing is freed until they agree or the store is restarted",
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
        count = min(_SWEEP_SERIES, n_series - self._sweep_at)
        freed = self.free_range(self._sweep_at, count, before_s)
        if freed:
            persister.slot.add("chunks_freed", freed)
        self._sweep_at += count
        asyncio.get_running_loop().call_soon(self._sweep, before_s)

    def free_range(self, start: int, count: int, before_s: int) -> int:
        """Log, then free, every chunk of these series that ends at or before `before_s`; the number freed."""
        store = self._persister.store
        records, n_chunks = store.plan_free(start, count, before_s)
        if n_chunks:
            self._persister.append_catalog(records)
            store.apply_block(records)
        return n_chunks

    # --- series whose collector changed its phase

    def follow_shifts(self) -> None:
        """Give each series whose samples now fall near slot borders a new grid, from its newest chunk on."""
        for slot, t in self._persister.samples.shifts():
            series = self._persister.directory.series(slot)
            if series is None or series.next:
                continue
            _, records = self._persister.directory.begin_era(
                slot, t - series.step_s // 2, series.step_s, t, series.type
            )
            self._persister.append_catalog(records)
            self._persister.directory.publish()
            self._persister.slot.add("eras_started")

    # --- snapshots

    def look_at_log(self) -> None:
        """Called after appending: a log that has grown enough asks for a snapshot."""
        grown = self._persister.wal.bytes_written - self._bytes_at_snapshot
        if grown >= self._persister.config.wal_bytes and self._snapshot_task is None:
            self.snapshot(lambda _details, _error: None)

    def _snapshot_by_time(self) -> None:
        if self._persister.wal.written > self._snapshot_seq:
            self.snapshot(lambda _details, _error: None)
        interval = self._persister.config.snapshot_interval_s
        if interval:
            self._later(interval, self._snapshot_by_time)

    def snapshot(self, answer: Answer) -> None:
        """Start a snapshot, or wait for the one under way; `answer` is called with its details or the error."""
        self._waiting.append(answer)
        if self._snapshot_task is None:
            self._snapshot_task = asyncio.get_running_loop().create_task(self._take_snapshot())

    async def _take_snapshot(self) -> None:
        details: dict[str, Any] = {}
        failure: MstoreError | None = None
        try:
            details = await self._run_helper()
        except MstoreError as error:
            failure = error
            log.error("no snapshot: %s", error)
            self._persister.slot.add("snapshot_errors")
        except Exception as error:
            failure = StorageError(f"the snapshot helper failed: {error}")
            log.exception("no snapshot")
            self._persister.slot.add("snapshot_errors")
        finally:
            self._snapshot_task = None
            self._snapshot_process = None
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer(details, failure)

    async def _run_helper(self) -> dict[str, Any]:
        """Everything up to `seq` is applied when the helper starts, so replaying from seq + 1 on its file is exact."""
        persister = self._persister
        seq, n_bytes = persister.wal.written, persister.wal.bytes_written
        job = json.dumps(
            {
                "store_dir": persister.spec.store_dir,
                "instance": persister.spec.instance,
                "segments": persister.spec.segments,
                "seq": seq,
                "parent_pid": os.getpid(),
            }
        )
        self._snapshot_process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mstore.workers.snapshot",
            job,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await self._snapshot_process.communicate()
        if self._snapshot_process.returncode != 0:
            raise StorageError(f"the snapshot helper ended with status {self._snapshot_process.returncode}")
        details: dict[str, Any] = json.loads(output.decode().strip().splitlines()[-1])
        self._snapshot_seq, self._bytes_at_snapshot = seq, n_bytes
        persister.slot.add("snapshots")
        persister.slot.add("snapshot_bytes", details["bytes"])
        # The older of the two kept generations must stay usable: only what it covers is retired.
        retired = persister.wal.retire(details["oldest_kept_seq"])
        log.info(
            "snapshot of %d series, %d bytes, %d log segments retired",
            details["series"],
            details["bytes"],
            retired,
        )
        return {**details, "retired_segments": retired}
