"""The load generator: it writes the values it says, repeats with its seed, and loses what it was told to."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mstore.errors import InvalidRequest
from mstore.model import SeriesPath
from mstore.simulate import Batch, Simulator, builtin_cluster
from mstore.simulate.pace import live
from mstore.simulate.text import LineFormatter, series_key
from mstore.simulate.walk import decimals_for
from mstore.topology import load_cluster

NOW_S = 1_700_000_000
LINE = re.compile(rb"[a-z0-9_]+(,[a-z-]+=[^ ,]+)+ value=(0|[0-9]+\.[0-9]{2,4}) [0-9]{10}")


def text_of(simulator: Simulator, batches: list[Batch]) -> bytes:
    return b"".join(simulator.lines(batch) for batch in batches)


def naive_lines(simulator: Simulator, batch: Batch) -> bytes:
    lines = []
    for index, mantissa in zip(batch.index.tolist(), batch.mantissas.tolist(), strict=True):
        decimals = int(simulator.decimals[index])
        digits = str(mantissa).rjust(decimals + 1, "0")
        value = "0" if mantissa == 0 else f"{digits[:-decimals]}.{digits[-decimals:]}"
        lines.append(f"{series_key(simulator.paths[index]).decode()} value={value} {batch.t_s}\n")
    return "".join(lines).encode()


def test_the_builtin_cluster_has_every_scope_and_several_steps() -> None:
    cluster = builtin_cluster()
    assert {metric.scope for metric in cluster.metrics.values()} == {
        "node",
        "socket",
        "hwthread",
        "accelerator",
    }
    assert len({metric.spec.step_s for metric in cluster.metrics.values()}) >= 3
    assert cluster.n_series() == len(Simulator(cluster).paths) == 614
    assert cluster.warnings == ()


def test_lines_are_what_a_naive_formatter_writes(seed: int) -> None:
    simulator = Simulator(seed=seed, gaps=0.1, late=0.1, duplicates=0.1)
    for batch in simulator.span(120, NOW_S):
        assert simulator.lines(batch) == naive_lines(simulator, batch)


def test_any_mantissa_is_written_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 10_000
    decimals = rng.integers(0, 5, n)
    keys = [b"m,hostname=h%d" % (10 ** int(rng.integers(0, 9))) for _ in range(n)]
    mantissas = rng.integers(0, 10 ** rng.integers(1, 17, n))
    mantissas[:100] = 0
    lines = LineFormatter(keys, decimals).format(slice(None), mantissas, NOW_S).split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == n
    for line, key, mantissa, places in zip(lines, keys, mantissas.tolist(), decimals.tolist(), strict=True):
        head, value, stamp = line.split(b" ")
        assert (head, stamp) == (key, b"%d" % NOW_S)
        whole, _, part = value.removeprefix(b"value=").partition(b".")
        assert int(whole + part) * 10 ** (places - len(part)) == mantissa
        assert len(part) == (places if mantissa else 0)


def test_text_and_values_are_the_same_numbers(seed: int) -> None:
    simulator = Simulator(seed=seed)
    for batch in simulator.span(30, NOW_S):
        texts = re.findall(rb" value=([0-9.]+) ", simulator.lines(batch))
        assert [float(text) for text in texts] == simulator.values(batch).tolist()


def test_lines_look_like_a_collectors() -> None:
    simulator = Simulator(seed=3)
    lines = text_of(simulator, list(simulator.span(60, NOW_S))).splitlines()
    assert all(LINE.fullmatch(line) for line in lines)


def test_names_are_escaped_in_keys() -> None:
    path = SeriesPath("c", "h", "a b,c=d", "node", "", "disk", "/my disk,=")
    expected = rb"a\ b\,c=d,cluster=c,hostname=h,type=node,stype=disk,stype-id=/my\ disk\,\="
    assert series_key(path) == expected


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    def run(seed: int) -> bytes:
        simulator = Simulator(seed=seed, gaps=0.1, late=0.1, duplicates=0.1)
        return text_of(simulator, list(simulator.span(100, NOW_S)))

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_a_span_ends_at_now_and_every_metric_keeps_its_step() -> None:
    simulator = Simulator(seed=1)
    seen: dict[int, list[int]] = {}
    for batch in simulator.span(600, NOW_S):
        for index in batch.index.tolist():
            seen.setdefault(index, []).append(batch.t_s)
    assert len(seen) == len(simulator.paths)
    assert max(times[-1] for times in seen.values()) == NOW_S
    for index, times in seen.items():
        step = simulator.specs[index].step_s
        assert set(np.diff(times).tolist()) == {step}
        assert NOW_S - 600 < times[0] <= NOW_S - 600 + step
        assert NOW_S - step < times[-1] <= NOW_S


def test_one_step_for_all_metrics() -> None:
    simulator = Simulator(seed=1, step_s=20)
    batches = list(simulator.span(100, NOW_S))
    assert [len(batch.index) for batch in batches] == [614] * 5


def test_values_stay_between_zero_and_the_peak_with_idle_zeros_and_constants() -> None:
    simulator = Simulator(seed=11, step_s=60)
    table = np.array([simulator.values(batch) for batch in simulator.span(24 * 3600, NOW_S)])
    for column, path in enumerate(simulator.paths):
        metric = simulator.cluster.metrics[path.metric]
        assert 0 <= table[:, column].min() <= table[:, column].max() <= metric.peak
    constant = (table == table[0]).all(axis=0)
    assert 0.005 < constant.mean() < 0.10
    flops = np.array([path.metric == "flops_any" for path in simulator.paths]) & ~constant
    assert 0.05 < (table[:, flops] == 0).mean() < 0.8
    clock = np.array([path.metric == "clock" for path in simulator.paths])
    assert (table[:, clock] > 0).all()
    assert {decimals_for(peak) for peak in (1.0, 50.0, 5000.0)} == {4, 3, 2}


def received(simulator: Simulator, span_s: int) -> Counter[tuple[int, int]]:
    return Counter(
        (batch.t_s, index) for batch in simulator.span(span_s, NOW_S) for index in batch.index.tolist()
    )  # fmt: skip


def test_gaps_are_samples_that_never_come(seed: int) -> None:
    n_whole = sum(received(Simulator(seed=1, step_s=10), 3600).values())
    found = received(Simulator(seed=seed, step_s=10, gaps=0.1), 3600)
    assert max(found.values()) == 1
    assert 0.04 < 1 - len(found) / n_whole < 0.18


def test_gaps_come_in_outages_of_whole_nodes_too() -> None:
    simulator = Simulator(seed=4, step_s=10, gaps=0.2)
    silent = 0
    for batch in simulator.span(3600, NOW_S):
        hosts = {simulator.paths[index].host for index in batch.index.tolist()}
        silent += len(simulator.hosts) - len(hosts)
    assert silent > 100


def test_late_samples_all_come_with_their_own_time() -> None:
    simulator = Simulator(seed=2, step_s=10, late=0.2)
    assert received(simulator, 600) == received(Simulator(seed=2, step_s=10), 600)
    order = list(Simulator(seed=2, step_s=10, late=0.2).span(600, NOW_S))
    late = [batch for batch in order if batch.late]
    assert 0.1 < sum(len(batch.index) for batch in late) / (614 * 60) < 0.3
    newest = 0
    for batch in order:
        assert batch.late == (batch.t_s < newest) or batch.t_s >= newest - 50
        newest = max(newest, batch.t_s)


def test_duplicates_come_twice_with_the_same_value() -> None:
    simulator = Simulator(seed=2, step_s=10, duplicates=0.25)
    values: dict[tuple[int, int], set[int]] = {}
    counts: Counter[tuple[int, int]] = Counter()
    for batch in simulator.span(300, NOW_S):
        for index, mantissa in zip(batch.index.tolist(), batch.mantissas.tolist(), strict=True):
            counts[batch.t_s, index] += 1
            values.setdefault((batch.t_s, index), set()).add(mantissa)
    assert all(len(found) == 1 for found in values.values())
    assert set(counts.values()) == {1, 2}
    assert 0.2 < sum(n == 2 for n in counts.values()) / len(counts) < 0.3


def test_a_few_nodes_come_from_every_subcluster() -> None:
    simulator = Simulator(nodes=3)
    assert simulator.hosts == ["n01", "n02", "g01"]
    assert Simulator(nodes=99).hosts == Simulator().hosts


@pytest.mark.parametrize(
    "arguments", [{"nodes": 0}, {"gaps": 1.0}, {"late": -0.1}, {"duplicates": float("nan")}]
)
def test_impossible_requests_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match="is not allowed"):
        Simulator(**arguments)  # type: ignore[arg-type]  # wrong on purpose, and mixed


def test_live_ticks_wait_for_their_time() -> None:
    simulator = Simulator(seed=1)
    now = [NOW_S + 0.25]
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    batches = list(live(simulator, 5, lambda: now[0], sleep))
    assert [batch.t_s for batch in batches] == [NOW_S + i for i in range(1, 6)]
    assert waits == [0.75, 1.0, 1.0, 1.0, 1.0]


def test_a_slow_taker_falls_behind_without_losing_ticks() -> None:
    now = [float(NOW_S)]
    found = []
    for batch in live(Simulator(seed=1), 10, lambda: now[0], lambda _: None):
        now[0] += 3.0
        found.append(batch.t_s)
    assert found == [NOW_S + i for i in range(1, 11)]


def test_real_clusters_are_simulated_node_by_node() -> None:
    fixtures = os.environ.get("MSTORE_FIXTURES")
    cluster = load_cluster(Path(fixtures) / "clusters" / "fritz.json") if fixtures else builtin_cluster()
    simulator = Simulator(cluster, nodes=2, seed=1)
    batches = list(simulator.span(60, NOW_S))
    assert {index for batch in batches for index in batch.index.tolist()} == set(range(len(simulator.paths)))
    assert all(LINE.fullmatch(line) for line in text_of(simulator, batches).splitlines())
