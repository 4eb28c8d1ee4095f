"""Answers of one series, and of none: where no batch is needed, or one could not help."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.frames import Series, without_missing
from mstore.kernels._gather import Gatherer
from mstore.query.gather import DTYPES, checked, refuse_too_large, slots_limit, stamped_rows
from mstore.query.plan import NO_SAMPLES, Metric, Request
from mstore.shm import layout


def single(gatherer: Gatherer, ref: int, request: Request, metric: Metric) -> Series:
    """The slots of one grid series."""
    found = gatherer.grid(ref, request.start, request.end, slots_limit(1))
    raw, start, step, _, n_present, _ = checked(found)
    values, valid = without_missing(raw)
    return Series(values, start, step, metric.unit, valid, why="" if n_present else NO_SAMPLES)


def stamped(gatherer: Gatherer, ref: int, request: Request, metric: Metric) -> Series:
    """The rows of one stamped series."""
    stamps, words, value_type = stamped_rows(gatherer, ref, request.start, request.end)
    if words.shape[1] == 1:
        values: NDArray[Any] = words[:, 0].view(_column_dtype(value_type))
    else:
        values = words.view(_row_dtype(metric, words.shape[1])).reshape(len(words))
    values, valid = without_missing(values)
    why = "" if len(stamps) else NO_SAMPLES
    return Series(values, request.start, 0, metric.unit, valid, stamps_ms=stamps, why=why)


def empty(request: Request, metric: Metric, why: str) -> Series:
    """All missing, with the request's start as phase; stamped: no rows."""
    if metric.kind == layout.KIND_STAMPED:
        dtype = _row_dtype(metric, len(metric.columns)) if metric.columns else _column_dtype(metric.type)
        stamps = np.empty(0, np.int64)
        return Series(
            np.empty(0, dtype), request.start, 0, metric.unit, stamps_ms=stamps, why=why, n_series=0
        )
    n = -((request.start - request.end) // metric.step_s)
    dtype = DTYPES[metric.type]
    refuse_too_large(n, n * dtype.itemsize)
    if metric.type == layout.TYPE_U64:
        values, valid = np.zeros(n, dtype), np.zeros(n, np.bool_)
        return Series(values, request.start, metric.step_s, metric.unit, valid, why=why, n_series=0)
    return Series(np.full(n, np.nan, dtype), request.start, metric.step_s, metric.unit, why=why, n_series=0)


def _column_dtype(value_type: int) -> np.dtype[Any]:
    """Rows hold 8-byte words: unsigned integers, or float64 whatever the float type of the metric."""
    return DTYPES[layout.TYPE_U64 if value_type == layout.TYPE_U64 else layout.TYPE_F64]


def _row_dtype(metric: Metric, n_columns: int) -> np.dtype[Any]:
    """The metric's columns by name; numbered ones when its definition has another number of them."""
    if len(metric.columns) != n_columns:
        return np.dtype([(f"column{i}", "<f8") for i in range(n_columns)])
    return np.dtype([(name, "<u8" if kind == "u64" else "<f8") for name, kind in metric.columns])
