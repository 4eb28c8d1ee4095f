"""One round of archiving: of every metric what is to leave memory, day by day, and then the manifest says so.

    manifest: cpu_load archived to 10:00            |<- in the archive ->|<--- this pass --->|  stays for now
                                                                       10:00              11:00

    1. lock; remove what a pass that was ended half way has left
    2. of each day: samples, series and metrics into _tmp/
    3. give all files their names, oldest day first
    4. the manifest: from here on they belong to the archive, and memory may free what they hold
    5. beyond max_bytes, the oldest days go (bounds.py)

A pass over quiet memory (a stopped store's) and one beside a working store are the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import clock, faults
from mstore.archive import mending, names, schema
from mstore.archive.arrow import pa
from mstore.archive.bounds import keep_within
from mstore.archive.index import Index, Window
from mstore.archive.leavers import EarlyLeavers
from mstore.archive.lives import Life, Memory
from mstore.archive.manifest import NOTHING_S, Manifest, Part, joined, write_manifest
from mstore.archive.reading import ArchiveFiles
from mstore.archive.rows import Source
from mstore.archive.scope import Scope
from mstore.archive.writing import PartWriter, Written, publish
from mstore.errors import ArchiveError, StorageError
from mstore.limits import ARCHIVE_SAMPLES_MAX
from mstore.persistence.files import FILE_MODE, Files
from mstore.shm import layout

log = logging.getLogger(__name__)

_WORK_S, _PAUSE_SHARE = 0.02, 0.5
"""After so much work, such a part of the time it took is left to others."""
_ORIGINS = {
    layout.ORIGIN_CONFIGURED: "configured", layout.ORIGIN_REGISTERED: "registered", layout.ORIGIN_CLIENT: "client",
}  # fmt: skip

Progress = Callable[[float, int], None]
"""(share done, 0 to 1; rows written)"""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a pass is told.

    to_s        int64[n_metrics]: of each metric everything older than this second is to be in the archive
    clusters    names; None = all
    """

    to_s: NDArray[np.int64]
    clusters: Collection[str] | None = None
    level: int = 3
    max_bytes: int = 0
    paced: bool = True
    freeing: bool = False
    """Memory is to free what is archived at once: from then on it lacks what retention would still serve."""
    leavers: tuple[Path, ...] = ()
    """Complete files of early leavers, to be archived with the rest."""


@dataclass(slots=True)
class Result:
    """What a pass did."""

    n_rows: int = 0
    n_bytes: int = 0
    n_parts: int = 0
    n_days_deleted: int = 0
    archived_to: dict[str, dict[str, int]] = field(default_factory=dict)
    """By cluster and metric."""
    failed: list[str] = field(default_factory=list)
    """Clusters that could not be archived, a sentence each; the others were."""
    n_lost: int = 0
    """Chunks in files of early leavers whose series are gone: nobody knows any more what they were."""
    leavers_done: bool = False
    """Nothing in the files of early leavers is needed any more."""


def run_pass(
    files: Files, root: Path, memory: Memory, orders: Orders, progress: Progress = lambda _share, _rows: None
) -> Result:
    """Archive what `orders` asks for; each cluster by itself.

    raises  ArchiveError when another process archives to the same place, StorageError when it cannot be written at all
    """
    result = Result()
    with locked(files, root):
        _remove_unfinished(files, root)
        chosen = {
            name: level
            for name, level in sorted(memory.clusters().items())
            if orders.clusters is None or name in orders.clusters
        }
        early = EarlyLeavers(files, orders.leavers)
        known: set[int] = set()
        for place, (name, level) in enumerate(chosen.items()):
            before = result.n_rows

            def told(share: float, n_rows: int, place: int = place, before: int = before) -> None:
                progress((place + share) / len(chosen), before + n_rows)

            try:
                one = _ClusterPass(files, root, memory, level, orders, early, told)
                one.run()
                known |= one.refs
            except (ArchiveError, StorageError) as error:
                log.error("cluster %s is not archived: %s", name, error.message)
                result.failed.append(f"{name}: {error.message}")
                continue
            result.n_rows += one.n_rows
            result.n_bytes += one.n_bytes
            result.n_parts += one.n_parts
            result.archived_to[name] = one.manifest.archived_to
        if orders.clusters is None and not result.failed:
            result.n_lost = sum(len(kept) for ref, kept in early.chunks.items() if ref not in known)
            result.leavers_done = True
        result.n_days_deleted = keep_within(files, root, orders.max_bytes)
    progress(1.0, result.n_rows)
    return result


@contextlib.contextmanager
def locked(files: Files, root: Path) -> Iterator[None]:
    """Be the only writer of an archive. raises ArchiveError when another process is"""
    files.mkdir(names.manifest_dir(root))
    path = names.lock_path(root)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}", path=str(path)) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ArchiveError(
                f"another process archives to {root}: try again later", path=str(root)
            ) from error
        yield
    finally:
        os.close(fd)


def _remove_unfinished(files: Files, root: Path) -> None:
    folder = names.tmp_dir(root)
    files.mkdir(folder)
    for name in files.list(folder):
        files.unlink(folder / name)


class _ClusterPass:
    """Steps 2 to 4 for one cluster."""

    def __init__(
        self,
        files: Files,
        root: Path,
        memory: Memory,
        level: int,
        orders: Orders,
        early: EarlyLeavers,
        progress: Progress,
    ) -> None:
        self._files = files
        self._root = root
        self._orders = orders
        self._progress = progress
        self.name = memory.directory.level(level).name
        self.manifest: Manifest = mending.load(files, root, self.name)
        mending.remove_strangers(files, root, self.manifest)
        self._archive = ArchiveFiles(root)
        early = early.without(self.manifest.leavers)
        self._index = Index(memory, level, early)
        self.refs = self._index.refs()
        self._source = Source(memory, early, self._archived)
        self._start, self._stop = self._windows()
        self.n_rows = self.n_bytes = self.n_parts = 0
        self._ends = self._index.ends()
        self._worked_s = 0.0

    def _windows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[start, stop) of each metric, by index; empty for those of other clusters."""
        n = max(self._index.metrics, default=-1) + 1
        start, stop = np.zeros(n, np.int64), np.full(n, NOTHING_S, np.int64)
        for index, info in self._index.metrics.items():
            start[index] = self.manifest.archived_to.get(info.name, NOTHING_S)
            if index < len(self._orders.to_s):
                stop[index] = self._orders.to_s[index]
        return start, stop

    def run(self) -> None:
        written: list[Written] = []
        try:
            self._write(written)
            faults.hit("archive.written")
            number = self.manifest.next_part
            parts = [
                Part(number, one.day, one.n_rows, one.n_bytes, one.first_s, one.last_s, one.footers())
                for one in written
            ]
            if written and not names.manifest_path(self._root, self.name).exists():
                # Without one the files below would be taken for those of a manifest that was lost.
                write_manifest(self._files, self._root, self.manifest)
            for part in written:
                publish(self._files, self._root, self.name, number, part)
                faults.hit("archive.published")
        except BaseException:
            for part in written:
                for path in part.paths.values():
                    with contextlib.suppress(StorageError):
                        self._files.unlink(path)
            raise
        self._commit(written, parts)

    def _write(self, written: list[Written]) -> None:
        """All days under temporary names; a day's files are finished when it is known whether they are the last."""
        last: PartWriter | None = None
        days = self._days()
        try:
            for place, day in enumerate(days):
                writer = self._day(day, share=(place / len(days), 1 / len(days)))
                if writer is not None and last is not None:
                    last, done = writer, last
                    written.append(self._finished(done, newest=False))
                last = writer or last
            if last is not None:
                written.append(self._finished(last, newest=True))
        except BaseException:
            if last is not None:
                last.abandon()
            raise

    def _days(self) -> list[int]:
        """Days on which any series has something to archive."""
        first, stop = self._index.span
        days = range(names.day_of(first), names.day_of(stop - 1) + 1) if first < stop else ()
        return [day for day in days if self._index.any_in(self._window_of(day))]

    def _window_of(self, day: int) -> Window:
        start, stop = day * names.DAY_S, (day + 1) * names.DAY_S
        return Window(np.maximum(self._start, start), np.minimum(self._stop, stop), start, stop)

    def _archived(self, life: Life, start: int, stop: int) -> NDArray[np.int64]:
        """Times in ms of the rows that the archive has of a series."""
        scope = Scope(self.name, {life.path.host}, {life.path.metric}, start, stop)
        found = [np.empty(0, np.int64)]
        for part in self.manifest.overlapping(start, stop):
            same = [one for one in self._archive.lives(scope, part) if one == life]
            found += [rows.key_ms for rows in self._archive.samples(scope, part, same, ARCHIVE_SAMPLES_MAX)]
        return np.concatenate(found)

    def _day(self, day: int, *, share: tuple[float, float]) -> PartWriter | None:
        """The rows of one day; None when there are none."""
        window = self._window_of(day)
        writer: PartWriter | None = None
        done, n_lives = 0, max(1, len(self._index))
        try:
            for group in self._index.groups(window):
                began_s = clock.monotonic_s()
                for rows in self._source.rows(group, window):
                    if writer is None:
                        writer = self._writer(day)
                    writer.add(group, rows)
                    self.n_rows += len(rows)
                done += len(group.lives)
                self._progress(share[0] + share[1] * min(1.0, done / n_lives), self.n_rows)
                self._pause(clock.monotonic_s() - began_s)
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise
        return writer

    def _finished(self, writer: PartWriter, *, newest: bool) -> Written:
        try:
            definitions = self._definitions(writer.metrics)
            return writer.finish(definitions, self._ends, self._said(writer.early, newest))
        except BaseException:
            writer.abandon()
            raise

    def _writer(self, day: int) -> PartWriter:
        return PartWriter(
            self._files, self._root, self.name, self.manifest.next_part, day,
            level=self._orders.level, paced=self._orders.paced,
        )  # fmt: skip

    def _said(self, early: list[tuple[int, int]], newest: bool) -> dict[str, Any]:
        """For the file's metadata: with it a manifest that is lost is made again. Only the file that is named last
        says up to where all is archived: without it the pass was not complete."""
        said: dict[str, Any] = {"early": [*early, *self._freed()]}
        if newest:
            said["archived_to"] = self._reached()
        return said

    def _freed(self) -> list[tuple[int, int]]:
        """The seconds that memory will lack when it frees what it holds and the archive has."""
        if not self._orders.freeing:
            return []
        return [(self._index.span[0], max(self._reached().values(), default=NOTHING_S))]

    def _reached(self) -> dict[str, int]:
        reached = dict(self.manifest.archived_to)
        for index, info in self._index.metrics.items():
            if self._stop[index] > reached.get(info.name, NOTHING_S):
                reached[info.name] = int(self._stop[index])
        return reached

    def _pause(self, took_s: float) -> None:
        self._worked_s += took_s
        if self._orders.paced and self._worked_s > _WORK_S:
            time.sleep(self._worked_s * _PAUSE_SHARE)
            self._worked_s = 0.0

    def _definitions(self, indices: Collection[int]) -> Any:
        infos = sorted((self._index.metrics[index] for index in indices), key=lambda info: info.name)
        return pa.table(
            {
                "cluster": [self.name] * len(infos),
                "metric": [info.name for info in infos],
                "frequency": [info.step_s for info in infos],
                "aggregation": [info.aggregation for info in infos],
                "value_type": [info.type for info in infos],
                "unit": [info.unit for info in infos],
                "columns": [",".join(f"{name}:{kind}" for name, kind in info.columns) for info in infos],
                "origin": [_ORIGINS.get(info.origin, "") for info in infos],
            },
            schema=schema.METRICS,
        )

    def _commit(self, written: list[Written], parts: list[Part]) -> None:
        manifest = self.manifest
        manifest.archived_to = self._reached()
        manifest.parts += parts
        left = [span for part in written for span in part.early]
        manifest.early = joined([*manifest.early, *left, *self._freed()])
        manifest.leavers = [path.name for path in self._orders.leavers]
        manifest.next_part += bool(written)
        write_manifest(self._files, self._root, manifest)
        faults.hit("archive.committed")
        self.n_parts = len(written)
        self.n_bytes = sum(part.n_bytes for part in written)
