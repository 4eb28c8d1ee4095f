"""Health of hosts: every expected metric of every host at once, by one walk of the directory; no sample is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mstore import choices
from mstore.config import Config
from mstore.errors import UnknownSelector
from mstore.health import NOT_EXPECTED, STEPS_MAX, Health, HostHealth
from mstore.hostlists import hosts_asked, natural_key
from mstore.kernels import _health
from mstore.query import catalog
from mstore.query.budget import Budget, Work, finished
from mstore.query.finder import Finder
from mstore.query.gather import Replan, replanned
from mstore.query.plan import encoded
from mstore.query.retained import RetainedGatherer
from mstore.shm.directory import DirectoryReader

PIECE_HOSTS = 128
"""Walked between two looks at the clock: 60,000 series, some milliseconds."""

_NEVER_TOO_OLD = np.iinfo(np.int64).min


class HealthQuestions:
    """Of a Reader: which metrics of which hosts arrive."""

    gatherer: RetainedGatherer
    directory: DirectoryReader
    _config: Callable[[], Config]
    _now_s: Callable[[], int]

    def health(
        self,
        cluster: str,
        nodes: str | Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Health:
        """As mstore.Client.health()."""
        asked = choices.names("metrics", metrics)
        return finished(self.health_work(cluster, hosts_asked(nodes), asked, Budget()))

    def healthy_metrics(self, cluster: str, host: str, metrics: Sequence[str] | None = None) -> HostHealth:
        """As mstore.Client.healthy_metrics()."""
        return self.health(cluster, [host], metrics).known(host)

    def health_work(
        self, cluster: str, hosts: Sequence[str] | None, metrics: Sequence[str] | None, budget: Budget
    ) -> Work[Health]:
        """health() in pieces."""
        config = self._config()
        if metrics is None:
            names = catalog.usual_metrics(self.gatherer, self.directory, config, cluster)
        else:
            names = list(dict.fromkeys(metrics))
        if hosts is None:
            hosts = replanned(lambda: self._hosts_to_check(config, cluster))
        hosts = list(dict.fromkeys(hosts))
        known = np.zeros(len(hosts), np.uint8)
        states = np.zeros((len(hosts), len(names)), np.uint8)
        for first in range(0, len(hosts), PIECE_HOSTS):
            some = slice(first, first + PIECE_HOSTS)
            budget.spend(series=len(hosts[some]))
            known[some], states[some] = replanned(partial(self._scanned, cluster, hosts[some], names))
            yield
        if metrics is None:
            _leave_out(config, cluster, hosts, names, states)
        return Health(cluster, hosts, names, known.tobytes(), states.tobytes())

    def _scanned(
        self, cluster: str, hosts: Sequence[str], names: Sequence[str]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(known u8[n], states u8[n, m]) of some hosts; raises Replan when the directory changed too much"""
        generation = self.gatherer.generation()
        finder = Finder(self.gatherer, cluster, self._config)
        levels = [finder.host(host) for host in hosts]
        known = np.array([level >= 0 for level in levels], np.uint8)
        found = np.zeros((int(known.sum()), len(names)), np.uint8)
        columns, oldest_s = self._columns(finder.level, names)
        asked = np.array([level for level in levels if level >= 0], np.uint32)
        good = _health.scan(self.directory, asked, columns, oldest_s, self._now_s(), STEPS_MAX, found)
        if not good or self.gatherer.generation() != generation:
            raise Replan
        states = np.zeros((len(hosts), len(names)), np.uint8)
        states[known.astype(np.bool_)] = found
        return known, states

    def _columns(self, level: int, names: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The column of every metric of the directory, -1 for most; and from when on the samples of each column count."""
        columns = np.full(self.directory.counts()["n_metrics"], -1, np.int32)
        oldest_s = np.full(len(names), _NEVER_TOO_OLD, np.int64)
        for column, name in enumerate(names):
            index = self.directory.find_metric(level, encoded(name)) if level >= 0 else -1
            if 0 <= index < len(columns):
                columns[index] = column
                oldest_s[column] = self.gatherer.oldest_s(index)
        return columns, oldest_s

    def _hosts_to_check(self, config: Config, cluster: str) -> list[str]:
        """Hosts that the topology names, and others that have sent something, in natural order."""
        topology = config.clusters.get(cluster)
        found = {name for _, name in Finder(self.gatherer, cluster, lambda: config).hosts()}
        found |= set(topology.hosts() if topology is not None else ())
        if not found:
            raise UnknownSelector(f"there is no cluster {cluster!r}", cluster=cluster)
        return sorted(found, key=natural_key)


def _leave_out(
    config: Config, cluster: str, hosts: Iterable[str], names: Sequence[str], states: NDArray[np.uint8]
) -> None:
    """Mark what the topology says a host does not have: metrics removed from its subcluster, parts it is without."""
    topology = config.clusters.get(cluster)
    if topology is None:
        return
    by_host = topology.by_host()
    said = [(column, topology.metrics[name]) for column, name in enumerate(names) if name in topology.metrics]
    without: dict[str, list[int]] = {}
    for row, host in enumerate(hosts):
        sub = by_host.get(host)
        if sub is None:
            continue
        if sub.name not in without:
            without[sub.name] = [column for column, metric in said if not metric.is_on(sub)]
        states[row, without[sub.name]] = NOT_EXPECTED
