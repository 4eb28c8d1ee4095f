"""Many tasks of one cluster answered piece by piece: planned, gathered together, packed.

    task -> items (what to gather, or why not) -> one gathered() for many of them -> finishing.pack() each

Slot k of an item is at start + k * step, answered by the slot of the series (or of the aggregate) that contains
that time. So a batch has the values of query(), at the metric store's times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from mstore.fetching.packed import Packing
from mstore.frames import U64_MISSING, Series
from mstore.query.batch import Group, gathered
from mstore.query.budget import PIECE_SAMPLES, PIECE_SERIES, Budget, Work
from mstore.query.finder import Finder
from mstore.query.finishing import Frame, Gathered, Item, as_stored, pack
from mstore.query.gather import Replan, refuse_too_large, replanned
from mstore.query.plan import Request

Task = TypeVar("Task")


class Answering(Generic[Task]):
    """Answers tasks, and waits between two pieces for whoever drives it.

    find      makes a Finder, and another when the directory has changed
    items_of  the items of a task, always as many; what depends on the directory is asked of the Finder
    """

    def __init__(
        self,
        find: Callable[[], Finder],
        items_of: Callable[[Finder, Task], list[Item]],
        frame: Frame,
        budget: Budget,
    ) -> None:
        self.sizes: list[int] = []
        """Items of each task that is planned."""
        self.packing = Packing()
        self._find = find
        self._finder = find()
        self._items_of = items_of
        self._frame = frame
        self._budget = budget

    def work(self, tasks: Sequence[Task]) -> Work[None]:
        """Answer all. raises LimitExceeded; Unavailable when the store keeps changing"""
        while len(self.sizes) < len(tasks):
            first = len(self.sizes)
            items = replanned(partial(self._planned, tasks, first))
            planned = tasks[first : len(self.sizes)]
            n_done = 0
            while n_done < len(items):
                found = replanned(partial(self._piece, planned, items, n_done))
                for item, series in zip(items[n_done : n_done + len(found)], found, strict=True):
                    pack(self.packing, item, series, self._frame)
                n_done += len(found)
                yield

    # --- planning

    def _planned(self, tasks: Sequence[Task], first: int) -> list[Item]:
        """Items of the tasks from `first` on, about as many as are looked up in one piece; their sizes are noted."""
        items: list[Item] = []
        del self.sizes[first:]
        spent = self._budget.series, self._budget.samples, self._budget.n_bytes
        try:
            for task in tasks[first : first + PIECE_SERIES]:
                row = self._items_of(self._finder, task)
                self._spend(row)
                self.sizes.append(len(row))
                items += row
                if len(items) >= PIECE_SERIES or self._budget.samples - spent[1] >= PIECE_SAMPLES:
                    break
        except Replan:
            self._finder = self._find()
            self._budget.series, self._budget.samples, self._budget.n_bytes = spent
            raise
        return items

    def _spend(self, row: Sequence[Item]) -> None:
        """What a task costs, before any of it is gathered."""
        series = samples = n_bytes = 0
        for item in row:
            if item.metric is not None:
                n_slots = self._frame.n_slots(item.metric.step_s)
                refuse_too_large(n_slots, 0)
                series += max(len(item.refs), 1)
                samples += n_slots * len(item.refs)
                n_bytes += self._frame.n_bytes(item)
        self._budget.spend(series=series, samples=samples, n_bytes=n_bytes)

    # --- samples

    def _piece(self, tasks: Sequence[Task], items: list[Item], first: int) -> list[Gathered]:
        """What was gathered of the next items from `first` on; the rest is planned anew when the store has changed."""
        n_samples, stop = 0, first
        while stop < len(items) and (stop == first or n_samples < PIECE_SAMPLES):
            item = items[stop]
            n_samples += (
                0 if item.metric is None else self._frame.n_slots(item.metric.step_s) * len(item.refs)
            )
            stop += 1
        try:
            return self._gathered(items[first:stop])
        except Replan:
            self._finder = self._find()
            items[:] = [item for task in tasks for item in self._items_of(self._finder, task)]
            raise

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
        if not groups:
            return found
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
