"""What Client.follow() returns: batches of samples, one after the other, with blocking calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from mstore import clock
from mstore.client.following import FollowBatch, FollowedSeries, FollowSteps
from mstore.errors import Timeout
from mstore.ipc.transport import run
from mstore.times import TimeLike, to_seconds

FOREVER_S = 10 * 365 * 86_400.0


class Follow:
    """A subscription: iterate over it, or ask for the next batch. Threads may share it, a fork may not.

    In a forked child all but close() raise InvalidRequest.

    It lives on a connection of its own and connects again by itself; close it, or use it as a context manager.
    """

    def __init__(self, steps: FollowSteps, until_s: Callable[[], float]) -> None:
        self._steps = steps
        self._until_s = until_s
        self._lock = threading.Lock()
        run(steps.begin(until_s()))

    def _mine(self) -> threading.Lock:
        """The lock, unless this is a forked child: a thread that is not there may hold it. raises InvalidRequest"""
        self._steps.refuse_child()
        return self._lock

    @property
    def series(self) -> Sequence[FollowedSeries]:
        """The series announced so far."""
        return self._steps.series

    def next(self, timeout: float | None = None) -> FollowBatch | None:
        """The next batch; None when none came within `timeout` seconds (None = wait for one)."""
        wait_s = FOREVER_S if timeout is None else timeout
        with self._mine():
            try:
                return run(self._steps.batch(clock.monotonic_s() + wait_s))
            except Timeout:
                return None

    def resume(self, since: TimeLike) -> None:
        """Begin anew with what memory holds from a time on: after a batch that says something was missed."""
        with self._mine():
            self._steps.resume(to_seconds(since, clock.now_s()) * 1000)
            run(self._steps.begin(self._until_s()))

    def close(self) -> None:
        """End the subscription."""
        self._steps.close()

    def __iter__(self) -> Iterator[FollowBatch]:
        while True:
            batch = self.next()
            if batch is not None:
                yield batch

    def __enter__(self) -> Follow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
