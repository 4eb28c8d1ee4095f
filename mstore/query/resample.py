"""Coarser steps: runs of slots become their mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidStep
from mstore.frames import Series, with_missing
from mstore.kernels.chosen import aggregate as kernel


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


def resample_mean(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Mean of runs of `factor` slots, the last run possibly shorter, added up in float64.

    values   float32, float64 or uint64 [n]; missing = NaN or 2^64-1
    returns  float32 for float32, else float64; [ceil(n / factor)]; a run without a sample is NaN
    """
    means: NDArray[np.float64]
    means, _ = kernel.bucket_means(values, factor)
    return means.astype(np.float32) if values.dtype == np.float32 else means


def resampled(series: Series, resolution_s: int) -> Series:
    """The series at a coarser step; times are those of each run's first slot.

    The coverage of an aggregate counts the samples that contributed to a run.
    """
    factor = factor_of(series.step, resolution_s)
    if factor == 1:
        return series
    raw = with_missing(series.values, series.valid)
    coverage = series.coverage
    if coverage is not None and len(coverage):
        coverage = np.add.reduceat(coverage, np.arange(0, len(coverage), factor), dtype=np.uint32)
    return series.with_values(resample_mean(raw, factor), resolution_s, coverage)
