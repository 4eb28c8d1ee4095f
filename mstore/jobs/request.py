"""What is asked about the hosts of a job, or about nodes: some metrics at some scopes over one range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mstore import times
from mstore.choices import ALGORITHMS, names, refuse_unless
from mstore.errors import EmptyCluster, InvalidRequest, InvalidTimeRange, LimitExceeded
from mstore.fetching.request import RESOLUTION_S_MAX
from mstore.hostlists import hosts_asked
from mstore.jobs.job import Job, Resource
from mstore.limits import FETCH_QUERIES_MAX
from mstore.scopes import FINE_TO_COARSE


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One question behind all views of jobs and nodes; the range is [start, end), Unix seconds."""

    cluster: str
    start: int
    end: int
    resources: tuple[Resource, ...] | None
    """None: all hosts of the cluster, or of the subcluster."""
    subcluster: str = ""
    """The topology of the hosts; "": each one's own."""
    metrics: tuple[str, ...] | None = None
    """None: all that the cluster is configured with, or else all it has."""
    scopes: tuple[str, ...] = ("node",)
    resolution: int = 0
    algo: str = "lttb"
    with_data: bool = True
    with_stats: bool = True

    def __post_init__(self) -> None:
        """raises EmptyCluster, InvalidTimeRange, InvalidRequest, LimitExceeded"""
        if not self.cluster:
            raise EmptyCluster("a question about nodes without a cluster: name it")
        if self.start > self.end:
            raise InvalidTimeRange(
                f"the range starts at {self.start} and ends before, at {self.end}",
                start=self.start,
                end=self.end,
            )
        if unknown := [scope for scope in self.scopes if scope not in FINE_TO_COARSE]:
            raise InvalidRequest(f"{unknown[0]!r} is no scope: expected {', '.join(FINE_TO_COARSE)}")
        refuse_unless("algo", self.algo, ALGORITHMS)
        if not 0 <= self.resolution <= RESOLUTION_S_MAX:
            raise InvalidRequest(f"resolution={self.resolution!r}: expected 0 to {RESOLUTION_S_MAX} seconds")
        refuse_too_much(len(self.resources or ()), len(self.metrics or ()), len(self.scopes))

    @classmethod
    def of_job(
        cls,
        job: Job | Mapping[str, Any],
        now_s: int,
        metrics: Sequence[str] | None = None,
        scopes: Sequence[str] = ("node",),
        resolution: int = 0,
        algo: str = "lttb",
        *,
        with_data: bool = True,
    ) -> LoadRequest:
        """What is asked about a job, or about a decoded meta.json; raises as Job.parse, too"""
        job = Job.parse(job)
        return cls(
            job.cluster, job.start, job.end(now_s), job.resources, job.subcluster, names("metrics", metrics),
            names("scopes", scopes) or (),
            resolution, algo, with_data,
        )  # fmt: skip

    @classmethod
    def of_nodes(
        cls,
        cluster: str,
        start: times.TimeLike,
        end: times.TimeLike,
        now_s: int,
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        scopes: Sequence[str] = ("node",),
        resolution: int = 0,
        algo: str = "lttb",
        *,
        subcluster: str = "",
    ) -> LoadRequest:
        """What is asked about whole nodes. nodes: names, or a hostlist like "f02[01-64]"; None: all"""
        hosts = hosts_asked(nodes)
        resources = None if hosts is None else tuple(Resource(host, (), None) for host in hosts)
        return cls(
            cluster, times.to_seconds(start, now_s), times.to_seconds(end, now_s), resources, subcluster,
            names("metrics", metrics), names("scopes", scopes) or (), resolution, algo,
        )  # fmt: skip


def refuse_too_much(n_hosts: int, n_metrics: int, n_scopes: int) -> None:
    """LimitExceeded for more questions than a batch may have."""
    n_questions = max(n_hosts, 1) * max(n_metrics, 1) * max(n_scopes, 1)
    if n_questions > FETCH_QUERIES_MAX:
        raise LimitExceeded(
            f"{n_hosts} hosts times {n_metrics} metrics at {n_scopes} scopes are {n_questions} questions; "
            f"at most {FETCH_QUERIES_MAX}: ask for less at a time",
            limit=FETCH_QUERIES_MAX,
        )
