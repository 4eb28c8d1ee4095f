"""What there is and what it takes: sizes of levels, their chunks one by one, hosts that are protected.

levels (a selector, or all of a depth) -> who owns each level below -> series, 4096 at a time -> chunks -> sums
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidRequest, UnknownSelector
from mstore.hostlists import natural_key
from mstore.kernels._sizes import SizeReader
from mstore.limits import PATH_DEPTH_MAX
from mstore.query import selected
from mstore.query.budget import PIECE_SERIES, Budget, Work, finished
from mstore.query.gather import checked, replanned
from mstore.query.retained import RetainedGatherer
from mstore.selector import Selector, SelectorLike
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader
from mstore.sizes import LevelSize

_NAMES = 1024
"""Of levels, told between two looks at the clock."""
_MS_PER_S = 1000


class HeldQuestions:
    """What a Reader can be asked about the memory itself."""

    directory: DirectoryReader
    gatherer: RetainedGatherer

    def sizes(self, selector: SelectorLike | None = None, *, depth: int = 1) -> list[LevelSize]:
        """What levels hold, each with all below it, in natural order: those of a selector, or all of a depth.

        depth   without a selector: 1 = clusters, 2 = hosts, ...
        raises  InvalidRequest, EmptyCluster, LimitExceeded
        """
        return finished(self.sizes_work(selector, depth, Budget()))

    def sizes_work(self, selector: SelectorLike | None, depth: int, budget: Budget) -> Work[list[LevelSize]]:
        """sizes() in pieces."""
        if not 1 <= depth <= PATH_DEPTH_MAX:
            raise InvalidRequest(f"depth={depth!r}: expected 1 to {PATH_DEPTH_MAX}")
        if selector is None:
            table = self.directory.levels()
            here = (table["depth"] == depth) & (table["flags"] & layout.LEVEL_EMPTY == 0)
            levels = np.flatnonzero(here).tolist()
        else:
            levels = yield from selected.levels_of(self.directory, Selector.parse(selector))
        sums = yield from _sums(self.directory, self.gatherer, levels, budget)
        found = []
        for place, level in enumerate(levels):
            found.append(LevelSize(_names(self.directory, level), *sums[:, place].tolist()))
            if place % _NAMES == 0:
                yield
        return sorted(found, key=lambda size: [natural_key(name) for name in size.path])

    def debug_dump(self, selector: SelectorLike) -> str:
        """The chunks below the levels of a selector, as JSON.

        {"data": {METRIC: [{"start": s, "len": slots, "end": s, "saved": true}, ...], CHILD: {the same}, ...}}

        One level that is named in full is the data itself, several are told by their paths. `start` is the first second of
        the chunk's first slot, `len` the slots up to the last sample, `end` = start + step * len; of rows the smallest and
        largest stamp, and their number. `saved`: the series has gone on to another chunk. A child whose name a metric of
        its parent has, too, is told with a slash behind it.

        raises  UnknownSelector when there is no such level; InvalidRequest, EmptyCluster, LimitExceeded
        """
        return finished(self.debug_dump_work(selector, Budget()))

    def debug_dump_work(self, selector: SelectorLike, budget: Budget) -> Work[str]:
        """debug_dump() in pieces."""
        asked = Selector.parse(selector)
        levels = yield from selected.levels_of(self.directory, asked)
        if not levels:
            raise UnknownSelector(f"no level matches {asked}", selector=str(asked))
        dump = _Dump(self.directory, self.gatherer, budget)
        if len(levels) == 1 and all(step.names is not None and len(step.names) == 1 for step in asked.steps):
            text = yield from dump.level(levels[0])
        else:
            parts = []
            paths = {_names(self.directory, level): level for level in levels}
            for path in sorted(paths, key=lambda path: [natural_key(name) for name in path]):
                told = yield from dump.level(paths[path])
                parts.append(f"{json.dumps('/'.join(path))}: {told}")
            text = "{" + ", ".join(parts) + "}"
        return '{"data": ' + text + "}\n"

    def protected(self) -> dict[str, list[str]]:
        """{cluster: hosts} whose data outlives retention, as far as they are in memory; in natural order."""
        table = self.directory.levels()
        found: dict[str, list[str]] = {}
        for level in np.flatnonzero(table["flags"] & layout.LEVEL_PROTECTED != 0).tolist():
            cluster, host = _names(self.directory, level)
            found.setdefault(cluster, []).append(host)
        return {
            cluster: sorted(found[cluster], key=natural_key) for cluster in sorted(found, key=natural_key)
        }


def _names(directory: DirectoryReader, level: int) -> tuple[str, ...]:
    """From the cluster down to a level."""
    names: list[str] = []
    while level:
        info = directory.level(level)
        names.append(info.name)
        level = info.parent
    return tuple(reversed(names))


def _sums(
    directory: DirectoryReader, gatherer: RetainedGatherer, levels: list[int], budget: Budget
) -> Work[NDArray[np.int64]]:
    """int64[4, n]: bytes, chunks, series and samples of each of these levels, none of which is below another."""
    owner = _owners(directory, levels)
    sizer = SizeReader(directory, gatherer.samples)
    sums = np.zeros((4, len(levels)), np.int64)
    for start in range(0, directory.counts()["n_series"], PIECE_SERIES):
        rows = directory.series_table()[start : start + PIECE_SERIES]
        at, live = rows["level"], rows["flags"] & layout.SERIES_LIVE != 0
        mine = np.full(len(rows), -1)
        live &= at < len(owner)
        mine[live] = owner[at[live]]
        place = np.flatnonzero(mine >= 0)
        yield
        if not len(place):
            continue
        budget.spend(series=len(place))
        refs = rows["generation"][place].astype(np.uint64) << np.uint64(32) | (start + place).astype(
            np.uint64
        )
        found = replanned(partial(_rows, sizer, refs))
        whose = mine[place[found["series"]]]
        newest = mine[place[rows["flags"][place] & layout.SERIES_ENDED == 0]]
        for n, (owners, weights) in enumerate(
            ((whose, found["n_bytes"]), (whose, None), (newest, None), (whose, found["n_samples"]))
        ):
            sums[n] += np.bincount(owners, weights, len(levels)).astype(np.int64)
    return sums


def _rows(sizer: SizeReader, refs: NDArray[np.uint64]) -> NDArray[np.void]:
    return checked(sizer.chunk_rows(refs))


def _owners(directory: DirectoryReader, levels: list[int]) -> NDArray[np.int64]:
    """int64[n_levels]: which of `levels` each level is or hangs below; -1 = none."""
    table = directory.levels()
    found = np.full(len(table), -1)
    found[levels] = np.arange(len(levels))
    for depth in range(2, PATH_DEPTH_MAX + 1):
        at = np.flatnonzero((table["depth"] == depth) & (found < 0))
        found[at] = found[table["parent"][at]]
    return found


class _Dump:
    """Levels as JSON objects."""

    def __init__(self, directory: DirectoryReader, gatherer: RetainedGatherer, budget: Budget) -> None:
        self._directory = directory
        self._gatherer = gatherer
        self._sizer = SizeReader(directory, gatherer.samples)
        self._budget = budget

    def level(self, level: int) -> Work[str]:
        parts = replanned(lambda: dict(self._metrics(level)))
        told = [f"{json.dumps(name)}: {chunks}" for name, chunks in parts.items()]
        children = [(self._directory.level(child).name, child) for child in self._directory.children(level)]
        for name, child in sorted(children, key=lambda found: natural_key(found[0])):
            below = yield from self.level(child)
            told.append(f"{json.dumps(name + '/' if name in parts else name)}: {below}")
        text = "{" + ", ".join(told) + "}"
        self._budget.spend(n_bytes=sum(map(len, parts.values())))
        yield
        return text

    def _metrics(self, level: int) -> Iterator[tuple[str, str]]:
        """(name, JSON of the chunks) of the level's metrics, in natural order; the eras of a series one after the other."""
        series = [self._directory.series(slot) for slot in self._directory.level_series(level, eras=True)]
        known = [one for one in series if one is not None and one.level == level]
        known.sort(key=lambda one: (one.metric, one.era_start))
        self._budget.spend(series=len(known))
        rows = checked(self._sizer.chunk_rows(np.array([one.ref for one in known], np.uint64)))
        chunks: dict[int, list[NDArray[np.void]]] = {}
        for place, one in enumerate(known):
            chunks.setdefault(one.metric, []).append(rows[rows["series"] == place])
        named = {self._directory.metric(metric).name: found for metric, found in chunks.items()}
        kinds = {one.metric: one.kind for one in known}
        stamped = {
            self._directory.metric(metric).name
            for metric, kind in kinds.items()
            if kind == layout.KIND_STAMPED
        }
        for name in sorted(named, key=natural_key):
            yield name, _chunks_text(np.concatenate(named[name]), name in stamped)


def _chunks_text(rows: NDArray[np.void], stamped: bool) -> str:
    factor = _MS_PER_S if stamped else 1
    told = [
        {"start": int(row["start"]) / factor if stamped else int(row["start"]), "len": int(row["length"]),
         "end": int(row["end"]) / factor if stamped else int(row["end"]), "saved": True}
        for row in rows
    ]  # fmt: skip
    if told:
        del told[-1]["saved"]
    return json.dumps(told)
