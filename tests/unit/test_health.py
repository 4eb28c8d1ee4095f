"""Health of hosts: fresh, behind or absent series, over all parts of a host and all eras of a series."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from mstore.config import Config
from mstore.errors import ProtocolError, UnknownSelector
from mstore.health import FAILED, FULL, PARTIAL, Health, HostHealth
from mstore.kernels import _health, reference_health
from mstore.model import MetricSpec
from mstore.query import Reader
from tests.jobs_rig import CLUSTER, reader
from tests.query_rig import Store

NOW = 1_700_000_000
NAMES = ["load", "mem_used", "cpu_user", "cpu_system"]


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-test-health-{os.getpid()}")
    made.writer.set_metric_source(
        lambda _, metric: MetricSpec(metric.decode(), 0 if metric == b"rows" else 10)
    )
    yield made
    made.close()


def asked(store: Store, now_s: int = NOW, config: Config = Config(), retention_s: int = 0) -> Reader:  # noqa: B008
    segments = store.directory_map.segment, store.samples_map.segment
    return Reader(*segments, now_s=lambda: now_s, config=lambda: config, retention_s=lambda: retention_s)


def write(
    store: Store, host: str, metric: str, first: int, last: int, *levels: str, cluster: str = "c"
) -> int:
    """A sample every 10 s from NOW + first to NOW + last, both included."""
    times = range(NOW + first, NOW + last + 1, 10)
    ref = store.open(metric, host, *levels, t=times[0], cluster=cluster)
    store.put(ref, times[0], [1.0] * len(times), 10)
    return ref


def state(
    reader: Reader, host: str, metrics: Sequence[str] = NAMES
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    found = reader.health("c", [host], metrics)[host]
    return found.state, found.degraded, found.missing


def test_hosts_are_full_partial_or_failed(store: Store) -> None:
    """Upstream's HealthCheck: five nodes, four metrics."""
    for name in NAMES:
        write(store, "node001", name, -100, 0)
        write(store, "node005", name, -200, -100)
    for name in NAMES[:2]:
        write(store, "node002", name, -100, 0)
        write(store, "node003", name, -100, 0)
    for name in NAMES[2:]:
        write(store, "node002", name, -200, -100)
    hosts = [f"node00{i}" for i in range(1, 6)]
    health = asked(store).health("c", hosts, NAMES)
    assert list(health) == hosts
    assert [one.state for one in health.values()] == [FULL, PARTIAL, PARTIAL, FAILED, FAILED]
    assert (health["node002"].degraded, health["node003"].missing) == (tuple(NAMES[2:]),) * 2
    assert [one.known for one in health.values()] == [True, True, True, False, True]
    fewer = asked(store).health("c", hosts, NAMES[:2])
    assert [one.state for one in fewer.values()] == [FULL, FULL, FULL, FAILED, FAILED]
    assert health.in_state(PARTIAL) == ["node002", "node003"]
    assert "5 hosts, 1 full, 2 partial, 2 failed" in repr(health)


def test_ill_metrics_are_named_in_the_order_expected(store: Store) -> None:
    """Upstream's GetHealthyMetrics."""
    write(store, "n1", "load", -100, 0)
    write(store, "n1", "mem_used", -200, -100)
    found = asked(store).healthy_metrics("c", "n1", NAMES[:3])
    assert found == HostHealth("n1", True, tuple(NAMES[:3]), ("mem_used",), ("cpu_user",))
    assert asked(store).healthy_metrics("c", "n1", ["load"]) == HostHealth("n1", True, ("load",))
    assert asked(store).healthy_metrics("c", "n1", NAMES[2::-1]).missing == ("cpu_user",)
    with pytest.raises(UnknownSelector, match="no host 'n2'"):
        asked(store).healthy_metrics("c", "n2", ["load"])


@pytest.mark.parametrize(
    ("first", "last", "want"), [(-30, 0, FULL), (-200, -100, FAILED), (-50, -50, FULL), (-60, -60, FAILED)]
)
def test_a_series_is_behind_when_its_newest_slot_ended_more_than_five_steps_ago(
    store: Store, first: int, last: int, want: str
) -> None:
    """Upstream's BufferHealthChecks: one value at now - 50 ended at now - 45, and is healthy."""
    write(store, "n1", "load", first, last)
    assert asked(store).health("c", ["n1"], ["load"])["n1"].state == want


def test_the_boundary_is_exact_to_the_second(store: Store) -> None:
    write(store, "n1", "load", -10, 0)  # its newest slot ends at NOW + 5
    assert state(asked(store, NOW + 55), "n1", ["load"])[0] == FULL
    assert state(asked(store, NOW + 56), "n1", ["load"]) == (FAILED, ("load",), ())


def test_one_part_that_is_behind_makes_the_metric_of_its_host_degraded(store: Store) -> None:
    for core in range(4):
        write(store, "n1", "load", -100, 0 if core != 2 else -80, "core", str(core))
        write(store, "n1", "mem_used", -100, 0, "core", str(core), "cache", "1")
    write(store, "n1", "load", -100, 0)
    assert state(asked(store), "n1", ["load", "mem_used"]) == (PARTIAL, ("load",), ())


def test_the_newest_sample_counts_wherever_in_the_chain_it_is(store: Store) -> None:
    """A new era that has no sample yet hides none, and an older one of another step says nothing any more."""
    ref = write(store, "n1", "load", -600, 0)
    new, _ = store.writer.begin_era(ref & 0xFFFF_FFFF, NOW + 20, 60, NOW + 15, 1)
    store.writer.publish()
    assert state(asked(store, NOW + 50), "n1", ["load"])[0] == FULL
    assert state(asked(store, NOW + 60), "n1", ["load"])[0] == FAILED
    store.put(new, NOW + 50, [1.0])
    assert state(asked(store, NOW + 300), "n1", ["load"])[0] == FULL
    assert state(asked(store, NOW + 450), "n1", ["load"])[0] == FAILED


def test_many_chunks_are_looked_at_as_one(store: Store) -> None:
    ref = write(store, "n1", "load", -20_000, -10_000)
    store.put(ref, NOW - 3000, [1.0] * 301, 10)
    store.put(ref, NOW - 9000, [1.0], 10)
    assert state(asked(store), "n1", ["load"])[0] == FULL


def test_what_retention_does_not_serve_any_more_is_missing(store: Store) -> None:
    write(store, "n1", "load", -500, -300)
    assert state(asked(store, retention_s=400), "n1", ["load"]) == (FAILED, ("load",), ())
    assert state(asked(store, retention_s=299), "n1", ["load"]) == (FAILED, (), ("load",))


def test_rows_have_no_step_and_are_healthy_while_there_are_any(store: Store) -> None:
    store.rows(store.open("rows", "n1", cluster="c"), [((NOW - 5000) * 1000, 1)], "Q")
    assert state(asked(store), "n1", ["rows"])[0] == FULL
    assert state(asked(store, retention_s=100), "n1", ["rows"]) == (FAILED, (), ("rows",))


def test_nothing_expected_is_full_and_an_unknown_metric_is_missing(store: Store) -> None:
    write(store, "n1", "load", -100, 0)
    assert state(asked(store), "n1", []) == (FULL, (), ())
    assert state(asked(store), "n1", ["nope"]) == (FAILED, (), ("nope",))
    assert state(asked(store), "n9", [])[0] == FAILED


def test_without_a_list_the_clusters_metrics_are_expected_of_all_its_hosts(store: Store) -> None:
    for host in ("n10", "n2"):
        write(store, host, "load", -100, 0)
    store.rows(store.open("rows", "n2", cluster="c"), [(NOW * 1000, 1)], "Q")
    write(store, "n2", "mem_used", -100, 0)
    health = asked(store).health("c")
    assert [(host, one.state, one.missing) for host, one in health.items()] == [
        ("n2", FULL, ()), ("n10", PARTIAL, ("mem_used",)),
    ]  # fmt: skip
    assert list(asked(store).health("c", "n[2,3]")) == ["n2", "n3"]
    with pytest.raises(UnknownSelector):
        asked(store).health("nope")
    assert asked(store).health("nope", ["n1"])["n1"].state == FAILED


def test_a_host_is_not_expected_to_have_what_its_subcluster_does_not(store: Store) -> None:
    for host in ("n1", "g1"):
        for name in ("cpu_load", "flops", "power", "numa", "clock"):
            write(store, host, name, -100, 0, cluster="tiny")
    health = reader(store, now_s=NOW).health("tiny")
    assert list(health) == ["g1", "n1", "n2"]
    assert (health["n1"].missing, health["g1"].missing) == (("mem_bw",), ("acc_power",))
    assert health["n1"].expected == tuple(name for name in CLUSTER.metrics if name != "acc_power")
    assert (health["n2"].known, health["n2"].state) == (False, FAILED)
    given = reader(store, now_s=NOW).health("tiny", ["g1"], ["mem_bw"])
    assert given["g1"].missing == ("mem_bw",)


def test_the_metric_stores_shape_has_its_names_and_a_text_of_json_inside() -> None:
    health = Health("c", ["a", "b", "d"], ["x", 'y"'], b"\1\1\0", bytes([1, 2, 1, 1, 0, 0]))
    assert json.loads(health.to_json()) == {
        "a": {"State": "partial", "HealthMetrics": '{"degraded":["y\\""],"missing":[]}'},
        "b": {"State": "full", "HealthMetrics": '{"degraded":[],"missing":[]}'},
        "d": {"State": "failed", "HealthMetrics": ""},
    }
    with pytest.raises(ProtocolError):
        Health("c", ["a"], ["x"], b"\1", b"\4")
    with pytest.raises(ProtocolError):
        Health("c", ["a"], ["x"], b"\1", b"")


@pytest.mark.parametrize("seed", range(6))
def test_the_kernel_agrees_with_its_naive_twin(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    for host in ("n1", "n2", "n3"):
        for name in NAMES:
            for levels in ((), ("core", "0"), ("core", "1"), ("core", "1", "cache", "0")):
                if rng.random() < 0.6:
                    last = rng.choice([0, -40, -50, -60, -300])
                    ref = write(store, host, name, last - rng.randrange(0, 9000, 10), last, *levels)
                    if rng.random() < 0.3:
                        new, _ = store.writer.begin_era(
                            ref & 0xFFFF_FFFF, NOW, rng.choice([10, 60]), NOW - 20, 1
                        )
                        store.writer.publish()
                        if rng.random() < 0.5:
                            store.put(new, NOW + rng.choice([0, -10]), [1.0], 10)
    directory = store.reader.directory
    cluster = directory.find_path("c")
    found = [directory.find_level(cluster, b"", host.encode()) for host in ("n1", "n2", "n3")]
    hosts = np.array([level for level in found if level >= 0], np.uint32)
    columns = np.full(directory.counts()["n_metrics"], -1, np.int32)
    for column, name in enumerate(NAMES[:3]):
        columns[directory.find_metric(cluster, name.encode())] = column
    oldest_s = np.array([NOW - 200, NOW - 10_000, np.iinfo(np.int64).min])
    for now_s in (NOW, NOW + 5, NOW + 45, NOW + 400):
        states = [np.zeros((len(hosts), 3), np.uint8) for _ in range(2)]
        for scan, into in zip((_health.scan, reference_health.scan), states, strict=True):
            assert scan(directory, hosts, columns, oldest_s, now_s, 5, into)
        assert np.array_equal(*states), f"seed {seed}, now {now_s - NOW}: {states}"


def test_the_kernel_refuses_tables_that_do_not_fit(store: Store) -> None:
    directory, none = store.reader.directory, np.empty(0, np.uint32)
    with pytest.raises(ValueError, match="row for every host"):
        _health.scan(
            directory, none, np.empty(0, np.int32), np.empty(0, np.int64), NOW, 5, np.zeros((1, 0), np.uint8)
        )
    with pytest.raises(ValueError, match="beyond the last"):
        _health.scan(
            directory, none, np.zeros(1, np.int32), np.empty(0, np.int64), NOW, 5, np.zeros((0, 0), np.uint8)
        )
    level = np.array([2**31], np.uint32)
    states = np.zeros((1, 1), np.uint8)
    assert not _health.scan(directory, level, np.zeros(1, np.int32), np.zeros(1, np.int64), NOW, 5, states)
