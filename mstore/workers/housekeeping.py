"""What the persister does besides draining: retention, archive, moved grids, snapshots; in pieces between two drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from mstore.errors import Degraded, StorageError, StoreFull
from mstore.persistence.files import archive_note_path, recovery_note_path
from mstore.persistence.owned_files import OwnedFiles
from mstore.persistence.recovery import Report, keep_details
from mstore.workers import protected_note
from mstore.workers.archiving import Archiving
from mstore.workers.exports import Exports
from mstore.workers.filewatch import FileWatch
from mstore.workers.freeing import Freeing
from mstore.workers.orders import Orders
from mstore.workers.protecting import Protecting
from mstore.workers.retention import Retention
from mstore.workers.run_notes import Note, RunNotes
from mstore.workers.snapshots import Answer, Snapshots
from mstore.workers.timers import Timers

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_MARK_S = 0.5


class Housekeeping:
    """Timers and slices; every change of shared memory it makes is logged first, like samples are."""

    def __init__(self, persister: Persister, files: OwnedFiles, report: Report) -> None:
        self._persister = persister
        self._timers = Timers()
        self.freeing = Freeing(persister, self.settle_definitions)
        self.archiving = Archiving(persister, files, self._timers, self.freeing)
        self.freeing.leaving = self.archiving
        self.retention = Retention(persister, self._timers, self.freeing)
        self.protecting = Protecting(persister, files, self._timers)
        self.orders = Orders(persister, self._timers, self.freeing, self.retention, self.protecting)
        self.snapshots = Snapshots(persister, files, report, self.settle_definitions)
        self.filewatch = FileWatch(persister, files, self.snapshots, report.newest.unsound)
        self.snapshots.on_taken = self.filewatch.snapshot_taken
        self.exports = Exports(persister)
        store_dir, details = persister.spec.directory, report.details()
        self._notes = RunNotes(
            files,
            self._timers,
            [
                Note(
                    protected_note.path_of(store_dir),
                    lambda: protected_note.write(
                        files, store_dir, persister.spec.instance, persister.store.protection
                    ),
                ),
                Note(archive_note_path(store_dir), self.archiving.note, lambda: self.archiving.reads),
                Note(recovery_note_path(store_dir), lambda: keep_details(files, store_dir, details)),
            ],
        )
        self._marking: asyncio.TimerHandle | None = None
        self._marked_seq = 0
        self._stopped = False

    def start(self) -> None:
        self.archiving.start()
        self.protecting.start()
        self.retention.start()
        self.snapshots.start()
        self.filewatch.start()
        self.exports.start()
        self._notes.start()

    async def stop(self, *, snapshot: bool = True) -> None:
        """End the timers; a last snapshot, so that the next start need not replay the log. Not when memory is kept,
        unless it holds what no file does."""
        self._stopped = True
        self._notes.look()
        self.filewatch.stop()
        self.retention.stop()
        self._timers.stop()
        await self.protecting.stop()
        if self._marking is not None:
            self._marking.cancel()
        await self.archiving.stop()
        await self.exports.stop()
        await self.snapshots.stop(take=snapshot or self.filewatch.unprotected)

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
                self._persister.mark_applied()  # a mark changes nothing: the memory is as far as the log
            self._marked_seq = wal.written
        elif wal.written > self._marked_seq:
            self._marking = asyncio.get_running_loop().call_later(_MARK_S, self._mark)
