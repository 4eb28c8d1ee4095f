"""Many tasks of one cluster answered slice by slice: planned, gathered together, packed.

    task -> items (what to gather, or why not) -> one gathered() for all of a slice -> finishing.pack() each

Slot k of an item is at start + k * step, answered by the slot of the series (or of the aggregate) that contains
that time. So a batch has the values of query(), at the metric store's times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from mstore.errors import LimitExceeded
from mstore.fetching.packed import Packing
from mstore.frames import U64_MISSING, Series
from mstore.limits import QUERY_SAMPLES_MAX, QUERY_SERIES_MAX
from mstore.query.batch import Group, gathered
from mstore.query.finder import Finder
from mstore.query.finishing import Frame, Gathered, Item, as_stored, pack
from mstore.query.gather import Replan, refuse_too_large, replanned
from mstore.query.plan import Request

Task = TypeVar("Task")

SLICE_TASKS = 512
SLICE_SAMPLES = 8 << 20
"""What is planned and gathered together, and again if the store changes meanwhile: some 10 ms."""


class Answering(Generic[Task]):
    """Answers tasks slice by slice, so that whoever asks may do something else in between.

    find      makes a Finder, and another when the directory has changed
    items_of  the items of a task: what depends on the directory is asked of the Finder
    """

    def __init__(
        self,
        find: Callable[[], Finder],
        items_of: Callable[[Finder, Task], list[Item]],
        frame: Frame,
    ) -> None:
        self.sizes: list[int] = []
        """Items of each task that is done."""
        self.packing = Packing()
        self._find = find
        self._finder = find()
        self._items_of = items_of
        self._frame = frame
        self._n_samples = self._n_series = 0

    def steps(self, tasks: Sequence[Task]) -> Iterator[None]:
        """Answer all; yields after every slice. raises LimitExceeded; Unavailable when the store keeps changing"""
        while len(self.sizes) < len(tasks):
            rows, items, found = replanned(lambda: self._slice(tasks, len(self.sizes)))
            for item, series in zip(items, found, strict=True):
                pack(self.packing, item, series, self._frame)
            self.sizes += rows
            yield

    def _slice(self, tasks: Sequence[Task], first: int) -> tuple[list[int], list[Item], list[Gathered]]:
        """(items of each task, the items, what was found of each) of some tasks from `first` on."""
        rows: list[int] = []
        items: list[Item] = []
        spent = self._n_samples, self._n_series
        try:
            before = self._n_samples
            while (
                len(rows) < min(SLICE_TASKS, len(tasks) - first) and self._n_samples - before < SLICE_SAMPLES
            ):
                row = self._items_of(self._finder, tasks[first + len(rows)])
                for item in row:
                    self._spend(item)
                rows.append(len(row))
                items += row
            return rows, items, self._gathered(items)
        except Replan:
            self._finder = self._find()
            self._n_samples, self._n_series = spent
            raise

    def _spend(self, item: Item) -> None:
        if item.metric is None:
            return
        n_slots = self._frame.n_slots(item.metric.step_s)
        refuse_too_large(n_slots, 0)
        self._n_samples += n_slots * len(item.refs)
        self._n_series += len(item.refs)
        if self._n_samples > QUERY_SAMPLES_MAX or self._n_series > QUERY_SERIES_MAX:
            raise LimitExceeded(
                f"a batch reads at most {QUERY_SAMPLES_MAX} samples of {QUERY_SERIES_MAX} series: "
                "ask for a shorter range or less at a time",
                samples=QUERY_SAMPLES_MAX, series=QUERY_SERIES_MAX,
            )  # fmt: skip

    # --- samples

    def _gathered(self, items: Sequence[Item]) -> list[Gathered]:
        found: list[Gathered] = [None] * len(items)
        asked = [index for index, item in enumerate(items) if item.metric is not None and len(item.refs)]
        requests: dict[int, Request] = {}
        groups = []
        for index in asked:
            item = items[index]
            assert item.metric is not None
            request = requests.get(item.metric.index)
            if request is None:
                window = self._frame.window(item.metric.step_s)
                request = requests[item.metric.index] = Request(self._finder.cluster, "", item.name, *window)
            groups.append(Group(request, item.metric, item.refs))
        for index, group, series in zip(asked, groups, gathered(self._finder.gatherer, groups), strict=True):
            if isinstance(series, Series) and series.step != group.metric.step_s:
                found[index] = self._of_another_step(group, series.step)
            else:
                found[index] = series
        return found

    def _of_another_step(self, group: Group, step_s: int) -> Gathered:
        """Slots that contain start + k * step where the series' own step is not the metric's: it was changed."""
        margin = max(step_s, group.metric.step_s)
        start, end = self._frame.start - margin, self._frame.end + 2 * margin
        (series,) = gathered(
            self._finder.gatherer,
            [Group(replace(group.request, start=start, end=end), group.metric, group.refs)],
        )
        if not isinstance(series, Series):
            return series
        step_s = series.step
        times = self._frame.start + step_s * np.arange(self._frame.n_slots(step_s), dtype=np.int64)
        slots = (times - (series.start - step_s // 2)) // step_s
        inside = (slots >= 0) & (slots < len(series))
        values = as_stored(series)
        taken = np.full(len(times), U64_MISSING if values.dtype.kind == "u" else np.nan, values.dtype)
        taken[inside] = values[slots[inside]]
        return series.with_values(taken, step_s, None)
