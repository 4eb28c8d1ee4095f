"""What the configuration says about metrics holds: before their first sample, after a reload, a restart, a kill."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mstore
from mstore.errors import ConfigError, UnknownMetric
from tests.stores import Server, read_all, until

Serve = Callable[..., Server]
Definition = tuple[int, str, str, str]

CLUSTER = {
    "name": "tiny",
    "metricConfig": [
        {"name": "cpu_load", "scope": "node", "timestep": 30, "aggregation": "avg", "unit": {"base": ""}},
        {
            "name": "mem_bw", "scope": "socket", "timestep": 60, "aggregation": "sum",
            "unit": {"base": "B/s", "prefix": "G"},
        },
    ],
    "subClusters": [
        {
            "name": "main", "nodes": "t[01-04]", "socketsPerNode": 1, "coresPerSocket": 2, "threadsPerCore": 1,
            "topology": {"node": [0, 1], "socket": [[0, 1]], "memoryDomain": [[0, 1]], "core": [[0], [1]]},
        }
    ],
}  # fmt: skip


def definitions(client: mstore.Client, cluster: str) -> dict[str, Definition]:
    return {one.name: (one.step_s, one.type, one.aggregation, one.unit) for one in client.metrics(cluster)}


def configure(server: Server, text: str) -> None:
    (server.directory / "mstore.toml").write_text(text)


def assert_sound(server: Server) -> None:
    """After an orderly stop the log and the snapshot read back to a store whose every rule holds."""
    with server.client() as client:
        before = {cluster: definitions(client, cluster) for cluster in client.children()}
    server.kill()
    server.start()
    with server.client() as client:
        assert {cluster: definitions(client, cluster) for cluster in client.children()} == before


def test_metrics_of_a_topology_are_known_before_their_first_sample_and_overridden_by_cluster(
    serve: Serve, short_dir: Path, now: int
) -> None:
    (short_dir / "tiny.json").write_text(json.dumps(CLUSTER))
    server = serve(
        'topology = ["tiny.json"]\n[metrics.cpu_load]\nunit = "procs"\n[metrics.extra]\nstep = 10\n'
        '[clusters.tiny.metrics.extra]\nstep = 20\ntype = "f64"\n[clusters.other.metrics.extra]\nunit = "W"\n'
    )
    with server.client() as client:
        assert definitions(client, "tiny") == {
            "cpu_load": (30, "f32", "avg", "procs"),
            "mem_bw": (60, "f32", "sum", "GB/s"),
            "extra": (20, "f64", "avg", ""),
        }
        assert definitions(client, "other") == {
            "cpu_load": (60, "f32", "avg", "procs"),
            "extra": (10, "f32", "avg", "W"),
        }
        empty = client.query("tiny", "t01", "mem_bw", now, now + 120)
        assert (empty.why, empty.step, empty.unit, empty.valid.tolist()) == (
            "no such host", 60, "GB/s", [False, False],
        )  # fmt: skip
        with pytest.raises(UnknownMetric, match="no host 't01' in cluster 'tiny', nor a metric 'none'"):
            client.query("tiny", "t01", "none", now, now + 120)
        with pytest.raises(UnknownMetric, match="there is no cluster 'nowhere'"):
            client.query("nowhere", "t01", "extra", now, now + 120)
        text = f"mem_bw,cluster=tiny,hostname=t01,type=socket,type-id=0,unit=MB/s value=3 {now}\n"
        assert client.write(text + text.replace("mem_bw", "free")).ignored == 1
        assert client.query("tiny", "t01", "mem_bw", now, now + 60).unit == "GB/s"
    assert_sound(server)


def test_the_clusters_of_the_fixtures_are_known_metric_by_metric(
    serve: Serve, fixtures: Path | None, now: int
) -> None:
    files = sorted((fixtures / "clusters").glob("*.json")) if fixtures else []
    server = serve("topology = " + json.dumps([str(path) for path in files]) + "\n")
    with server.client() as client:
        for path in files:
            document = json.loads(path.read_text())
            found = definitions(client, document["name"])
            wanted = {one["name"]: int(one["timestep"]) for one in document["metricConfig"]}
            assert {name: definition[0] for name, definition in found.items()} == wanted
        assert len(client.children()) == len(files)


@pytest.mark.parametrize("how", ["reload", "restart", "kill"])
def test_a_metric_a_line_registered_follows_the_configuration_that_comes_later(
    serve: Serve, now: int, how: str
) -> None:
    server = serve('unknown_metrics = "register"\n')
    t0 = now // 60 * 60 - 1200
    with server.client() as client:
        for core in range(2):
            key = f"power,cluster=c,hostname=h,type=core,type-id={core}"
            client.write("".join(f"{key},unit=W value=0.{k + 11} {t0 + 60 * k}\n" for k in range(10)))
        old = client.query("c", "h", "power", t0, t0 + 600)
        np.testing.assert_array_equal(old.values, np.float32([f"0.{k + 11}" for k in range(10)]))
        assert definitions(client, "c") == {"power": (60, "f32", "avg", "W")}
    configure(
        server,
        'unknown_metrics = "register"\n[metrics.power]\nstep = 10\ntype = "f64"\naggregation = "sum"\n'
        'unit = "kW"\n',
    )
    if how == "kill":
        server.kill()
        server.start()
    with server.client() as client:
        if how != "kill":
            client.control(how)
        wanted = {"power": (10, "f64", "sum", "kW")}
        until(lambda: definitions(client, "c") == wanted, "the new definition")
        for core in range(2):
            key = f"power,cluster=c,hostname=h,type=core,type-id={core}"
            text = "".join(f"{key},unit=W value=0.{k + 10} {t0 + 600 + 10 * k}\n" for k in range(60))
            assert client.write(text).written == 60
            assert client.write(f"{key} value=7 {t0 + 120}\n").written == 1

    def check() -> None:
        with server.client() as client:
            found = client.query("c", "h", "power", t0 + 600, t0 + 1200, type="core", type_ids="0")
            assert (found.step, found.start, found.unit, found.values.dtype) == (10, t0 + 600, "kW", "f8")
            assert found.values.tolist() == [float(f"0.{k + 10}") for k in range(60)]
            both = client.query("c", "h", "power", t0 + 600, t0 + 1200, type="core", aggregate=True)
            assert both.values.tolist() == [2 * float(f"0.{k + 10}") for k in range(60)]
            assert both.aggregation == "sum"
            before = client.query("c", "h", "power", t0, t0 + 600, type="core", type_ids="1")
            values = before.values[before.valid]
            wanted = np.float32([f"0.{k + 11}" for k in range(10)])
            wanted[2] = 7
            assert sorted(set(values.tolist())) == sorted(wanted.astype(values.dtype).tolist())

    check()
    server.kill()
    server.start()
    check()
    assert_sound(server)


def test_samples_before_two_changes_of_a_silent_metric_stay_readable(serve: Serve, now: int) -> None:
    plain, wide = "[metrics.m]\nstep = 60\n", '[metrics.m]\nstep = 60\ntype = "f64"\n'
    server = serve(plain)
    assert b"written=1" in server.send_text(f"m,cluster=c,hostname=h value=1.5 {now}\n".encode())
    with server.client() as client:
        for k, config in enumerate((wide, plain), start=1):
            (server.directory / "mstore.toml").write_text(config)
            client.control("reload")
            until(lambda k=k: client.info()["counters"]["eras_started"] == k, "the new era")
        assert client.query("c", "h", "m", now, now + 60).values.tolist() == [1.5]


def test_what_a_metric_cannot_become_is_told_and_leaves_its_samples_readable(serve: Serve, now: int) -> None:
    server = serve('unknown_metrics = "register"\n[metrics.event]\nstep = 0\n')
    with server.client() as client:
        client.write(f"load,cluster=c,hostname=h value=1 {now}\nevent,cluster=c,hostname=h value=2 {now}\n")
        configure(
            server,
            'unknown_metrics = "register"\n[metrics.load]\nstep = 0\nunit = "a"\n'
            '[metrics.event]\nstep = 10\nunit = "b"\n',
        )
        client.control("reload")
        wanted = {"load": (60, "f32", "avg", "a"), "event": (0, "f64", "avg", "b")}
        until(lambda: definitions(client, "c") == wanted, "the units")
        client.write(
            f"load,cluster=c,hostname=h2 value=3 {now}\nevent,cluster=c,hostname=h value=4 {now + 1}\n"
        )
        assert client.query("c", "h2", "load", now, now + 60).values.tolist() == [3]
        assert client.query("c", "h", "load", now, now + 60).values.tolist() == [1]
        assert client.query("c", "h", "event", now, now + 60).values.tolist() == [2, 4]
    assert "metric load of cluster c keeps step 60" in server.log_text()


def test_every_setting_that_may_be_reloaded_holds_from_the_reload_on(serve: Serve, now: int) -> None:
    server = serve('unknown_metrics = "register"\n')
    with server.client() as client:

        def outcome(line: str) -> str:
            result = client.write(line + "\n")
            return "written" if result.written else next(iter(result.reasons))

        early, late = (
            f"m,cluster=c,hostname=h value=1 {now + 3000}",
            f"m,cluster=c,hostname=h value=1 {now - 9000}",
        )
        joined = f"j,cluster=c,hostname=h a=1,b=2 {now}"
        assert [outcome(one) for one in (early, late, joined)] == ["written", "written", "unknown_field"]
        configure(
            server,
            'unknown_metrics = "register"\nmax_future = "10m"\nretention = "1h"\nfields = "join"\n'
            "default_step = 5\n",
        )
        client.control("reload")
        until(lambda: outcome(early) == "too_far_ahead", "max_future")
        assert [outcome(one) for one in (late, joined)] == ["too_late", "written"]
        assert {m.name: m.step_s for m in client.metrics()} == {"m": 60, "j_a": 5, "j_b": 5}
        until(lambda: not client.query("c", "h", "m", now - 9060, now - 8940).valid.any(), "retention")
        configure(server, 'unknown_metrics = "ignore"\nretention = "0"\n[metrics.m]\n')
        client.control("reload")
        until(
            lambda: outcome(f"new,cluster=c,hostname=h value=1 {now}") == "unknown_metric", "unknown_metrics"
        )
        until(lambda: outcome(f"m,cluster=c,hostname=h value=1 {now - 10**8}") == "written", "retention")
        ancient = (now - 10**8 - 60, now - 10**8 + 60)
        assert 1 in client.query("c", "h", "m", *ancient).values
        configure(server, 'retention = "0"\nmax_series = 7\n')
        assert client.control("reload")["needs_restart"] == ["max_series"]
        configure(server, "max_serie = 7\n")
        with pytest.raises(ConfigError, match="did you mean"):
            client.control("reload")
        configure(server, 'max_series = "many"\n')
        with pytest.raises(ConfigError, match="a whole number from 1"):
            client.control("reload")
        assert 1 in client.query("c", "h", "m", *ancient).values


@pytest.mark.parametrize("how", ["reload", "restart", "kill"])
def test_a_metric_that_is_configured_no_longer_is_ignored_in_every_way_in_and_stays_readable(
    serve: Serve, now: int, how: str
) -> None:
    first = 'unknown_metrics = "ignore"\n[metrics.power]\n[metrics.kept]\n'
    server = serve(first)
    line = "power,cluster=c,hostname=h value={} {}\n"
    with server.client() as client, client.writer() as writer:
        handles = writer.open([("c", "h", "power"), ("c", "h", "kept")])
        writer.write(handles, [now - 600], np.float32([[1, 2]]))
        assert writer.flush().written == 2
        assert client.write(line.format(3, now - 540)).written == 1
        configure(server, 'unknown_metrics = "ignore"\n[metrics.kept]\n')
        if how == "kill":
            server.kill()
            server.start()
        else:
            client.control(how)
        until(lambda: client.write(line.format(3, now - 540)).ignored == 1, "the metric is unknown")
        text = line.format(5, now - 420) + f"kept,cluster=c,hostname=h value=6 {now - 540}\n"
        reply = b"written=1 rejected=0 ignored=1 durable=yes unknown_metric=1\n"
        assert server.send_text(text.encode()) == reply
        with client.writer() as later:
            new = later.open([("c", "h", "power"), ("c", "h", "kept"), ("c", "new", "power")])
            assert later.refused == {0: "unknown_metric", 2: "unknown_metric"}
            mine, columns = (writer, handles) if how == "reload" else (later, new[:2])
            mine.write(columns, [now - 480], np.float32([[7, 8]]))
            result = mine.flush()
            assert (result.written, result.ignored, result.reasons) == (1, 1, {"unknown_metric": 1})
        power = client.query("c", "h", "power", now - 660, now)
        assert sorted(power.values[power.valid].tolist()) == [1, 3]
        kept = client.query("c", "h", "kept", now - 660, now)
        assert sorted(kept.values[kept.valid].tolist()) == [2, 6, 8]
        assert "not configured (any more)" in server.log_text()

        configure(server, first)
        client.control("reload")
        until(lambda: client.write(line.format(9, now - 360)).written == 1, "the metric is back")
        with client.writer() as later:
            mine, columns = (
                (writer, handles) if how == "reload" else (later, later.open([("c", "h", "power")]))
            )
            mine.write(columns[:1], [now - 300], np.float32([[10]]))
            assert mine.flush().written == 1
        power = client.query("c", "h", "power", now - 660, now)
        assert sorted(power.values[power.valid].tolist()) == [1, 3, 9, 10]
    assert server.info()["counters"]["stale_samples"] == 0


def test_a_metric_a_client_defined_itself_is_not_the_configurations_to_drop(serve: Serve, now: int) -> None:
    server = serve('unknown_metrics = "ignore"\n')
    spec = mstore.MetricSpec("mine", 10, "sum", "f64")
    with server.client() as client, client.writer() as writer:
        handles = writer.open([("c", "h", "mine")], spec)
        writer.write(handles, [now - 60], [[0.5]])
        assert writer.flush().written == 1
        configure(server, 'unknown_metrics = "ignore"\ndefault_step = 5\n')
        client.control("reload")
        writer.write(handles, [now], [[0.25]])
        assert writer.flush().written == 1


@pytest.mark.parametrize("new", ["u64", "f64"])
def test_lines_on_their_way_while_a_reload_changes_their_type_are_all_there(
    serve: Serve, now: int, new: str
) -> None:
    """The persister is stopped meanwhile: when it goes on, its ring holds numbers of the old type, and it reloads."""
    server = serve('unknown_metrics = "register"\n', "--ingest-workers", "2")
    t0 = now // 60 * 60 - 3600
    with server.client() as client:
        client.write("".join(f"m,cluster=c,hostname=h{i} value=0.5 {t0}\n" for i in range(4)))
        persister = server.worker_pid("persister")
        os.kill(persister, signal.SIGSTOP)
        try:
            senders = [server.connect("ingest") for _ in range(4)]
            for i, sender in enumerate(senders):
                text = "".join(f"m,cluster=c,hostname=h{i} value={k}.5 {t0 + 60 * k}\n" for k in range(1, 40))
                sender.sendall(text.encode())
                sender.shutdown(socket.SHUT_WR)
            configure(server, f'unknown_metrics = "register"\n[metrics.m]\ntype = "{new}"\n')
            client.control("reload")
        finally:
            os.kill(persister, signal.SIGCONT)
        for sender in senders:
            assert read_all(sender) == b"written=39 rejected=0 ignored=0 durable=yes\n"
            sender.close()
        until(lambda: client.metrics("c")[0].type == new, "the new type")
        assert client.write(f"m,cluster=c,hostname=h0 value=7 {t0 + 60 * 40}\n").written == 1

    def check() -> None:
        with server.client() as client:
            for i in range(4):
                found = client.query("c", f"h{i}", "m", t0, t0 + 60 * 40)
                assert found.values[found.valid].tolist() == [k + 0.5 for k in range(40)]
            assert client.query("c", "h0", "m", t0 + 60 * 40, t0 + 60 * 41).values.tolist() == [7]

    check()
    assert server.info()["counters"]["stale_samples"] == 0
    server.kill()
    server.start()
    check()


def test_a_handle_opened_before_its_type_changed_is_refused_by_name_instead_of_losing_numbers(
    serve: Serve, now: int
) -> None:
    server = serve('unknown_metrics = "register"\n[metrics.m]\ntype = "f32"\n')
    with server.client() as client, client.writer() as writer:
        handles = writer.open([("c", "h", "m")])
        writer.write(handles, [now - 600], np.array([[1.5]], np.float32))
        assert writer.flush().written == 1
        (server.directory / "mstore.toml").write_text(
            'unknown_metrics = "register"\n[metrics.m]\ntype = "u64"\n'
        )
        client.control("reload")
        until(lambda: client.metrics("c")[0].type == "u64", "the new type")
        writer.write(handles, [now], np.array([[2.5]], np.float32))
        with pytest.raises(mstore.errors.UnknownHandle, match="u64"):
            writer.flush()
    assert server.info()["counters"]["stale_samples"] == 0
