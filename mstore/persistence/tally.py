"""What a payload holds, counted without applying it: samples, series, time span, definitions.

The same reading serves sound payloads and damaged bytes: it stops at the first record that makes no sense. Of damaged
bytes it tells what they still look like, which is the best that can be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mstore.limits import RUN_VALUES_MAX, STAMPED_COLUMNS_MAX
from mstore.shm import layout

_RUN_BYTES = layout.RUN.itemsize
_WIDTHS = {layout.TYPE_F32: 4, layout.TYPE_F64: 8, layout.TYPE_U64: 8}
_RUNS = (layout.REC_ROW, layout.REC_COLUMN, layout.REC_STAMPED, layout.REC_SCATTER)
_T_MAX_S = 1 << 40
"""Beyond any nominal second: a time that damaged bytes only look like."""


class Record(NamedTuple):
    """One record's place in a payload, and its type."""

    kind: int
    start: int
    stop: int


@dataclass(slots=True)
class Tally:
    """Counts of one payload or of several."""

    n_samples: int = 0
    n_definitions: int = 0
    """Records of levels, metrics, series and keys, of what was removed and freed."""
    series: set[int] = field(default_factory=set)
    """References: generation << 32 | slot."""
    t_first: int = _T_MAX_S
    """Nominal seconds of the first and the last sample; first > last without samples."""
    t_last: int = -_T_MAX_S

    def add(self, payload: memoryview) -> None:
        """Count one payload, up to where it makes no sense any more."""
        for record in records(payload):
            if record.kind in _RUNS:
                self._add_run(payload[record.start : record.stop])
            elif record.kind != layout.REC_PAD:
                self.n_definitions += 1

    def _add_run(self, record: memoryview) -> None:
        refs, times = run_of(record)
        self.n_samples += max(len(refs), len(times))
        self.series.update(refs.tolist() if len(refs) < 2 else np.unique(refs).tolist())
        if len(times) and -_T_MAX_S < (first := int(times.min())) <= (last := int(times.max())) < _T_MAX_S:
            self.t_first, self.t_last = min(self.t_first, first), max(self.t_last, last)


def records(payload: memoryview) -> Iterator[Record]:
    """The records of a payload in order; ends early at one that is malformed."""
    at = 0
    while at + layout.RECORD.itemsize <= len(payload):
        kind = int.from_bytes(payload[at : at + 2], "little")
        length = _length(payload, at, kind)
        if not length or at + length > len(payload):
            return
        yield Record(kind, at, at + length)
        at += length


def _length(payload: memoryview, at: int, kind: int) -> int:
    """Bytes of the record that begins here, padding included; 0 = malformed."""
    word = int.from_bytes(payload[at + 4 : at + 8], "little")
    if kind == layout.REC_PAD or kind >= layout.REC_LEVEL:
        length = word if kind == layout.REC_PAD else (word + 7) // 8 * 8
        return length if length >= 8 and length % 8 == 0 else 0
    vtype = payload[at + 2]
    if word > RUN_VALUES_MAX or kind not in _RUNS:
        return 0
    if kind == layout.REC_STAMPED:
        return _RUN_BYTES + word * (1 + vtype) * 8 if 1 <= vtype <= STAMPED_COLUMNS_MAX else 0
    if vtype not in _WIDTHS:
        return 0
    length = _RUN_BYTES + (word * _WIDTHS[vtype] + 7) // 8 * 8
    return length + {layout.REC_COLUMN: 8, layout.REC_SCATTER: 8 * word}.get(kind, 0)


def run_of(record: memoryview) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(references, nominal seconds) of a run's samples; the shorter of the two has one element for all.

    record  one whole record of type ROW, COLUMN, STAMPED or SCATTER
    """
    head = np.frombuffer(record, layout.RUN, 1)[0]
    kind, count = int(head["type"]), int(head["count"])
    first = int(head["generation"]) << 32 | int(head["slot"])
    refs, times = np.array([first], np.uint64), np.array([head["t"]], np.int64)
    if not count:
        return refs[:0], times[:0]
    if kind == layout.REC_ROW:
        refs = first + np.arange(count, dtype=np.uint64)
    elif kind == layout.REC_SCATTER:
        slots = np.frombuffer(record, "<u4", 2 * count, _RUN_BYTES).reshape(count, 2).astype(np.uint64)
        refs = slots[:, 1] << np.uint64(32) | slots[:, 0]
    elif kind == layout.REC_COLUMN:
        step = np.frombuffer(record, "<i8", 1, _RUN_BYTES)[0]
        times = times[0] + step * np.arange(count, dtype=np.int64)
    else:
        words = 1 + int(head["vtype"])
        stamps = np.frombuffer(record, "<i8", words * count, _RUN_BYTES).reshape(count, words)[:, 0]
        times = stamps // 1000
    return refs, times
