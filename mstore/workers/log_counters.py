"""Counters of the log: what this persister's has written and synced, added to what those before it had."""

from __future__ import annotations

from mstore.persistence.files import CommitterLike
from mstore.persistence.wal import Wal
from mstore.shm.control import WorkerSlot


class LogCounters:
    """Made when the log has been opened, after the slot was claimed."""

    def __init__(self, slot: WorkerSlot, wal: Wal, committer: CommitterLike) -> None:
        self._slot = slot
        self._wal, self._committer = wal, committer
        self._first_seq = wal.written
        self._before = slot.snapshot()

    def update(self) -> None:
        before, slot = self._before, self._slot
        first_error, _, n_fsyncs, us_total = self._committer.status()
        slot.set("wal_bytes", before["wal_bytes"] + self._wal.bytes_written)
        slot.set("wal_blocks", before["wal_blocks"] + self._wal.written - self._first_seq)
        slot.set("fsyncs", before["fsyncs"] + n_fsyncs)
        slot.set("fsync_us_total", before["fsync_us_total"] + us_total)
        slot.set("fsync_errors", before["fsync_errors"] + (1 if first_error else 0))
