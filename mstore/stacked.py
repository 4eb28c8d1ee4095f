"""Many Series as a few columns, for one message: what a socket carries for a whole job view.

    table     i64[n, 6]: slots or rows, start, step, n_series, dtype, parts (COVERAGE, STAMPS, COLUMNS)
    texts     a line for each series: unit, why, cluster ... divided by tabs
    values    the values of all, each from a multiple of 8 bytes on; missing u64 as 2^64-1
    coverage  u32 of those that have it, one after the other;  stamps  i64 likewise
    columns   a line of name:dtype,... for each series that has several

Texts are taken apart when they are asked for: most never are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mstore.errors import ProtocolError
from mstore.frames import TEXT_FIELDS, Series, texts_of, with_missing, without_missing

COVERAGE, STAMPS, COLUMNS = 1, 2, 4
"""Parts that a series may have beside its values."""

_DTYPES = ("<f4", "<f8", "<u8", "rows")
_NUMBERS = {text: number for number, text in enumerate(_DTYPES)}
_FIXED = [np.dtype(text) for text in _DTYPES[:3]]
_PLACES = {name: place for place, name in enumerate(TEXT_FIELDS)}
_TABLE_COLUMNS = 6

Bin = bytes | bytearray | memoryview


class Stack(NamedTuple):
    """The columns; each may be a view of the message it came by."""

    table: Bin
    texts: Bin
    values: Bin
    coverage: Bin
    stamps: Bin
    columns: Bin


class _Texts:
    """The texts of one series, as Series asks for them."""

    __slots__ = ("_line",)

    def __init__(self, line: str) -> None:
        self._line = line

    def get(self, name: str, default: str) -> str:
        parts = self._line.split("\t")
        return parts[_PLACES[name]] if len(parts) == len(TEXT_FIELDS) else default


def stacked(series: Sequence[Series]) -> Stack:
    """The columns of some series."""
    rows: list[tuple[int, ...]] = []
    lines: list[str] = []
    columns: list[str] = []
    values: list[Any] = []  # buffers, of bytes
    coverage: list[Any] = []
    stamps: list[Any] = []
    for one in series:
        dtype, parts = one.values.dtype, 0
        raw = with_missing(one.values, one.valid if dtype.names or dtype.kind == "u" else None)
        values.append(_bytes_of(raw))
        if raw.nbytes % 8:
            values.append(bytes(8 - raw.nbytes % 8))
        if one.coverage is not None:
            coverage.append(_bytes_of(one.coverage))
            parts |= COVERAGE
        if one.stamped:
            stamps.append(_bytes_of(one.times_ms))
            parts |= STAMPS
        if dtype.names:
            columns.append(",".join(f"{name}:{dtype[name].str}" for name in dtype.names))
            parts |= COLUMNS
        number = _NUMBERS["rows" if dtype.names else dtype.str]
        rows.append((len(raw), one.start, one.step, one.n_series, number, parts))
        lines.append("\t".join(texts_of(one)))
    text = "\n".join(lines)
    if text.count("\n") != len(lines) - 1 and lines:  # a unit may be any text
        text = "\n".join(line.replace("\n", " ") for line in lines)
    return Stack(
        np.array(rows, np.int64).tobytes(), text.encode(), b"".join(values), b"".join(coverage), b"".join(stamps),
        "\n".join(columns).encode(),
    )  # fmt: skip


def unstacked(stack: Stack) -> list[Series]:
    """The series of a stack; arrays are read-only views of its bytes. raises ProtocolError if it is none"""
    try:
        return _unstacked(stack)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise ProtocolError(f"an answer that is no stack of series: {error}") from error


def answers(counts: Bin, stack: Stack) -> list[Series | list[Series]]:
    """The series of a stack by the questions that they answer.

    counts  i64[q]: how many series are the list that answers a question; -1: one, and no list
    raises  ProtocolError
    """
    series = unstacked(stack)
    found: list[Series | list[Series]] = []
    at = 0
    for n in np.frombuffer(counts, "<i8").tolist() if len(counts) % 8 == 0 else ():
        part = series[at : at + abs(n)]
        if len(part) != abs(n) or n < -1:
            break
        found.append(part[0] if n < 0 else part)
        at += len(part)
    if at != len(series) or len(found) * 8 != len(counts):
        raise ProtocolError(f"an answer with {len(series)} series that are not those of its questions")
    return found


def _unstacked(stack: Stack) -> list[Series]:
    rows = np.frombuffer(stack.table, "<i8").reshape(-1, _TABLE_COLUMNS).tolist()
    lines = bytes(stack.texts).decode().split("\n") if rows else []
    columns = bytes(stack.columns).decode().split("\n")
    coverage, stamps = np.frombuffer(stack.coverage, "<u4"), np.frombuffer(stack.stamps, "<i8")
    at = at_coverage = at_stamps = at_columns = 0
    found = []
    for (n, start, step, n_series, number, parts), line in zip(rows, lines, strict=True):
        if n < 0 or number < 0 or step < 0:
            raise ValueError(f"{n} values of type {number} with a step of {step}")
        if parts & COLUMNS:
            dtype = _row_dtype(columns[at_columns])
            at_columns += 1
        else:
            dtype = _FIXED[number]
        own_coverage = own_stamps = None
        if parts & COVERAGE:
            own_coverage = coverage[at_coverage : at_coverage + n]
            at_coverage += n
        if parts & STAMPS:
            own_stamps = stamps[at_stamps : at_stamps + n]
            at_stamps += n
        values = np.frombuffer(stack.values, dtype, n, at) if n else np.empty(0, dtype)
        at += -(-n * dtype.itemsize // 8) * 8
        found.append(_made(values, start, step, n_series, own_coverage, own_stamps, line))
    if (at_coverage, at_stamps) != (len(coverage), len(stamps)) or at != len(stack.values):
        raise ValueError("its columns are longer than its series")
    return found


def _made(
    values: NDArray[Any],
    start: int,
    step: int,
    n_series: int,
    coverage: NDArray[np.uint32] | None,
    stamps_ms: NDArray[np.int64] | None,
    line: str,
) -> Series:
    for column in (coverage, stamps_ms):
        if column is not None and len(column) != len(values):
            raise ValueError(f"{len(values)} values but {len(column)} of their coverage or stamps")
    kept, valid = without_missing(values)
    return Series.of_parts(kept, valid, start, step, coverage, stamps_ms, n_series, _Texts(line))


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8)


def _row_dtype(text: str) -> np.dtype[Any]:
    pairs = [pair.rpartition(":") for pair in text.split(",")]
    return np.dtype([(name, _FIXED[_NUMBERS[kind]]) for name, _, kind in pairs])
