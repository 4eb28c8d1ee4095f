"""Snapshots and recovery of a real store: what an operator sees while they go on, and afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mstore
from mstore.client.sync import Client
from tests.process.test_review_life import children
from tests.stores import Server, until

Serve = Callable[..., Server]
HOSTS = 40
NO_LAST_SNAPSHOT = 'snapshot_stop_limit = "0"\n'


def run(*argv: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mstore", *argv, "--dir", str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done
    return done.stdout


def write(server: Server, now: int, value: float) -> None:
    lines = "".join(
        f"load,cluster=c{host % 2},hostname=h{host},type=node value={value + host} {now}\n"
        for host in range(HOSTS)
    )
    assert server.send_text(lines.encode()).startswith(b"written=40 ")


def read(server: Server, now: int) -> list[float]:
    found = []
    with server.client() as client:
        for host in range(HOSTS):
            series = client.query(f"c{host % 2}", f"h{host}", "load", now - 60, now + 60, type="node")
            assert isinstance(series, mstore.Series)
            found.append(float(np.nanmax(series.values)))
    return found


def child_of(server: Server, kind: str) -> int:
    assert server.process is not None
    return until(
        lambda: next(
            (pid for pid, line in children(server.process.pid).items() if line.startswith(f"mstore: {kind}")),
            0,
        ),
        kind,
    )


def test_info_answers_while_the_files_are_read_and_says_so(serve: Serve, now: int) -> None:
    server = serve()
    write(server, now, 1.0)
    server.stop()
    process = subprocess.Popen(
        [sys.executable, "-m", "mstore", "serve", *server.arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    server.process = process
    persister = child_of(server, "persister")
    os.kill(persister, signal.SIGSTOP)
    try:
        out = until(lambda: _info_or_nothing(server.directory), "an answer")
        assert "ready" not in out.splitlines()[0]
        assert "senders wait" in out
    finally:
        os.kill(persister, signal.SIGCONT)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"mstore ready")
    assert read(server, now) == [1.0 + host for host in range(HOSTS)]
    assert "senders wait" not in run("info", directory=server.directory)
    with server.client() as client:
        assert client.info(starting=True)["state"] == "ready"
    process.stdout.close()
    process.stdout = None
    process.terminate()
    assert process.wait(60) == 0


def _info_or_nothing(directory: Path) -> str:
    try:
        with Client(directory, timeout=2) as client:
            assert client.info(starting=True)["state"] in ("starting", "replaying")  # wherever it was stopped
    except mstore.MstoreError:
        return ""
    return run("info", directory=directory)


def test_info_keeps_what_the_last_start_found(serve: Serve, now: int) -> None:
    server = serve(NO_LAST_SNAPSHOT)
    write(server, now, 1.0)
    assert run("snapshot", directory=server.directory)
    write(server, now, 2.0)
    server.stop()
    server.start()
    last = server.info()["last_recovery"]
    assert last["samples_from_snapshots"] == HOSTS
    assert last["samples_from_log"] == HOSTS
    assert (last["damaged"], last["lost_chunks"], last["chunks_without_room"]) == ([], 0, 0)
    assert f"{2 * HOSTS:,} samples in" in run("info", directory=server.directory)
    assert read(server, now) == [2.0 + host for host in range(HOSTS)]


def test_a_damaged_file_of_a_snapshot_is_told_and_costs_nothing(serve: Serve, now: int) -> None:
    server = serve(NO_LAST_SNAPSHOT)
    for value in (1.0, 2.0):
        write(server, now, value)
        run("snapshot", directory=server.directory)
    write(server, now, 3.0)
    server.stop()
    path = max((server.directory / "snapshots").glob("*.chunks"))
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)
    server.start()
    assert read(server, now) == [3.0 + host for host in range(HOSTS)]
    found = server.info()
    assert found["degraded"]
    assert path.name in found["last_recovery"]["damaged"][0]
    assert (server.directory / "quarantine" / path.name).read_bytes() == bytes(text)
    assert run("info", directory=server.directory).count(path.name) == 1
    told = [line for line in server.log_text().splitlines() if f"{path.name} at" in line]
    assert len(told) == 1, "once, however many processes know it"
    assert "is damaged: " in told[0]
    # A sound generation takes the damaged one's place at once; both that count are sound then.
    until(lambda: server.info()["counters"]["snapshots"] > 0, "a snapshot without being asked")
    assert not path.exists()
    server.stop()
    server.start()
    assert not server.info()["degraded"]


def test_a_stop_that_may_not_wait_takes_no_snapshot_and_nothing_is_lost(serve: Serve, now: int) -> None:
    server = serve(NO_LAST_SNAPSHOT)
    write(server, now, 1.0)
    server.stop()
    assert not list((server.directory / "snapshots").glob("*.snapshot"))
    server.start()
    assert read(server, now) == [1.0 + host for host in range(HOSTS)]


def test_a_stop_whose_snapshot_takes_too_long_gives_it_up_and_the_next_start_says_so(
    serve: Serve, now: int
) -> None:
    server = serve('snapshot_stop_limit = "1s"\n')
    write(server, now, 1.0)
    persister = child_of(server, "persister")
    assert server.process is not None
    server.process.terminate()
    helper = until(
        lambda: next(
            (pid for pid, line in children(persister).items() if line.startswith("mstore: snapshot")), 0
        ),
        "the helper",
    )
    os.kill(helper, signal.SIGSTOP)
    assert server.process.wait(60) == 0
    assert server.process.stdout is not None
    server.process.stdout.close()
    assert not list((server.directory / "snapshots").glob("*")), "nothing half-done stays"
    server.start()
    (note,) = server.info()["last_recovery"]["notes"]
    assert "given up after 1 s" in note
    assert note in run("info", directory=server.directory)
    assert read(server, now) == [1.0 + host for host in range(HOSTS)]
