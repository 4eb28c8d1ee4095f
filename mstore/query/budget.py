"""What one question may take: seconds, series, samples, bytes. Work is done in pieces, and asked between them.

    def answer(...) -> Work[Answer]:            a generator: one `yield` after each piece of about PIECE_SAMPLES
        for part in parts:
            budget.spend(samples=...)           raises LimitExceeded before it is read
            ... a kernel call ...
            yield                               whoever drives it may serve others, end it, or go on
        return Answer(...)

    finished(answer(...))                       a caller with nobody else to serve: all at once
    Slices(answer(...), budget)                 a server: some milliseconds at a time

Only the driver looks at the clock and for a cancellation; the work only yields and says what it spends.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Generic, TypeAlias, TypeVar

from mstore import clock, limits
from mstore.errors import Cancelled, LimitExceeded, Timeout

T = TypeVar("T")

Work: TypeAlias = Generator[None, None, T]

PIECE_SAMPLES = 4_000_000
"""Samples that are read between two looks at the clock: some milliseconds."""
SAMPLES_OF_A_CALL = PIECE_SAMPLES // 64
"""What is read series by series costs as much as so many samples by itself, however short it is: some 50 us."""
PIECE_SERIES = 4096
"""Series that are looked up, or scanned where they are short, between two looks."""


class Budget:
    """The bounds of one request and what of them is used.

    due_s    monotonic seconds by which the answer is of use; None = whenever
    series   selected, each as often as it is read
    samples  slots and rows that are read, the missing ones, too
    n_bytes  of the answer
    rest_s   seconds, said before a yield: somebody else works on it, there is nothing to be done for so long
    """

    __slots__ = ("_cancelled", "_due_s", "n_bytes", "rest_s", "samples", "series")

    def __init__(self, due_s: float | None = None) -> None:
        self._due_s = due_s
        self._cancelled = False
        self.series = 0
        self.samples = 0
        self.n_bytes = 0
        self.rest_s = 0.0

    def spend(self, *, series: int = 0, samples: int = 0, n_bytes: int = 0) -> None:
        """Count what is about to be read or answered. raises LimitExceeded, and nothing has been read then"""
        self.series += series
        self.samples += samples
        self.n_bytes += n_bytes
        if self.series > limits.QUERY_SERIES_MAX:
            _refuse("series", "selects", "series", self.series, limits.QUERY_SERIES_MAX)
        if self.samples > limits.QUERY_SAMPLES_MAX:
            _refuse("samples", "reads", "samples", self.samples, limits.QUERY_SAMPLES_MAX)
        if self.n_bytes > limits.ANSWER_BYTES_MAX:
            _refuse("bytes", "is answered by", "bytes", self.n_bytes, limits.ANSWER_BYTES_MAX)

    def spent(self) -> tuple[int, int, int]:
        """Series, samples and bytes so far."""
        return self.series, self.samples, self.n_bytes

    def spend_again_from(self, spent: tuple[int, int, int]) -> None:
        """What was spent since then is to be done in another way."""
        self.series, self.samples, self.n_bytes = spent

    def half_time_s(self) -> float:
        """Monotonic seconds at which half of the time that is left now will have passed."""
        now_s = clock.monotonic_s()
        return float("inf") if self._due_s is None else now_s + (self._due_s - now_s) / 2

    def cancel(self) -> None:
        """Its sender does not want the answer any more."""
        self._cancelled = True

    def check(self, now_s: float | None = None) -> None:
        """Whether the work is still wanted, as of a monotonic time, now if none is given. raises Cancelled, Timeout"""
        if self._cancelled:
            raise Cancelled("cancelled by its sender")
        if self._due_s is not None and (clock.monotonic_s() if now_s is None else now_s) >= self._due_s:
            raise Timeout("not done within the deadline")


class Slices(Generic[T]):
    """Work under way for somebody, done a slice at a time.

    `answer` holds its result when run() has said that it is done. What it raises, run() raises. `rest_s`: for how long
    nothing is to be done after a slice.
    """

    __slots__ = ("_budget", "_work", "answer")

    def __init__(self, work: Work[T], budget: Budget) -> None:
        self._work = work
        self._budget = budget
        self.answer: T | None = None

    @property
    def rest_s(self) -> float:
        return self._budget.rest_s

    def run(self, seconds: float) -> bool:
        """Go on for about so long, a piece at least; whether it is done.

        raises  Cancelled, Timeout, and whatever the work raises; it has ended then
        """
        until_s = clock.monotonic_s() + seconds
        try:
            while True:
                self._budget.check()
                self._budget.rest_s = 0.0
                next(self._work)
                if self._budget.rest_s or clock.monotonic_s() >= until_s:
                    return False
        except StopIteration as done:
            self._budget.check()
            self.answer = done.value
            return True
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Give up what is not done."""
        self._work.close()


def finished(work: Work[T]) -> T:
    """Do all of it now."""
    try:
        while True:
            next(work)
    except StopIteration as done:
        value: T = done.value
        return value


def _refuse(what: str, verb: str, unit: str, n: int, limit: int) -> None:
    raise LimitExceeded(
        f"the request {verb} {n:,} {unit}, at most {limit:,} are allowed: ask for less at a time",
        **{what: n, "limit": limit},
    )
