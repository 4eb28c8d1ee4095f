"""Series as the archive knows them: a life is one stretch of a series with one grid (an era), under its whole path.

In memory a life is an entry of the directory; in the archive a row of the table of series. Both become the same Life,
so that what was archived and what still is in memory can be told to be the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.archive import names
from mstore.kernels._gather import Gatherer
from mstore.kernels._segment import Segment
from mstore.model import SeriesPath
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

FIRST = -(1 << 63)
"""Start of the first life of a path."""
HOST_DEPTH = 2
_TYPES = {name: code for code, name in layout.TYPE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Life:
    """What it takes to place its samples; numbers as in layout.py."""

    path: SeriesPath
    ref: int
    """generation << 32 | slot"""
    kind: int
    type: int
    """0 = several columns."""
    n_columns: int
    anchor_s: int
    """Start of slot 0."""
    step_s: int
    start: int
    """Samples from here on belong to it (grid s, stamped ms); FIRST = from the first on."""

    @property
    def scope(self) -> tuple[str, str]:
        """As rows name it: the deepest level."""
        path = self.path
        if path.subtype or path.subtype_id:
            return names.scope_of(path.subtype, path.subtype_id)
        return self._upper or ("node", "")

    @property
    def parent_scope(self) -> tuple[str, str] | None:
        """Of the level above; None at the host."""
        path = self.path
        if path.subtype or path.subtype_id:
            return self._upper or ("node", "")
        return ("node", "") if self._upper else None

    @property
    def _upper(self) -> tuple[str, str] | None:
        path = self.path
        return names.scope_of(path.type, path.type_id) if path.type or path.type_id else None

    def nominal_s(self, slot: int) -> int:
        return self.anchor_s + self.step_s // 2 + slot * self.step_s


@dataclass(frozen=True, slots=True)
class Group:
    """The series of one metric of one host: what the archive keeps together, in the order of its rows."""

    host: str
    metric: str
    index: int
    """Of the metric."""
    lives: list[Life]
    spans: NDArray[np.int64]
    """[len(lives), 2]: first second of its chunks, and the second after them."""
    columns: tuple[tuple[str, str], ...]
    """Of the metric as it is defined now; empty for one column."""

    def columns_of(self, life: Life) -> tuple[tuple[str, int], ...]:
        """(name, type) of each column of a series; numbered where the definition has another number of them."""
        if life.n_columns == 1:
            return (("", life.type),)
        return column_types(self.columns, life.n_columns)


class Memory:
    """The mapped or private memory of a store, read-only."""

    def __init__(self, directory: Segment, samples: Segment) -> None:
        self.directory = DirectoryReader(directory)
        self.samples = samples
        self.gatherer = Gatherer(self.directory, samples)

    def clusters(self) -> dict[str, int]:
        """Level id of each cluster, by name."""
        found = (self.directory.level(level) for level in self.directory.children(0))
        return {level.name: level.id for level in found}


class Index:
    """The live series of one cluster of a directory, as of now, in the order of the archive.

    Takes memory for each series and none for samples.
    hosts, metrics   only these, by name; None = all
    """

    def __init__(
        self,
        memory: Memory,
        cluster: int,
        hosts: Collection[str] | None = None,
        metrics: Collection[str] | None = None,
    ) -> None:
        self.directory = directory = memory.directory
        self.cluster = cluster
        self.name = directory.level(cluster).name
        self._levels = directory.levels()
        count = directory.counts()["n_metrics"]
        self.metrics = {
            index: info
            for index in range(count)
            if (info := directory.metric(index)).cluster == cluster
            and (metrics is None or info.name in metrics)
        }
        table = directory.series_table()
        self._slots = np.flatnonzero(table["flags"] & layout.SERIES_LIVE).astype(np.uint32)
        self._rows = table[self._slots]  # a copy; one that was freed meanwhile has no level
        self._hosts = np.zeros(len(self._slots), np.uint32)
        self._keep(self._rows["level"] < len(self._levels))
        self._keep(self._levels["cluster"][self._rows["level"]] == cluster)
        self._keep(np.isin(self._rows["metric"], np.fromiter(self.metrics, np.uint32, len(self.metrics))))
        self._hosts = self._hosts_of(self._rows["level"])
        self._host_names = {
            host: directory.level(host).name for host in np.unique(self._hosts).tolist() if host
        }
        if hosts is not None:
            wanted = [host for host, name in self._host_names.items() if name in hosts]
            self._keep(np.isin(self._hosts, wanted))
        self._spans = self._spans_of(memory.gatherer)

    def _keep(self, mask: NDArray[np.bool_]) -> None:
        self._slots, self._rows, self._hosts = self._slots[mask], self._rows[mask], self._hosts[mask]

    def _hosts_of(self, levels: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The host above each level; 0 where there is none."""
        found = levels.copy()
        while (below := self._levels["depth"][found] > HOST_DEPTH).any():
            found[below] = self._levels["parent"][found[below]]
        found[self._levels["depth"][found] < HOST_DEPTH] = 0
        return found

    def _spans_of(self, gatherer: Gatherer) -> NDArray[np.int64]:
        """[n, 2] seconds that the chunks of each series cover: their first and the one after the last."""
        rows = self._rows
        width = layout.CHUNK_SLOTS * rows["step_s"].astype(np.int64)
        spans = np.empty((len(rows), 2), np.int64)
        spans[:, 0] = rows["anchor_s"] + rows["first_n"] * width
        spans[:, 1] = rows["anchor_s"] + (rows["last_n"] + 1) * width
        spans[rows["n_chunks"] == 0] = 0
        for place in np.flatnonzero((rows["kind"] == layout.KIND_STAMPED) & (rows["n_chunks"] > 0)).tolist():
            spans[place] = _stamped_span(gatherer, self._ref(place))
        return spans

    def _ref(self, place: int) -> int:
        return int(self._rows["generation"][place]) << 32 | int(self._slots[place])

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def span(self) -> tuple[int, int]:
        """First second of all chunks and the second after them; (0, 0) without any."""
        held = self._spans[:, 0] < self._spans[:, 1]
        if not held.any():
            return 0, 0
        return int(self._spans[held, 0].min()), int(self._spans[held, 1].max())

    def any_in(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> bool:
        """Whether any series has chunks that may hold samples of [start, stop) by the metric's index."""
        return bool(self._due(start, stop).any())

    def _due(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.bool_]:
        metric = self._rows["metric"]
        due: NDArray[np.bool_] = (self._spans[:, 0] < stop[metric]) & (self._spans[:, 1] > start[metric])
        due &= (start < stop)[metric] & (self._hosts != 0)
        return due

    def ends(self) -> dict[int, int]:
        """Reference -> where the life that follows it begins, for those that one follows."""
        rows = self._rows
        by_slot = {int(slot): place for place, slot in enumerate(self._slots)}
        found = {}
        for place in np.flatnonzero(rows["next_slot"]).tolist():
            later = by_slot.get(int(rows["next_slot"][place]) - 1)
            if later is not None and rows["generation"][later] == rows["next_generation"][place]:
                found[self._ref(place)] = int(rows["era_start"][later])
        return found

    def groups(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Iterator[Group]:
        """Groups with chunks that may hold samples of [start, stop) by the metric's index, in the archive's order."""
        metric = self._rows["metric"]
        chosen = np.flatnonzero(self._due(start, stop))
        hosts = sorted(np.unique(self._hosts[chosen]).tolist(), key=self._host_names.__getitem__)
        ranks = {host: rank for rank, host in enumerate(hosts)}
        by_name = sorted(self.metrics, key=lambda index: self.metrics[index].name)
        metric_ranks = np.zeros(len(start), np.int64)
        metric_ranks[by_name] = np.arange(len(by_name))
        host_ranks = np.array([ranks[host] for host in self._hosts[chosen].tolist()], np.int64)
        order = np.lexsort((metric_ranks[metric[chosen]], host_ranks))
        chosen = chosen[order]
        keys = host_ranks[order] * len(start) + metric_ranks[metric[chosen]]
        for part in np.split(chosen, np.flatnonzero(np.diff(keys)) + 1):
            if len(part):
                yield self._group(part)

    def _group(self, chosen: NDArray[np.intp]) -> Group:
        host = self._host_names[int(self._hosts[chosen[0]])]
        index = int(self._rows["metric"][chosen[0]])
        found = [(self.life(int(place)), int(place)) for place in chosen]
        found.sort(key=lambda one: order_of(one[0]))
        places = [place for _, place in found]
        lives = [life for life, _ in found]
        info = self.metrics[index]
        return Group(host, info.name, index, lives, self._spans[places], info.columns)

    def life(self, place: int) -> Life:
        row = self._rows[place]
        path = self.directory.path(int(row["level"]), self.metrics[int(row["metric"])].name)
        return Life(
            path, self._ref(place), int(row["kind"]), int(row["type"]), int(row["n_columns"]),
            int(row["anchor_s"]), int(row["step_s"]), int(row["era_start"]),
        )  # fmt: skip

    def lives(self) -> Iterator[Life]:
        """All of them, by slot."""
        return (self.life(place) for place in range(len(self)) if self._hosts[place])


def column_types(defined: tuple[tuple[str, str], ...], n_columns: int) -> tuple[tuple[str, int], ...]:
    """Names and types of the columns of stamped rows, as queries have them: f64 where no definition fits."""
    if len(defined) != n_columns:
        return tuple((f"column{number}", layout.TYPE_F64) for number in range(n_columns))
    return tuple((name, _TYPES[kind]) for name, kind in defined)


def order_of(life: Life) -> tuple[Any, ...]:
    """The order of rows of one metric, host and time."""
    return (*life.scope, *(life.parent_scope or ("", "")), life.start, life.ref & 0xFFFF_FFFF, life.ref >> 32)


def _stamped_span(gatherer: Gatherer, ref: int) -> tuple[int, int]:
    """Seconds from the oldest stamp to after the newest, by the headers of its chunks."""
    found = gatherer.chunks(ref)
    if isinstance(found, int) or not found:
        return 0, 0
    heads = [
        np.frombuffer(gatherer.view(offset - layout.CHUNK_HEADER_BYTES, layout.CHUNK.itemsize), layout.CHUNK)[
            0
        ]
        for _, _, _, offset, _ in found
    ]
    first = min(int(head["anchor_s"]) for head in heads)
    return first // 1000, max(int(head["t_max_ms"]) for head in heads) // 1000 + 1
