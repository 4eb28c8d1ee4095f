"""Batch requests and views of jobs and nodes, awaited: as sync_answers.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mstore import clock
from mstore.ipc.transport import Steps

if TYPE_CHECKING:
    from mstore.client.operations import Operations
    from mstore.fetching.answer import Fetched
    from mstore.fetching.request import FetchRequest
    from mstore.health import Health, HostHealth
    from mstore.jobs import Job, JobData, JobStatistics, NodeData, NodeListData, ScopedStatistics
    from mstore.times import TimeLike

T = TypeVar("T")


class AsyncAnswerCalls:
    """Of an AsyncClient."""

    _ops: Operations

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    async def fetch(
        self, request: Mapping[str, Any] | FetchRequest, *, timeout: float | None = None
    ) -> Fetched:
        """As Client.fetch()."""
        return await self._run(self._ops.fetch(request, timeout))

    async def job_data(
        self,
        job: Job | Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        scopes: Sequence[str] = ("node",),
        *,
        resolution: int = 0,
        algo: str = "lttb",
        timeout: float | None = None,
    ) -> JobData:
        """As Client.job_data()."""
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import JobData

        request = LoadRequest.of_job(job, clock.now_s(), metrics, scopes, resolution, algo)
        return JobData(await self._run(self._ops.load(request, timeout)))

    async def job_statistics(
        self,
        job: Job | Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> JobStatistics:
        """As Client.job_statistics()."""
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import JobStatistics

        request = LoadRequest.of_job(job, clock.now_s(), metrics, with_data=False)
        return JobStatistics(await self._run(self._ops.load(request, timeout)))

    async def job_scoped_statistics(
        self,
        job: Job | Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        scopes: Sequence[str] = ("node",),
        *,
        timeout: float | None = None,
    ) -> ScopedStatistics:
        """As Client.job_scoped_statistics()."""
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import ScopedStatistics

        request = LoadRequest.of_job(job, clock.now_s(), metrics, scopes, with_data=False)
        return ScopedStatistics(await self._run(self._ops.load(request, timeout)))

    async def node_data(
        self,
        cluster: str,
        start: TimeLike,
        end: TimeLike,
        *,
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> NodeData:
        """As Client.node_data()."""
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import NodeData

        request = LoadRequest.of_nodes(cluster, start, end, clock.now_s(), nodes, metrics)
        return NodeData(await self._run(self._ops.load(request, timeout)))

    async def node_list_data(
        self,
        cluster: str,
        start: TimeLike,
        end: TimeLike,
        *,
        subcluster: str = "",
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        scopes: Sequence[str] = ("node",),
        resolution: int = 0,
        algo: str = "lttb",
        timeout: float | None = None,
    ) -> NodeListData:
        """As Client.node_list_data()."""
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import NodeListData

        request = LoadRequest.of_nodes(
            cluster,
            start,
            end,
            clock.now_s(),
            nodes,
            metrics,
            scopes,
            resolution,
            algo,
            subcluster=subcluster,
        )
        return NodeListData(await self._run(self._ops.load(request, timeout)))

    async def health(
        self,
        cluster: str,
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> Health:
        """As Client.health()."""
        return await self._run(self._ops.health(cluster, nodes, metrics, timeout))

    async def healthy_metrics(
        self,
        cluster: str,
        host: str,
        metrics: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> HostHealth:
        """As Client.healthy_metrics()."""
        return (await self.health(cluster, [host], metrics, timeout=timeout)).known(host)
