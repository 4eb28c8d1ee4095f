"""Batch requests and views of jobs and nodes, as a blocking client calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mstore import clock
from mstore.ipc.transport import run

if TYPE_CHECKING:
    from mstore.client.operations import Operations
    from mstore.fetching.answer import Fetched
    from mstore.fetching.request import FetchRequest
    from mstore.health import Health, HostHealth
    from mstore.jobs import Job, JobData, JobStatistics, NodeData, NodeListData, ScopedStatistics
    from mstore.times import TimeLike


class AnswerCalls:
    """Of a Client. timeout: seconds that the store may take, instead of the client's own"""

    _ops: Operations

    def fetch(self, request: Mapping[str, Any] | FetchRequest, *, timeout: float | None = None) -> Fetched:
        """Answer a batch request: ClusterCockpit's JSON shape as a dict (docs/answers.md), or a FetchRequest.

        returns  a row of series for each query, in their order; `.to_dict()` and `.to_json()` give the JSON shape
        raises   EmptyCluster, InvalidTimeRange, InvalidRequest (an unknown key, a wrong value), LimitExceeded; what
                 concerns one query alone is the .error of its series
        """
        return run(self._ops.fetch(request, timeout))

    def job_data(
        self,
        job: Job | Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        scopes: Sequence[str] = ("node",),
        *,
        resolution: int = 0,
        algo: str = "lttb",
        timeout: float | None = None,
    ) -> JobData:
        """Every series of a job: data["flops_any"]["hwthread"].series.

        job         mstore.Job, or ClusterCockpit's meta.json as a dict
        metrics     names; None: all that the cluster is configured with
        scopes      node, socket, memoryDomain, core, hwthread, accelerator; finer than stored: as stored
        resolution  seconds between points, a multiple of the step; 0 = as stored
        algo        how points are made: lttb, average, simple, min, max, last
        returns     JobData; its .errors say what could not be answered
        raises      EmptyCluster, InvalidTimeRange, InvalidRequest, UnknownSelector (no such subcluster), LimitExceeded
        """
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import JobData

        request = LoadRequest.of_job(job, clock.now_s(), metrics, scopes, resolution, algo)
        return JobData(run(self._ops.load(request, timeout)))

    def job_statistics(
        self,
        job: Job | Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> JobStatistics:
        """min, max and avg of every host of a job: stats["flops_any"]["f0201"].avg; arguments as job_data()"""
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import JobStatistics

        request = LoadRequest.of_job(job, clock.now_s(), metrics, with_data=False)
        return JobStatistics(run(self._ops.load(request, timeout)))

    def job_scoped_statistics(
        self,
        job: Job | Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        scopes: Sequence[str] = ("node",),
        *,
        timeout: float | None = None,
    ) -> ScopedStatistics:
        """The statistics of a job's series at several scopes; arguments as job_data()"""
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import ScopedStatistics

        request = LoadRequest.of_job(job, clock.now_s(), metrics, scopes, with_data=False)
        return ScopedStatistics(run(self._ops.load(request, timeout)))

    def node_data(
        self,
        cluster: str,
        start: TimeLike,
        end: TimeLike,
        *,
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> NodeData:
        """Nodes at node scope and native step: nodes["f0201"]["flops_any"].series[0].

        nodes    names, or a hostlist like "f02[01-64]"; None: all of the cluster, in natural order
        metrics  as job_data()
        """
        from mstore.jobs.request import LoadRequest
        from mstore.jobs.views import NodeData

        request = LoadRequest.of_nodes(cluster, start, end, clock.now_s(), nodes, metrics)
        return NodeData(run(self._ops.load(request, timeout)))

    def node_list_data(
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
        """Nodes at several scopes: nodes["f0201"]["flops_any"]["socket"].series.

        subcluster  its nodes, where `nodes` names none; "": every node by its own subcluster
        """
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
        return NodeListData(run(self._ops.load(request, timeout)))

    def health(
        self,
        cluster: str,
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> Health:
        """Which metrics of which hosts arrive, of all hosts of a cluster at once.

        nodes    names, or a hostlist; None: all that the topology names or that have sent something
        metrics  that are expected; None: those of the cluster, without what a host's subcluster does not have
        returns  health["f0201"].state ("full", "partial", "failed"), .degraded (behind by more than 5 steps), .missing
        raises   UnknownSelector for all hosts of a cluster that does not exist; a host that does not is "failed"
        """
        return run(self._ops.health(cluster, nodes, metrics, timeout))

    def healthy_metrics(
        self,
        cluster: str,
        host: str,
        metrics: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> HostHealth:
        """The same of one host; raises UnknownSelector when the store has never heard of it."""
        return self.health(cluster, [host], metrics, timeout=timeout).known(host)
