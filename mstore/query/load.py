"""Views of jobs and nodes: metrics of hosts at some scopes, one request, planned by the topology, gathered together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mstore.config import Config
from mstore.jobs.job import Job
from mstore.jobs.loaded import Loaded
from mstore.jobs.request import LoadRequest
from mstore.jobs.views import JobData, JobStatistics, NodeData, NodeListData, ScopedStatistics
from mstore.query import catalog
from mstore.query.answering import Answering
from mstore.query.budget import PIECE_SERIES, Budget, Work, finished
from mstore.query.finder import Finder
from mstore.query.gather import replanned
from mstore.query.load_plan import LoadPlan
from mstore.query.retained import RetainedGatherer
from mstore.query.rows import Frame
from mstore.shm.directory import DirectoryReader
from mstore.times import TimeLike

Scopes = Sequence[str]


class LoadQuestions:
    """Of a Reader: views of jobs and nodes."""

    gatherer: RetainedGatherer
    directory: DirectoryReader
    _config: Callable[[], Config]
    _now_s: Callable[[], int]

    def job_data(
        self,
        job: Job | Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        scopes: Scopes = ("node",),
        *,
        resolution: int = 0,
        algo: str = "lttb",
    ) -> JobData:
        """As mstore.Client.job_data()."""
        return JobData(self._load(LoadRequest.of_job(job, self._now_s(), metrics, scopes, resolution, algo)))

    def job_statistics(
        self, job: Job | Mapping[str, Any], metrics: Sequence[str] | None = None
    ) -> JobStatistics:
        """As mstore.Client.job_statistics()."""
        return JobStatistics(self._load(LoadRequest.of_job(job, self._now_s(), metrics, with_data=False)))

    def job_scoped_statistics(
        self,
        job: Job | Mapping[str, Any],
        metrics: Sequence[str] | None = None,
        scopes: Scopes = ("node",),
    ) -> ScopedStatistics:
        """As mstore.Client.job_scoped_statistics()."""
        return ScopedStatistics(
            self._load(LoadRequest.of_job(job, self._now_s(), metrics, scopes, with_data=False))
        )

    def node_data(
        self,
        cluster: str,
        start: TimeLike,
        end: TimeLike,
        *,
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> NodeData:
        """As mstore.Client.node_data()."""
        return NodeData(self._load(LoadRequest.of_nodes(cluster, start, end, self._now_s(), nodes, metrics)))

    def node_list_data(
        self,
        cluster: str,
        start: TimeLike,
        end: TimeLike,
        *,
        subcluster: str = "",
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        scopes: Scopes = ("node",),
        resolution: int = 0,
        algo: str = "lttb",
    ) -> NodeListData:
        """As mstore.Client.node_list_data()."""
        return NodeListData(
            self._load(
                LoadRequest.of_nodes(
                    cluster, start, end, self._now_s(), nodes, metrics, scopes, resolution, algo, subcluster=subcluster
                )
            )
        )  # fmt: skip

    def _load(self, request: LoadRequest) -> Loaded:
        return finished(self.load_work(request, Budget()))

    def load_work(self, request: LoadRequest, budget: Budget) -> Work[Loaded]:
        """The answer behind all views, in pieces."""
        config = self._config()

        def find() -> Finder:
            return Finder(self.gatherer, request.cluster, lambda: config)

        plan = LoadPlan(request, config.clusters.get(request.cluster))
        if request.resources is None:
            plan.take_all_hosts(replanned(lambda: find().hosts()))
        names = request.metrics
        if names is None:
            names = tuple(catalog.usual_metrics(self.gatherer, self.directory, config, request.cluster))
        plan.take_metrics(find(), names)
        frame = Frame(
            request.start, request.end, request.with_stats, request.with_data, True, request.algo,
            config.minimum_points,
        )  # fmt: skip
        tasks = []
        for task in plan.tasks():
            tasks.append(task)
            if len(tasks) % PIECE_SERIES == 0:
                yield
        answering = Answering(find, plan.row, frame, budget)
        yield from answering.work(tasks)
        return (yield from plan.loaded(tasks, answering.packing.packed()))
