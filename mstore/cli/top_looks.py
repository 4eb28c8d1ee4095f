"""What `mstore top` knows: looks at a store, one after the other, and what they come to. No terminal, no drawing.

take(client, choice) ──> Look ──> Model.add()  rates since the look before, history, what has happened to the store
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.errors import MstoreError
from mstore.health import FAILED, FULL, PARTIAL

if TYPE_CHECKING:
    from mstore.client.sync import Client
    from mstore.model import Metric

HISTORY = 120
"""Looks whose rates are kept for the courses."""
COURSE_S = 1800
COURSE_HOSTS_MAX = 60
"""Courses of more hosts find no room on a terminal: they are not asked for."""
COURSE_POINTS = 120
STALE_STEPS = 5
FIRST_METRICS = ("cpu_load", "flops_any", "cpu_user", "mem_bw")
"""The first of these that a cluster has is shown first."""
RATES = ("lines", "samples", "bytes_in", "wal_bytes", "queries", "query_samples")


@dataclass(slots=True)
class Choice:
    """What is looked at: "" = the first there is."""

    cluster: str = ""
    metric: str = ""


@dataclass(frozen=True, slots=True)
class HostValues:
    """A metric of every host of a cluster, newest samples.

    hosts     names in natural order
    values    float64[n]; NaN = no sample, or one that is more than STALE_STEPS steps old
    newest_s  Unix seconds of the newest sample of any host; 0 = there is none
    courses   host -> float64[m] of the last COURSE_S seconds, for few hosts; NaN = missing
    why       "" or why there are no values
    """

    metric: str = ""
    unit: str = ""
    hosts: Sequence[str] = ()
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    newest_s: int = 0
    courses: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ill:
    """A host that is partial or failed, and its metrics that do not arrive; none when it has never sent any."""

    host: str
    state: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One answer of the store to all that is shown."""

    at_s: float
    """On the monotonic clock."""
    info: Mapping[str, Any]
    clusters: Sequence[str] = ()
    cluster: str = ""
    metrics: Sequence[str] = ()
    """Those of the cluster that every host can show."""
    shown: HostValues = field(default_factory=HostValues)
    n_by_state: Mapping[str, int] = field(default_factory=dict)
    ill: Sequence[Ill] = ()


def take(client: Client, choice: Choice) -> Look:
    """Ask the store for all that is shown. raises Unavailable and what else a question may raise"""
    info = client.info()
    at_s = clock.monotonic_s()
    clusters = sorted(client.children())
    if not clusters:
        return Look(at_s, info)
    cluster = choice.cluster if choice.cluster in clusters else clusters[0]
    metrics = sorted((one for one in client.metrics(cluster) if one.step_s), key=lambda one: one.name)
    names = [one.name for one in metrics]
    first = next((name for name in FIRST_METRICS if name in names), names[0] if names else "")
    name = choice.metric if choice.metric in names else first
    metric = next((one for one in metrics if one.name == name), None)
    shown = HostValues() if metric is None else _values(client, cluster, metric, int(info.get("now_s", 0)))
    n_by_state, ill = _health(client, cluster)
    return Look(at_s, info, clusters, cluster, names, shown, n_by_state, ill)


def _values(client: Client, cluster: str, metric: Metric, now_s: int) -> HostValues:
    try:
        table = client.latest([cluster, "*"], metric.name)
    except MstoreError as error:  # of one metric alone: it cannot be aggregated, say
        return HostValues(metric.name, metric.unit, why=error.message)
    hosts = [path.host for path in table.paths]
    valid = table.valid
    newest_s = int(table.times_ms[valid].max()) // 1000 if valid.any() else 0
    fresh = valid & (table.times_ms >= (now_s - (STALE_STEPS + 1) * metric.step_s) * 1000)
    values = np.where(fresh, table.values.astype(np.float64), np.nan)
    courses = _courses(client, cluster, metric, now_s) if len(hosts) <= COURSE_HOSTS_MAX else {}
    return HostValues(metric.name, metric.unit, hosts, values, newest_s, courses)


def _courses(client: Client, cluster: str, metric: Metric, now_s: int) -> dict[str, NDArray[np.float64]]:
    resolution_s = metric.step_s * max(1, -(-COURSE_S // (COURSE_POINTS * metric.step_s)))
    found = client.series([cluster, "*"], metric.name, now_s - COURSE_S, now_s + 1, resolution=resolution_s)
    return {
        one.host: np.where(one.valid, one.values.astype(np.float64), np.nan)
        for one in (found if isinstance(found, list) else [found])
        if len(one)
    }


def _health(client: Client, cluster: str) -> tuple[dict[str, int], list[Ill]]:
    try:
        health = client.health(cluster)
    except MstoreError:  # a cluster that has gone meanwhile
        return {}, []
    counts = dict.fromkeys((FULL, PARTIAL, FAILED), 0)
    ill = []
    for host, one in health.items():
        counts[one.state] += 1
        if one.state != FULL:
            ill.append(Ill(host, one.state, (*one.degraded, *one.missing) if one.known else ()))
    ill.sort(key=lambda one: one.state != FAILED)
    return counts, ill


class Model:
    """What the looks so far come to."""

    def __init__(self) -> None:
        self.choice = Choice()
        self.paused = False
        self.look: Look | None = None
        self.rates: dict[str, deque[float]] = {name: deque(maxlen=HISTORY) for name in RATES}
        """Events a second, between one look and the next."""
        self.fsync_ms = 0.0
        """Of an fdatasync, on average, between the last two looks that saw one."""
        self.trouble = ""
        """Why there is no newer look; "" when there is one."""
        self.troubled_since_s = 0.0
        self.late_s = 0.0
        """How long the answer that is waited for takes already, when that is unusual."""
        self.note = ""
        """What has happened to the store while it was watched, last at `noted_s`."""
        self.noted_s = 0.0

    def add(self, look: Look) -> None:
        """The next look at the store."""
        before, self.look = self.look, look
        self.late_s = 0.0
        if self.trouble:
            self._noted(f"answers again, after {look.at_s - self.troubled_since_s:.0f} s")
            self.trouble = ""
        if before is None:
            return
        if before.info.get("started_s") != look.info.get("started_s"):
            self._noted("the store was started again")
            return  # its counters may have begun anew
        elapsed_s = max(look.at_s - before.at_s, 1e-3)
        then, now = before.info.get("counters", {}), look.info.get("counters", {})
        for name, history in self.rates.items():
            history.append(max(0, now.get(name, 0) - then.get(name, 0)) / elapsed_s)
        if (n := now.get("fsyncs", 0) - then.get("fsyncs", 0)) > 0:
            self.fsync_ms = (now.get("fsync_us_total", 0) - then.get("fsync_us_total", 0)) / n / 1000

    def _noted(self, note: str) -> None:
        assert self.look is not None
        self.note, self.noted_s = note, self.look.at_s

    def failed(self, why: str, at_s: float) -> None:
        """The store did not answer, or is not ready."""
        if not self.trouble:
            self.troubled_since_s = at_s - self.late_s
        self.late_s = 0.0
        self.trouble = why

    def rate(self, name: str) -> float:
        """The newest, a second."""
        history = self.rates[name]
        return history[-1] if history else 0.0

    def next_metric(self, by: int = 1) -> None:
        """Show the next metric of the cluster, or the one before."""
        if self.look is not None and self.look.metrics:
            self.choice.metric = _next(self.look.metrics, self.choice.metric or self.look.shown.metric, by)

    def next_cluster(self) -> None:
        """Show the next cluster, with the metric that is shown where it has it."""
        if self.look is not None and self.look.clusters:
            self.choice.cluster = _next(self.look.clusters, self.choice.cluster or self.look.cluster, 1)


def _next(names: Sequence[str], name: str, by: int) -> str:
    return names[(names.index(name) + by) % len(names)] if name in names else names[0]
