"""The life of the data in a real store: retention, protection, freeing; through reloads, restarts and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mstore
from mstore.client.outcomes import Protection
from mstore.errors import InvalidRequest, UnknownSelector
from tests.stores import Server, until
from tests.unit.test_used_nodes import backend, says

Serve = Callable[..., Server]

SPAN_S = 512
"""Of a chunk, at a step of 1 s."""


def lines(metric: str, host: str, start_s: int, n: int, cluster: str = "c", more: str = "") -> str:
    return "".join(
        f"{metric},cluster={cluster},hostname={host}{more} value={k} {start_s + k}\n" for k in range(n)
    )


def present(
    client: mstore.Client, host: str, metric: str = "m", back_s: int = 4000, cluster: str = "c"
) -> int:
    """Samples of a host's series that are served."""
    now = int(time.time())
    found = client.query(cluster, host, metric, now - back_s, now + 10)
    return int(np.count_nonzero(~np.isnan(found.values)))


def kept_s(server: Server, host: str, metric: str, cluster: str = "c") -> float:
    """Seconds from the oldest sample that is served to now; 0 when there is none."""
    now = int(time.time())
    with server.client() as client:
        found = client.query(cluster, host, metric, now - 4000, now + 10)
    there = found.times[~np.isnan(found.values)]
    return float(now - there[0]) if len(there) else 0.0


def cli(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mstore", *arguments, "--dir", str(server.directory)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


# --- retention of a metric and a cluster

RETENTIONS = """
retention = "1h"
default_step = 1
unknown_metrics = "register"
[metrics.short]
step = 1
retention = "600s"
[clusters.quick]
retention = "300s"
[clusters.quick.metrics.long]
step = 1
retention = "0"
"""


def test_each_metric_is_kept_by_its_own_retention_and_a_reload_changes_it_at_once(serve: Serve) -> None:
    server = serve(RETENTIONS)
    now = int(time.time())
    with server.client() as client:
        for cluster, metric, written in (
            ("c", "m", 1000), ("c", "short", 600), ("quick", "m", 300), ("quick", "long", 1000),
        ):  # fmt: skip
            result = client.write(lines(metric, "h", now - 1000, 1000, cluster))
            assert result.written == pytest.approx(written, abs=3), (cluster, metric)
            assert result.reasons.get("too_late", 0) == 1000 - result.written
        retention = {(one.cluster, one.name): one.retention_s for one in client.metrics()}
        assert retention == {
            ("c", "m"): -1,
            ("c", "short"): 600,
            ("quick", "m"): 300,
            ("quick", "long"): 0,
            ("quick", "short"): 600,
        }
    assert kept_s(server, "h", "short") == pytest.approx(600, abs=3)
    (server.directory / "mstore.toml").write_text(
        RETENTIONS.replace('"600s"', '"120s"')
        .replace('"300s"', '"60s"')
        .replace('retention = "0"', 'retention = "200s"')
    )
    with server.client() as client:
        client.control("reload")
        until(lambda: kept_s(server, "h", "short") < 130, "the shorter retention to hold")
        assert kept_s(server, "h", "short") == pytest.approx(120, abs=4)
        assert kept_s(server, "h", "m", "quick") == pytest.approx(60, abs=4)
        assert kept_s(server, "h", "long", "quick") == pytest.approx(200, abs=4)
        assert kept_s(server, "h", "m") == pytest.approx(1000, abs=6)
        until(lambda: client.sizes("quick/h")[0].chunks < 4, "whole chunks to be freed")
        late = client.write(lines("short", "h", now - 300, 1))
        assert late.reasons == {"too_late": 1}
    server.kill()
    server.start()
    assert kept_s(server, "h", "long", "quick") == pytest.approx(200, abs=4)
    assert kept_s(server, "h", "m") == pytest.approx(1000, abs=60)


# --- protected hosts

SHORT = 'retention = "6s"\ndefault_step = 1\nsnapshot_interval = "0"\n'


def grow_old(client: mstore.Client, *hosts: str) -> None:
    """Five samples of each host, the newest of which is five seconds old: in a second they are beyond retention."""
    now = int(time.time())
    for host in hosts:
        assert client.write(lines("m", host, now - 5, 5)).written == 5
    time.sleep(7)


@pytest.mark.parametrize("how", ["cold", "snapshot", "warm", "persister"])
def test_a_protected_host_keeps_its_data_past_retention_through_a_kill(serve: Serve, how: str) -> None:
    """Whole chunks that retention would free or not load, also what was protected after the snapshot they come from."""
    server = serve('retention = "1h"\ndefault_step = 1\nsnapshot_interval = "0"\n')
    now = int(time.time())
    with server.client() as client:
        for host in ("kept", "late", "gone"):
            assert client.write(lines("m", host, now - 1500, 5)).written == 5
        assert client.protect("c", ["kept", "nobody"]) == Protection(2, ("nobody",), 1)
        if how == "snapshot":
            client.control("snapshot")
        assert client.protect("c", "late", until="+1h") == Protection(3)
        assert client.protected() == {"c": ["kept", "late"]}
    (server.directory / "mstore.toml").write_text(SHORT)
    if how == "persister":
        with server.client() as client:
            client.control("reload")
        killed = server.worker_pid("persister")
        os.kill(killed, signal.SIGKILL)
        until(lambda: server.worker_pid("persister") not in (0, killed), "a new persister")
    else:
        server.kill()
        if how != "warm":
            for name in (server.directory / "run").glob("*.json"):
                name.unlink()
        server.start()
        assert ("memory adopted" in server.log_text()) == (how == "warm")
    with server.client() as client:
        until(lambda: client.info()["counters"]["retention_passes"] >= 1, "a pass", 30)
        assert (present(client, "kept"), present(client, "late"), present(client, "gone")) == (5, 5, 0)
        assert client.protected() == {"c": ["kept", "late"]}
        assert client.info()["counters"]["protected_hosts"] == 3
        until(lambda: client.children("c") == ["kept", "late"], "the host without data to vanish", 60)
        assert client.protect("c", ["kept"], until="clear") == Protection(2)
        assert (present(client, "kept"), present(client, "late")) == (0, 5), (
            "at once, whatever chunks are there"
        )
        until(lambda: client.children("c") == ["late"], "the host that is protected no longer to vanish", 60)


def test_a_file_names_protected_hosts_and_what_it_said_last_holds_when_it_is_gone(
    serve: Serve, tmp_path: Path
) -> None:
    running = tmp_path / "running.json"
    running.write_text(json.dumps({"c": ["a"]}))
    server = serve(SHORT + f'[protect]\nfile = "{running}"\ninterval = "5s"\n')
    with server.client() as client:
        until(lambda: client.info()["counters"]["protected_hosts"] == 1, "the file to be read")
        running.write_text(json.dumps({"c": ["a", "b"]}))
        until(lambda: client.info()["counters"]["protected_hosts"] == 2, "its change to be seen")
        running.unlink()
        until(lambda: client.info()["counters"]["protection_errors"] >= 1, "the failure to be counted")
        grow_old(client, "a", "b", "x")
        assert (present(client, "a"), present(client, "b"), present(client, "x")) == (5, 5, 0)
        assert "the 2 hosts known last stay" in server.log_text()
        assert "2 hosts protected from retention" in cli(server, "info").stdout
        running.write_text(json.dumps({"c": ["b"]}))
        until(lambda: client.info()["counters"]["protected_hosts"] == 1, "the file to be read again")
        assert (present(client, "a"), present(client, "b")) == (0, 5)
        (server.directory / "mstore.toml").write_text(SHORT)
        client.control("reload")
        until(
            lambda: client.info()["counters"]["protected_hosts"] == 0,
            "a provider that is no more to be forgotten",
        )


@pytest.mark.parametrize("shape", [lambda hosts: hosts, lambda hosts: {"usedNodes": hosts}])
def test_d16_cluster_cockpit_names_protected_hosts_in_either_shape_for_a_token(
    serve: Serve, tmp_path: Path, shape: Callable[[Any], Any]
) -> None:
    """No token is sent, and the answer has another shape than is expected: retention fails and never frees anything."""
    (tmp_path / "token").write_text("abc.def\n")
    with backend(says(shape({"c": ["a"]}))) as (url, asked):
        server = serve(
            SHORT
            + f'[protect]\nurl = "{url}"\ntoken_file = "{tmp_path / "token"}"\ninterval = "5s"\n'
            + "[metrics.m]\n[metrics.event]\nstep = 0\n"  # chunks without a step end with their newest sample
        )
        with server.client() as client:
            until(lambda: client.info()["counters"]["protected_hosts"] == 1, "the answer")
            for host in ("a", "x"):
                assert client.write(f"event,cluster=c,hostname={host} value=1\n").written == 1
            grow_old(client, "a", "x")
            assert (present(client, "a"), present(client, "x")) == (5, 0)
            until(
                lambda: client.info()["counters"]["chunks_freed"] == 1, "retention to free the other host's"
            )
            assert present(client, "a", "event") == 1
    path, authorization = asked[0]
    assert authorization == "Bearer abc.def"
    assert int(path.rpartition("=")[2]) == pytest.approx(time.time() - 6 - 7, abs=30)
    with server.client() as client:  # nobody answers any more
        until(lambda: client.info()["counters"]["protection_errors"] >= 1, "the failure to be counted", 60)
        assert present(client, "a") == 5


def test_a_provider_that_hangs_holds_up_neither_writing_nor_retention(serve: Serve) -> None:
    asked, over, answered = threading.Event(), threading.Event(), threading.Event()

    def hang(_request: Any) -> None:
        asked.set()
        over.wait(120)
        answered.set()

    with backend(hang) as (url, _):
        server = serve(SHORT + f'[protect]\nurl = "{url}"\ninterval = "5s"\n')
        try:
            with server.client() as client:
                assert asked.wait(60), "the provider to be asked"
                passes = client.info()["counters"]["retention_passes"]
                for _ in range(40):
                    assert client.write(lines("m", "h", int(time.time()), 1)).written == 1
                until(lambda: client.info()["counters"]["retention_passes"] > passes, "a pass", 60)
                assert not answered.is_set(), "all that went on while nobody had answered"
        finally:
            over.set()
        server.stop()


# --- free


def fill(client: mstore.Client, *hosts: str) -> int:
    """Three chunks of each host, from the time that is returned."""
    start_s = int(time.time()) - 3 * SPAN_S
    for host in hosts:
        assert client.write(lines("m", host, start_s, 3 * SPAN_S)).written == 3 * SPAN_S
    return start_s


@pytest.mark.parametrize("how", ["cold", "snapshot", "warm"])
def test_what_was_freed_does_not_come_back_after_any_restart(serve: Serve, how: str) -> None:
    server = serve('retention = "1d"\ndefault_step = 1\nsnapshot_interval = "0"\n')
    with server.client() as client:
        start_s = fill(client, "a", "b", "x1", "x2")
        if how == "snapshot":
            client.control("snapshot")
        freed = client.free("c/a", start_s + 2 * SPAN_S)
        assert (freed.chunks, freed.samples, freed.series) == (2, 2 * SPAN_S, 1)
        freed = client.free(["c", ["x1", "x2", "b"]], "now", exclude=["c/b"])
        assert (freed.chunks, freed.series) == (6, 2)
        assert client.force_free("c/b").samples == SPAN_S
        before = {one.path: (one.chunks, one.samples) for one in client.sizes(depth=2)}
        assert before[("c", "a")] == (1, SPAN_S)
        assert before[("c", "b")] == (2, 2 * SPAN_S)
        if how == "snapshot":
            client.control("snapshot")
            client.write(lines("m", "b", start_s, 1))
    server.kill()
    if how != "warm":
        for name in (server.directory / "run").glob("*.json"):
            name.unlink()
    server.start()
    with server.client() as client:
        after = {one.path: (one.chunks, one.samples) for one in client.sizes(depth=2)}
        if how == "snapshot":
            assert after.pop(("c", "b")) == (3, 2 * SPAN_S + 1), (
                "a late sample after it is stored, and comes back"
            )
            before.pop(("c", "b"))
        assert after == before


def test_free_all_leaves_an_empty_store_that_takes_new_samples(serve: Serve) -> None:
    server = serve("default_step = 1\n")
    with server.client() as client:
        fill(client, "a", "b")
        assert client.free_all().samples == 6 * SPAN_S
        until(lambda: client.children() == [], "all levels to vanish", 30)
        assert client.write(lines("m", "a", int(time.time()) - 3, 3)).written == 3
        assert client.children("c") == ["a"]
        assert present(client, "a") == 3
    server.kill()
    server.start()
    with server.client() as client:
        assert (client.children("c"), present(client, "a")) == (["a"], 3)


def test_frees_while_samples_come_in_lose_no_acknowledged_sample(serve: Serve) -> None:
    """Series are taken out and made again under the sender's hands."""
    server = serve("default_step = 1\n")
    with server.client() as client:
        fill(client, "a")
        for _ in range(15):
            client.free("*", "now")
            now = int(time.time())
            assert client.write(lines("m", "a", now - 2, 2)).written == 2
            assert present(client, "a", back_s=3) >= 2
        assert server.info()["counters"]["stale_samples"] == 0


def test_orders_that_make_no_sense_are_refused(serve: Serve) -> None:
    server = serve()
    with server.client() as client:
        with pytest.raises(InvalidRequest, match="bad selector"):
            client.free("c/a[", "now")
        with pytest.raises(InvalidRequest, match="expected a sequence of selectors"):
            client.free("c", "now", exclude="c/a")
        with pytest.raises(InvalidRequest, match="is past, it is"):
            client.protect("c", "h", until="-1h")
        with pytest.raises(UnknownSelector):
            client.debug_dump("nobody")
        assert client.free("nobody/f[1-3]", "now").levels == 0
        assert client.children() == [], "no level is made by asking"


def test_the_command_line_frees_protects_sizes_and_dumps(serve: Serve) -> None:
    server = serve("default_step = 1\n")
    with server.client() as client:
        start_s = fill(client, "a", "b")
    table = cli(server, "sizes", "--depth", "2").stdout
    assert table.splitlines()[0].split() == ["level", "memory", "chunks", "series", "samples"]
    assert "c/a" in table
    assert "1,536" in table
    found = json.loads(cli(server, "debug", "dump", "c/a").stdout)
    assert [chunk["len"] for chunk in found["data"]["m"]] == [512, 512, 512]
    assert cli(server, "protect", "c", "a").stdout == "1 host protected now, by whomever\n"
    assert cli(server, "protect").stdout == "c: a (1)\n"
    freed = cli(server, "free", "c/*", "--before", str(start_s + SPAN_S), "--exclude", "c/b")
    assert freed.stdout == "freed 512 samples in 1 chunk of 1 series\n"
    refused = cli(server, "free", "--all")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr
    assert json.loads(cli(server, "free", "--all", "--yes", "--json").stdout)["chunks"] == 5
    assert cli(server, "free", "c", "--oldest", "--yes").stdout == "nothing matches: no data is freed\n"


def test_info_predicts_the_memory_of_a_configuration_offline_and_of_the_running_store(
    serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('retention = "24h"\n' + "".join(f"[metrics.m{n}]\n" for n in range(100)))
    server = serve("[metrics.a]\nstep = 10\n")
    said = json.loads(
        cli(server, "info", "--predict", "--config", str(path), "--nodes", "3000", "--json").stdout
    )
    assert (said["nodes"], said["series"]) == (3000, 300_000)
    assert 300_000 * 3 * 2112 < said["total_bytes"] < 300_000 * 5 * 2112
    shown = cli(server, "info", "--predict").stdout
    assert "now" in shown
    assert "memory_cap and /dev/shm should allow for" in shown
