"""Counters of the log: what this persister's has written and synced, added to what those before it had."""

from __future__ import annotations

from mstore.persistence.files import CommitterLike
from mstore.persistence.wal import Wal
from mstore.shm.control import WorkerSlot

_NAMES = ("wal_bytes", "wal_blocks", "fsyncs", "fsync_us_total", "fsync_errors")


class LogCounters:
    """Made when the log has been opened, after the slot was claimed."""

    def __init__(self, slot: WorkerSlot, wal: Wal, committer: CommitterLike) -> None:
        self._slot = slot
        self._wal, self._committer = wal, committer
        self._first_seq = wal.written
        self._before = {name: slot.get(name) for name in _NAMES}

    def update(self) -> None:
        first_error, _, n_fsyncs, us_total = self._committer.status()
        own = (
            self._wal.bytes_written, self._wal.written - self._first_seq, n_fsyncs, us_total, int(bool(first_error)),
        )  # fmt: skip
        for name, n in zip(_NAMES, own, strict=True):
            self._slot.set(name, self._before[name] + n)
