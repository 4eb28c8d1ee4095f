"""What AsyncClient.follow() returns: as sync_following.Follow, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType

from mstore import clock
from mstore.client.following import FollowBatch, FollowedSeries, FollowSteps
from mstore.client.sync_following import FOREVER_S
from mstore.errors import Timeout
from mstore.ipc.transport import run_async
from mstore.times import TimeLike, to_seconds


class AsyncFollow:
    """A subscription for asyncio; tasks of one loop may share it. A cancelled wait loses nothing."""

    def __init__(self, steps: FollowSteps, until_s: Callable[[], float]) -> None:
        self._steps = steps
        self._until_s = until_s
        self._lock = asyncio.Lock()

    def _mine(self) -> asyncio.Lock:
        """The lock, unless this is a forked child: a task that is not there may hold it. raises InvalidRequest"""
        self._steps.refuse_child()
        return self._lock

    @property
    def series(self) -> Sequence[FollowedSeries]:
        return self._steps.series

    async def begin(self) -> AsyncFollow:
        """Until the store has said that it begins."""
        await run_async(self._steps.begin(self._until_s()))
        return self

    async def next(self, timeout: float | None = None) -> FollowBatch | None:
        wait_s = FOREVER_S if timeout is None else timeout
        async with self._mine():
            try:
                return await run_async(self._steps.batch(clock.monotonic_s() + wait_s))
            except Timeout:
                return None

    async def resume(self, since: TimeLike) -> None:
        async with self._mine():
            self._steps.resume(to_seconds(since, clock.now_s()) * 1000)
            await run_async(self._steps.begin(self._until_s()))

    async def close(self) -> None:
        self._steps.close()

    async def __aiter__(self) -> AsyncIterator[FollowBatch]:
        while True:
            batch = await self.next()
            if batch is not None:
                yield batch

    async def __aenter__(self) -> AsyncFollow:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
