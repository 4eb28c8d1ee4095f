"""Series as the archive knows them: a life is one stretch of a series with one grid (an era), under its whole path.

In memory a life is an entry of the directory; in the archive a row of the table of series. Both become the same Life,
so that what was archived and what still is in memory can be told to be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mstore.archive import names
from mstore.kernels._gather import Gatherer
from mstore.kernels._segment import Segment
from mstore.model import SeriesPath
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

FIRST = -(1 << 63)
"""Start of the first life of a path."""
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


def column_types(defined: tuple[tuple[str, str], ...], n_columns: int) -> tuple[tuple[str, int], ...]:
    """Names and types of the columns of stamped rows, as queries have them: f64 where no definition fits."""
    if len(defined) != n_columns:
        return tuple((f"column{number}", layout.TYPE_F64) for number in range(n_columns))
    return tuple((name, _TYPES[kind]) for name, kind in defined)


def chunk_span(head: np.void) -> tuple[int, int]:
    """The first second of a chunk and the one after it, by its header."""
    if head["kind"] == layout.KIND_STAMPED:
        return int(head["anchor_s"]) // 1000, int(head["t_max_ms"]) // 1000 + 1
    width = layout.CHUNK_SLOTS * int(head["step_s"])
    first = int(head["anchor_s"]) + int(head["n"]) * width
    return first, first + width


def order_of(life: Life) -> tuple[Any, ...]:
    """The order of rows of one metric, host and time."""
    return (*life.scope, *(life.parent_scope or ("", "")), life.start, life.ref & 0xFFFF_FFFF, life.ref >> 32)
