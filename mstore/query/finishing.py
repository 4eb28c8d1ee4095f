"""A piece of a batch made ready for its answer: rows and what was read of them become entries, columns at a time.

    statistics -> resample -> scale -> ends without samples cut off -> data left out

Statistics are of the slots at native step, before anything else. What is answered as it was read, nearly everything as
a rule, is never touched one by one: the kernel's values are the answer's.

    rows        |row 0 ..........|row 1 ...|row 2 ..................|
    entries      0  1  2  3       4  5      6  7  8  9  10
    readable     0     2  3       4            7  8  9  10                those with series that may be read
    table        0     1  2       3            4  5  6  7                 places: a row of the kernel's for each
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidStep, MstoreError, NotAggregatable
from mstore.fetching.packed import EMPTY, ENTRY, HELD, NO_DATA, Packing
from mstore.frames import U64_MISSING, Series, with_missing
from mstore.kernels import _gather_batch as kernel
from mstore.kernels.chosen import row_statistics
from mstore.query.batch import refuse_unless_aggregatable
from mstore.query.gather import DTYPES
from mstore.query.resample import resample
from mstore.query.rows import Frame, Row
from mstore.shm import layout
from mstore.tables import WHYS

Values = NDArray[Any]
Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

_NO_SAMPLES = WHYS.index("no samples in range")
_TYPES = {dtype: number for number, dtype in DTYPES.items()}
_NAN = float("nan")


class Piece:
    """Rows and what was read of them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.row_of: Places = np.repeat(np.arange(len(rows)), [row.n for row in rows])
        """int64[entries]: the row of each entry."""
        self.sizes: Places = np.concatenate([row.sizes for row in rows])
        """int64[entries]: how many series each has."""
        self.refused: dict[int, MstoreError] = dict(self._refused())
        """Entries of rows that are good, but for what is wrong with them."""
        readable = self.sizes > 0
        readable[list(self.refused)] = False
        self.readable: Places = np.flatnonzero(readable)
        self.raw: Bytes = np.empty(0, np.uint8)
        self.table: Places = np.empty((0, 8), np.int64)
        """int64[readable, 8]: as of _gather_batch.gather()."""
        self.altered: dict[int, Values] = {}
        """By place, values that hold instead of those in `raw`; the table says their step."""

    def _refused(self) -> Iterator[tuple[int, NotAggregatable]]:
        first = 0
        for row in self.rows:
            metric = row.metric
            if metric is not None and metric.aggregation == layout.AGG_NONE:
                for entry in np.flatnonzero(row.sizes > 1).tolist():
                    try:
                        refuse_unless_aggregatable(
                            row.name, metric.kind, metric.aggregation, int(row.sizes[entry])
                        )
                    except NotAggregatable as error:
                        yield first + entry, error
            first += row.n

    def refs(self) -> NDArray[np.uint64]:
        """The series of all readable entries, one entry after the other."""
        refs = np.concatenate([row.refs for row in self.rows])
        if self.refused:
            kept = np.ones(len(self.sizes), np.bool_)
            kept[list(self.refused)] = False
            refs = refs[np.repeat(kept, self.sizes)]
        return refs

    def of_rows(self, by_row: Sequence[Any], dtype: Any) -> Values:
        """Of each readable entry what is said of its row."""
        found: Values = np.array(by_row, dtype)[self.row_of[self.readable]]
        return found

    def row_at(self, place: int) -> Row:
        return self.rows[int(self.row_of[self.readable[place]])]

    def values_at(self, place: int) -> Values:
        """Those of a place, as they were read."""
        if place in self.altered:
            return self.altered[place]
        row = self.table[place]
        at, dtype = int(row[kernel.VALUES_AT]), DTYPES[int(row[kernel.TYPE])]
        return self.raw[at : at + int(row[kernel.SLOTS]) * dtype.itemsize].view(dtype)

    def alter(self, place: int, values: Values, step_s: int) -> None:
        """Other values for a place."""
        self.altered[place] = values
        self.table[place, [kernel.TYPE, kernel.STEP, kernel.SLOTS]] = (
            _TYPES[values.dtype],
            step_s,
            len(values),
        )

    def take(self, found: Sequence[Series]) -> None:
        """What was read one by one, as the kernel would give it."""
        self.table = np.zeros((len(found), 8), np.int64)
        for place, series in enumerate(found):
            self.table[place, kernel.PRESENT] = not series.why
            self.alter(place, as_stored(series), series.step)


def pack(packing: Packing, piece: Piece, frame: Frame) -> None:
    """Add the entries of a piece, in order."""
    factors = [_factor(row, frame) for row in piece.rows]
    changed = dict(_changed(piece, factors, frame))
    entries = _as_rows_say(packing, piece, factors, frame)
    places = np.flatnonzero(entries["error"][piece.readable] == 0)
    if len(places):
        _note_what_was_read(entries, piece, places, frame)
    for place, (values, start, step_s) in changed.items():
        entry = piece.readable[place]
        entries["start"][entry], entries["step_s"][entry] = start, step_s
        entries["n_slots"][entry], entries["type"][entry] = len(values), _TYPES[values.dtype]
    if frame.data:
        packing.extend(entries, _parts(piece, places, changed))
    else:
        entries["held"] = NO_DATA
        packing.extend(entries, ())


def as_stored(series: Series) -> Values:
    """Its values with missing ones as memory has them: NaN or 2^64-1."""
    values = series.values
    return with_missing(values, series.valid) if values.dtype.kind == "u" else values


def _factor(row: Row, frame: Frame) -> int | MstoreError:
    """Slots that become one, or what is wrong with a whole row."""
    if row.error is not None:
        return row.error
    assert row.metric is not None
    try:
        return frame.factor(row.metric.step_s, row.resolution_s)
    except InvalidStep as error:
        return error


def _as_rows_say(
    packing: Packing, piece: Piece, factors: Sequence[int | MstoreError], frame: Frame
) -> NDArray[Any]:
    """Entries in error, and all others as if they had no samples."""
    said = np.array(
        [_said(packing, row, factor, frame) for row, factor in zip(piece.rows, factors, strict=True)], ENTRY
    )
    entries: NDArray[Any] = said[piece.row_of]
    for entry, error in piece.refused.items():
        if not entries["error"][entry]:
            entries[entry] = _in_error(packing.error(error))
    well = entries["error"] == 0
    entries["n_series"] = np.where(well, piece.sizes, 0)
    entries["why"] = np.where(well, np.concatenate([row.whys for row in piece.rows]), 0)
    entries["aggregation"][piece.sizes <= 1] = 0
    return entries


def _said(packing: Packing, row: Row, factor: int | MstoreError, frame: Frame) -> tuple[Any, ...]:
    """An ENTRY."""
    if isinstance(factor, MstoreError):
        return _in_error(packing.error(factor))
    assert row.metric is not None
    n_points = frame.n_points(row.metric.step_s, factor) if frame.padding or not frame.data else 0
    unit, aggregation = packing.text(row.metric.unit), packing.text(layout.AGG_NAMES[row.metric.aggregation])
    return (
        frame.start, row.metric.step_s * factor, n_points, 0, 0, _NAN, _NAN, _NAN, 0, 0, row.metric.type, EMPTY,
        unit, 0, aggregation,
    )  # fmt: skip


def _in_error(number: int) -> tuple[Any, ...]:
    return 0, 0, 0, 0, number, _NAN, _NAN, _NAN, 0, 0, layout.TYPE_F32, NO_DATA, 0, 0, 0


def _note_what_was_read(entries: NDArray[Any], piece: Piece, places: Places, frame: Frame) -> None:
    """Type, statistics, and whether there is a sample at all."""
    table, answered = piece.table[places], piece.readable[places]
    entries["type"][answered] = table[:, kernel.TYPE]
    entries["held"][answered] = HELD
    entries["why"][answered] = np.where(table[:, kernel.PRESENT] == 0, _NO_SAMPLES, 0)
    if not frame.statistics:
        return
    numbers, counts = np.full((len(places), 3), _NAN), np.zeros(len(places), np.int64)
    altered = np.isin(places, list(piece.altered))
    columns = (
        np.ascontiguousarray(table[~altered, one]) for one in (kernel.TYPE, kernel.VALUES_AT, kernel.SLOTS)
    )
    numbers[~altered], counts[~altered] = row_statistics.scan(piece.raw, *columns)
    for index in np.flatnonzero(altered).tolist():
        numbers[index], counts[index] = _statistics_of(piece.altered[int(places[index])])
    with np.errstate(over="ignore"):
        numbers *= piece.of_rows([row.scale for row in piece.rows], np.float64)[places, None]
    entries["min"][answered] = numbers[:, :2].min(axis=1)
    entries["max"][answered] = numbers[:, :2].max(axis=1)
    entries["avg"][answered], entries["n_samples"][answered] = numbers[:, 2], counts


def _statistics_of(values: Values) -> tuple[NDArray[np.float64], int]:
    kind, at, n = (np.array([one]) for one in (_TYPES[values.dtype], 0, len(values)))
    numbers, counts = row_statistics.scan(_padded(values), kind, at, n)
    return numbers[0], int(counts[0])


# --- values that are not answered as they were read


def _changed(
    piece: Piece, factors: Sequence[int | MstoreError], frame: Frame
) -> Iterator[tuple[int, tuple[Values, int, int]]]:
    """(place, (values, start, step)) of each; what cannot be resampled is refused."""
    touched = piece.of_rows([frame.alters(row) for row in piece.rows], np.bool_)
    touched[list(piece.altered)] = True
    for place in np.flatnonzero(touched).tolist():
        row, step_s = piece.row_at(place), int(piece.table[place, kernel.STEP])
        if isinstance(factors[piece.row_of[piece.readable[place]]], MstoreError):
            continue
        try:
            factor = frame.factor(step_s, row.resolution_s)
        except InvalidStep as error:
            piece.refused[int(piece.readable[place])] = error
            continue
        yield place, _finished(piece.values_at(place), step_s, factor, row.scale, frame)


def _finished(
    values: Values, step_s: int, factor: int, scale: float, frame: Frame
) -> tuple[Values, int, int]:
    start = frame.start
    if factor > 1 and frame.data:
        values, _ = resample(values, factor, frame.algo)
    if scale != 1.0:
        values = _scaled(values, scale)
    if not frame.padding and frame.data:
        present = np.flatnonzero(_present(values))
        first, stop = (int(present[0]), int(present[-1]) + 1) if len(present) else (0, 0)
        values, start = values[first:stop], start + first * step_s * factor
    elif factor > 1 and not frame.data:
        values = values[: frame.n_points(step_s, factor)]
    return values, start, step_s * factor


def _scaled(values: Values, scale: float) -> Values:
    wide = values.astype(np.float64)
    wide[~_present(values)] = np.nan
    with np.errstate(over="ignore"):
        return wide * scale


def _present(values: Values) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = values != U64_MISSING if values.dtype.kind == "u" else values == values
    return found


# --- bytes


def _parts(piece: Piece, places: Places, changed: dict[int, tuple[Values, int, int]]) -> Iterator[Bytes]:
    """The bytes of the values of some places, each up to a multiple of 8: as the kernel left them, where it may be so."""
    if not changed and len(places) == len(piece.table):
        yield _without_gaps(piece)
        return
    for place in places.tolist():
        yield _padded(changed[place][0] if place in changed else piece.values_at(place))


def _without_gaps(piece: Piece) -> Bytes:
    """All that was read, with zeros between the rows: what memory held there before is nobody's business."""
    odd = piece.table[
        (piece.table[:, kernel.TYPE] == layout.TYPE_F32) & (piece.table[:, kernel.SLOTS] % 2 == 1)
    ]
    if len(odd):
        piece.raw.view(np.uint32)[odd[:, kernel.VALUES_AT] // 4 + odd[:, kernel.SLOTS]] = 0
    return piece.raw


def _padded(values: Values) -> Bytes:
    """The bytes of values, and zeros up to a multiple of 8."""
    raw = np.ascontiguousarray(values).view(np.uint8)
    return np.concatenate([raw, np.zeros(-len(raw) % 8, np.uint8)]) if len(raw) % 8 else raw
