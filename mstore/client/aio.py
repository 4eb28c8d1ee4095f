"""The asyncio client: the same calls as Client, awaited. What they do is in operations.py and columns.py."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from mstore import paths
from mstore.client.aio_answers import AsyncAnswerCalls
from mstore.client.aio_life import AsyncLifeCalls
from mstore.client.aio_selecting import AsyncSelectorCalls
from mstore.client.operations import Operations
from mstore.client.pool import Settings
from mstore.client.questions import Question
from mstore.client.sync import make_path
from mstore.ipc.transport import Steps, run_async

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mstore.client.aio_following import AsyncFollow
    from mstore.client.columns import Handles, PathLike, WriterSteps
    from mstore.client.lines import Source
    from mstore.client.questions import Ids
    from mstore.client.results import WriteResult
    from mstore.config import Config
    from mstore.frames import Series
    from mstore.model import Metric, MetricSpec, SeriesPath
    from mstore.selector import SelectorLike
    from mstore.times import TimeLike
    from mstore.topology import Cluster

T = TypeVar("T")

CONNECTIONS_MAX = 16
"""Calls that are under way at a time; others wait for their turn."""


async def connect_async(
    directory: str | os.PathLike[str] | None = None,
    *,
    ack: str = "durable",
    timeout: float = 30.0,
    cluster: str = "",
) -> AsyncClient:
    """As mstore.connect, for asyncio."""
    client = AsyncClient(directory, ack=ack, timeout=timeout, cluster=cluster)
    await client.ping()
    return client


class AsyncClient(AsyncSelectorCalls, AsyncAnswerCalls, AsyncLifeCalls):
    """Client for asyncio: same calls, same promises; tasks of one loop share it, threads do not.

    A cancelled task ends its call at once, and the store is told to drop the request. A write so ended may
    be stored in part; writing it again is safe.

    A fork is safe: a child uses it in a loop of its own, with connections of its own, and what is under way goes on in the
    parent alone. An AsyncWriter and an AsyncFollow stay with the process that made them.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        ack: str = "durable",
        timeout: float = 30.0,
        cluster: str = "",
    ) -> None:
        self.directory = paths.store_dir(directory)
        self._ops = Operations(Settings(self.directory, ack, timeout, cluster))
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    async def write(
        self, lines: Source, cluster: str | None = None, precision: str | None = None
    ) -> WriteResult:
        return await self._run(self._ops.write(lines, cluster, precision))

    async def put(
        self,
        cluster: str,
        host: str,
        values: Mapping[str, Any],
        ts: TimeLike | None = None,
        *,
        type: str | None = None,
        type_id: str | int | None = None,
        subtype: str | None = None,
        subtype_id: str | int | None = None,
        unit: str | None = None,
    ) -> WriteResult:
        path = make_path(cluster, host, type, type_id, subtype, subtype_id)
        return await self._run(self._ops.put(path, values, ts, unit))

    def writer(self, window: int = 8) -> AsyncWriter:
        from mstore.client.columns import WriterSteps  # with it comes numpy

        return AsyncWriter(WriterSteps(self._ops, window))

    async def query(
        self,
        cluster: str,
        host: str,
        metric: str,
        start: TimeLike,
        end: TimeLike,
        *,
        type: str | None = None,
        type_ids: Ids = None,
        subtype: str | None = None,
        subtype_ids: Ids = None,
        aggregate: bool = False,
        resolution: int = 0,
        algo: str = "average",
        function: str = "",
        window: int = 0,
        missing: str = "skip",
        scale_by: float = 1.0,
        fill: str = "none",
        max_gap: int = 0,
        archive: bool = True,
        timeout: float | None = None,
    ) -> Series | list[Series]:
        question = Question(
            cluster, host, metric, start, end, type, type_ids, subtype, subtype_ids, aggregate, resolution,
            algo, function, window, missing, scale_by, fill, max_gap, archive,
        )  # fmt: skip
        return await self._run(self._ops.query(question, timeout))

    async def query_many(
        self, questions: Iterable[Question], *, timeout: float | None = None
    ) -> list[Series | list[Series]]:
        return await self._run(self._ops.query_many(questions, timeout))

    async def follow(
        self,
        selector: SelectorLike,
        metrics: str | Sequence[str] | None = None,
        *,
        since: TimeLike | None = None,
    ) -> AsyncFollow:
        from mstore.client.aio_following import AsyncFollow  # with it comes numpy

        return await AsyncFollow(self._ops.follow(selector, metrics, since), self._ops.until_s).begin()

    async def children(self, *path: str) -> list[str]:
        return await self._run(self._ops.children(path))

    async def host_series(self, cluster: str, host: str) -> list[SeriesPath]:
        return await self._run(self._ops.host_series(cluster, host))

    async def paths(self, depth: int) -> list[tuple[str, ...]]:
        return await self._run(self._ops.paths(depth))

    async def metrics(self, cluster: str | None = None) -> list[Metric]:
        return await self._run(self._ops.metrics(cluster))

    async def clusters(self) -> dict[str, Cluster]:
        return dict((await self.config()).clusters)

    async def config(self) -> Config:
        return await self._run(self._ops.config())

    async def info(self, *, starting: bool = False, predict: bool = False) -> dict[str, Any]:
        return await self._run(self._ops.info(starting, predict))

    async def ping(self) -> None:
        await self._run(self._ops.ping())

    async def archive(
        self, clusters: Sequence[str] = (), *, delete: bool = False, timeout: float | None = None
    ) -> dict[str, Any]:
        """As Client.archive."""
        return await self._run(self._ops.archive(clusters, delete, timeout))

    async def control(self, verb: str, memory: str = "") -> dict[str, Any]:
        return await self._run(self._ops.control(verb, memory))

    async def close(self) -> None:
        self._ops.pool.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        if self._pid != os.getpid():
            self._begin()  # the parent's calls hold the old slots, and nobody here gives these back
        async with self._slots:
            return await run_async(steps)


class AsyncWriter:
    """Writer for asyncio: same calls, same promises; tasks of one loop share it."""

    def __init__(self, steps: WriterSteps) -> None:
        self._steps = steps
        self._lock = asyncio.Lock()

    def _mine(self) -> asyncio.Lock:
        """The lock, unless this is a forked child: a task that is not there may hold it. raises InvalidRequest"""
        self._steps.refuse_child()
        return self._lock

    @property
    def refused(self) -> dict[int, str]:
        return self._steps.refused

    async def open(self, series: Sequence[PathLike], spec: MetricSpec | None = None) -> Handles:
        async with self._mine():
            return await run_async(self._steps.open(series, spec))

    async def write(self, handles: ArrayLike, times: ArrayLike, values: ArrayLike) -> None:
        async with self._mine():
            await run_async(self._steps.write(handles, times, values))

    async def rows(self, handle: int, stamps_ms: ArrayLike, values: ArrayLike) -> None:
        async with self._mine():
            await run_async(self._steps.rows(handle, stamps_ms, values))

    async def flush(self) -> WriteResult:
        async with self._mine():
            return await run_async(self._steps.flush())

    def close(self) -> None:
        self._steps.close()

    async def __aenter__(self) -> AsyncWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            self.close()
