"""Any file of the reference -> samples of series by their paths: what an import takes.

Samples   one series: where it hangs, times and values; what is missing is left out
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mstore.compat import bin_snapshot
from mstore.compat.contents import Points, Stretch
from mstore.compat.json_checkpoint import read_json
from mstore.compat.names import Part, split
from mstore.compat.parquet import Rows, read_parquet
from mstore.compat.phases import Phases
from mstore.compat.wal import LogReader
from mstore.compat.walk import JSON, PARQUET, WAL, Found
from mstore.errors import CorruptRecord
from mstore.model import SeriesPath

PARTS_MAX = 2
"""Levels below a host that a store has."""

Splitter: TypeAlias = Callable[[tuple[str, ...]], tuple[Part, ...]]
"""Level names -> types and ids."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Samples of one series, none of them missing."""

    path: SeriesPath
    step_s: int
    """Seconds between them, 0 when the file does not say."""
    times: NDArray[np.int64]
    values: NDArray[Any]


@dataclass(slots=True)
class Troubles:
    """What was wrong with a file of which something could be read."""

    texts: list[str] = field(default_factory=list)
    n_rows: int = 0
    """Rows of stamped metrics."""
    n_levels: int = 0
    """Series of levels that no store can have."""

    def of_log(self, log: LogReader) -> None:
        """What a log that was read to its end has shown."""
        if log.n_unusable:
            self.texts.append(f"{log.n_unusable:,} records whose names do not fit them")
        self.texts += [
            f"{one.n_bytes:,} bytes at {one.offset} are no records: {one.why}" for one in log.damage
        ]

    def told(self) -> list[str]:
        """One line for each kind of trouble."""
        levels = (
            f"{self.n_levels:,} series of levels without a name or deeper than {PARTS_MAX} below the host"
        )
        rows = f"{self.n_rows:,} rows of stamped metrics, which an import does not take"
        return [*self.texts, *([levels] if self.n_levels else []), *([rows] if self.n_rows else [])]


def splitter(known: Mapping[str, Part] | None = None, types: Iterable[str] = ()) -> Splitter:
    """One that remembers. known, types: as names.split() takes them, known for the level below the host"""
    made: dict[tuple[str, ...], tuple[Part, ...]] = {}
    more = tuple(types)

    def parts(levels: tuple[str, ...]) -> tuple[Part, ...]:
        found = made.get(levels)
        if found is None:
            found = tuple(split(name, None if i else known, more) for i, name in enumerate(levels))
            made[levels] = found
        return found

    return parts


@dataclass(slots=True)
class Host:
    """What is known of one host while its files are read, the oldest first."""

    split: Splitter = field(default_factory=splitter)
    phases: Phases = field(default_factory=Phases)

    def learn(self, log: Path) -> None:
        """Take the times of samples from the host's log, if it has one that can be read."""
        with contextlib.suppress(OSError, CorruptRecord):
            for points in LogReader(log.read_bytes()).pieces():
                self.phases.learn(points)


def samples_of(
    found: Found, host: Host, troubles: Troubles, *, salvage: bool = False
) -> Iterator[list[Samples]]:
    """The samples of a file, in pieces of bounded size.

    salvage  of a snapshot that is damaged: what stands before the damage, instead of nothing
    raises   CorruptRecord for a file that is not read at all; OSError
    """
    if found.kind == PARQUET:
        for piece in read_parquet(found.path, found.cluster):
            yield [one for rows in piece if (one := _of_rows(rows, troubles)) is not None]
    elif found.kind == WAL:
        log = LogReader(found.path.read_bytes(), str(found.path))
        for points in log.pieces():
            made = (_samples(found, host, one, 0, one.times, troubles) for one in points)
            yield [one for one in made if one is not None]
        troubles.of_log(log)
    else:
        made = (_placed(found, host, one, troubles) for one in _stretches(found, salvage, troubles))
        yield [one for one in made if one is not None]


def _stretches(found: Found, salvage: bool, troubles: Troubles) -> Iterable[Stretch]:
    data, path = found.path.read_bytes(), str(found.path)
    if found.kind == JSON:
        return read_json(data, path).stretches
    return _until_damage(data, path, troubles) if salvage else bin_snapshot.read_bin(data, path).stretches


def _until_damage(data: bytes, path: str, troubles: Troubles) -> Iterator[Stretch]:
    try:
        yield from bin_snapshot.stretches(data, path)
    except CorruptRecord as error:
        troubles.texts.append(f"{error.message}; what stands before was taken")


def _placed(found: Found, host: Host, one: Stretch, troubles: Troubles) -> Samples | None:
    start = host.phases.start_of(one, found.start)
    times = start + one.step_s * np.arange(len(one.values), dtype=np.int64)
    return _samples(found, host, one, one.step_s, times, troubles)


def _samples(
    found: Found, host: Host, one: Stretch | Points, step_s: int, times: NDArray[np.int64], troubles: Troubles
) -> Samples | None:
    """None for nothing, and for a level that no store can have."""
    parts = host.split(one.levels)
    if len(parts) > PARTS_MAX or ("", "") in parts:
        troubles.n_levels += 1
        return None
    return _present(path_of(found.cluster, found.host, parts, one.metric), step_s, times, one.values)


def _of_rows(rows: Rows, troubles: Troubles) -> Samples | None:
    if not rows.step_s:
        troubles.n_rows += len(rows.times)
        return None
    path = path_of(rows.cluster, rows.host, rows.levels, rows.metric)
    return _present(path, rows.step_s, rows.times, rows.values)


def path_of(cluster: str, host: str, parts: tuple[Part, ...], metric: str) -> SeriesPath:
    """The path of a series at a level that a store can have."""
    return SeriesPath(cluster, host, metric, *(text for part in parts for text in part))


def _present(path: SeriesPath, step_s: int, times: NDArray[np.int64], values: NDArray[Any]) -> Samples | None:
    """Without the missing ones; None when all are."""
    if values.dtype.kind == "f":
        there = ~np.isnan(values)
        if not there.all():
            times, values = times[there], values[there]
    return Samples(path, step_s, times, values) if len(times) else None
