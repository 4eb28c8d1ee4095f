"""Which series answer for the metrics of some hosts at some scopes: by the cluster's topology, then by what there is.

    metric --(scope it is stored at)--> scopes.scope_queries() for every host --> tasks --> items

A host whose topology is not known (no cluster.json, or one that does not name it) is answered at node scope, by
its own series or all that is below it. Where the topology says that a metric is stored below the node, but only the
host itself holds it, that series answers node scope. Metrics that a subcluster does not have are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mstore.errors import InvalidRequest, MstoreError, UnknownMetric, UnknownSelector
from mstore.fetching.packed import Packed
from mstore.hostlists import natural_key
from mstore.jobs.job import Resource
from mstore.jobs.loaded import LABEL, Loaded, LoadedMetric
from mstore.jobs.request import LoadRequest, refuse_too_much
from mstore.query.budget import PIECE_SERIES, Work
from mstore.query.finder import Finder
from mstore.query.rows import Row
from mstore.scopes import FINE_TO_COARSE, ScopeQuery, scope_queries
from mstore.topology import Cluster, Subcluster


@dataclass(slots=True)
class LoadTask:
    """A question for one host."""

    metric: int
    host: int
    query: ScopeQuery


class LoadPlan:
    """From a request and a topology to questions, and from their answers to a Loaded."""

    def __init__(self, request: LoadRequest, cluster: Cluster | None) -> None:
        self._request = request
        self._cluster = cluster
        self._by_host = {} if cluster is None else cluster.by_host()
        self._resources: tuple[Resource, ...] = request.resources or ()
        self._metrics: list[LoadedMetric] = []
        self._failed: list[tuple[str, MstoreError]] = []
        self._known: dict[tuple[Any, ...], list[ScopeQuery]] = {}
        self._on: dict[tuple[str, str], bool] = {}
        if cluster is not None and request.subcluster and request.subcluster not in cluster.subclusters:
            raise UnknownSelector(
                f"cluster {cluster.name} has no subcluster {request.subcluster!r}: "
                f"there are {', '.join(cluster.subclusters)}",
                subcluster=request.subcluster,
            )

    def take_all_hosts(self, hosts: Sequence[tuple[int, str]]) -> None:
        """All of the subcluster that the request names, or those that there are, in natural order."""
        if self._cluster is not None and self._request.subcluster:
            names = list(self._cluster.subclusters[self._request.subcluster].hosts)
        else:
            names = sorted((name for _, name in hosts), key=natural_key)
        self._resources = tuple(Resource(name, (), None) for name in names)

    def take_metrics(self, finder: Finder, names: Sequence[str]) -> None:
        """The metrics that are asked; those that cannot be are answered by an error each."""
        refuse_too_much(len(self._resources), len(names), len(self._request.scopes))
        for name in dict.fromkeys(names):
            try:
                metric = finder.grid_metric(name)
            except (UnknownMetric, InvalidRequest) as error:
                self._failed.append((name, error))
                continue
            said = None if self._cluster is None else self._cluster.metrics.get(name)
            prefix = said.unit_prefix if said is not None and said.spec.unit == metric.unit else ""
            scope = "node" if said is None else said.scope
            self._metrics.append(LoadedMetric(name, metric.unit, prefix, metric.step_s, scope))

    def tasks(self) -> Iterator[LoadTask]:
        """By metric, then scope, then host."""
        for i_metric, metric in enumerate(self._metrics):
            by_scope: dict[str, list[LoadTask]] = {}
            for i_host, resource in enumerate(self._resources):
                answers: dict[str, list[ScopeQuery]] = {}
                for requested in self._request.scopes:
                    for query in self._queries(metric, requested, resource):
                        answers.setdefault(query.scope, []).append(query)
                for scope, queries in answers.items():
                    tasks = by_scope.setdefault(scope, [])
                    tasks += [LoadTask(i_metric, i_host, query) for query in dict.fromkeys(queries)]
            for tasks in by_scope.values():
                yield from tasks

    def _queries(self, metric: LoadedMetric, requested: str, resource: Resource) -> list[ScopeQuery]:
        """What is asked of a host: the same for all metrics of a scope, and for all hosts of one make."""
        sub = self._subcluster(resource.host)
        if sub is None:
            return [ScopeQuery("node", None)]
        if not self._is_on(metric.name, sub):
            return []
        key = (metric.scope, requested, sub.name, resource.threads, resource.accelerators)
        found = self._known.get(key)
        if found is None:
            topology, accelerators = sub.topology, resource.accelerators
            found = self._known[key] = scope_queries(
                metric.scope, requested, topology, resource.threads,
                topology.accelerators if accelerators is None else accelerators,
            )  # fmt: skip
        return found

    def _is_on(self, metric: str, sub: Subcluster) -> bool:
        """Whether a subcluster has a metric, as far as the topology says."""
        found = self._on.get((metric, sub.name))
        if found is None:
            assert self._cluster is not None
            said = self._cluster.metrics.get(metric)
            found = self._on[metric, sub.name] = said is None or said.is_on(sub)
        return found

    def _subcluster(self, host: str) -> Subcluster | None:
        if self._cluster is not None and self._request.subcluster:
            return self._cluster.subclusters[self._request.subcluster]
        return self._by_host.get(host)

    def row(self, finder: Finder, task: LoadTask) -> Row:
        """What a question asks of the directory."""
        name, host, query = self._metrics[task.metric].name, self._resources[task.host].host, task.query
        together = query.aggregate or query.type is None
        row = finder.row(name, host, (query.type, query.ids, None, ()), together=together)
        if not len(row.refs) and query.scope == "node" and query.type is not None:
            row = finder.row_of_host_itself(name, host) or row
        row.resolution_s = self._request.resolution
        return row

    def loaded(self, tasks: Sequence[LoadTask], packed: Packed) -> Work[Loaded]:
        """The answer; packed: the series of all tasks, one after the other."""
        ids: dict[str, int] = {"": 0}
        labels = np.zeros(len(packed), LABEL)
        at = 0
        for n_done, task in enumerate(tasks):
            named = [ids.setdefault(one, len(ids)) for one in task.query.answer_ids()]
            part = labels[at : at + len(named)]
            part["metric"], part["host"], part["id"] = task.metric, task.host, named
            part["scope"] = FINE_TO_COARSE.index(task.query.scope)
            at += len(named)
            if n_done % PIECE_SERIES == PIECE_SERIES - 1:
                yield
        hosts = [resource.host for resource in self._resources]
        return Loaded(self._request.cluster, self._metrics, hosts, list(ids), labels, packed, self._failed)
