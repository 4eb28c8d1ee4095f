"""Which series of a cluster hold something to archive, in the order of the archive: by host, metric, and then time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mstore.archive import names
from mstore.archive.leavers import EarlyLeavers
from mstore.archive.lives import Life, Memory, chunk_span, column_types, order_of
from mstore.kernels._gather import Gatherer
from mstore.shm import layout

HOST_DEPTH = 2


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
    marks_ms: dict[int, NDArray[np.int64]]
    """By place in `lives`: times of samples that came after their time was archived."""

    def columns_of(self, life: Life) -> tuple[tuple[str, int], ...]:
        """(name, type) of each column of a series; numbered where the definition has another number of them."""
        if life.n_columns == 1:
            return (("", life.type),)
        return column_types(self.columns, life.n_columns)


@dataclass(frozen=True, slots=True)
class Window:
    """What of one day is archived: of each metric, by index, [start, stop) seconds of what is in memory."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    day_start: int
    """Bounds of the day, for what left memory before its time."""
    day_stop: int

    def may_hold_any(self, times_ms: list[int]) -> bool:
        """Whether samples of these times may lie in the day: a slot's nominal time is another one than its sample's."""
        first, stop = (self.day_start - names.DAY_S) * 1000, (self.day_stop + names.DAY_S) * 1000
        return any(first <= t < stop for t in times_ms)


class Index:
    """The live series of one cluster of a directory, as of now, in the order of the archive.

    Takes memory for each series and none for samples.
    early   what left memory before its time, and marks of late samples
    """

    def __init__(
        self,
        memory: Memory,
        cluster: int,
        early: EarlyLeavers,
    ) -> None:
        self.directory = directory = memory.directory
        self.cluster = cluster
        self.name = directory.level(cluster).name
        self._levels = directory.levels()
        count = directory.counts()["n_metrics"]
        self.metrics = {
            index: info for index in range(count) if (info := directory.metric(index)).cluster == cluster
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
        self._spans = self._spans_of(memory.gatherer)
        self._early_spans = self._early_spans_of(early)
        self._marks = self._marks_of(early)

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

    def _early_spans_of(self, early: EarlyLeavers) -> NDArray[np.int64]:
        """[n, 2]: the same of the chunks that left before their time."""
        spans = np.zeros((len(self._rows), 2), np.int64)
        for place in self._places_of(early.chunks):
            found = [chunk_span(kept.head) for kept in early.chunks[self._ref(place)]]
            spans[place] = min(first for first, _ in found), max(stop for _, stop in found)
        return spans

    def _marks_of(self, early: EarlyLeavers) -> dict[tuple[int, int], list[int]]:
        """Times by level and metric: a mark of any life holds for the one that has the time."""
        marks: dict[tuple[int, int], list[int]] = {}
        for place in self._places_of(early.marks):
            marks.setdefault(self._level_metric(place), []).extend(early.marks[self._ref(place)])
        return marks

    def _places_of(self, refs: Mapping[int, object]) -> list[int]:
        """Rows of these references; those of series that are gone, or of another cluster, are in no row."""
        own = self._rows["generation"].astype(np.uint64) << np.uint64(32) | self._slots.astype(np.uint64)
        wanted = np.fromiter(refs, np.uint64, len(refs))
        found: list[int] = np.flatnonzero(np.isin(own, wanted)).tolist()
        return found

    def refs(self) -> set[int]:
        """References of all series of the cluster."""
        return {self._ref(place) for place in range(len(self._rows))}

    def _ref(self, place: int) -> int:
        return int(self._rows["generation"][place]) << 32 | int(self._slots[place])

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def span(self) -> tuple[int, int]:
        """First second of all chunks and the second after them; (0, 0) without any."""
        spans = np.concatenate([self._spans, self._early_spans])
        held = spans[:, 0] < spans[:, 1]
        if not held.any():
            return 0, 0
        return int(spans[held, 0].min()), int(spans[held, 1].max())

    def any_in(self, window: Window) -> bool:
        """Whether any series has chunks that may hold samples of a window."""
        return bool(self._due(window).any())

    def _due(self, window: Window) -> NDArray[np.bool_]:
        metric = self._rows["metric"]
        start, stop = window.start[metric], window.stop[metric]
        due: NDArray[np.bool_] = (self._spans[:, 0] < stop) & (self._spans[:, 1] > start) & (start < stop)
        early = (self._early_spans[:, 0] < window.day_stop) & (self._early_spans[:, 1] > window.day_start)
        marked = {key for key, times in self._marks.items() if window.may_hold_any(times)}
        if marked:
            keys = zip(self._rows["level"].tolist(), metric.tolist(), strict=True)
            due |= np.fromiter((key in marked for key in keys), np.bool_, len(metric))
        due |= early
        due &= self._hosts != 0
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

    def groups(self, window: Window) -> Iterator[Group]:
        """Groups with chunks that may hold samples of a window, in the archive's order."""
        metric = self._rows["metric"]
        chosen = np.flatnonzero(self._due(window))
        hosts = sorted(np.unique(self._hosts[chosen]).tolist(), key=self._host_names.__getitem__)
        ranks = {host: rank for rank, host in enumerate(hosts)}
        by_name = sorted(self.metrics, key=lambda index: self.metrics[index].name)
        metric_ranks = np.zeros(len(window.start), np.int64)
        metric_ranks[by_name] = np.arange(len(by_name))
        host_ranks = np.array([ranks[host] for host in self._hosts[chosen].tolist()], np.int64)
        order = np.lexsort((metric_ranks[metric[chosen]], host_ranks))
        chosen = chosen[order]
        keys = host_ranks[order] * len(window.start) + metric_ranks[metric[chosen]]
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
        marks = {
            number: np.unique(times)
            for number, place in enumerate(places)
            if (times := self._marks.get(self._level_metric(place)))
        }
        return Group(host, info.name, index, lives, self._spans[places], info.columns, marks)

    def _level_metric(self, place: int) -> tuple[int, int]:
        return int(self._rows["level"][place]), int(self._rows["metric"][place])

    def life(self, place: int) -> Life:
        row = self._rows[place]
        path = self.directory.path(int(row["level"]), self.metrics[int(row["metric"])].name)
        return Life(
            path, self._ref(place), int(row["kind"]), int(row["type"]), int(row["n_columns"]),
            int(row["anchor_s"]), int(row["step_s"]), int(row["era_start"]),
        )  # fmt: skip


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
