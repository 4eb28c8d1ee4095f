"""What `info` counts is counted since the start of the store, whatever became of its workers and its memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.stores import Server, until

Serve = Callable[..., Server]
COUNTED = ("lines", "samples", "wal_bytes", "wal_blocks", "fsyncs", "connections_total")


def _written(server: Server, now: int, n: int) -> dict[str, Any]:
    with server.client() as client:
        for k in range(n):
            assert client.write(f"load,cluster=c,hostname=h{k} value=1 {now}\n").written == 1
        return client.info()


@pytest.mark.parametrize("memory", ["kept", "made anew"])
def test_counters_and_uptime_go_on_when_the_persister_dies(serve: Serve, now: int, memory: str) -> None:
    server = serve()
    before = _written(server, now, 5)
    killed = server.worker_pid("persister")
    os.kill(killed, signal.SIGSTOP)  # it makes its notes anew
    if memory == "made anew":  # without what it was told of protected hosts nobody may take it over
        (server.directory / "run" / "protected").unlink()
    os.kill(killed, signal.SIGKILL)
    until(lambda: server.worker_pid("persister") not in (0, killed), "a new persister")
    after = _written(server, now + 60, 3)
    assert ("memory adopted" in server.log_text()) == (memory == "kept")
    assert after["started_s"] == before["started_s"]
    assert after["counters"]["restarts"] == (1 if memory == "kept" else 2)  # the first successor refuses it
    for name in COUNTED:
        assert after["counters"][name] > before["counters"][name], name
    assert (after["counters"]["lines"], after["counters"]["samples"]) == (8, 8)
    assert after["counters"]["connections_open"] <= before["counters"]["connections_open"] + 1


def test_a_store_that_takes_memory_over_counts_anew(serve: Serve, now: int) -> None:
    server = serve()
    before = _written(server, now, 5)
    server.kill()
    time.sleep(1.1)  # a start takes less than the second that is told
    server.start()
    assert "memory adopted" in server.log_text()
    after = server.info()
    assert after["started_s"] > before["started_s"]
    assert (after["counters"]["lines"], after["counters"]["wal_bytes"]) == (0, 0)
    assert _written(server, now + 60, 1)["counters"]["lines"] == 1


def test_a_restart_with_other_numbers_of_workers_loses_no_count(serve: Serve, now: int) -> None:
    server = serve("ingest_workers = 1\nquery_workers = 2\n")
    _written(server, now, 5)
    with server.client() as client:
        for _ in range(20):
            client.query("c", "h0", "load", now - 60, now + 60)
        before = client.info()
        (server.directory / "mstore.toml").write_text("ingest_workers = 2\nquery_workers = 1\n")
        client.control("restart")
    after = server.info()
    assert "memory adopted" in server.log_text()
    for name in (*COUNTED, "queries"):
        assert after["counters"][name] >= before["counters"][name] > 0, name
