"""A cluster's samples, tick by tick: whose turn it is, what is lost, what comes late, what comes twice."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidRequest
from mstore.model import MetricSpec, SeriesPath
from mstore.simulate.text import LineFormatter, series_key
from mstore.simulate.walk import Walk, decimals_for, idle_share
from mstore.topology import Cluster, load_cluster

OUTAGE_TICKS_MEAN = 5
LATE_STEPS_MAX = 5


def builtin_cluster() -> Cluster:
    """Ten nodes, two of them with accelerators; the cluster of `mstore demo`."""
    with resources.as_file(builtin_path()) as path:
        return replace(load_cluster(path), source=None)


def builtin_path() -> Path:
    """The built-in cluster's cluster.json, for configurations that name it as their topology."""
    found = resources.files("mstore.data") / "cluster.json"
    return Path(str(found))


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one time, of different series."""

    t_s: int
    index: NDArray[np.int64]
    """int64[n], places in Simulator.paths."""
    mantissas: NDArray[np.int64]
    """int64[n], in units of the series' last decimal."""
    late: bool = False


class Simulator:
    """The series of a cluster and their next samples.

    nodes       take only this many nodes, in turn from every subcluster
    step_s      every metric's step instead of its own
    gaps        part of the samples that never come: half in outages of whole nodes, half alone
    late        part of the samples that come 1 to 5 steps late, with their own time
    duplicates  part of the samples that come twice
    seed        the same seed and times give the same samples
    """

    def __init__(
        self,
        cluster: Cluster | None = None,
        *,
        nodes: int | None = None,
        step_s: int | None = None,
        gaps: float = 0.0,
        late: float = 0.0,
        duplicates: float = 0.0,
        seed: int = 0,
    ) -> None:
        for name, share in (("gaps", gaps), ("late", late), ("duplicates", duplicates)):
            if not 0.0 <= share < 1.0:
                raise InvalidRequest(
                    f"{name} = {share} is not allowed: expected a part from 0 up to, not including, 1"
                )
        self.cluster = cluster or builtin_cluster()
        self._gaps, self._late, self._duplicates = gaps, late, duplicates
        self._rng = np.random.default_rng(seed)
        self._collect(_pick(self.cluster, nodes), step_s)
        self._down_ticks = np.zeros(len(self.hosts), np.int64)
        self._waiting: list[tuple[int, int, Batch]] = []
        self._n_waiting = 0

    def _collect(self, picked: list[tuple[str, str]], step_s: int | None) -> None:
        """Fill the arrays that describe each series."""
        self.hosts = [host for host, _ in picked]
        self.paths: list[SeriesPath] = []
        node: list[int] = []
        peak: list[float] = []
        for i_node, (host, subcluster) in enumerate(picked):
            sub = self.cluster.subclusters[subcluster]
            for path in self.cluster.paths(sub, host):
                metric = self.cluster.metrics[path.metric]
                # A summed metric's peak is the node's: each part has its share of it.
                parts = len(sub.topology.ids(metric.scope)) if metric.spec.aggregation == "sum" else 1
                self.paths.append(path)
                node.append(i_node)
                peak.append(metric.peaks.get(subcluster, metric.peak) / max(1, parts))
        if not self.paths:
            raise InvalidRequest(
                f"cluster {self.cluster.name} has no node with a metric: nothing to simulate"
            )
        found = [self.cluster.metrics[path.metric].spec for path in self.paths]
        self.specs: list[MetricSpec] = [replace(spec, step_s=step_s) for spec in found] if step_s else found
        self.decimals = np.array([decimals_for(value) for value in peak], np.int64)
        self._steps = np.array([spec.step_s for spec in self.specs], np.int64)
        self._node = np.array(node, np.int64)
        floor = np.array([idle_share(path.metric) for path in self.paths])
        self._walk = Walk(self._rng, np.array(peak), floor, self.decimals, self._node, len(self.hosts))
        self._formatter = LineFormatter([series_key(path) for path in self.paths], self.decimals)
        self.tick_s = math.gcd(*self._steps.tolist())
        self._everyone = np.arange(len(self.paths))
        self._one_step = bool((self._steps == self._steps[0]).all())

    def span(self, seconds: int, end_s: int) -> Iterator[Batch]:
        """All samples of (end_s - seconds, end_s], oldest first; what is late beyond the end comes last."""
        for t_s in range(end_s - seconds + 1, end_s + 1):
            if t_s % self.tick_s == 0:
                yield from self.tick(t_s)
        yield from self.flush()

    def tick(self, t_s: int) -> Iterator[Batch]:
        """What arrives at t_s: the samples that are due, minus gaps and late ones, and late ones of before.

        A series is due when its step divides the time, so two runs of a simulation share one grid.
        """
        self._walk.pass_time(self.tick_s)
        due = self._everyone if self._one_step else np.flatnonzero(t_s % self._steps == 0)
        if len(due) and t_s % int(self._steps[due[0]]) == 0:
            mantissas = self._walk.step(due if len(due) < len(self.paths) else slice(None))
            yield from self._disturbed(t_s, due, mantissas)
        while self._waiting and self._waiting[0][0] <= t_s:
            yield heapq.heappop(self._waiting)[2]

    def flush(self) -> Iterator[Batch]:
        """The late samples that are still under way."""
        while self._waiting:
            yield heapq.heappop(self._waiting)[2]

    def lines(self, batch: Batch) -> bytes:
        """A batch as line protocol."""
        whole = len(batch.index) == len(self.paths) and batch.index is self._everyone
        return self._formatter.format(slice(None) if whole else batch.index, batch.mantissas, batch.t_s)

    def values(self, batch: Batch) -> NDArray[np.float64]:
        """A batch's values: float64[n], the floats that its lines' texts stand for."""
        found: NDArray[np.float64] = batch.mantissas / 10.0 ** self.decimals[batch.index]
        return found

    def _disturbed(self, t_s: int, due: NDArray[np.int64], mantissas: NDArray[np.int64]) -> Iterator[Batch]:
        if not (self._gaps or self._late or self._duplicates):
            yield Batch(t_s, due, mantissas)
            return
        kept = ~self._lost(due)
        if self._late:
            behind = kept & (self._rng.random(len(due)) < self._late)
            self._put_off(t_s, due[behind], mantissas[behind])
            kept &= ~behind
        if kept.any():
            due, mantissas = due[kept], mantissas[kept]
            yield Batch(t_s, due, mantissas)
            again = self._rng.random(len(due)) < self._duplicates
            if again.any():
                yield Batch(t_s, due[again], mantissas[again])

    def _lost(self, due: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool[n]: samples that never come."""
        if not self._gaps:
            return np.zeros(len(due), np.bool_)
        share = self._gaps / 2
        self._down_ticks = np.maximum(self._down_ticks - 1, 0)
        starts = self._rng.random(len(self.hosts)) < share / (OUTAGE_TICKS_MEAN * (1 - share))
        starts &= self._down_ticks == 0
        self._down_ticks[starts] = self._rng.geometric(1 / OUTAGE_TICKS_MEAN, int(starts.sum()))
        alone = self._rng.random(len(due)) < share
        return alone | (self._down_ticks > 0)[self._node[due]]

    def _put_off(self, t_s: int, index: NDArray[np.int64], mantissas: NDArray[np.int64]) -> None:
        delays = self._rng.integers(1, LATE_STEPS_MAX + 1, len(index)) * self._steps[index]
        for delay in np.unique(delays).tolist():
            chosen = delays == delay
            batch = Batch(t_s, index[chosen], mantissas[chosen], late=True)
            self._n_waiting += 1
            heapq.heappush(self._waiting, (t_s + delay, self._n_waiting, batch))


def _pick(cluster: Cluster, nodes: int | None) -> list[tuple[str, str]]:
    """(host, subcluster) of the nodes to simulate, in the file's order."""
    everyone = [(host, sub.name) for sub in cluster.subclusters.values() for host in sub.hosts]
    if nodes is None or nodes >= len(everyone):
        return everyone
    if nodes < 1:
        raise InvalidRequest(f"nodes = {nodes} is not allowed: expected 1 to {len(everyone)}")
    # In turn from every subcluster, so that a few nodes still show every kind of metric.
    place = {
        host: (i, j) for j, sub in enumerate(cluster.subclusters.values()) for i, host in enumerate(sub.hosts)
    }
    chosen = set(sorted((host for host, _ in everyone), key=place.__getitem__)[:nodes])
    return [(host, sub) for host, sub in everyone if host in chosen]
