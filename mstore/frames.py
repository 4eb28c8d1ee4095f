"""Series: one answer, as numpy arrays, the same from a socket and from shared memory. Needs numpy only.

Grid series have one slot a step: `values[k]` belongs to the nominal time `start + k * step`, and a slot
without a sample is NaN (u64: 0, and `valid[k]` is False). Stamped series have rows with stamps of their own and
`step` is 0: what a scrape stored, or the slots that lttb picked from a grid, the empty ones between among them. With
several columns `values` is a structured array of their names.

On a socket a Series is the list of to_wire(): raw little-endian columns, missing u64 as 2^64-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mstore.conversions import SeriesConversions
from mstore.display import SeriesDisplay
from mstore.errors import ProtocolError
from mstore.functions import SeriesFunctions

U64_MISSING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

Times: TypeAlias = NDArray[np.int64]

_DTYPES = {name: np.dtype(name) for name in ("<f4", "<f8", "<u8")}
TEXT_FIELDS = (
    "unit", "why", "cluster", "host", "metric", "type", "type_id", "subtype", "subtype_id", "aggregation",
)  # fmt: skip
texts_of = attrgetter(*TEXT_FIELDS)
"""The texts of a Series, in that order."""


class Texts(Protocol):
    """Texts that came over a socket, by the name of their field."""

    def get(self, name: str, default: str, /) -> Any: ...


class Series(SeriesFunctions, SeriesConversions, SeriesDisplay):
    """The values of one series, or of an aggregate over several, in [start, start + len * step).

    values       float32, float64 or uint64 [n]; missing = NaN, or 0 with valid False; stamped with several
                 columns: structured [n]
    start        nominal time of values[0], Unix seconds; stamped: the start that was asked for
    step         seconds between values; 0 = stamped
    unit         of the values; "" = not known
    valid        bool[n]: the slot holds a sample (several columns: bool[n, k])
    coverage     uint32[n] or None: how many series contributed to an aggregate's slot
    why          "" or why there is no sample: "no such host", "no samples in range", ...
    aggregation  "" or how several series became this one: "sum" or "avg"
    n_series     how many series were asked to contribute; 0 = nothing found
    """

    _meta: Texts

    __slots__ = (
        "_meta", "_stamps_ms", "_times", "_valid", "aggregation", "cluster", "coverage", "host", "metric", "n_series",
        "start", "step", "subtype", "subtype_id", "type", "type_id", "unit", "values", "why",
    )  # fmt: skip

    def __init__(
        self,
        values: NDArray[Any],
        start: int,
        step: int,
        unit: str = "",
        valid: NDArray[np.bool_] | None = None,
        coverage: NDArray[np.uint32] | None = None,
        stamps_ms: Times | None = None,
        why: str = "",
        cluster: str = "",
        host: str = "",
        metric: str = "",
        type: str = "",
        type_id: str = "",
        subtype: str = "",
        subtype_id: str = "",
        aggregation: str = "",
        n_series: int = 1,
    ) -> None:
        self.values = values
        self.start = start
        self.step = step
        self.unit = unit
        self._valid = valid
        self.coverage = coverage
        self._stamps_ms = stamps_ms
        self._times: Times | None = None
        self.why = why
        self.cluster = cluster
        self.host = host
        self.metric = metric
        self.type = type
        self.type_id = type_id
        self.subtype = subtype
        self.subtype_id = subtype_id
        self.aggregation = aggregation
        self.n_series = n_series

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> str:
            """Texts that came over a socket, when they are asked for first: most never are."""
            if name not in TEXT_FIELDS:
                raise AttributeError(f"a Series has no {name!r}", name=name, obj=self)
            text = str(self._meta.get(name, ""))
            setattr(self, name, text)
            return text

    def __len__(self) -> int:
        return len(self.values)

    @property
    def stamped(self) -> bool:
        """Whether its times are its own, and no grid."""
        return self._stamps_ms is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a stamped series with several, else empty."""
        return self.values.dtype.names or ()

    @property
    def end(self) -> int:
        """First second after the answer: start + len * step; stamped: after the last row."""
        if self._stamps_ms is None:
            return self.start + len(self.values) * self.step
        return int(self._stamps_ms[-1]) // 1000 + 1 if len(self._stamps_ms) else self.start

    @property
    def times(self) -> Times:
        """int64[n], Unix seconds: the nominal time of every slot; stamped: the stamps, rounded down."""
        if self._times is None:
            if self._stamps_ms is None:
                self._times = self.start + self.step * np.arange(len(self.values), dtype=np.int64)
            else:
                self._times = self._stamps_ms // 1000
        return self._times

    @property
    def times_ms(self) -> Times:
        """int64[n], Unix milliseconds: the rows' own stamps; grid: the nominal times."""
        return self.times * 1000 if self._stamps_ms is None else self._stamps_ms

    @property
    def valid(self) -> NDArray[np.bool_]:
        if self._valid is None:
            self._valid = _present(self.values)
        return self._valid

    @property
    def partial(self) -> NDArray[np.bool_]:
        """bool[n]: the slot has a value, and not all series of the aggregate contributed to it.

        How many samples a slot of a coarser resolution should have is not known: such a slot is held against the
        fullest one, so where every slot lacks as much, none is partial. Its last slot never is, because its run may
        be cut short by the range.
        """
        if self.coverage is None or not len(self.coverage) or self.columns:
            return np.zeros(len(self), bool)
        per_series = -(-int(self.coverage.max()) // max(self.n_series, 1))
        found = self.valid & (self.coverage < self.n_series * per_series)
        if per_series > 1:
            found[-1] = False
        return found

    @property
    def path(self) -> str:
        """cluster/host[/type+id[/subtype+id]]."""
        parts = (self.cluster, self.host, self.type + self.type_id, self.subtype + self.subtype_id)
        return "/".join(part for part in parts if part)

    def column(self, name: str) -> Series:
        """One column of a stamped series with several, as a series of its own. KeyError if there is none."""
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.columns) or 'no columns'}")
        valid = self.valid[:, self.columns.index(name)]
        return self.like(np.ascontiguousarray(self.values[name]), valid)

    def like(self, values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Series:
        """Other values in the same slots or rows, under the same labels.

        valid  where it is not given, NaN and 2^64-1 say what is missing
        """
        return self._made(values, valid, self.start, self.step, self.coverage, self._stamps_ms)

    def with_values(self, raw: NDArray[Any], step: int, coverage: NDArray[np.uint32] | None) -> Series:
        """The same series with other values, on a grid of another step that starts at the same time.

        raw  missing values are NaN or 2^64-1
        """
        values, valid = without_missing(raw)
        return self._made(values, valid, self.start, step, coverage, None)

    def picked(self, positions: NDArray[np.int64]) -> Series:
        """Some slots or rows alone, each with its own time: stamped, also where the series is a grid.

        positions  int64[m], rising
        """
        coverage = None if self.coverage is None else self.coverage[positions]
        return self._made(
            self.values[positions], self.valid[positions], self.start, 0, coverage, self.times_ms[positions]
        )

    def between(self, start: int, end: int) -> Series:
        """The slots whose times lie in [start, end), Unix seconds; views of this one's arrays."""
        if self._stamps_ms is None:
            first, stop = (-((self.start - t) // self.step) for t in (start, end))
            first = min(max(first, 0), len(self))
            start = self.start + first * self.step
        else:
            first, stop = np.searchsorted(self._stamps_ms, (start * 1000, end * 1000)).tolist()
        kept = slice(first, max(first, stop))
        return self._made(
            self.values[kept], self.valid[kept], start, self.step,
            None if self.coverage is None else self.coverage[kept],
            None if self._stamps_ms is None else self._stamps_ms[kept],
        )  # fmt: skip

    def _made(
        self,
        values: NDArray[Any],
        valid: NDArray[np.bool_] | None,
        start: int,
        step: int,
        coverage: NDArray[np.uint32] | None,
        stamps_ms: Times | None,
    ) -> Series:
        """Another series under the same labels."""
        kept = dict(zip(TEXT_FIELDS, texts_of(self), strict=True))
        return Series(
            values, start, step, valid=valid, coverage=coverage, stamps_ms=stamps_ms, n_series=self.n_series,
            **kept,
        )  # fmt: skip

    def to_wire(self) -> list[Any]:
        """[meta, values, dtype, start, step, coverage | None, stamps | None]: what an Answer carries."""
        meta: dict[str, Any] = {
            field: text for field, text in zip(TEXT_FIELDS, texts_of(self), strict=True) if text
        }
        if self.n_series != 1:
            meta["n_series"] = self.n_series
        dtype = self.values.dtype
        if dtype.names:
            meta["columns"] = [[name, dtype[name].str] for name in dtype.names]
        return [
            meta,
            with_missing(self.values, self._valid).tobytes(),
            "rows" if dtype.names else dtype.str,
            self.start,
            self.step,
            None if self.coverage is None else self.coverage.tobytes(),
            None if self._stamps_ms is None else self._stamps_ms.tobytes(),
        ]

    @staticmethod
    def from_wire(entry: Sequence[Any]) -> Series:
        """The Series of a to_wire() list; arrays are read-only views of its bytes.

        raises ProtocolError if it is none
        """
        try:
            meta, raw, dtype_text, start, step, coverage_raw, stamps_raw = entry
            dtype = _wire_dtype(dtype_text, meta)
            values = np.frombuffer(raw, dtype)
            coverage = None if coverage_raw is None else np.frombuffer(coverage_raw, "<u4")
            stamps_ms = None if stamps_raw is None else np.frombuffer(stamps_raw, "<i8")
            n_series = int(meta.get("n_series", 1))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ProtocolError(f"an answer that is no series: {error}") from error
        if not (isinstance(start, int) and isinstance(step, int) and step >= 0):
            raise ProtocolError(f"an answer with start {start!r} and step {step!r}: expected integers >= 0")
        for column in (coverage, stamps_ms):
            if column is not None and len(column) != len(values):
                name = "coverage" if column is coverage else "stamps"
                raise ProtocolError(f"an answer with {len(values)} values but {len(column)} {name}")
        kept, valid = without_missing(values)
        return Series.of_parts(kept, valid, start, step, coverage, stamps_ms, n_series, meta)

    @staticmethod
    def of_parts(
        values: NDArray[Any],
        valid: NDArray[np.bool_] | None,
        start: int,
        step: int,
        coverage: NDArray[np.uint32] | None,
        stamps_ms: Times | None,
        n_series: int,
        meta: Texts,
    ) -> Series:
        """A Series whose texts are asked for later."""
        series = Series.__new__(Series)
        series.values = values
        series._valid = valid
        series.start = start
        series.step = step
        series.coverage = coverage
        series._stamps_ms = stamps_ms
        series._times = None
        series.n_series = n_series
        series._meta = meta
        return series


def _present(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where NaN (floats) or 2^64-1 (u64) does not say "missing"; bool[n], structured: bool[n, k]."""
    if values.dtype.names:
        columns = [_present(values[name]) for name in values.dtype.names]
        return np.stack(columns, axis=1) if len(values) else np.zeros((0, len(columns)), np.bool_)
    present: NDArray[np.bool_] = ~np.isnan(values) if values.dtype.kind == "f" else values != U64_MISSING
    return present


def without_missing(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Missing u64 become 0; the mask that still tells them, or None where NaN does."""
    if values.dtype.kind == "f":
        return values, None
    names = values.dtype.names or ()
    unsigned = [name for name in names if values.dtype[name].kind == "u"]
    if not unsigned and values.dtype.kind != "u":
        return values, None
    valid = _present(values)
    if not valid.all():
        values = values.copy()
        for name in unsigned:
            values[name][~valid[:, names.index(name)]] = 0
        if not names:
            values[~valid] = 0
    return values, valid


def with_missing(values: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[Any]:
    """The reverse: u64 cells that are not valid become 2^64-1 again."""
    if valid is None or valid.all():
        return values
    names = values.dtype.names or ()
    if not names:
        return np.where(valid, values, U64_MISSING) if values.dtype.kind == "u" else values
    values = values.copy()
    for i_column, name in enumerate(names):
        if values.dtype[name].kind == "u":
            values[name][~valid[:, i_column]] = U64_MISSING
    return values


def _wire_dtype(text: str, meta: dict[str, Any]) -> np.dtype[Any]:
    if text != "rows":
        return _DTYPES[text]
    return np.dtype([(str(name), _DTYPES[kind]) for name, kind in meta["columns"]])
