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
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mstore import Client
from mstore.config import Config
from mstore.errors import UnknownMetric
from mstore.frames import Series
from mstore.hostlists import natural_key
from mstore.query import Reader
from mstore.shm import layout
from mstore.tables import Paths, Table
from mstore.topology import parse_cluster
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
    later: dict[int, float] = field(default_factory=dict)
    """By time: of eras that followed, with a phase of their own."""

    @property
    def step(self) -> int:
        return SPECS[self.metric].step_s

    def at(self, t: int) -> float | None:
        return self.samples.get((t - self.first + self.step // 2) // self.step)

    def within(self, start: int, end: int) -> list[tuple[int, float]]:
        """(time, value) of [start, end), by time."""
        every = ((self.first + slot * self.step, value) for slot, value in self.samples.items())
        return sorted(one for one in (*every, *self.later.items()) if start <= one[0] < end)


class Model:
    """A random tree in a store, and all that is to be known of it."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self.lines: list[Line] = []
        for cluster in CLUSTERS[: rng.randrange(1, 3)]:
            for host in rng.sample(HOSTS, rng.randrange(1, 4)):
                for metric in METRICS:
                    for levels in rng.choice([*SHAPES, ()]):
                        self._fill(store, rng, metric, cluster, host, levels)

    def newest(self) -> int:
        """Time of the newest sample; T0 of a tree without a series."""
        return max((line.within(-(2**40), 2**40)[-1][0] for line in self.lines), default=T0)

    def _fill(
        self, store: Store, rng: random.Random, metric: str, cluster: str, host: str, levels: tuple[str, ...]
    ) -> None:
        step = SPECS[metric].step_s
        first = T0 + rng.randrange(-step, step)
        ref = store.open(metric, host, *levels, t=first, cluster=cluster)
        names = tuple("".join(levels[k : k + 2]) for k in (0, 2) if any(levels[k : k + 2]))
        line = Line((cluster, host, *names), metric, ref & 0xFFFF_FFFF, first)
        slot = 0
        for _ in range(rng.randrange(1, 9)):
            values = [float(rng.randrange(100)) for _ in range(rng.choice([1, 2, rng.randrange(1, 120)]))]
            put = [int(one) for one in values] if metric == "ops" else values
            store.put(ref, first + slot * step, put, step)  # type: ignore[arg-type]
            line.samples |= {slot + k: value for k, value in enumerate(values)}
            # A hole of a few steps, which is passed over or not; or somewhere else.
            slot = rng.choice([max(line.samples) + rng.randrange(2, 9), rng.randrange(-1200, 1200)])
        self.lines.append(line)

    def move_phases(self, store: Store, rng: random.Random) -> None:
        """Some series go on in a new era, on another grid."""
        for line in self.lines:
            latest, ref = max(line.first + slot * line.step for slot in line.samples), line.ref
            for _ in range(rng.choice([0, 1, 3])):
                begin = latest + line.step + rng.randrange(3 * line.step)
                code = {"load": layout.TYPE_F32, "flops": layout.TYPE_F64, "ops": layout.TYPE_U64}[
                    line.metric
                ]
                new, _ = store.writer.begin_era(ref, begin - line.step // 2, line.step, begin, code)
                store.writer.publish()
                values = [rng.randrange(100) for _ in range(rng.randrange(1, 600))]
                store.put(new, begin, values, line.step)  # type: ignore[arg-type]
                line.later |= {begin + k * line.step: float(value) for k, value in enumerate(values)}
                latest, ref = max(line.later), new & 0xFFFF_FFFF

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
                    if not any(one is not line and line.path[: len(one.path)] == one.path for one in inside)
            ),
            key=lambda line: line.ref,
        )  # fmt: skip


def united(lines: Sequence[Line], times: Sequence[int], mean: bool) -> list[float | None]:
    """Children added at each time by nearest slot; a missing one is skipped."""
    found: list[float | None] = []
    for t in times:
        there = [value for line in lines if (value := line.at(t)) is not None]
        total = float(np.sum(there)) if there else None
        found.append(total if total is None or not mean else total / len(there))
    return found


def own_times(lines: Sequence[Line], start: int, end: int) -> list[int]:
    """Nominal times of the lowest series in [start, end)."""
    step, first = lines[0].step, lines[0].first
    return list(range(start + (first - start) % step, end, step))


PICK: dict[str, Callable[[list[float]], float]] = {
    "average": lambda kept: sum(kept) / len(kept), "min": min, "max": max, "last": lambda kept: kept[-1],
}  # fmt: skip


def resampled(values: list[float | None], factor: int, algo: str) -> list[float | None]:
    buckets = [values[k : k + factor] for k in range(0, len(values), factor)]
    kept = [[value for value in bucket if value is not None] for bucket in buckets]
    return [PICK[algo](bucket) if bucket else None for bucket in kept]


def near(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(near, found, wanted))
    if found is None or wanted is None or isinstance(wanted, str):
        return bool(found == wanted)
    return math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9)


def values_of(series: Series) -> list[float | None]:
    return [
        float(value) if ok else None
        for value, ok in zip(series.values.tolist(), series.valid.tolist(), strict=True)
    ]


def told(found: Any) -> Any:
    """All that an answer says, as values that compare."""
    if isinstance(found, list):
        return [told(one) for one in found]
    if isinstance(found, Paths):
        return found.texts
    if isinstance(found, Table | Series):
        return found.to_wire()
    return found.to_json()


class Both:
    """Asks both ways, and insists on one answer."""

    def __init__(self, reader: Reader, now_s: int) -> None:
        self._ways: tuple[Reader, Client] = (reader, unplugged(reader, now_s))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*args: Any, **options: Any) -> Any:
            attached, packed = (getattr(way, name)(*args, **options) for way in self._ways)
            assert told(attached) == told(packed), (name, args, options)
            return packed

        return ask


def random_selector(rng: random.Random) -> tuple[list[list[str]], list[list[str] | str]]:
    """What it means, as lists of forms; and what is asked."""
    depth = rng.choice([1, 2, 2, 2, 3, 3, 4])
    steps = [
        rng.choice([["c1"], ["c1"], ["c*"]]), rng.choice([["*"], ["h1"], ["h2", "h1"], ["h1*"], ["h10", "none", "h1"]]),
        rng.choice([["*"], ["core*"], ["core10", "core0"], ["socket0"], ["net*"]]), ["*"],
    ][:depth]  # fmt: skip
    return steps, [one[0] if len(one) == 1 else one for one in steps]


def rows(model: Model, table: Any, levels: list[Path], metric: str) -> Iterator[tuple[int, list[Line]]]:
    """(row, its series); every level with a series has its row, in order, and every other row says why it is empty."""
    texts = table.paths.texts
    known = {"/".join(path): model.below(path, metric) for path in levels}
    assert [text for text in texts if known.get(text)] == [text for text, lines in known.items() if lines]
    for row, text in enumerate(texts):
        lines = known.get(text, [])
        assert lines or table.why(row), text
        yield row, lines


def check_stats(model: Model, table: Any, levels: list[Path], metric: str, span: tuple[int, int]) -> None:
    for row, lines in rows(model, table, levels, metric):
        samples = [(t, line.ref, value) for line in lines for t, value in line.within(*span)]
        assert table.counts[row] == len(samples)
        if not samples:
            assert table.why(row)
            continue
        values = [value for _, _, value in samples]
        newest = max(t for t, _, _ in samples)
        wanted = (
            sum(values), sum(values) / len(values), min(values), max(values), min(samples)[2],
            min(one for one in samples if one[0] == newest)[2], min(samples)[0] * 1000, newest * 1000,
            list(np.percentile(values, table.percents)), sum(bool(line.within(*span)) for line in lines),
        )  # fmt: skip
        columns = (
            table.sums, table.avgs, table.mins, table.maxs, table.firsts, table.lasts, table.firsts_ms, table.lasts_ms,
            table.quantiles, table.n_series,
        )  # fmt: skip
        assert near([column[row].tolist() for column in columns], list(wanted)), (row, wanted)


def check_latest(model: Model, table: Any, levels: list[Path], metric: str, oldest: int) -> None:
    for row, lines in rows(model, table, levels, metric):
        newest = [line.within(oldest, 2**40)[-1:] for line in lines]
        there = [one for part in newest for one in part]
        assert (table.n_series[row], bool(table.why(row))) == (len(there), not there)
        if there:
            total = sum(value for _, value in there)
            mean = SPECS[metric].aggregation == "avg" and len(lines) > 1
            assert math.isclose(table.values[row], total / len(there) if mean else total, rel_tol=1e-6)
            assert table.times_ms[row] == 1000 * max(t for t, _ in there)


def check_series(
    found: list[Series], lines_of: list[list[Line]], factor: int, algo: str, span: tuple[int, int]
) -> None:
    for series, lines in zip(found, lines_of, strict=True):
        if not lines:
            assert series.why
            assert not series.valid.any()
            continue
        times = own_times(lines, *span)
        mean = SPECS[series.metric].aggregation == "avg"
        assert near(values_of(series), resampled(united(lines, times, mean), factor, algo)), series.path
        assert series.times.tolist() == times[::factor]


def run_of(line: Line, level: float, below: bool, at: int) -> tuple[int, int] | None:
    """First and last time of the samples beyond a level up to the newest before `at`."""
    samples = line.within(-(2**40), at)
    if not samples or samples[-1][0] < at - 5 * line.step:
        return None
    first = None
    after = samples[-1][0]
    for t, value in reversed(samples):
        if after - t > 6 * line.step or not (value < level if below else value > level):
            break
        first = after = t
    return None if first is None else (first, samples[-1][0])


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_every_question_by_selector_equals_that_of_dicts_of_samples(seed: int) -> None:
    rng = random.Random(seed)
    store = Store(f"mstore-test-answers-{os.getpid()}")
    try:
        model = Model(store, rng)
        now = model.newest() + rng.randrange(1, 400)
        both = Both(reader_of(store, Config(), now), now)
        for _ in range(6):
            steps, asked = random_selector(rng)
            metric = rng.choice(METRICS)
            levels = model.selected(steps)
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
            check_query_and_fetch(model, both, rng, metric, span)
    finally:
        store.close()


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
@example(seed=6652)  # a tree without a series
def test_figures_of_series_whose_grids_moved_equal_those_of_dicts_of_samples(seed: int) -> None:
    rng = random.Random(seed)
    store = Store(f"mstore-test-answers-eras-{os.getpid()}")
    try:
        model = Model(store, rng)
        model.move_phases(store, rng)
        now = model.newest() + rng.randrange(1, 400)
        both = Both(reader_of(store, Config(), now), now)
        for _ in range(6):
            steps, asked = random_selector(rng)
            metric = rng.choice(METRICS)
            levels = model.selected(steps)
            if not any(model.below(path, metric) for path in levels):
                continue
            start = T0 + rng.randrange(-80_000, 80_000)
            span = start, start + rng.choice([0, 700, 90_000])
            check_stats(model, both.stats(asked, metric, *span, (50,)), levels, metric, span)
            age = rng.choice([300, 40_000])
            table = both.latest(asked, metric, max_age=age)
            check_latest(model, table, levels, metric, now - age)
            check_top(model, both, rng, asked, metric, levels, span)
            check_above(model, both, rng, asked, metric, levels, now)
    finally:
        store.close()


def check_query_and_fetch(
    model: Model, both: Both, rng: random.Random, metric: str, span: tuple[int, int]
) -> None:
    """One host: itself, or some ids of a kind of part, each alone or together."""
    cluster, host = rng.choice([line.path[:2] for line in model.lines if line.metric == metric])
    kind, together = rng.choice([None, "core", "socket"]), rng.random() < 0.5
    ids = rng.choice([["0"], ["1", "7", "0"], ["10", "0"]])
    names = [[]] if kind is None else [[f"{kind}{one}"] for one in ids]
    parts = [model.below((cluster, host, *name), metric) for name in names]
    if together:
        parts = [sorted((line for lines in parts for line in lines), key=lambda line: line.ref)]
    factor, algo = rng.choice([1, 2, 7]), rng.choice(sorted(PICK))
    step, mean = SPECS[metric].step_s, SPECS[metric].aggregation == "avg"
    shape = {"resolution": factor * step if factor > 1 else 0}
    levels = {} if kind is None else {"type": kind, "type_ids": ids}
    found = both.query(cluster, host, metric, *span, **levels, aggregate=together, algo=algo, **shape)
    check_series(found if isinstance(found, list) else [found], parts, factor, algo, span)
    query = {"metric": metric, "host": host, "aggreg": together, **shape}
    if kind is not None:
        query |= {"type": kind, "type-ids": ids}
    request = {"cluster": cluster, "from": span[0], "to": span[1], "queries": [query], "resample-algo": algo}
    (row,) = both.fetch(request)
    for series, lines in zip(row, parts, strict=True):
        assert near_view(series, series, lines, list(range(*span, step)), mean, factor, algo), series.path


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
    at = times
    if children:
        first, step = children[0].first, children[0].step
        at = [first + (t - first + step // 2) // step * step for t in times]
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
