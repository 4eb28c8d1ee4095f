"""A store -> a directory that the reference loads at its start, and that importing.py reads.

    DIRECTORY/fritz/f0201/1700000000.bin    json, bin: a file for each host and window of half a day, because the
    DIRECTORY/fritz/f0201/1700006400.bin    reference passes over a single file that began before its retention
    DIRECTORY/fritz/f0201/current.wal       wal: everything in one log
    DIRECTORY/fritz/1700000000.parquet      parquet: a file for each cluster

Each file appears whole or not at all. `start` of a stretch is the nominal time of its first value. The reference holds
float32 on a grid: rows of stamped metrics have no place in its files, wider values are rounded (in JSON to float64).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mstore.compat import wal
from mstore.compat.contents import Stretch
from mstore.compat.names import is_directory_name
from mstore.compat.sinks import LEFT_OUT_TOLD, SINKS, WINDOW_S, Exported, Piece, Sink, Target
from mstore.compat.source import Source
from mstore.frames import Series
from mstore.model import SeriesPath
from mstore.persistence.files import Files

FORMATS = tuple(SINKS)

STAMPED = "series of stamped metrics, which have no step"
TWICE = "series of levels that share a name once type and id are joined"
TOO_LONG = "series whose names are too long for a log"
NO_DIRECTORY = "hosts whose name cannot be a directory's"
ROUNDED = "series of f64 or u64 with values rounded"


class Export:
    """One run over [start, end), Unix seconds.

    form      one of FORMATS
    clusters  only these; none = all
    tell      called with (hosts done, hosts in all, samples written)
    """

    def __init__(
        self, source: Source, directory: Path, form: str, start: int, end: int, *, clusters: Sequence[str] = (),
        tell: Callable[[int, int, int], None] = lambda _done, _all, _samples: None, window_s: int = WINDOW_S,
        files: Files | None = None,
    ) -> None:  # fmt: skip
        self._source = source
        self._form = form
        self._clusters = clusters
        self._tell = tell
        self.done = Exported()
        self._sink: Sink = SINKS[form](Target(directory, start, end, window_s, files or Files(), self.done))
        self._written: set[SeriesPath] = set()
        """Of the present host."""
        self._noted: set[SeriesPath] = set()

    def run(self) -> Exported:
        """Write everything. raises StorageError, InvalidRequest without pyarrow, and what reading the store raises"""
        names = [name for name in self._source.names() if not self._clusters or name in self._clusters]
        hosts = {name: sorted(self._source.names(name)) for name in sorted(names)}
        n_hosts, n_done = sum(map(len, hosts.values())), 0
        for cluster, mine in hosts.items():
            usable = [host for host in mine if is_directory_name(cluster) and is_directory_name(host)]
            if left_out := sorted(set(mine) - set(usable)):
                self.done.notes[NO_DIRECTORY] += len(left_out)
                told = [f"{cluster!r} {host!r}" for host in left_out]
                self.done.left_out = [*self.done.left_out, *told][:LEFT_OUT_TOLD]
                n_done += len(left_out)
            with self._sink.cluster(cluster) if usable else contextlib.nullcontext():
                for host in usable:
                    self._host(cluster, host)
                    n_done += 1
                    self._tell(n_done, n_hosts, self.done.n_samples)
        return self.done

    def _host(self, cluster: str, host: str) -> None:
        n_before = self.done.n_samples
        self._written.clear()
        self._noted.clear()
        if paths := self._distinct(self._source.series(cluster, host)):
            self._sink.host(cluster, host, paths, self._pieces)
        if self.done.n_samples > n_before:
            self.done.clusters.add(cluster)
            self.done.n_hosts += 1
            self.done.n_series += len(self._written)

    def _distinct(self, paths: Sequence[SeriesPath]) -> list[SeriesPath]:
        """Without those that the format cannot tell apart, or name."""
        keys: set[tuple[tuple[str, ...], str]] = set()
        kept = []
        for path in paths:
            key = level_names(path), path.metric
            if key in keys:
                self.done.notes[TWICE] += 1
            elif self._form == "wal" and not wal.fits(*key):
                self.done.notes[TOO_LONG] += 1
            else:
                kept.append(path)
            keys.add(key)
        return kept

    def _pieces(self, paths: Sequence[SeriesPath], start: int, end: int) -> list[Piece]:
        """What there is of these series in [start, end)."""
        found = []
        for path, series in zip(paths, self._source.samples(paths, start, end), strict=True):
            if series.stamped:
                self._note(STAMPED, path)
            elif (stretch := stretch_of(path, series)) is not None:
                if self._form != "json" and _is_rounded(stretch):
                    self._note(ROUNDED, path)
                self._written.add(path)
                found.append(Piece(path, stretch))
        return found

    def _note(self, text: str, path: SeriesPath) -> None:
        """Once a series, in however many windows it shows."""
        self.done.notes[text] += path not in self._noted
        self._noted.add(path)


def level_names(path: SeriesPath) -> tuple[str, ...]:
    """Names of the levels below the host, as the reference joins them."""
    return tuple(kind + name for kind, name in path.levels()[1:])


def stretch_of(path: SeriesPath, series: Series) -> Stretch | None:
    """The samples of one grid series from the first to the last; None when there is none.

    uint64 becomes float64. An answer that was put together from others is none of this series.
    """
    if series.coverage is not None:
        return None
    there = np.flatnonzero(series.valid)
    if not len(there):
        return None
    first, last = int(there[0]), int(there[-1])
    values = series.values[first : last + 1]
    if values.dtype.kind == "u":
        values = np.where(series.valid[first : last + 1], values.astype(np.float64), np.nan)
    return Stretch(level_names(path), path.metric, series.start + first * series.step, series.step, values)


def _is_rounded(stretch: Stretch) -> bool:
    if stretch.values.dtype == np.float32:
        return False
    with np.errstate(over="ignore"):
        return not np.array_equal(stretch.values.astype(np.float32), stretch.values, equal_nan=True)
