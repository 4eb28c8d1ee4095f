"""The configuration of a running store: what it accepted holds in every process, whatever happens to the file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

import mstore
from mstore.errors import ConfigError, MstoreError
from tests.stores import Server, until

Serve = Callable[..., Server]


def configure(server: Server, text: str) -> None:
    (server.directory / "mstore.toml").write_text(text)


def write(client: mstore.Client, name: str, now: int) -> str:
    """ "written", or why not."""
    result = client.write(f"m,cluster=c,hostname={name} value=1 {now}\n")
    return "written" if result.written else next(iter(result.reasons))


@pytest.mark.parametrize("kind", ["ingest", "query", "persister"])
def test_a_worker_that_dies_while_the_file_is_broken_comes_back_with_what_was_accepted(
    serve: Serve, now: int, kind: str
) -> None:
    server = serve('max_future = "2h"\n')
    with server.client() as client:
        assert write(client, "a", now + 7000) == "written"
        configure(server, 'max_future = "2h\n[[[ half a fi')
        pid = server.worker_pid(kind)
        os.kill(pid, signal.SIGKILL)

        def replaced() -> bool:
            try:
                return server.worker_pid(kind) not in (0, pid)
            except MstoreError:
                return False

        until(replaced, f"another {kind}")
        assert write(client, "b", now + 7000) == "written"
        assert write(client, "b", now + 7400) == "too_far_ahead"
    assert server.log_text().count("died") == 1


def test_a_reload_leaves_what_needs_a_restart_as_it_was_in_all_processes(serve: Serve, now: int) -> None:
    server = serve("ingest_workers = 1\n")
    with server.client() as client:
        assert write(client, "a", now) == "written"
        configure(server, 'max_series = 2\ningest_workers = 2\nring_bytes = "4MiB"\nmax_future = "2h"\n')
        wanted = ["max_series", "ingest_workers", "ring_bytes"]
        assert client.control("reload")["needs_restart"] == wanted
        until(lambda: write(client, "a", now + 7000) == "written", "what a reload takes over")
        assert [write(client, name, now) for name in "bcd"] == ["written"] * 3
        assert client.control("reload")["needs_restart"] == wanted, "it still does"

        # Neither does a store that is made anew from its files take them over by the way.
        pid = server.worker_pid("persister")
        os.kill(pid, signal.SIGKILL)
        until(lambda: renewed(server, pid), "the renewed store")
        assert [one["kind"] for one in server.info()["workers"]].count("ingest") == 1
        assert write(client, "e", now) == "written"


def renewed(server: Server, old_persister: int) -> bool:
    try:
        return server.worker_pid("persister") not in (0, old_persister)
    except MstoreError:
        return False


def test_a_memory_cap_below_control_and_rings_is_refused_while_the_store_goes_on(
    serve: Serve, now: int
) -> None:
    server = serve('memory_cap = "64MiB"\ningest_workers = 1\nring_bytes = "4MiB"\n')
    instance = server.info()["instance"]
    with server.client() as client:
        configure(server, 'memory_cap = "5MiB"\ningest_workers = 1\nring_bytes = "4MiB"\nmax_future = "2h"\n')
        for verb in ("restart", "reload"):
            with pytest.raises(ConfigError, match=r"memory_cap = \"5MiB\".* at least \d+ bytes"):
                client.control(verb)
        assert write(client, "a", now) == "written"
        assert write(client, "a", now + 7000) == "too_far_ahead", "a refused file changes nothing at all"

        # A reload leaves the rings as they are, so their size now counts; a restart makes those of the file.
        configure(server, 'memory_cap = "20MiB"\ningest_workers = 1\nring_bytes = "16MiB"\n')
        assert client.control("reload")["needs_restart"] == ["ring_bytes"]
        configure(server, 'memory_cap = "16MiB"\ningest_workers = 1\nring_bytes = "16MiB"\n')
        with pytest.raises(ConfigError, match="memory_cap"):
            client.control("restart")
    assert server.info()["instance"] == instance
    assert server.process is not None
    assert server.process.poll() is None


def test_fewer_max_series_than_there_are_series_is_refused_while_the_store_goes_on(
    serve: Serve, now: int
) -> None:
    server = serve()
    with server.client() as client:
        assert [write(client, name, now) for name in "abc"] == ["written"] * 3
    server.stop()
    server.arguments += ["--config", str(server.directory / "mstore.toml")]
    configure(server, "max_series = 3\n")
    server.start()
    pid = server.worker_pid("persister")
    with server.client() as client:
        configure(server, 'max_series = 2\nmax_future = "2h"\n')
        with pytest.raises(ConfigError, match="max_series = 2: this store has 3 series"):
            client.control("restart")
        assert server.worker_pid("persister") == pid, "nobody was stopped"
        assert write(client, "a", now + 7000) == "too_far_ahead", "a refused file changes nothing at all"
        assert write(client, "d", now) == "series_limit"


def test_a_memory_cap_below_control_and_rings_is_a_clear_error_at_the_start(serve: Serve) -> None:
    server = serve('memory_cap = "5MiB"\ningest_workers = 1\nring_bytes = "4MiB"\n', start=False)
    ended = subprocess.run(
        [sys.executable, "-m", "mstore", "serve", *server.arguments],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert 'memory_cap = "5MiB"' in line
    assert "for control and rings" in line
    assert not (server.directory / "lock").exists(), "nothing was made"
