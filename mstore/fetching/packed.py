"""Thousands of series in a few flat arrays: what the answer to a batch is made of, in memory and in a message.

    entries   one ENTRY a series                 64 bytes each
    values    raw little-endian values of all series, each begins at a multiple of 8 bytes
    texts     units, reasons and aggregations, by number; 0 is ""
    errors    what is wrong with an entry, by number; 0 is nothing

An entry whose slots are all missing has none of them in `values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.errors import LimitExceeded, MstoreError, ProtocolError
from mstore.frames import Series, without_missing
from mstore.numerals import number, numbers

ENTRY = np.dtype(
    [
        ("start", "<i8"),
        ("step_s", "<u4"),
        ("n_slots", "<u4"),
        ("n_series", "<u4"),
        ("error", "<u4"),
        ("min", "<f8"),
        ("max", "<f8"),
        ("avg", "<f8"),
        ("n_samples", "<u4"),
        ("reserved", "<u4"),
        ("type", "u1"),
        ("held", "u1"),
        ("unit", "<u2"),
        ("why", "<u2"),
        ("aggregation", "<u2"),
    ]
)
"""held: HELD, EMPTY (all missing, nothing in `values`) or NO_DATA (was not asked for); type: 1 f32, 2 f64, 3 u64."""

HELD, EMPTY, NO_DATA = 0, 1, 2
TEXTS_MAX = 0xFFFF
_ENTRIES_AT_ONCE = 4096
"""Made into an array at a time: a million at the end would keep others waiting for a second."""
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<u8")}
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}

assert ENTRY.itemsize == 64


class BatchSeries(Series):
    """One series of a batch's answer: a Series with its statistics, or with what is wrong with it.

    min, max, avg   over the samples of the range at native step; NaN = there is none, or they were not asked for
    n_samples       how many these are; 0 = none, or not asked for
    stop            start + its number of slots * step, also where the data was not asked for
    error           None, or why this series could not be answered while others were
    """

    __slots__ = ("avg", "error", "max", "min", "n_samples", "stop")

    min: float
    max: float
    avg: float
    n_samples: int
    stop: int
    error: MstoreError | None

    def to_dict(self) -> dict[str, Any]:
        """The metric store's entry: error?, data? (absent when empty), from, to, resolution, avg, min, max."""
        if self.error is not None:
            return {"error": self.error.message, "from": 0, "to": 0, "resolution": 0, **self.statistics()}
        found: dict[str, Any] = {"data": numbers(self.values, self._valid)} if len(self) else {}
        return {**found, "from": self.start, "to": self.stop, "resolution": self.step, **self.statistics()}

    def statistics(self) -> dict[str, float | None]:
        """avg, min and max as numbers of JSON."""
        narrow = self.values.dtype == np.float32
        return {
            "avg": number(self.avg),
            "min": number(self.min, narrow=narrow),
            "max": number(self.max, narrow=narrow),
        }

    def _headline(self) -> str:
        return (
            super()._headline()
            if self.error is None
            else f"Series {self.metric} of {self.path}: {self.error}"
        )


class Packed:
    """Series by number; each is made when it is asked for."""

    def __init__(
        self,
        entries: NDArray[Any],
        values: bytes,
        texts: Sequence[str],
        errors: Sequence[MstoreError],
    ) -> None:
        """raises ProtocolError when the arrays do not fit together"""
        self.entries = entries
        self.values = values
        self.texts = texts
        self.errors = errors
        if len(entries) and not (
            int(entries["error"].max()) <= len(errors)
            and max(int(entries[name].max()) for name in ("unit", "why", "aggregation")) < max(len(texts), 1)
            and int(entries["held"].max()) <= NO_DATA
            and 1 <= int(entries["type"].min()) <= int(entries["type"].max()) <= 3
        ):
            raise ProtocolError("an answer whose entries name texts, errors or types that it does not have")
        n_bytes = entries["n_slots"].astype(np.int64) * np.where(entries["type"] == 1, 4, 8)
        ends = np.cumsum(np.where(entries["held"] == HELD, n_bytes + 7 & ~7, 0))
        self._offsets = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        if (int(ends[-1]) if len(ends) else 0) != len(values):
            raise ProtocolError(
                f"an answer with {len(values)} bytes of values, not the {ends[-1:]} of its entries"
            )

    def __len__(self) -> int:
        return len(self.entries)

    def series(self, index: int, path: tuple[str, str, str, str, str, str, str]) -> BatchSeries:
        """One of them. path: cluster, host, metric, type, type_id, subtype, subtype_id"""
        entry = self.entries[index].item()
        (
            start,
            step_s,
            n,
            n_series,
            error,
            low,
            high,
            mean,
            n_samples,
            _,
            value_type,
            held,
            unit,
            why,
            aggregation,
        ) = entry
        dtype, texts = _DTYPES[value_type], self.texts
        values, valid = self._values(dtype, n, held, int(self._offsets[index]))
        cluster, host, metric, type_, type_id, subtype, subtype_id = path
        found = BatchSeries(
            values, start, step_s, texts[unit], valid, None, None, texts[why], cluster, host, metric, type_, type_id,
            subtype, subtype_id, texts[aggregation], n_series,
        )  # fmt: skip
        found.min, found.max, found.avg, found.n_samples = low, high, mean, n_samples
        found.stop = start + n * step_s
        found.error = self.errors[error - 1] if error else None
        return found

    def _values(
        self, dtype: np.dtype[Any], n: int, held: int, offset: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        unsigned = dtype.kind == "u"
        if held == HELD:
            return without_missing(np.frombuffer(self.values, dtype, n, offset))
        if held == NO_DATA:
            return np.empty(0, dtype), np.empty(0, np.bool_) if unsigned else None
        if unsigned:
            return np.zeros(n, dtype), np.zeros(n, np.bool_)
        return np.full(n, np.nan, dtype), None


class Packing:
    """A Packed that is being made, series after series."""

    def __init__(self) -> None:
        self._entries: list[tuple[Any, ...]] = []
        self._done: list[NDArray[Any]] = []
        self._parts: list[Any] = []
        self._texts: dict[str, int] = {"": 0}
        self._errors: dict[tuple[str, str], int] = {}
        self._found: list[MstoreError] = []

    def add(
        self,
        start: int,
        step_s: int,
        n_slots: int,
        values: NDArray[Any] | None,
        dtype: np.dtype[Any],
        held: int,
        statistics: tuple[float, float, float, int] = (np.nan, np.nan, np.nan, 0),
        unit: str = "",
        why: str = "",
        aggregation: str = "",
        n_series: int = 0,
    ) -> None:
        """Another series. values: [n_slots] as stored (missing = NaN or 2^64-1), only with held == HELD;
        statistics: min, max, avg, number of samples"""
        low, high, mean, n_samples = statistics
        texts = self._text(unit), self._text(why), self._text(aggregation)
        self._note(
            (
                start,
                step_s,
                n_slots,
                n_series,
                0,
                low,
                high,
                mean,
                n_samples,
                0,
                _NUMBERS[dtype],
                held,
                *texts,
            )
        )
        if held == HELD and values is not None:
            self._parts.append(np.ascontiguousarray(values).view(np.uint8))
            if odd := -values.nbytes % 8:
                self._parts.append(bytes(odd))

    def fail(self, error: MstoreError) -> None:
        """An entry that could not be answered."""
        key = (error.code, error.message)
        index = self._errors.setdefault(key, len(self._errors) + 1)
        if index > len(self._found):
            self._found.append(error)
        nan = float("nan")
        self._note((0, 0, 0, 0, index, nan, nan, nan, 0, 0, 1, NO_DATA, 0, 0, 0))

    def packed(self) -> Packed:
        entries = np.concatenate([*self._done, np.array(self._entries, ENTRY)])
        return Packed(entries, b"".join(self._parts), list(self._texts), self._found)

    def _note(self, entry: tuple[Any, ...]) -> None:
        self._entries.append(entry)
        if len(self._entries) == _ENTRIES_AT_ONCE:
            self._done.append(np.array(self._entries, ENTRY))
            self._entries.clear()

    def _text(self, text: str) -> int:
        index = self._texts.get(text)
        if index is None:
            index = len(self._texts)
            if index > TEXTS_MAX:
                raise LimitExceeded(f"a batch whose metrics have more than {TEXTS_MAX} units")
            self._texts[text] = index
        return index
