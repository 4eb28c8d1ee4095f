"""Any file of the reference -> samples of series by their paths: what an import takes.

Samples   one series: where it hangs, times and values; what is missing is left out
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mstore.compat import bin_snapshot
from mstore.compat.contents import Points, Stretch
from mstore.compat.json_checkpoint import read_json
from mstore.compat.names import Part, split
from mstore.compat.parquet import Rows, read_parquet
from mstore.compat.wal import LogReader
from mstore.compat.walk import BIN, JSON, PARQUET, Found
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


def samples_of(
    found: Found, split: Splitter, troubles: Troubles, *, salvage: bool = False
) -> Iterator[list[Samples]]:
    """The samples of a file, in pieces of bounded size.

    salvage  of a snapshot that is damaged: what stands before the damage, instead of nothing
    raises   CorruptRecord for a file that is not read at all; OSError
    """
    if found.kind == PARQUET:
        for piece in read_parquet(found.path, found.cluster):
            yield [one for rows in piece if (one := _of_rows(rows, troubles)) is not None]
        return
    data, path = found.path.read_bytes(), str(found.path)
    if found.kind == JSON:
        yield _all(read_json(data, path).stretches, found, split, troubles)
    elif found.kind == BIN:
        yield _all(_snapshot(data, path, troubles) if salvage else bin_snapshot.read_bin(data, path).stretches,
                   found, split, troubles)  # fmt: skip
    else:
        log = LogReader(data, path)
        for points in log.pieces():
            yield _all(points, found, split, troubles)
        if log.n_unusable:
            troubles.texts.append(f"{log.n_unusable:,} records whose names do not fit them")
        troubles.texts += [
            f"{one.n_bytes:,} bytes at {one.offset} are no records: {one.why}" for one in log.damage
        ]


def _snapshot(data: bytes, path: str, troubles: Troubles) -> Iterator[Stretch]:
    try:
        yield from bin_snapshot.stretches(data, path)
    except CorruptRecord as error:
        troubles.texts.append(f"{error.message}; what stands before was taken")


def _all(
    found: Iterable[Stretch | Points], file: Found, split: Splitter, troubles: Troubles
) -> list[Samples]:
    taken = []
    for one in found:
        times = (
            one.times
            if isinstance(one, Points)
            else one.start + one.step_s * np.arange(len(one.values), dtype=np.int64)
        )
        step_s = 0 if isinstance(one, Points) else one.step_s
        made = _samples(
            file.cluster, file.host, split(one.levels), one.metric, step_s, times, one.values, troubles
        )
        if made is not None:
            taken.append(made)
    return taken


def _of_rows(rows: Rows, troubles: Troubles) -> Samples | None:
    if not rows.step_s:
        troubles.n_rows += len(rows.times)
        return None
    return _samples(
        rows.cluster, rows.host, rows.levels, rows.metric, rows.step_s, rows.times, rows.values, troubles
    )


def _samples(cluster: str, host: str, parts: tuple[Part, ...], metric: str, step_s: int,
             times: NDArray[np.int64], values: NDArray[Any], troubles: Troubles) -> Samples | None:  # fmt: skip
    """None for nothing, and for a level that no store can have."""
    if len(parts) > PARTS_MAX or ("", "") in parts:
        troubles.n_levels += 1
        return None
    if values.dtype.kind == "f":
        present = ~np.isnan(values)
        if not present.all():
            times, values = times[present], values[present]
    if not len(times):
        return None
    flat = [text for part in parts for text in part]
    return Samples(SeriesPath(cluster, host, metric, *flat), step_s, times, values)
