"""A query worker's answers, by message: questions to a Reader, and what they come to as messages. No sockets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple
from typing import Any

import numpy as np

from mstore import clock
from mstore.config import Config, told
from mstore.errors import UnknownMessage
from mstore.ipc import messages as m
from mstore.model import Metric
from mstore.query.budget import Budget, Work
from mstore.query.reader import Reader
from mstore.workers import sample_answers
from mstore.workers.sample_answers import Answer


class Answers:
    """Of one reader.

    config   what topologies and definitions are asked of
    info     the store's own figures
    """

    def __init__(
        self,
        reader: Reader,
        config: Callable[[], Config],
        info: Callable[[m.Info], dict[str, Any]],
        now_s: Callable[[], int] = clock.now_s,
    ) -> None:
        self._reader = reader
        self._config = config
        self._info = info
        self._answers: dict[type[m.Message], Answer] = {
            m.Children: self._children,
            m.Paths: self._paths,
            m.Metrics: self._metrics,
            m.Clusters: self._clusters,
            m.HostSeries: self._host_series,
            m.CheckHealth: self._health,
            m.Sizes: self._sizes,
            m.DebugDump: self._debug_dump,
            m.Protected: self._protected,
            m.Info: lambda message, _: m.InfoReply(self._info(message)),
            m.Ping: lambda _message, _budget: m.Done({}),
            **sample_answers.answers(reader, now_s),
        }

    def answer(self, message: m.Message, budget: Budget) -> m.Message | Work[m.Message]:
        """The reply to one request, or the work that makes it; raises typed errors."""
        answer = self._answers.get(type(message))
        if answer is None:
            raise UnknownMessage(f"{type(message).__name__} is not a message of query.sock")
        return answer(message, budget)

    def _children(self, message: m.Children, _: Budget) -> m.Message:
        return m.Names(self._reader.children(*message.path))

    def _paths(self, message: m.Paths, _: Budget) -> Work[m.Message]:
        return m.Names([list(path) for path in (yield from self._reader.paths_work(message.depth))])

    def _metrics(self, message: m.Metrics, _: Budget) -> m.Message:
        return m.MetricList([_plain(metric) for metric in self._reader.metrics(message.cluster)])

    def _clusters(self, _message: m.Clusters, _budget: Budget) -> m.Message:
        return m.ClusterList(*told(self._config()))

    def _host_series(self, message: m.HostSeries, _: Budget) -> m.Message:
        return m.SeriesPaths(
            [list(astuple(path)) for path in self._reader.host_series(message.cluster, message.host)]
        )

    def _health(self, q: m.CheckHealth, budget: Budget) -> Work[m.Message]:
        return m.HealthAnswer.of((yield from self._reader.health_work(q.cluster, q.hosts, q.metrics, budget)))

    def _sizes(self, q: m.Sizes, budget: Budget) -> Work[m.Message]:
        found = yield from self._reader.sizes_work(q.selector or None, q.depth, budget)
        numbers = [(one.n_bytes, one.chunks, one.series, one.samples) for one in found]
        return m.SizeList([list(one.path) for one in found], np.array(numbers, "<u8").tobytes())

    def _debug_dump(self, q: m.DebugDump, budget: Budget) -> Work[m.Message]:
        return m.Text((yield from self._reader.debug_dump_work(q.selector, budget)).encode())

    def _protected(self, _message: m.Protected, _: Budget) -> m.Message:
        hosts = self._reader.protected()
        return m.Names([[cluster, host] for cluster, names in hosts.items() for host in names])


def _plain(metric: Metric) -> dict[str, Any]:
    return {**asdict(metric), "columns": [list(column) for column in metric.columns]}
