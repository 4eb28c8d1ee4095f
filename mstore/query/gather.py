"""From references to arrays: calls of the gather kernel, its statuses as errors, and trying again.

A status that says "the directory or the chunks changed meanwhile" raises Replan: whoever planned plans again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvariantBroken, LimitExceeded, Unavailable
from mstore.kernels import _gather
from mstore.limits import ANSWER_BYTES_MAX, QUERY_SAMPLES_MAX
from mstore.query.budget import Budget, Work
from mstore.shm import layout

T = TypeVar("T")

DTYPES: dict[int, np.dtype[Any]] = {
    layout.TYPE_F32: np.dtype("<f4"),
    layout.TYPE_F64: np.dtype("<f8"),
    layout.TYPE_U64: np.dtype("<u8"),
}

ATTEMPTS_MAX = 60
ATTEMPTS_AT_ONCE = 10
PAUSE_S = 0.0005

SLOTS_MAX = min(QUERY_SAMPLES_MAX, ANSWER_BYTES_MAX // 8)


class Replan(Exception):
    """What was planned is void: a series went, was replaced, or kept changing while it was read."""


def checked(answer: T | int) -> T:
    """The kernel's answer, or the exception its status stands for.

    raises Replan, InvariantBroken, LimitExceeded, MemoryError
    """
    if not isinstance(answer, int):
        return answer
    if answer in (_gather.GONE, _gather.BUSY, _gather.OTHER_KIND):
        raise Replan
    if answer == _gather.LIMIT:
        refuse_too_large(SLOTS_MAX + 1, 0)
    if answer == _gather.NO_MEMORY:
        raise MemoryError("no memory to gather samples")
    raise InvariantBroken(f"shared memory is damaged: the gather kernel stopped with status {answer}")


def refuse_too_large(n_slots: int, n_bytes: int) -> None:
    """LimitExceeded when one series or a whole answer is beyond its bound."""
    if n_slots > SLOTS_MAX or n_bytes > ANSWER_BYTES_MAX:
        raise LimitExceeded(
            f"an answer holds at most {SLOTS_MAX} slots a series, {ANSWER_BYTES_MAX} bytes, and reads "
            f"{QUERY_SAMPLES_MAX} samples: ask for a shorter range or fewer series"
        )


def replanned(attempt: Callable[[], T]) -> T:
    """Call until it does not raise Replan; Unavailable when the store keeps changing under it."""
    for n in range(ATTEMPTS_MAX):
        try:
            return attempt()
        except Replan:
            paused(n)
    raise changing()


def replanned_work(attempt: Callable[[], Work[T]], budget: Budget) -> Work[T]:
    """replanned() of work in pieces: what was done in an attempt that is void is done again, and spent once."""
    spent = budget.spent()
    for n in range(ATTEMPTS_MAX):
        try:
            return (yield from attempt())
        except Replan:
            budget.spend_again_from(spent)
            paused(n)
            yield
    raise changing()


def paused(attempt: int) -> None:
    """Wait a little before the next attempt, unless they are few."""
    if attempt >= ATTEMPTS_AT_ONCE:
        time.sleep(PAUSE_S)


def changing() -> Unavailable:
    return Unavailable(f"the asked series changed {ATTEMPTS_MAX} times while they were read: try again")


def slots_limit(n_series: int) -> int:
    """Slots an answer over n series may have, so that no more than QUERY_SAMPLES_MAX samples are read."""
    return min(SLOTS_MAX, QUERY_SAMPLES_MAX // max(n_series, 1))


def stamped_rows(
    gatherer: _gather.Gatherer, ref: int, start: int, end: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64], int]:
    """(stamps in ms int64[m] rising, columns uint64[m, k] as stored, value type) of one stamped series.

    Rows of one stamp: the one that arrived last.
    """
    rows, ascending, value_type, _ = checked(gatherer.rows(ref, start, end, slots_limit(1)))
    stamps = rows[:, 0].astype(np.int64)
    if not ascending:
        order = np.argsort(stamps, kind="stable")
        last = np.ones(len(order), np.bool_)
        last[:-1] = np.diff(stamps[order]) != 0
        rows, stamps = rows[order[last]], stamps[order[last]]
    return stamps, np.ascontiguousarray(rows[:, 1:]), value_type
