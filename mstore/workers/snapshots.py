"""When snapshots are taken, and the helper process that writes them: the persister's side.

A snapshot is due when the log has grown by wal_bytes since the last one, when snapshot_interval has passed and anything
was written since, when somebody asks, and at a stop, for snapshot_stop_limit at most. One that fails is tried again
after a while that doubles; the log holds everything meanwhile.

Who is protected is in no shared memory: the helper takes it from a memfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from mstore import clock
from mstore.config import longest_s
from mstore.errors import MstoreError, StorageError, Unavailable
from mstore.persistence.files import Files, snapshot_dir, stop_note_path
from mstore.persistence.recovery import Report
from mstore.persistence.snapshot import remove_unfinished
from mstore.workers.helper import Helper

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
"""How often the clock is looked at; a configuration that was read again counts from then on."""
_RETRY_S_MIN, _RETRY_S_MAX = 5.0, 600.0
_TELL_EVERY_S = 10.0

Answer = Callable[[dict[str, Any], MstoreError | None], None]


class Snapshots:
    """Owned by the persister. `settle` logs and publishes what the log refused before."""

    def __init__(
        self, persister: Persister, files: Files, report: Report, settle: Callable[[], None]
    ) -> None:
        self._persister = persister
        self._files = files
        self._settle = settle
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._helper: Helper | None = None
        self._waiting: list[Answer] = []
        newest = report.newest
        self.seq = newest.log_seq
        """Everything up to here is in a sound snapshot."""
        self._unsound = set(newest.unsound)
        self._due = False
        """Whatever the clock and the log say: something is in memory only."""
        self.on_taken: Callable[[int, int], None] = lambda _seq, _oldest_kept_seq: None
        """Called with the sequence of a new generation, and that of the oldest kept."""
        # The age of the snapshot and the log behind it outlive a restart: else one that is restarted often, or
        # whose disk is slow, would never take another.
        created_ns = newest.created_ns or clock.now_ns()
        self._last_s = clock.monotonic_s() - max(0.0, (clock.now_ns() - created_ns) / 1e9)
        self._bytes_before = -newest.log_bytes
        self._retry_wait_s = self._retry_at_s = 0.0
        self._stopped = self._given_up = False

    def start(self) -> None:
        self._look_at_clock()

    # --- when

    def look_at_log(self) -> None:
        """Called after appending: a log that has grown enough asks for a snapshot."""
        grown = self._persister.wal.bytes_written - self._bytes_before
        if grown >= self._persister.config.wal_bytes:
            self._take_if_possible()

    def _look_at_clock(self) -> None:
        if self._stopped:
            return
        interval_s = self._persister.config.snapshot_interval_s
        overdue = interval_s and clock.monotonic_s() - self._last_s >= interval_s
        if self._due or (self._persister.wal.written > self.seq and (overdue or self._unsound)):
            self._take_if_possible()  # only one sound copy of something is left: do not wait for the interval
        else:
            self.look_at_log()
        self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look_at_clock)

    def protect(self, unsound: Collection[int]) -> None:
        """Take a snapshot at once, and one more if another is under way: that one began too early.

        unsound  sequences of generations that do not count any more
        """
        self._unsound |= set(unsound)
        self._due, self._retry_at_s = True, 0.0
        self._take_if_possible()

    @property
    def under_way(self) -> bool:
        return self._task is not None

    def _take_if_possible(self) -> None:
        if self._task is None and not self._stopped and clock.monotonic_s() >= self._retry_at_s:
            self.request(lambda _details, _error: None)

    def request(self, answer: Answer) -> None:
        """Start a snapshot, or wait for the one under way; `answer` is called with its details or the error."""
        self._waiting.append(answer)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._take())

    async def stop(self, *, take: bool) -> None:
        """End the timer; take a last snapshot, so that the next start need not replay the log, if time allows."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        limit_s = self._persister.config.snapshot_stop_limit_s if take else 0
        if limit_s and self._task is None and (self._due or self._persister.wal.written > self.seq):
            self.request(lambda _details, _error: None)
        task = self._task
        if task is None:
            return
        if limit_s:
            await asyncio.wait({task}, timeout=limit_s)
        if task.done():
            return
        self._given_up = True
        if self._helper is not None:
            self._helper.kill()
        await asyncio.wait({task})
        if limit_s:
            self._note_that_it_was_given_up(limit_s)

    def _note_that_it_was_given_up(self, limit_s: float) -> None:
        why = f"the snapshot at the stop was given up after {limit_s:g} s (snapshot_stop_limit)"
        log.warning("%s: the log holds everything, and the next start reads more of it", why)
        with contextlib.suppress(StorageError):
            self._files.replace(
                stop_note_path(self._persister.spec.directory), json.dumps({"note": why}).encode()
            )

    # --- how

    async def _take(self) -> None:
        details: dict[str, Any] = {}
        failure: MstoreError | None = None
        began_s = clock.monotonic_s()
        unsound, due, self._due = set(self._unsound), self._due, False
        try:
            details = await self.run_helper()
        except MstoreError as error:
            # A helper that a stop has killed did not fail: who asked for a snapshot may ask the next store.
            failure = Unavailable("the store stops: no snapshot is taken") if self._given_up else error
            if not self._given_up:
                log.error("no snapshot: %s; it is tried again later, the log holds everything", error)
        except Exception as error:
            failure = StorageError(f"the snapshot helper failed: {error}")
            log.exception("no snapshot")
        self._task = self._helper = None
        slot = self._persister.slot
        for name in ("snapshot_permille", "snapshot_now_bytes", "snapshot_began_s"):
            slot.set(name, 0)
        if failure is None:
            self._retry_wait_s = 0.0
            self._unsound -= unsound
            slot.add("snapshots")
            slot.add("snapshot_bytes", details["bytes"])
            slot.add("snapshot_us_total", int((clock.monotonic_s() - began_s) * 1e6))
        else:
            self._due = self._due or due
            slot.add("snapshot_errors")
            # A killed helper could not clean up. A disk that is full stays so for a while: not a helper after every block.
            with contextlib.suppress(StorageError):
                remove_unfinished(self._files, snapshot_dir(self._persister.spec.directory))
            self._retry_wait_s = min(max(2 * self._retry_wait_s, _RETRY_S_MIN), _RETRY_S_MAX)
        self._retry_at_s = clock.monotonic_s() + self._retry_wait_s
        if failure is None:
            try:
                self.on_taken(self.seq, details["oldest_kept_seq"])
            except StorageError as error:  # the snapshot stands, and who asked for it is to hear so
                log.warning("cannot look after the files: %s", error)
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer(details, failure)
        if failure is None and self._due:
            self._take_if_possible()

    async def run_helper(self) -> dict[str, Any]:
        """Everything up to `seq` is applied when the helper starts, so replaying from seq + 1 on its files is exact.

        Definitions count as applied when they are published: the helper copies no others.
        """
        persister = self._persister
        self._settle()
        persister.mark_applied()  # the log behind it may be retired, and nothing else would say so in an idle store
        seq, n_bytes, began_s = persister.wal.written, persister.wal.bytes_written, clock.monotonic_s()
        job = {
            "store_dir": persister.spec.store_dir,
            "instance": persister.spec.instance,
            "segments": persister.spec.segments,
            "segment_fds": persister.segment_fds,
            "seq": seq,
            "retention_s": longest_s(persister.config.retentions_s()),
            "unsound": sorted(self._unsound),
            "lock_inode": persister.spec.lock_inode,
            "parent_pid": os.getpid(),
        }
        log.info("a snapshot of block %d begins", seq)
        persister.slot.set("snapshot_began_s", clock.now_s())
        protected_fd = os.memfd_create("mstore-protected")
        try:
            with open(protected_fd, "wb", closefd=False) as stream:
                stream.writelines(persister.store.protection.records())
            self._helper = persister.helper("snapshot", "the snapshot helper")
            details = await self._helper.run(
                {**job, "protected_fd": protected_fd},
                self._progress(began_s),
                (protected_fd, *persister.segment_fds.values()),
            )
        finally:
            os.close(protected_fd)
        self.seq, self._bytes_before, self._last_s = seq, n_bytes, began_s
        # The older of the two kept generations must stay usable: only what it covers is retired.
        retired = persister.wal.retire(details["oldest_kept_seq"])
        log.info(
            "snapshot of %d series, %d bytes in %.1f s, %d log segments retired",
            details["series"], details["bytes"], clock.monotonic_s() - began_s, retired,
        )  # fmt: skip
        return {**details, "retired_segments": retired}

    def _progress(self, began_s: float) -> Callable[[dict[str, Any]], None]:
        """What notes how far the helper has come."""
        told_s = began_s

        def told(line: dict[str, Any]) -> None:
            nonlocal told_s
            self._persister.slot.set("snapshot_permille", int(1000 * line["share"]))
            self._persister.slot.set("snapshot_now_bytes", line["bytes"])
            if clock.monotonic_s() - told_s >= _TELL_EVERY_S:
                told_s = clock.monotonic_s()
                _tell(line["share"], line["bytes"], told_s - began_s)

        return told


def _tell(share: float, n_bytes: int, took_s: float) -> None:
    left = f", about {took_s * (1 - share) / share:.0f} s left" if share > 0 else ""
    log.info("snapshot: %.0f%%, %d bytes%s", 100 * share, n_bytes, left)
