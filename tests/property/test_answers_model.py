"""Every kind of question about random trees, phases, gaps, ranges, selectors and scopes, against dicts of samples.

Asked twice each: of a Reader over the memory, as an attached program does, and through the messages of the sockets.
"""

from __future__ import annotations

import fnmatch
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore import Client
from mstore.config import Config
from mstore.errors import UnknownMetric
from mstore.frames import Series
from mstore.query import Reader
from mstore.tables import Paths, Table
from mstore.topology import natural_key, parse_cluster
from tests.jobs_rig import reader as reader_of
from tests.query_rig import SPECS, T0, Store
from tests.unplugged import unplugged

METRICS = ("load", "flops", "ops")
"""A mean of f32 and a sum of f64 every minute, a sum of u64 every ten seconds."""
CLUSTERS, HOSTS = ("c1", "c2"), ("h1", "h2", "h10")
SHAPES: tuple[tuple[tuple[str, ...], ...], ...] = (
    ((),), (("core", "0"), ("core", "1"), ("core", "10")), (("socket", "0"), ("socket", "1")),
    (("socket", "0", "llc", "0"), ("socket", "0", "llc", "1"), ("socket", "1", "llc", "0")),
    (("", "", "net", "eth0"), ("core", "1")), ((), ("core", "1")),
)  # fmt: skip
"""What a host has of a metric: itself, parts, parts of parts, parts directly below it, itself and a part."""

Path = tuple[str, ...]
"""Names of levels, from the cluster down."""


@dataclass
class Line:
    """One series, as it was written."""

    path: Path
    metric: str
    ref: int
    first: int
    samples: dict[int, float] = field(default_factory=dict)
    """By slot; slot k has the nominal time first + k * step."""

    @property
    def step(self) -> int:
        return SPECS[self.metric].step_s

    def at(self, t: int) -> float | None:
        return self.samples.get((t - self.first + self.step // 2) // self.step)

    def within(self, start: int, end: int) -> list[tuple[int, float]]:
        """(time, value) of [start, end), by time."""
        every = ((self.first + slot * self.step, value) for slot, value in self.samples.items())
        return sorted(one for one in every if start <= one[0] < end)


class Model:
    """A random tree in a store, and all that is to be known of it."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self.lines: list[Line] = []
        for cluster in CLUSTERS[: rng.randrange(1, 3)]:
            for host in rng.sample(HOSTS, rng.randrange(1, 4)):
                for metric in METRICS:
                    for levels in rng.choice([*SHAPES, ()]):
                        self._fill(store, rng, metric, cluster, host, levels)

    def _fill(
        self, store: Store, rng: random.Random, metric: str, cluster: str, host: str, levels: tuple[str, ...]
    ) -> None:
        step = SPECS[metric].step_s
        first = T0 + rng.randrange(-step, step)
        ref = store.open(metric, host, *levels, t=first, cluster=cluster)
        names = tuple("".join(levels[k : k + 2]) for k in (0, 2) if any(levels[k : k + 2]))
        line = Line((cluster, host, *names), metric, ref & 0xFFFF_FFFF, first)
        for _ in range(rng.randrange(1, 5)):
            slot = rng.choice([0, 0, rng.randrange(-1200, 1200)]) if line.samples else 0
            values = [float(rng.randrange(100)) for _ in range(rng.randrange(1, 120))]
            store.put(
                ref, first + slot * step, [int(one) if metric == "ops" else one for one in values], step
            )  # type: ignore[misc]
            line.samples |= {slot + k: value for k, value in enumerate(values)}
        self.lines.append(line)

    def levels(self) -> list[Path]:
        """Every level that holds something, or has it below, in natural order."""
        found = {line.path[:n] for line in self.lines for n in range(1, len(line.path) + 1)}
        return sorted(found, key=lambda path: [natural_key(name) for name in path])

    def selected(self, steps: Sequence[list[str]]) -> list[Path]:
        """Levels in the order named; each step is a list of forms."""
        found: list[Path] = [()]
        for forms in steps:
            children = [
                [path for form in forms for path in self.levels()
                 if path[:-1] == parent and fnmatch.fnmatchcase(path[-1], form)]
                for parent in found
            ]  # fmt: skip
            found = list(dict.fromkeys(path for part in children for path in part))
        return found

    def below(self, level: Path, metric: str) -> list[Line]:
        """The series that answer for a level, by id: none below one that holds the metric itself."""
        inside = [line for line in self.lines if line.metric == metric and line.path[: len(level)] == level]
        return sorted(
            (
                line for line in inside
                clusters = {"c1"} if steps[0] == ["c1"] else set(CLUSTERS)
            if not any(line.metric == metric and line.path[0] in clusters for line in model.lines):
                with pytest.raises(UnknownMetric):
                    both.select(asked, metric)
                continue
            start = T0 + rng.randrange(-80_000, 80_000)
            span = start, start + rng.choice([0, 700, 90_000])
            texts = ["/".join(path) for path in levels]
            assert both.select(asked).texts == texts
            with_metric = ["/".join(path) for path in levels if model.below(path, metric)]
            assert both.select(asked, metric).texts == with_metric
            percents = rng.choice([(), (50,), (0, 12.5, 100)])
            check_stats(model, both.stats(asked, metric, *span, percents), levels, metric, span)
            age = rng.choice([None, 300, 40_000])
            check_latest(
                model, both.latest(asked, metric, max_age=age), levels, metric,
                -(2**40) if age is None else now - age,
            )  # fmt: skip
            check_top(model, both, rng, asked, metric, levels, span)
            factor, algo = rng.choice([1, 1, 3, 7]), rng.choice(sorted(PICK))
            resolution = factor * SPECS[metric].step_s if factor > 1 else 0
            found = both.series(asked, metric, *span, resolution=resolution, algo=algo)
            known = {"/".join(path): model.below(path, metric) for path in levels}
            assert [one.path for one in found if known.get(one.path)] == with_metric
            check_series(found, [known.get(one.path, []) for one in found], factor, algo, span)
            check_above(model, both, rng, asked, metric, levels, now)
    finally:
        store.close()


def check_top(
    model: Model,
    both: Both,
    rng: random.Random,
    asked: Any,
    metric: str,
    levels: list[Path],
    span: tuple[int, int],
) -> None:
    by, k = rng.choice(["avg", "max", "min", "sum", "count"]), rng.randrange(1, 5)
    largest = rng.random() < 0.5
    samples = {
        "/".join(path): [value for line in model.below(path, metric) for _, value in line.within(*span)]
        for path in levels
    }
    of: dict[str, Callable[[list[float]], float]] = {
        "avg": lambda found: sum(found) / len(found), "max": max, "min": min, "sum": sum, "count": len,
    }  # fmt: skip
    figures = {text: of[by](found) for text, found in samples.items() if found}
    ranked = sorted(figures.values(), reverse=largest)[:k]
    table = both.top(asked, metric, *span, k, by, largest)
    assert near(table.values.tolist(), ranked)
    assert all(
        near(value, figures[text])
        for text, value in zip(table.paths.texts, table.values.tolist(), strict=True)
    )


def check_above(
    model: Model, both: Both, rng: random.Random, asked: Any, metric: str, levels: list[Path], now: int
) -> None:
    level, below = rng.choice([(-1.0, False), (30.0, False), (95.0, True), (1000.0, True)])
    seconds, at = rng.choice([0, 600, 4000]), now - rng.choice([0, 0, 20_000])
    table = both.above(asked, metric, level, seconds, below, at=at)
    wanted = {}
    for path in levels:
        for line in model.below(path, metric):
            run = run_of(line, level, below, at)
            if run is not None and run[1] + line.step - run[0] >= seconds:
                wanted["/".join(line.path)] = run
    found = zip(table.paths.texts, table.since_ms.tolist(), table.times_ms.tolist(), strict=True)
    assert {text: (since // 1000, t // 1000) for text, since, t in found} == wanted


# --- views of jobs


def random_topology(rng: random.Random) -> dict[str, Any]:
    """Sockets of memory domains of cores of threads, with numbers that are neighbours or far apart."""
    n_sockets, n_domains, n_cores, n_threads = (rng.randrange(1, 3) for _ in range(4))
    numbers = list(range(n_sockets * n_domains * n_cores * n_threads))
    if rng.random() < 0.5:
        rng.shuffle(numbers)
    found: dict[str, Any] = {"node": sorted(numbers)}
    for scope, size in (
        ("core", n_threads), ("memoryDomain", n_threads * n_cores), ("socket", n_threads * n_cores * n_domains),
    ):  # fmt: skip
        found[scope] = [numbers[k : k + size] for k in range(0, len(numbers), size)]
    return found


SCOPES = ("hwthread", "core", "memoryDomain", "socket", "node")


def parts_of(topology: dict[str, Any], scope: str) -> list[list[int]]:
    """The threads of each part of a scope."""
    if scope == "hwthread":
        return [[k] for k in topology["node"]]
    return [topology["node"]] if scope == "node" else topology[scope]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_every_scope_of_a_job_equals_that_of_dicts_of_samples(seed: int) -> None:
    rng = random.Random(seed)
    topology = random_topology(rng)
    native, requested = rng.choice(SCOPES), rng.choice(SCOPES)
    document = {
        "name": "tiny",
        "metricConfig": [
            {"name": "flops", "scope": native, "aggregation": "sum", "timestep": 60},
            {"name": "load", "scope": native, "aggregation": "avg", "timestep": 60},
        ],
        "subClusters": [{"name": "main", "nodes": "n1", "topology": topology}],
    }
    store = Store(f"mstore-test-job-model-{os.getpid()}")
    try:
        lines: dict[tuple[str, int], Line] = {}
        parts = parts_of(topology, native)
        for metric in ("flops", "load"):
            for k, threads in enumerate(parts):
                number = threads[0] if native == "hwthread" else k
                level = () if native == "node" else (native, str(number))
                if rng.random() < 0.1:
                    continue  # one that sends nothing
                first = T0 + rng.randrange(-30, 30)
                line = Line(
                    (), metric, store.open(metric, "n1", *level, t=first, cluster="tiny") & 0xFFFF_FFFF, first
                )
                for slot in range(12):
                    if rng.random() < 0.8 or not line.samples:
                        line.samples[slot] = float(rng.randrange(100))
                        ref = store.open(metric, "n1", *level, t=first, cluster="tiny")
                        store.put(ref, first + 60 * slot, [line.samples[slot]])
                lines[metric, k] = line
        owned = rng.choice([None, rng.sample(topology["node"], rng.randrange(1, len(topology["node"]) + 1))])
        start, n = T0 + rng.randrange(-300, 300), rng.randrange(1, 20)
        job = {
            "cluster": "tiny", "subCluster": "main", "startTime": start, "duration": 60 * n,
            "resources": [{"hostname": "n1", "hwthreads": owned}],
        }  # fmt: skip
        now = T0 + 10_000
        both = Both(reader_of(store, Config(clusters={"tiny": parse_cluster(document)}), now), now)
        factor, algo = rng.choice([1, 1, 2, 5]), rng.choice(sorted(PICK))
        resolution = 60 * factor if factor > 1 else 0
        data = both.job_data(job, ["flops", "load"], (requested,), resolution=resolution, algo=algo)
        stats = both.job_scoped_statistics(job, ["flops", "load"], (requested,))
        assert data.errors == []
        coarser = max(native, requested, key=SCOPES.index)
        mine = set(topology["node"] if owned is None else owned)
        times = [start + 60 * k for k in range(n)]
        for metric in ("flops", "load"):
            found = {one.type_id: one for one in data[metric][coarser].series}
            wanted = {}
            for k, threads in enumerate(parts_of(topology, coarser)):
                number = threads[0] if coarser == "hwthread" else k
                if mine & set(threads):
                    wanted["" if coarser == "node" else str(number)] = sorted(
                        (
                            lines[metric, j] for j, below in enumerate(parts)
                            if set(below) <= set(threads) and mine & set(below) and (metric, j) in lines
                        ),
                        key=lambda line: line.ref,
                    )  # fmt: skip
            assert set(found) == set(wanted)
            figures = {one.type_id: one for one in stats[metric][coarser]}
            for key, children in wanted.items():
                assert near_view(found[key], figures[key], children, times, metric == "load", factor, algo), (
                    seed,
                    key,
                )
    finally:
        store.close()


def near_view(
    series: Series, figures: Any, children: list[Line], times: list[int], mean: bool, factor: int, algo: str
) -> bool:
    """A series of a view and its statistics are those of the samples: each time is answered by the slot that contains it."""
    at = [
        children[0].first + (t - children[0].first + 30) // 60 * 60 for t in times
    ] if children else times  # fmt: skip
    native = united(children, at, mean)
    there = [value for value in native if value is not None]
    low, high, middle = (min(there), max(there), sum(there) / len(there)) if there else (math.nan,) * 3
    nothing = math.isnan(series.min) and math.isnan(figures.min) and not series.n_samples
    return (
        near(values_of(series), resampled(native, factor, algo))
        and series.times.tolist() == times[::factor]
        and (not there) == nothing
        and (
            nothing
            or near([series.min, series.max, series.avg, series.n_samples], [low, high, middle, len(there)])
        )
        and (nothing or near([figures.min, figures.max, figures.avg], [low, high, middle]))
    )
