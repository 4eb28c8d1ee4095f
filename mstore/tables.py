"""Tables: what a question by selector is answered with, one row for each level or series. Needs numpy only.

    Latest   the newest value             Stats   what all samples of a range come to
    Above    how long beyond a level      Top     the first of such a ranking

Rows hang at `.paths`: a sequence of LevelPath, `.paths.texts` as text. Columns are numpy arrays of one length. A row for
which there is nothing says why in `.whys`, and is NaN (u64: 0) in its columns.

On a socket a table is the list of to_wire(): a dict, and raw little-endian columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from mstore.errors import NoData, ProtocolError

WHYS = ("", "no such host", "no such id", "no such series", "no samples in range")
"""By code, as they stand in a column `why`; 0 = there is a value."""

PART_NAMES = ("cluster", "host", "type", "type_id", "subtype", "subtype_id")

_DTYPES = {name: np.dtype(name) for name in ("<f8", "<u8", "<i8", "<u4", "|u1")}
_ROWS_SHOWN = 10

T = TypeVar("T", bound="Table")


@dataclass(frozen=True, slots=True)
class LevelPath:
    """Where a level hangs; "" for what it does not have."""

    cluster: str
    host: str = ""
    type: str = ""
    type_id: str = ""
    subtype: str = ""
    subtype_id: str = ""

    def __str__(self) -> str:
        """cluster/host[/type+id[/subtype+id]]"""
        return _text((self.cluster, self.host, self.type, self.type_id, self.subtype, self.subtype_id))


class Paths(Sequence[LevelPath]):
    """LevelPaths as one text, taken apart when they are asked for: a line each, parts divided by tabs."""

    __slots__ = ("_lines", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: list[str] | None = None

    @classmethod
    def of(cls, paths: Iterable[LevelPath]) -> Paths:
        parts = ([getattr(path, name) for name in PART_NAMES] for path in paths)
        return cls("".join("\t".join(one).rstrip("\t") + "\n" for one in parts))

    @property
    def lines(self) -> list[str]:
        if self._lines is None:
            self._lines = self._text.split("\n")[:-1]
        return self._lines

    @property
    def texts(self) -> list[str]:
        """cluster/host[/type+id[/subtype+id]] each."""
        return [_text(line.split("\t")) for line in self.lines]

    def taken(self, rows: Iterable[int]) -> Paths:
        """Some of them, in this order."""
        lines = self.lines
        return Paths("".join(f"{lines[row]}\n" for row in rows))

    def __len__(self) -> int:
        return self._text.count("\n") if self._lines is None else len(self._lines)

    @overload
    def __getitem__(self, index: int) -> LevelPath: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> LevelPath | Paths:
        if isinstance(index, slice):
            return self.taken(range(*index.indices(len(self))))
        return LevelPath(*self.lines[index].split("\t"))

    def __iter__(self) -> Iterator[LevelPath]:
        return (LevelPath(*line.split("\t")) for line in self.lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Paths) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        shown = self.taken(range(min(len(self), _ROWS_SHOWN))).texts
        more = f", ... {len(self) - len(shown)} more" if len(self) > len(shown) else ""
        return f"Paths({', '.join(shown)}{more})"

    def encoded(self) -> bytes:
        return self._text.encode()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Table:
    """What all have in common."""

    COLUMNS: ClassVar[tuple[str, ...]] = ()
    """Fields that are arrays."""

    metric: str
    unit: str
    paths: Paths

    def __len__(self) -> int:
        return len(self.paths)

    def to_wire(self) -> list[Any]:
        """[class name, plain fields, paths, [[dtype, shape after the rows, bytes] each column]]."""
        plain, columns = {}, []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in self.COLUMNS:
                columns.append([value.dtype.str, list(value.shape[1:]), value.tobytes()])
            elif field.name != "paths":
                plain[field.name] = list(value) if isinstance(value, tuple) else value
        return [type(self).__name__, plain, self.paths.encoded(), columns]

    def taken(self: T, rows: NDArray[np.int64]) -> T:
        """Some of the rows, in this order."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        kept |= {name: kept[name][rows] for name in self.COLUMNS}
        return type(self)(**{**kept, "paths": self.paths.taken(rows.tolist())})

    def __repr__(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        shown = range(min(len(self), _ROWS_SHOWN))
        texts = self.paths[: len(shown)].texts
        rows = [(text, *self._cells(row)) for text, row in zip(texts, shown, strict=True)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{type(self).__name__} {self.metric}{unit}: {self._headline()}"]
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if len(self) > len(shown):
            lines.append(f"  ... {len(self) - len(shown)} more")
        return "\n".join(lines)

    def _headline(self) -> str:
        raise NotImplementedError

    def _cells(self, row: int) -> tuple[str, ...]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Latest(Table):
    """The newest value of each series, or of each level: the sum or mean of the newest values of its series.

    values    float64[n], or uint64[n] of metrics of type u64 (sums and means of them: float64)
    times_ms  int64[n], Unix milliseconds: of the value, the newest of several
    n_series  uint32[n]: how many series have a value that counts
    whys      uint8[n]: 0, or why there is no value, see WHYS
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("values", "times_ms", "n_series", "whys")

    aggregation: str
    """"" or how several series become one row: "sum" or "avg"."""
    values: NDArray[Any]
    times_ms: NDArray[np.int64]
    n_series: NDArray[np.uint32]
    whys: NDArray[np.uint8]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool[n]: there is a value."""
        valid: NDArray[np.bool_] = self.whys == 0
        return valid

    @property
    def times(self) -> NDArray[np.int64]:
        """int64[n], Unix seconds, rounded down."""
        return self.times_ms // 1000

    def why(self, row: int) -> str:
        """Why a row has no value, "" if it has one."""
        return WHYS[int(self.whys[row])]

    def _headline(self) -> str:
        return f"{len(self)} rows, {int(np.count_nonzero(self.valid))} with a value"

    def _cells(self, row: int) -> tuple[str, ...]:
        if self.whys[row]:
            return self.why(row), ""
        return _number(self.values[row]), _moment(int(self.times_ms[row]))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Above(Table):
    """The series whose samples have all been above (below) a level for some time, up to the newest.

    values    float64[n] or uint64[n]: the newest values;  times_ms  int64[n]: when they were
    since_ms  int64[n]: the first sample of the run
    peaks     float64[n]: the value of the run that is furthest beyond the level
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("values", "times_ms", "since_ms", "peaks")

    level: float
    below: bool
    for_s: int
    n_asked: int
    """How many series were looked at."""
    values: NDArray[Any]
    times_ms: NDArray[np.int64]
    since_ms: NDArray[np.int64]
    peaks: NDArray[np.float64]

    def _headline(self) -> str:
        side = "below" if self.below else "above"
        return f"{len(self)} of {self.n_asked} series {side} {self.level:g} for {self.for_s} s"

    def _cells(self, row: int) -> tuple[str, ...]:
        return _number(self.values[row]), f"since {_moment(int(self.since_ms[row]))}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Stats(Table):
    """What the raw samples of all series at or below each level come to, in [start, end).

    counts    uint64[n]: samples
    sums, avgs  float64[n], added in float64
    mins, maxs, firsts, lasts  float64[n], or uint64[n] of metrics of type u64
    firsts_ms, lasts_ms  int64[n], Unix milliseconds; of samples of one time that of the lowest series counts
    quantiles float64[n, len(percents)]: linear between the two samples next to it
    n_series  uint32[n]: how many series have a sample
    whys      uint8[n]: 0, or why there is no sample, see WHYS
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "counts", "sums", "avgs", "mins", "maxs", "firsts", "lasts", "firsts_ms", "lasts_ms", "quantiles", "n_series",
        "whys",
    )  # fmt: skip

    start: int
    end: int
    percents: tuple[float, ...]
    counts: NDArray[np.uint64]
    sums: NDArray[np.float64]
    avgs: NDArray[np.float64]
    mins: NDArray[Any]
    maxs: NDArray[Any]
    firsts: NDArray[Any]
    lasts: NDArray[Any]
    firsts_ms: NDArray[np.int64]
    lasts_ms: NDArray[np.int64]
    quantiles: NDArray[np.float64]
    n_series: NDArray[np.uint32]
    whys: NDArray[np.uint8]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool[n]: there is a sample."""
        valid: NDArray[np.bool_] = self.whys == 0
        return valid

    def why(self, row: int) -> str:
        """Why a row has no sample, "" if it has one."""
        return WHYS[int(self.whys[row])]

    def column(self, by: str) -> NDArray[Any]:
        """One figure of each row: avg, max, min, sum, count, first, last, or pNN where NN was asked for. raises KeyError"""
        if by in _FIGURES:
            found: NDArray[Any] = getattr(self, by + "s")
            return found
        if by.startswith("p") and (percent := percent_of(by)) in self.percents:
            return self.quantiles[:, self.percents.index(percent)]
        raise KeyError(by)

    def figure(self, by: str) -> float | int:
        """column(by) of a table with one row. raises NoData if that has no sample, KeyError"""
        if len(self) != 1:
            raise KeyError(f"{by}: {len(self)} rows, not one")
        if self.whys[0]:
            raise NoData(f"{self.metric} of {self.paths[0]}: {self.why(0)}", metric=self.metric)
        value: float | int = self.column(by)[0].item()
        return value

    def _headline(self) -> str:
        span = f"{_moment(self.start * 1000)} .. {_moment(self.end * 1000)}"
        return f"{len(self)} rows, {int(np.sum(self.counts))} samples, {span}"

    def _cells(self, row: int) -> tuple[str, ...]:
        if self.whys[row]:
            return self.why(row), *[""] * 3
        figures = (("min", self.mins), ("avg", self.avgs), ("max", self.maxs))
        return (
            f"{int(self.counts[row])} samples",
            *(f"{name} {_number(found[row])}" for name, found in figures),
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Top(Stats):
    """The first rows of a ranking, and all that Stats says of them; `.values` is what they are ranked by."""

    by: str
    largest: bool

    @property
    def values(self) -> NDArray[Any]:
        """float64[n] or uint64[n]."""
        return self.column(self.by)

    def _headline(self) -> str:
        return f"the {len(self)} {'largest' if self.largest else 'smallest'} by {self.by}"

    def _cells(self, row: int) -> tuple[str, ...]:
        return (_number(self.values[row]),)


_FIGURES = ("avg", "max", "min", "sum", "count", "first", "last")
_TABLES: dict[str, type[Table]] = {table.__name__: table for table in (Latest, Above, Stats, Top)}


def percent_of(by: str) -> float:
    """95.0 for "p95"; NaN for what is none, from 0 to 100."""
    try:
        percent = float(by.removeprefix("p"))
    except ValueError:
        return float("nan")
    return percent if by.startswith("p") and 0.0 <= percent <= 100.0 else float("nan")


def from_wire(entry: Sequence[Any]) -> Table:
    """The table of a to_wire() list; arrays are read-only views of its bytes. raises ProtocolError if it is none"""
    try:
        name, plain, paths, columns = entry
        table = _TABLES[name]
        rows = Paths(paths.decode())
        found = {
            column: np.frombuffer(raw, _DTYPES[dtype]).reshape(len(rows), *shape)
            for column, (dtype, shape, raw) in zip(table.COLUMNS, columns, strict=True)
        }
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
        arguments: dict[str, Any] = {**values, **found, "paths": rows}
        return table(**arguments)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ProtocolError(f"an answer that is no table: {error}") from error


def _text(parts: Sequence[str]) -> str:
    levels = [*parts[:2], *("".join(parts[at : at + 2]) for at in range(2, len(parts), 2))]
    return "/".join(level for level in levels if level)


def _number(value: Any) -> str:
    return str(int(value)) if value.dtype.kind == "u" else f"{value:.6g}"


def _moment(t_ms: int) -> str:
    try:
        return datetime.fromtimestamp(t_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{t_ms} ms"
