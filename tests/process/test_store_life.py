"""Starting, stopping, dying and coming back: what was acknowledged is there afterwards, bit for bit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mstore
from mstore.shm import layout
from mstore.shm.segment import name_prefix, stale
from tests.stores import Server, until

Serve = Callable[..., Server]


def write_some(server: Server, now: int, n: int = 300) -> dict[str, float]:
    """Acknowledged samples of n hosts, and what a store has to answer."""
    values = {f"h{i:04d}": i + 0.25 for i in range(n)}
    with server.client() as client:
        result = client.write(
            "".join(f"m,cluster=c,hostname={host} value={value} {now}\n" for host, value in values.items())
        )
    assert (result.written, result.durable) == (n, True)
    return values


def assert_there(server: Server, values: dict[str, float], now: int) -> None:
    with server.client() as client:
        for host, value in values.items():
            series = client.query("c", host, "m", now, now + 60)
            assert series.values.tolist() == [value], host
            assert series.times.tolist() == [now]


def test_a_stopped_store_comes_back_with_everything_and_leaves_no_segment(serve: Serve, now: int) -> None:
    server = serve()
    values = write_some(server, now)
    assert server.stop() == 0
    assert stale(name_prefix(server.directory)) == []
    server.start()
    assert_there(server, values, now)


def test_ctrl_c_stops_in_order(serve: Serve, now: int) -> None:
    server = serve()
    values = write_some(server, now, 3)
    assert server.stop(signal.SIGINT) == 0
    server.start()
    assert_there(server, values, now)


def test_a_killed_store_comes_back_with_everything_acknowledged(serve: Serve, now: int) -> None:
    server = serve()
    values = write_some(server, now)
    server.kill()
    server.start()
    assert_there(server, values, now)


def test_segments_of_a_killed_run_that_cannot_be_adopted_are_removed_by_the_next(
    serve: Serve, now: int
) -> None:
    server = serve()
    values = write_some(server, now, 3)
    server.kill()
    left = stale(name_prefix(server.directory))
    assert left
    (server.directory / "run" / "instance.json").unlink()
    server.start()
    assert not set(left) & set(stale(name_prefix(server.directory)))
    assert_there(server, values, now)


@pytest.mark.parametrize("kind", ["ingest", "query"])
def test_a_killed_worker_is_replaced_and_nothing_is_lost(serve: Serve, now: int, kind: str) -> None:
    server = serve()
    values = write_some(server, now)
    pid = server.worker_pid(kind)
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.worker_pid(kind) not in (0, pid), f"a new {kind} worker")
    more = {f"x{i}": float(i) for i in range(50)}
    with server.client() as client:
        client.write(
            "".join(f"m,cluster=c,hostname={host} value={value} {now}\n" for host, value in more.items())
        )
    assert_there(server, {**values, **more}, now)
    assert server.info()["counters"]["restarts"] == 1


def test_a_killed_persister_is_replaced_with_all_workers_and_nothing_is_lost(serve: Serve, now: int) -> None:
    server = serve()
    values = write_some(server, now)
    before = {kind: server.worker_pid(kind) for kind in ("persister", "ingest", "query")}
    os.kill(before["persister"], signal.SIGKILL)

    def renewed() -> bool:
        try:
            return all(server.worker_pid(kind) not in (0, pid) for kind, pid in before.items())
        except mstore.MstoreError:
            return False

    until(renewed, "the renewed store")
    assert server.info()["counters"]["restarts"] == 1
    assert_there(server, values, now)
    values.update(write_some(server, now, 310))
    assert_there(server, values, now)


def test_a_second_store_on_the_same_directory_is_refused_with_the_reason(serve: Serve) -> None:
    server = serve()
    second = subprocess.run(
        [sys.executable, "-m", "mstore", "serve", "--dir", str(server.directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode != 0
    assert "another mstore" in second.stderr
    assert "Traceback" not in second.stderr
    assert server.info()["state"] == "ready"


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    result = subprocess.run(
        [sys.executable, "-m", "mstore", "serve", "--dir", str(blocked / "store")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    assert "cannot use the directory" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("directory", ["d" * 120, "short"], ids=["long", "link to a long one"])
def test_a_socket_path_over_the_systems_limit_is_an_error_that_names_the_limit_and_nothing_is_made(
    tmp_path: Path, directory: str
) -> None:
    (tmp_path / ("l" * 120)).mkdir()
    (tmp_path / "short").symlink_to(tmp_path / ("l" * 120))
    before = sorted(tmp_path.rglob("*"))
    result = subprocess.run(
        [sys.executable, "-m", "mstore", "serve", "--dir", directory],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert result.returncode != 0
    assert "107" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_configuration_is_refused_before_anything_is_made(short_dir: Path) -> None:
    (short_dir / "bad.toml").write_text("retentoin = '2h'\n")
    result = subprocess.run(
        [sys.executable, "-m", "mstore", "serve", "--dir", str(short_dir / "s"), "--config", str(short_dir / "bad.toml")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode != 0
    assert "retentoin" in result.stderr
    assert not (short_dir / "s").exists()


def test_restart_keeps_data_and_takes_a_new_configuration(serve: Serve, now: int) -> None:
    def ring_bytes() -> int:
        return int(server.info()["memory"]["segments"]["ring-0"]["reserved_bytes"]) - layout.RING_DATA

    server = serve('ring_bytes = "8MiB"\n')
    values = write_some(server, now)
    before = server.info()["instance"]
    assert ring_bytes() == 8 << 20
    (server.directory / "mstore.toml").write_text('ring_bytes = "4MiB"\n')
    with server.client() as client:
        assert client.control("restart")["instance"] == before
        assert ring_bytes() == 4 << 20
        assert_there(server, values, now)
        assert client.control("restart", "free")["instance"] != before
    assert_there(server, values, now)


def test_reload_makes_an_ignored_metric_known(serve: Serve, now: int) -> None:
    server = serve("[metrics.a]\nstep = 60\n")
    line = f"b,cluster=c,hostname=h value=1 {now}\n"
    with server.client() as client:
        assert client.write(line).ignored == 1
        (server.directory / "mstore.toml").write_text("[metrics.a]\nstep = 60\n[metrics.b]\nstep = 60\n")
        client.control("reload")
        until(lambda: client.write(line).written == 1, "the new metric")
        assert client.query("c", "h", "b", now, now + 60).values.tolist() == [1.0]


def test_stop_by_command_ends_the_store_and_answers_when_it_is_done(serve: Serve, now: int) -> None:
    server = serve()
    write_some(server, now, 3)
    with server.client() as client:
        client.control("stop")
    assert server.process is not None
    assert server.process.wait(30) == 0
    server.process.stdout.close() if server.process.stdout else None
    assert stale(name_prefix(server.directory)) == []


def test_a_snapshot_on_demand_retires_nothing_that_is_needed(serve: Serve, now: int) -> None:
    server = serve()
    values = write_some(server, now)
    with server.client() as client:
        assert client.control("snapshot")["series"] == len(values)
    more = write_some(server, now, 305)
    server.kill()
    server.start()
    assert_there(server, {**values, **more}, now)


def test_f64_bits_and_late_and_missing_samples_survive_a_crash(serve: Serve, now: int, seed: int) -> None:
    server = serve('retention = "0"\n[metrics.x]\nstep = 10\ntype = "f64"\n')
    rng = np.random.default_rng(seed)
    first = now - 40_000
    slots = np.sort(rng.choice(3000, 900, replace=False))
    order = rng.permutation(len(slots))
    values = rng.standard_normal(len(slots)) * 10.0 ** rng.integers(-200, 200, len(slots))
    anchor = f"x,cluster=c,hostname=h value=0.5 {first + 15_000}\n"
    text = anchor + "".join(
        f"x,cluster=c,hostname=h value={float(values[i])!r} {first + 10 * slots[i]}\n" for i in order
    )
    with server.client() as client:
        assert client.write(text).written == len(slots) + 1
    expected = np.full(3000, np.nan)
    expected[1500] = 0.5
    expected[slots] = values

    def stored() -> np.ndarray:
        with server.client() as client:
            series = client.query("c", "h", "x", first, first + 30_000)
            assert series.times[0] == first
            return np.asarray(series.values)

    assert np.array_equal(stored(), expected, equal_nan=True)
    server.kill()
    server.start()
    assert np.array_equal(stored(), expected, equal_nan=True)


def test_senders_wait_through_a_restart_in_the_backlog(serve: Serve, now: int) -> None:
    server = serve()
    write_some(server, now, 2)
    with server.client() as client:
        os.kill(server.worker_pid("ingest"), signal.SIGSTOP)
        sock = server.connect("ingest")
        sock.sendall(f"m,cluster=c,hostname=late value=5 {now}\n".encode())
        sock.shutdown(socket.SHUT_WR)
        os.kill(server.worker_pid("ingest"), signal.SIGKILL)
        # Handed to the dead worker and never taken: its successor finds the connection in the channel.
        reply = sock.recv(200)
        sock.close()
        assert reply.startswith(b"written=1 ")
        assert client.query("c", "late", "m", now, now + 60).values.tolist() == [5.0]


def test_a_restart_with_fewer_series_than_there_are_is_refused_and_the_store_goes_on(
    serve: Serve, now: int
) -> None:
    server = serve("max_series = 1000\n")
    values = write_some(server, now, 30)
    (server.directory / "mstore.toml").write_text("max_series = 5\n")
    with server.client() as client, pytest.raises(mstore.errors.ConfigError, match="30 series"):
        client.control("restart")
    assert_there(server, values, now)


def test_children_import_nothing_from_the_directory_the_operator_stands_in(short_dir: Path, now: int) -> None:
    trap = short_dir / "trap"
    trap.mkdir()
    (trap / "numpy.py").write_text("raise SystemExit('imported from the working directory')")
    command = [str(Path(sys.executable).with_name("mstore")), "serve", "--dir", str(short_dir / "s")]
    process = subprocess.Popen(
        command, cwd=trap, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        line = process.stdout.readline()
        process.terminate()
    assert line.startswith("mstore ready"), line
