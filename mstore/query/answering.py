"""Many tasks of one cluster answered piece by piece: each becomes a row, the entries of many rows are read by one call.

    task -> Row: the series of each of its entries -> Piece: one call of the gather kernel -> finishing.pack()

Slot k of an entry is at start + k * step, answered by the slot of the series (or of the aggregate) that contains
that time. So a batch has the values of query(), at the metric store's times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mstore.fetching.packed import Packing
from mstore.frames import U64_MISSING, Series
from mstore.kernels._gather_batch import AVERAGE, STEP
from mstore.query.batch import Group, gathering
from mstore.query.budget import PIECE_SAMPLES, PIECE_SERIES, Budget, Work
from mstore.query.finder import Finder
from mstore.query.finishing import Piece, as_stored, pack
from mstore.query.gather import SLOTS_MAX, Replan, checked, refuse_too_large, replanned_work
from mstore.query.plan import Request
from mstore.query.rows import Frame, Row
from mstore.shm import layout

Task = TypeVar("Task")

LARGE_SAMPLES = 4 * PIECE_SAMPLES
"""A piece of more, which is one row, is read in parts."""


class Answering(Generic[Task]):
    """Answers tasks, and waits between two pieces for whoever drives it.

    find    makes a Finder, and another when the directory has changed
    row_of  the row of a task, always of as many entries; what depends on the directory is asked of the Finder
    """

    def __init__(
        self,
        find: Callable[[], Finder],
        row_of: Callable[[Finder, Task], Row],
        frame: Frame,
        budget: Budget,
    ) -> None:
        self.sizes: list[int] = []
        """Entries of each task that is done."""
        self.packing = Packing()
        self._find = find
        self._finder = find()
        self._row_of = row_of
        self._frame = frame
        self._budget = budget

    def work(self, tasks: Sequence[Task]) -> Work[None]:
        """Answer all. raises LimitExceeded; Unavailable when the store keeps changing"""
        while len(self.sizes) < len(tasks):
            piece = yield from replanned_work(partial(self._piece, tasks, len(self.sizes)), self._budget)
            pack(self.packing, piece, self._frame)
            self.sizes += [row.n for row in piece.rows]
            yield

    def _piece(self, tasks: Sequence[Task], first: int) -> Work[Piece]:
        """The next rows with their samples; raises Replan when the store changed meanwhile"""
        n_before = self._budget.samples
        try:
            piece = Piece(self._rows(tasks, first))
            if self._budget.samples - n_before > LARGE_SAMPLES:
                yield from self._read_in_parts(piece)
            elif len(piece.readable):
                self._read(piece)
            yield from self._read_other_steps(piece)
        except Replan:
            self._finder = self._find()
            raise
        return piece

    def _rows(self, tasks: Sequence[Task], first: int) -> list[Row]:
        """Those of the tasks from `first` on, about as many as are read in one piece."""
        rows: list[Row] = []
        n_before, n_entries = self._budget.samples, 0
        for task in tasks[first : first + PIECE_SERIES]:
            row = self._row_of(self._finder, task)
            self._spend(row)
            rows.append(row)
            n_entries += row.n
            if n_entries >= PIECE_SERIES or self._budget.samples - n_before >= PIECE_SAMPLES:
                break
        return rows

    def _spend(self, row: Row) -> None:
        """What a row costs, before any of it is read."""
        if row.metric is not None:
            n_slots = self._frame.n_slots(row.metric.step_s)
            refuse_too_large(n_slots, 0)
            self._budget.spend(
                series=max(len(row.refs), row.n),
                samples=n_slots * len(row.refs),
                n_bytes=self._frame.n_bytes(row),
            )

    # --- samples

    def _read(self, piece: Piece) -> None:
        """All readable entries by one call of the kernel."""
        starts, ends = piece.of_rows([self._window(row) for row in piece.rows], np.int64).T
        sizes = piece.sizes[piece.readable]
        bounds = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=bounds[1:])
        averages = [row.metric is not None and row.metric.aggregation == layout.AGG_AVG for row in piece.rows]
        piece.raw, _, piece.table = checked(
            self._finder.gatherer.gather(
                piece.refs(), bounds, np.ascontiguousarray(starts), np.ascontiguousarray(ends),
                piece.of_rows(averages, np.uint8) * np.uint8(AVERAGE), np.full(len(sizes), SLOTS_MAX, np.int64),
            )
        )  # fmt: skip

    def _window(self, row: Row) -> tuple[int, int]:
        return (0, 0) if row.metric is None else self._frame.window(row.metric.step_s)

    def _read_in_parts(self, piece: Piece) -> Work[None]:
        """Entry by entry, and an aggregate of very many samples part by part."""
        found: list[Series] = []
        for group in self._groups(piece, range(len(piece.readable))):
            (series,) = yield from gathering(self._finder.gatherer, [group], Budget())
            if not isinstance(series, Series):
                raise Replan
            found.append(series)
        piece.take(found)

    def _read_other_steps(self, piece: Piece) -> Work[None]:
        """Read anew the entries whose own step is not their metric's: it was changed."""
        steps = piece.of_rows(
            [0 if row.metric is None else row.metric.step_s for row in piece.rows], np.int64
        )
        places = np.flatnonzero(piece.table[:, STEP] != steps).tolist()
        for place, group in zip(places, self._groups(piece, places), strict=True):
            # A range with a slot of either step to spare at both ends.
            margin = max(int(piece.table[place, STEP]), int(steps[place]))
            request = replace(
                group.request, start=self._frame.start - margin, end=self._frame.end + 2 * margin
            )
            (series,) = yield from gathering(
                self._finder.gatherer, [replace(group, request=request)], Budget()
            )
            if not isinstance(series, Series):
                raise Replan
            piece.alter(place, self._at_frame(series), series.step)
            yield

    def _groups(self, piece: Piece, places: Iterable[int]) -> list[Group]:
        refs, ends = piece.refs(), np.cumsum(piece.sizes[piece.readable]).tolist()
        groups = []
        for place in places:
            row = piece.row_at(place)
            assert row.metric is not None
            first = ends[place - 1] if place else 0
            request = Request(self._finder.cluster, "", row.name, *self._window(row))
            groups.append(Group(request, row.metric, refs[first : ends[place]]))
        return groups

    def _at_frame(self, series: Series) -> NDArray[Any]:
        """Its values at start + k * step, missing where it has no slot."""
        times = self._frame.start + series.step * np.arange(self._frame.n_slots(series.step), dtype=np.int64)
        slots = (times - (series.start - series.step // 2)) // series.step
        inside = (slots >= 0) & (slots < len(series))
        values = as_stored(series)
        found = np.full(len(times), U64_MISSING if values.dtype.kind == "u" else np.nan, values.dtype)
        found[inside] = values[slots[inside]]
        return found
