"""What the files hold: values of metrics at the levels of one host.

    Stretch      one metric of one level at a fixed step: value k belongs to start + k * step_s
    Points       one metric of one level, each value with a time of its own
    Checkpoint   the stretches of one host in a window of time

`levels` are the names below the host as the files have them, outermost first: () is the host itself, ("socket0",),
("accelerator00000000:49:00.0", "nvlink3"). A missing value is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from mstore.errors import CorruptRecord, InvalidRequest
from mstore.times import SECONDS_MAX, SECONDS_MIN

LEVELS_MAX = 16
"""Levels below a host that a reader follows; mstore itself has two."""
STEP_S_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """One metric of one level: values[k] at start + k * step_s."""

    levels: tuple[str, ...]
    metric: str
    start: int
    """Unix seconds of values[0]."""
    step_s: int
    values: NDArray[Any]
    """float32, float64 or uint64 [n]; NaN = missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """One metric of one level: values[k] at times[k], in the order in which they were logged."""

    levels: tuple[str, ...]
    metric: str
    times: NDArray[Any]
    """int64[n], Unix seconds."""
    values: NDArray[Any]
    """float32[n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """One file: the stretches of one host in [start, end)."""

    start: int
    end: int
    stretches: Sequence[Stretch]


@dataclass(slots=True)
class Level:
    """Stretches as the tree that the files are: by metric, and the levels below by name."""

    metrics: dict[str, Stretch] = field(default_factory=dict)
    children: dict[str, Level] = field(default_factory=dict)


def tree(stretches: Iterable[Stretch]) -> Level:
    """The tree of these stretches. raises InvalidRequest when two are of one metric at one level"""
    root = Level()
    for stretch in stretches:
        level = root
        for name in stretch.levels:
            level = level.children.setdefault(name, Level())
        if stretch.metric in level.metrics:
            raise InvalidRequest(
                f"{stretch.metric} twice at {'/'.join(stretch.levels) or 'the host'}: a file has one of each"
            )
        level.metrics[stretch.metric] = stretch
    return root


def check_times(metric: str, start: int, step_s: int, n: int, path: str, offset: int) -> None:
    """CorruptRecord unless n values from `start`, every step_s, lie in the years 1 to 9999."""
    if not 1 <= step_s <= STEP_S_MAX:
        raise CorruptRecord(
            f"{path or 'checkpoint'}: a frequency of {step_s} s at {offset}: expected 1 to {STEP_S_MAX}",
            path=path, offset=offset, metric=metric,
        )  # fmt: skip
    if not SECONDS_MIN <= start <= start + n * step_s <= SECONDS_MAX:
        raise CorruptRecord(
            f"{path or 'checkpoint'}: {n} values from {start} every {step_s} s, at {offset}, leave the years 1 to 9999",
            path=path, offset=offset, metric=metric,
        )  # fmt: skip
