"""Segments removed from /dev/shm under a running store: noticed within seconds, workers go on and are replaced."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

import mstore
from mstore.errors import Unavailable
from mstore.shm.segment import name_prefix, stale, unlink
from tests.stores import Server, until

Serve = Callable[..., Server]
CONFIG = 'default_step = 10\nretention = "0"\ningest_workers = 1\nquery_workers = 1\n'


def remove_segments(server: Server) -> list[str]:
    names = stale(name_prefix(server.directory))
    assert len(names) == 4
    for name in names:
        unlink(name)
    return names


def write(server: Server, t: int, value: int) -> None:
    with server.client() as client:
        assert client.write(
            "".join(f"m,cluster=c,hostname=h{i} value={value} {t}\n" for i in range(5))
        ).durable


def values(server: Server, first_s: int, n: int) -> list[float]:
    with server.client() as client:
        found = client.query("c", "h3", "m", first_s, first_s + 10 * n)
    assert isinstance(found, mstore.Series)
    return [float(value) for value in found.values]


def mstore_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mstore", *arguments], capture_output=True, text=True, timeout=60
    )


def test_segments_without_names_are_said_and_handed_to_workers_that_are_replaced(
    serve: Serve, now: int
) -> None:
    server = serve(CONFIG)
    first_s = (now - 1000) // 10 * 10
    write(server, first_s, 1)
    names = remove_segments(server)
    until(lambda: "removed by somebody from /dev/shm" in server.log_text(), "the supervisor to notice", 20)
    text = server.log_text()
    assert all(name in text for name in names)
    assert re.search(r"reads the files instead \(up to \d+ MB of log and \d+ MB of snapshots\)", text)
    told = mstore_command("info", "--dir", str(server.directory)).stdout
    assert "REMOVED from /dev/shm by somebody" in told
    done = mstore_command("check", "--dir", str(server.directory))
    assert (done.returncode, "was removed while the store runs" in done.stdout) == (1, True), done.stdout
    for kind in ("ingest", "query"):
        pid = server.worker_pid(kind)
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid, kind=kind: server.worker_pid(kind) not in (0, pid), "another worker")
    write(server, first_s + 10, 2)
    assert values(server, first_s, 2) == [1, 2]
    with server.client() as client:
        assert client.control("snapshot")["series"] == 5, "the helper is handed them, too"
        with pytest.raises(Unavailable):
            mstore.attach(server.directory)
        client.control("restart")
    until(lambda: server.info()["state"] == "ready", "the restart")
    assert len(stale(name_prefix(server.directory))) == 4, "with names again"
    assert "removed_segments" in server.info()["memory"]
    assert not server.info()["memory"]["removed_segments"]
    assert values(server, first_s, 2) == [1, 2]
    mstore.attach(server.directory).close()


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed before", "not yet"])
def test_memory_without_names_is_not_kept_at_a_stop_a_snapshot_is_taken_instead(
    serve: Serve, now: int, noticed: bool
) -> None:
    server = serve(CONFIG + "keep_memory = true\n")
    first_s = (now - 1000) // 10 * 10
    write(server, first_s, 7)
    remove_segments(server)
    if noticed:
        until(
            lambda: "removed by somebody from /dev/shm" in server.log_text(), "the supervisor to notice", 20
        )
    assert server.stop() == 0
    assert list((server.directory / "snapshots").glob("*.snapshot"))
    assert not list((server.directory / "run").glob("kept.json"))
    server.start()
    assert values(server, first_s, 1) == [7]
    with server.client() as client:
        client.control("stop", "free")
    assert server.wait() == 0


def test_a_restart_that_comes_before_the_missing_names_are_noticed_writes_a_snapshot_first(
    serve: Serve, now: int
) -> None:
    server = serve(CONFIG)
    first_s = (now - 1000) // 10 * 10
    write(server, first_s, 7)
    remove_segments(server)
    with server.client() as client:
        client.control("restart")
    assert list((server.directory / "snapshots").glob("*.snapshot"))
    assert values(server, first_s, 1) == [7]


def test_a_persister_that_dies_over_memory_without_names_is_followed_by_one_that_reads_the_files(
    serve: Serve, now: int
) -> None:
    server = serve(CONFIG)
    first_s = (now - 1000) // 10 * 10
    write(server, first_s, 3)
    remove_segments(server)
    os.kill(server.worker_pid("persister"), signal.SIGKILL)
    until(lambda: "the memory of the run before is not used" in server.log_text(), "the renewal")
    until(lambda: server.info()["state"] == "ready", "the workers")
    assert values(server, first_s, 1) == [3]
    write(server, first_s + 10, 4)
    assert values(server, first_s, 2) == [3, 4]
