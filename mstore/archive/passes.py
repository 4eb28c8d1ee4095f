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
from mstore.archive.lives import Index, Memory
from mstore.archive.manifest import NOTHING_S, Manifest, Part, write_manifest
from mstore.archive.rows import rows_of
from mstore.archive.writing import PartWriter, Written, publish
from mstore.errors import ArchiveError, StorageError
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
    early: bool = False
    """Memory is told to free it at once: queries of the time retention covers need the archive."""


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
        for place, (name, level) in enumerate(chosen.items()):
            before = result.n_rows

            def told(share: float, n_rows: int, place: int = place, before: int = before) -> None:
                progress((place + share) / len(chosen), before + n_rows)

            try:
                one = _ClusterPass(files, root, memory, level, orders, told)
                one.run()
            except (ArchiveError, StorageError) as error:
                log.error("cluster %s is not archived: %s", name, error)
                result.failed.append(f"{name}: {error.message}")
                continue
            result.n_rows += one.n_rows
            result.n_bytes += one.n_bytes
            result.n_parts += one.n_parts
            result.archived_to[name] = one.manifest.archived_to
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
        self, files: Files, root: Path, memory: Memory, level: int, orders: Orders, progress: Progress
    ) -> None:
        self._files = files
        self._root = root
        self._memory = memory
        self._orders = orders
        self._progress = progress
        self._index = Index(memory, level)
        self.name = self._index.name
        self.manifest: Manifest = mending.load(files, root, self.name)
        mending.remove_strangers(files, root, self.manifest)
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
            days = self._days()
            for place, day in enumerate(days):
                part = self._day(day, newest=place == len(days) - 1, share=(place / len(days), 1 / len(days)))
                if part is not None:
                    written.append(part)
            faults.hit("archive.written")
            number = self.manifest.next_part
            if written and not names.manifest_path(self._root, self.name).exists():
                write_manifest(
                    self._files, self._root, self.manifest
                )  # else the files below could not be told
            for part in written:
                publish(self._files, self._root, self.name, number, part)
                faults.hit("archive.published")
        except BaseException:
            for part in written:
                for path in part.paths.values():
                    with contextlib.suppress(StorageError):
                        self._files.unlink(path)
            raise
        self._commit(written)

    def _days(self) -> list[int]:
        """Days on which any metric has chunks in its window."""
        first, stop = self._index.span
        low, high = self._start[self._start < self._stop], self._stop[self._start < self._stop]
        if not len(low) or first >= stop:
            return []
        days = range(
            names.day_of(max(first, int(low.min()))), names.day_of(min(stop, int(high.max())) - 1) + 1
        )
        return [day for day in days if self._index.any_in(*self._window_of(day))]

    def _window_of(self, day: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start, stop = day * names.DAY_S, (day + 1) * names.DAY_S
        return np.maximum(self._start, start), np.minimum(self._stop, stop)

    def _day(self, day: int, *, newest: bool, share: tuple[float, float]) -> Written | None:
        """The rows of one day under temporary names; None when there are none."""
        start, stop = self._window_of(day)
        writer: PartWriter | None = None
        done, n_lives = 0, max(1, len(self._index))
        try:
            for group in self._index.groups(start, stop):
                began_s = clock.monotonic_s()
                for rows in rows_of(self._memory, group, int(start[group.index]), int(stop[group.index])):
                    if writer is None:
                        writer = self._writer(day)
                    writer.add(group, rows)
                    self.n_rows += len(rows)
                done += len(group.lives)
                self._progress(share[0] + share[1] * min(1.0, done / n_lives), self.n_rows)
                self._pause(clock.monotonic_s() - began_s)
            if writer is None:
                return None
            return writer.finish(self._definitions(writer.metrics), self._ends, self._said(newest))
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise

    def _writer(self, day: int) -> PartWriter:
        return PartWriter(
            self._files, self._root, self.name, self.manifest.next_part, day,
            level=self._orders.level, paced=self._orders.paced,
        )  # fmt: skip

    def _said(self, newest: bool) -> dict[str, Any]:
        """For the file's metadata: with it a manifest that is lost is made again. Only the file that is named last
        says up to where all is archived: without it the pass was not complete."""
        said: dict[str, Any] = {"early": self._orders.early}
        if newest:
            said["archived_to"] = self._reached()
        return said

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

    def _commit(self, written: list[Written]) -> None:
        manifest = self.manifest
        manifest.archived_to = self._reached()
        for part in written:
            manifest.parts.append(
                Part(manifest.next_part, part.day, part.n_rows, part.n_bytes, part.first_s, part.last_s,
                     self._orders.early)
            )  # fmt: skip
        manifest.next_part += bool(written)
        write_manifest(self._files, self._root, manifest)
        faults.hit("archive.committed")
        self.n_parts = len(written)
        self.n_bytes = sum(part.n_bytes for part in written)
