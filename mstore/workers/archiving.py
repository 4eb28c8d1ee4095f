"""When data is archived, and the helper process that does it: the persister's side.

    retention ── may_free() ──> as far as everything is archived, and no further
    the cap, a command ── leaves() ──> chunks that are not archived go into a file first (archive/leavers.py)
    every interval ──> helper process ──> Parquet, manifest ──> may_free() lets more go

A pass archives what retention does not serve any more: nothing can be added to that, so each sample is archived once.
When it fails, memory keeps the data, up to its cap, and it is tried again after a while that doubles; how far behind it
is, is counted and logged. Nothing here waits for a file system that hangs: helpers look at the archive. Until they have
said how far it is, retention frees nothing, and what comes late is noted as if all up to now were archived.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mstore import clock, limits
from mstore.archive.leavers import LeaversFile
from mstore.archive.manifest import NOTHING_S
from mstore.archive.switch import Setup, write_setup
from mstore.config.archive import Archive
from mstore.errors import ArchiveError, Degraded, MstoreError, StorageError
from mstore.persistence.files import Files
from mstore.shm.directory import KEEP_ALL_S
from mstore.workers.clockwatch import ClockWatch
from mstore.workers.departure import Departure
from mstore.workers.freeing import Freeing
from mstore.workers.helper import Helper
from mstore.workers.leaving import Leaving, Why
from mstore.workers.settled import Settled
from mstore.workers.timers import Timers

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_FIRST_S_MAX = 60.0
"""After a start: a store that is restarted more often than its interval is archived, too."""
_RETRY_S_MIN, _RETRY_S_MAX = 5.0, 600.0
_KNOWN_S_MAX = 2.0
"""That a start waits for the manifests, which takes milliseconds where nothing hangs."""
_READ_AGAIN_S = 60.0
"""After the manifests could not be read."""
_FREE_SERIES = 2048
_FREE_PAUSE_S = 0.002

Answer = Callable[[dict[str, Any], MstoreError | None], None]


_TOLD = ("rows", "bytes", "parts", "days_deleted", "freed")


@dataclass(frozen=True, slots=True)
class _Order:
    """What one pass is to do."""

    everything: bool = False
    """Not only what is past retention."""
    clusters: list[str] | None = None
    delete: bool = False
    """Free it then."""


def archive_root(store_dir: Path, archive: Archive) -> Path:
    """Where the archive is: a relative directory is one in DIR."""
    return store_dir / Path(archive.directory).expanduser()


class Archiving(Leaving):
    """Owned by the persister's housekeeping."""

    def __init__(self, persister: Persister, files: Files, timers: Timers, freeing: Freeing) -> None:
        self._persister = persister
        self._files = files
        self._timers = timers
        self._freeing = freeing
        self._settled = Settled(persister)
        self._clock = ClockWatch()
        self._config = Archive()
        self._archived: dict[int, int] = {}
        """By index of the metric, of those that were asked about."""
        self._by_name: dict[str, dict[str, int]] = {}
        self._known_of: Path | None = None
        """The archive of which the manifests were read; None: they are still to be."""
        self._unread = False
        self._reading: Path | None = None
        self._read = asyncio.Event()
        self._leavers = LeaversFile(files, persister.spec.directory, limits.LEAVERS_BYTES_MAX)
        self.departure = Departure(persister, self._leavers)
        self._task: asyncio.Task[None] | None = None
        self._helper: Helper | None = None
        self._waiting: list[tuple[_Order, Answer]] = []
        self._due_at_s = math.inf
        self._retry_wait_s = 0.0
        self._looking = False
        self._stopped = False

    # --- Leaving

    def may_free(self, metric: int, before_s: int) -> int:
        if not self._config.writes or before_s == KEEP_ALL_S:
            return before_s
        return min(before_s, self._archived_to(metric))

    def leaves(self, why: Why, ranges: NDArray[np.void]) -> None:
        if self._config.writes:
            self.departure.leaves(why, ranges, self._archived_to, during=self._task is not None)

    def _archived_to(self, metric: int) -> int:
        found = self._archived.get(metric)
        if found is None:
            directory = self._persister.directory
            info = directory.metric(metric)
            by_name = self._by_name.get(directory.level(info.cluster).name, {})
            found = self._archived[metric] = by_name.get(info.name, NOTHING_S)
        return found

    # --- when

    def start(self) -> None:
        """Once the memory is filled."""
        try:
            self._leavers.cut_behind(self._persister.wal.written)
        except StorageError as error:
            log.error("the archive: %s", error)
        self.follow()

    def follow(self) -> None:
        """Take over the configuration as it is now."""
        config = self._persister.config.archive
        self._config = config
        self._due_at_s = min(self._due_at_s, clock.monotonic_s() + min(_FIRST_S_MAX, config.interval_s))
        try:
            self.note()
        except StorageError as error:
            log.error("the archive: %s", error)
        self._ask_how_far()
        if not self._looking:
            self._look()

    @property
    def reads(self) -> bool:
        """Whether there is an archive, as the configuration is now."""
        return self._config.reads

    def note(self) -> None:
        """Leave in DIR/run where the archive is, or nothing where there is none. raises StorageError"""
        store_dir, config = self._persister.spec.directory, self._config
        setup = Setup(self._root, config.writes, config.compression_level, config.max_bytes)
        write_setup(self._files, store_dir, setup if config.reads else None)

    # --- how far it is

    async def until_known(self) -> None:
        """Whoever asks from now on is told of what left memory early; not when the archive takes longer to say so."""
        if self._unread or self._reading is not None:
            try:
                await asyncio.wait_for(self._read.wait(), _KNOWN_S_MAX)
            except TimeoutError:
                log.error(
                    "the archive at %s does not say how far it is: is its file system there? Until it does, memory keeps"
                    " everything, and answers may lack what left it early",
                    self._root,
                )

    @property
    def _root(self) -> Path:
        return archive_root(self._persister.spec.directory, self._config)

    def _ask_how_far(self) -> None:
        """Read the manifests, of another directory than before perhaps."""
        if self._stopped:
            return
        if self._known_of != self._root or not self._config.reads:
            self._known_of = None
            self._by_name = {}
            self.departure.late_before_s = NOTHING_S
            if self._config.writes:
                self.departure.late_before_s = clock.now_s() + 1 + self._longest_step_s()
            self._know({})
        self._unread = self._config.reads
        if self._reading not in (None, self._root) and self._helper is not None:
            self._helper.kill()
        if self._unread:
            self._begin_work()

    async def _read_manifests(self) -> None:
        """How far each metric is archived, as the files say."""
        spec, root = self._persister.spec, self._root
        job = {
            "store_dir": spec.store_dir, "root": str(root), "lock_inode": spec.lock_inode, "parent_pid": os.getpid(),
            "max_bytes": 0 if self._config.writes else self._config.max_bytes,
        }  # fmt: skip
        self._unread, self._reading = False, root
        self._helper = self._persister.helper("archived", "the reader of the archive's manifests")
        try:
            found = await self._helper.run(job, lambda _line: None)
        except StorageError as error:
            if not (self._unread or self._stopped):  # else it was ended, and another directory is read next
                log.error("the archive: %s; it is tried again later", error)
                self._timers.later(_READ_AGAIN_S, self._ask_how_far)
            return
        finally:
            self._helper = self._reading = None
            self._read.set()
        if self._unread or root != self._root:
            return
        for text in found["wrong"]:
            log.error("the archive: %s", text)
        self._known_of = root
        self._by_name = {}
        self._know(found["archived_to"])
        if found["early"] or self._leavers.n_bytes:
            self._persister.control.left += 1

    def _know(self, by_name: dict[str, dict[str, int]]) -> None:
        self._by_name.update(by_name)
        self._archived = {}
        if not self._config.writes:  # nobody would take the notes of late samples
            self.departure.late_before_s = NOTHING_S
            return
        reached = [to_s for one in self._by_name.values() for to_s in one.values()]
        late_before_s = max(reached, default=NOTHING_S)
        if self._known_of is None:
            late_before_s = max(late_before_s, self.departure.late_before_s)
        self.departure.late_before_s = late_before_s

    def _look(self) -> None:
        self._looking = (
            self._config.writes and not self._stopped
        )  # a store without an archive is not woken for it
        if not self._looking:
            return
        self._settled.look()
        if self._task is None and clock.monotonic_s() >= self._retry_at_s:
            due = clock.monotonic_s() >= self._due_at_s or self._leavers.n_bytes >= limits.LEAVERS_BYTES_DUE
            if due and self._clock.agrees():
                self._begin(_Order(), _nobody)
        self._timers.later(_LOOK_EVERY_S, self._look)

    @property
    def _retry_at_s(self) -> float:
        return self._due_at_s if self._retry_wait_s else 0.0

    def now(self, clusters: list[str], delete: bool, answer: Answer) -> None:
        """Archive all there is; `answer` is given the counts, or the error."""
        if not self._config.writes:
            answer(
                {},
                ArchiveError(
                    'this store has no archive: set mode = "archive" in [archive] of its configuration'
                ),
            )
            return
        self._begin(_Order(True, clusters or None, delete), answer)

    def _begin(self, order: _Order, answer: Answer) -> None:
        self._waiting.append((order, answer))
        self._begin_work()

    def _begin_work(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """End the timer and the helper: what it has not finished, the next start archives."""
        self._stopped = True
        task = self._task
        while task is not None and not task.done():
            if self._helper is not None:
                self._helper.kill()
            await asyncio.wait({task}, timeout=0.05)

    # --- how

    async def _work(self) -> None:
        while (self._unread or self._waiting) and not self._stopped:
            if self._unread:
                await self._read_manifests()
                continue
            order, answer = self._waiting.pop(0)
            details: dict[str, Any] = {}
            failure: MstoreError | None = None
            try:
                details = await self._archive(order)
                if order.delete:
                    details["freed"] = await self._free(order)
            except MstoreError as error:
                failure = error
            except Exception as error:
                failure = ArchiveError(f"the archive helper failed: {error}")
                log.exception("nothing is archived")
            self._account(order, details, failure)
            told: dict[str, Any] = {name: details.get(name, 0) for name in _TOLD}
            answer({**told, "failed": details.get("failed", [])}, failure)
        self._task = None
        waiting, self._waiting = self._waiting, []
        for _, answer in waiting:
            answer({}, ArchiveError("the store stops"))

    async def _archive(self, order: _Order) -> dict[str, Any]:
        """One pass; its counts. raises ArchiveError, StorageError"""
        persister, began_s, root = self._persister, clock.monotonic_s(), self._root
        complete = self._leavers.close()
        self.departure.pass_begins()
        # What is stored from here on at a time that this pass archives may be too late for it.
        if order.everything:
            self.departure.late_before_s = max(
                self.departure.late_before_s, clock.now_s() + 1 + self._longest_step_s()
            )
        job = {
            "store_dir": persister.spec.store_dir,
            "instance": persister.spec.instance,
            "segments": persister.spec.segments,
            "segment_fds": persister.segment_fds,
            "root": str(root),
            "clusters": order.clusters,
            "everything": order.everything,
            "freeing": order.delete,
            "now_s": clock.now_s() if order.everything else self._settled.at_s,
            "retention_s": persister.config.retention_s,
            "level": self._config.compression_level,
            "max_bytes": self._config.max_bytes,
            "leavers": [str(path) for path in complete],
            "lock_inode": persister.spec.lock_inode,
            "parent_pid": os.getpid(),
        }
        done: dict[str, Any] = {}
        self._helper = persister.helper("archive", "the archive helper")
        try:
            done = await self._helper.run(job, self._progress, tuple(persister.segment_fds.values()))
        finally:
            self._helper = None
            persister.slot.set("archive_permille", 0)
            moved = self._root != root or not self._config.writes
            self.departure.pass_ends(done=bool(done.get("leavers_done")) and not moved)
        if moved:  # nobody looks there any more: memory must keep what only the old directory has
            raise ArchiveError(
                f"the configuration has changed meanwhile: what this pass wrote lies in {root}, and counts for nothing now"
            )
        self._know(done["archived_to"])
        persister.control.left += 1 if persister.control.left or order.delete or complete else 0
        if done["leavers_done"]:
            self._leavers.remove(complete)
        log.info(
            "archived %d samples in %d parts, %d bytes, in %.1f s",
            done["n_rows"], done["n_parts"], done["n_bytes"], clock.monotonic_s() - began_s,
        )  # fmt: skip
        return {
            "rows": done["n_rows"], "bytes": done["n_bytes"], "parts": done["n_parts"],
            "days_deleted": done["n_days_deleted"], "failed": done["failed"], "lost": done["n_lost"],
        }  # fmt: skip

    def _longest_step_s(self) -> int:
        table = self._persister.directory.series_table()
        return int(table["step_s"].max(initial=0))

    def _progress(self, line: dict[str, Any]) -> None:
        self._persister.slot.set("archive_permille", int(1000 * line["share"]))

    def _account(self, order: _Order, details: dict[str, Any], failure: MstoreError | None) -> None:
        slot, now_s = self._persister.slot, clock.monotonic_s()
        slot.add("archive_rows", details.get("rows", 0))
        slot.add("archive_bytes", details.get("bytes", 0))
        slot.add("archive_lost", details.get("lost", 0))
        if failure is None and not details["failed"]:
            slot.add("archive_passes")
            self._retry_wait_s = 0.0
            if not order.everything:
                self._due_at_s = now_s + self._config.interval_s
        else:
            slot.add("archive_errors")
            self._retry_wait_s = min(max(2 * self._retry_wait_s, _RETRY_S_MIN), _RETRY_S_MAX)
            self._due_at_s = now_s + self._retry_wait_s
            if not self._stopped:
                why = failure or "; ".join(details["failed"])
                log.error("not archived: %s; memory keeps it, and it is tried again later", why)
        slot.set("archive_behind_s", self._behind_s())

    def _behind_s(self) -> int:
        """For how long the archive has been behind retention, of the metric that is furthest behind."""
        persister = self._persister
        kept_from_s = persister.directory.kept_from_s(clock.now_s(), persister.config.retention_s)
        limited = [(index, int(from_s)) for index, from_s in enumerate(kept_from_s) if from_s != KEEP_ALL_S]
        reached = [(self._archived_to(index), from_s) for index, from_s in limited]
        return max(0, *(from_s - to_s for to_s, from_s in reached if to_s != NOTHING_S), 0)

    async def _free(self, order: _Order) -> int:
        """Free the chunks of which everything is archived; their number."""
        directory = self._persister.directory
        n_freed = at = 0
        wanted = {
            index: self._archived_to(index)
            for index in range(directory.counts()["n_metrics"])
            if order.clusters is None
            or directory.level(directory.metric(index).cluster).name in order.clusters
        }
        limit_of = np.full(directory.counts()["n_metrics"], NOTHING_S)
        limit_of[list(wanted)] = list(wanted.values())
        while at < (n_series := directory.counts()["n_series"]):
            count = min(_FREE_SERIES, n_series - at)
            metrics = directory.series_table()["metric"][at : at + count]
            before_s = np.full(count, NOTHING_S)
            known = metrics < len(limit_of)
            before_s[known] = limit_of[metrics[known]]
            try:
                n_freed += self._freeing.free(at, count, before_s, Why.RETENTION)
            except Degraded as error:
                raise StorageError(f"not all that is archived was freed: {error}") from error
            at += count
            await asyncio.sleep(_FREE_PAUSE_S)
        self._persister.slot.add("chunks_freed", n_freed)
        return n_freed


def _nobody(_details: dict[str, Any], _error: MstoreError | None) -> None:
    """Who is told of a pass that nobody asked for."""
