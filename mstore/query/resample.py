"""Coarser steps: runs of slots become one value, or the slots that matter to the eye are picked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import choices
from mstore.errors import InvalidStep
from mstore.frames import Series, with_missing
from mstore.kernels.chosen import aggregate
from mstore.kernels.chosen import resample as kernel


def factor_of(step_s: int, resolution_s: int) -> int:
    """Slots that become one; 1 = as they are.

    raises InvalidStep when the resolution is no multiple of the step, or the series has no step
    """
    if resolution_s == 0:
        return 1
    if step_s == 0:
        raise InvalidStep("a stamped series has no step that could become coarser: ask with resolution 0")
    if resolution_s < 0 or resolution_s % step_s:
        raise InvalidStep(
            f"resolution {resolution_s} s is not a multiple of the step, {step_s} s",
            step=step_s, resolution=resolution_s,
        )  # fmt: skip
    return resolution_s // step_s


def resample(values: NDArray[Any], factor: int, algo: str) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """About one value for every `factor` slots, the last run possibly shorter.

    values   float32, float64 or uint64 [n], contiguous; missing = NaN or 2^64-1
    factor   slots a run, >= 1; 1 = all of them, as they are
    returns  (values[m], positions int64[m] of these in the input, where algo picks slots and they lie on no grid: lttb)
             average  mean of the run's samples, added in float64: float32 for float32, else float64
             min, max, last, simple, lttb  values as they are, of the same type
             m is ceil(n / factor); lttb: max(n // factor, 2), at most n. A run without a sample is missing
    raises   InvalidRequest for an algo that is none of choices.ALGORITHMS
    """
    choices.refuse_unless("algo", algo, choices.ALGORITHMS)
    places = _places(values, factor, algo)
    if places is None:
        return _united(values, factor, algo), None
    return values[places], places if algo == "lttb" else None


def resampled(series: Series, resolution_s: int, algo: str = "average") -> Series:
    """The series at a coarser step; times are those of each run's first slot, with lttb those of the picked slots.

    The coverage of an aggregate: of means and extremes how many samples contributed to the run, else that of the
    slot whose value it is.
    raises InvalidStep, InvalidRequest
    """
    choices.refuse_unless("algo", algo, choices.ALGORITHMS)
    factor = factor_of(series.step, resolution_s)
    if factor == 1:
        return series
    raw = with_missing(series.values, series.valid)
    places = _places(raw, factor, algo)
    if algo == "lttb":
        assert places is not None
        return series.picked(places)
    coverage = series.coverage
    if places is not None:
        return series.with_values(raw[places], resolution_s, None if coverage is None else coverage[places])
    if coverage is not None and len(coverage):
        coverage = np.add.reduceat(coverage, np.arange(0, len(coverage), factor), dtype=np.uint32)
    return series.with_values(_united(raw, factor, algo), resolution_s, coverage)


def _places(values: NDArray[Any], factor: int, algo: str) -> NDArray[np.int64] | None:
    """Where the slots stand that remain as they are; None for an algorithm that makes one value of a run."""
    if factor == 1 or algo == "simple":
        return np.arange(0, len(values), factor, dtype=np.int64)
    kernels = {"lttb": kernel.lttb, "last": kernel.run_lasts}
    places: NDArray[np.int64] | None = kernels[algo](values, factor) if algo in kernels else None
    return places


def _united(values: NDArray[Any], factor: int, algo: str) -> NDArray[Any]:
    """One value for each run: its mean, smallest or largest sample."""
    if algo != "average":
        extremes: NDArray[Any] = kernel.run_extremes(values, factor, algo == "max")
        return extremes
    means, _ = aggregate.bucket_means(values, factor)
    return np.asarray(means, np.float32 if values.dtype == np.float32 else np.float64)
