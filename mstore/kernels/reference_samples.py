"""The naive twin of the sample kernels: dicts of slots and rows, records parsed one value at a time.

It knows nothing of chunks but what freeing needs: chunk n of a grid series is slots n * 512 .. n * 512 + 511.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mstore.kernels._expiry import RANGE

_RUN = np.dtype(
    [
        ("type", "<u2"),
        ("vtype", "u1"),
        ("flags", "u1"),
        ("count", "<u4"),
        ("slot", "<u4"),
        ("generation", "<u4"),
        ("t", "<i8"),
    ]
)
_PAD, _COLUMN, _STAMPED, _SCATTER, _DEFINITIONS = 0, 2, 3, 4, 16
_GRID_KIND = 1
_F32, _F64, _U64 = 1, 2, 3
_DTYPES: dict[int, np.dtype[Any]] = {_F32: np.dtype("<f4"), _F64: np.dtype("<f8"), _U64: np.dtype("<u8")}
_SLOTS = 512
_SPAN_MAX = 1 << 15
_MISSING_U64 = (1 << 64) - 1


@dataclass
class Series:
    """One era: its definition, and its samples by slot (grid) or stamp (stamped)."""

    generation: int
    kind: int
    type: int
    n_columns: int
    anchor_s: int
    step_s: int
    era_start: int = -(1 << 63)
    next: tuple[int, int] | None = None
    prev: tuple[int, int] | None = None
    slots: dict[int, bytes] = field(default_factory=dict)
    rows: dict[int, bytes] = field(default_factory=dict)

    def chunks(self) -> set[int]:
        return {slot // _SLOTS for slot in self.slots}


class ReferenceSamples:
    """Apply records to plain dicts; `series` maps a slot number to its Series."""

    def __init__(self, series: dict[int, Series]) -> None:
        self.series = series

    def apply(self, records: bytes) -> tuple[int, int]:
        """(samples stored, samples stale); stops at the first record of type >= 16."""
        n_samples = n_stale = 0
        for kind, slot, generation, t, vtype, value in parse(records):
            if kind == _STAMPED:
                stored = self._put_row(slot, generation, vtype, value)
            else:
                stored = self._put_value(slot, generation, t, vtype, value)
            n_samples += stored
            n_stale += not stored
        return n_samples, n_stale

    def _resolve(self, slot: int, generation: int, t: int, stamped: bool) -> Series | None:
        found = self.series.get(slot)
        if found is None or found.generation != generation or (found.kind != _GRID_KIND) != stamped:
            return None
        while found.next is not None:
            later = self.series[found.next[0]]
            if later.generation != found.next[1] or t < later.era_start:
                break
            found = later
        while t < found.era_start and found.prev is not None:
            earlier = self.series[found.prev[0]]
            if earlier.generation != found.prev[1]:
                break
            found = earlier
        return found

    def _put_value(self, slot: int, generation: int, t: int, vtype: int, value: bytes) -> bool:
        series = self._resolve(slot, generation, t, stamped=False)
        converted = recast(value, vtype, series.type) if series is not None else None
        if series is None or converted is None:
            return False
        index = (t - series.anchor_s) // series.step_s
        chunks = series.chunks() | {index // _SLOTS}
        if max(chunks) - index // _SLOTS >= _SPAN_MAX:
            return False
        for n in [n for n in chunks if max(chunks) - n >= _SPAN_MAX]:
            self._free_slots(series, n, n)
        series.slots[index] = converted
        return True

    def _put_row(self, slot: int, generation: int, n_columns: int, row: bytes) -> bool:
        stamp = int.from_bytes(row[:8], "little", signed=True)
        series = self._resolve(slot, generation, stamp, stamped=True)
        if series is None or series.n_columns != n_columns:
            return False
        series.rows[stamp] = row[8:]
        return True

    def free_ranges(self, ranges: bytes) -> None:
        for slot, generation, first, last in np.frombuffer(ranges, RANGE).tolist():
            series = self.series.get(slot)
            if series is None or series.generation != generation:
                continue
            if series.kind == _GRID_KIND:
                self._free_slots(series, first, last)
            else:
                series.rows = {stamp: row for stamp, row in series.rows.items() if not first <= stamp <= last}

    @staticmethod
    def _free_slots(series: Series, first: int, last: int) -> None:
        series.slots = {
            slot: value for slot, value in series.slots.items() if not first <= slot // _SLOTS <= last
        }


def parse(records: bytes) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """(record type, slot, generation, t, vtype, value or row) of every sample, in order."""
    at = 0
    while at < len(records):
        kind = int.from_bytes(records[at : at + 2], "little")
        if kind >= _DEFINITIONS:
            return
        if kind == _PAD:
            at += int.from_bytes(records[at + 4 : at + 8], "little")
            continue
        _, vtype, _, count, slot, generation, t = np.frombuffer(records, _RUN, 1, at).tolist()[0]
        at += _RUN.itemsize
        if kind == _STAMPED:
            width = 8 * (1 + vtype)
            for i in range(count):
                yield kind, slot, generation, 0, vtype, records[at + i * width : at + (i + 1) * width]
            at += count * width
            continue
        refs = [(slot + i, generation, t) for i in range(count)]
        if kind == _COLUMN:
            dt = int.from_bytes(records[at : at + 8], "little", signed=True)
            refs = [(slot, generation, t + i * dt) for i in range(count)]
            at += 8
        elif kind == _SCATTER:
            pairs = np.frombuffer(records, "<u4", 2 * count, at).reshape(-1, 2)
            refs = [(int(s), int(g), t) for s, g in pairs]
            at += 8 * count
        width = _DTYPES[vtype].itemsize
        for i, (own_slot, own_generation, own_t) in enumerate(refs):
            yield kind, own_slot, own_generation, own_t, vtype, records[at + i * width : at + (i + 1) * width]
        at += (count * width + 7) // 8 * 8


def recast(value: bytes, from_type: int, to_type: int) -> bytes | None:
    """The value in another type, rounded as text of it would be, or None where that type has no such number."""
    if from_type == to_type:
        return value
    number: Any = np.frombuffer(value, _DTYPES[from_type])[0]
    if to_type == _U64:
        if not 0 <= number < 2.0**64 or number != np.floor(number) or int(number) == _MISSING_U64:
            return None
        return int(number).to_bytes(8, "little")
    with np.errstate(over="ignore"):
        rounded = np.array([np.float64(number)]).astype(_DTYPES[to_type])
    return None if to_type == _F32 and np.isinf(rounded[0]) else rounded.tobytes()
