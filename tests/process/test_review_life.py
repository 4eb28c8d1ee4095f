"""Starts, stops and signals at the worst moment: no process, no segment and no lock stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mstore
from mstore.shm.segment import name_prefix, stale
from tests.stores import Server, until

Serve = Callable[..., Server]


def children(pid: int) -> dict[int, str]:
    """Command line of each child process by pid."""
    found: dict[int, str] = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            try:
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            except FileNotFoundError:
                continue
    return found


def child_of(server: Server, kind: str) -> int:
    assert server.process is not None
    pids = [pid for pid, line in children(server.process.pid).items() if line.startswith(f"mstore: {kind}")]
    return pids[0] if pids else 0


def launch(server: Server) -> subprocess.Popen[str]:
    """Start without waiting for readiness."""
    with open(server.log, "ab") as log:
        server.process = subprocess.Popen(
            [sys.executable, "-m", "mstore", "serve", *server.arguments],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    return server.process


def finish(process: subprocess.Popen[str], seconds: float = 60) -> int:
    code = process.wait(seconds)
    if process.stdout is not None:
        process.stdout.close()
    return code


def write_one(server: Server, now: int, host: str = "h", value: float = 1.5) -> None:
    with server.client() as client:
        assert client.write(f"m,cluster=c,hostname={host} value={value} {now}\n").durable


def read_one(server: Server, now: int, host: str = "h") -> list[float]:
    with server.client() as client:
        series = client.query("c", host, "m", now, now + 60)
    assert isinstance(series, mstore.Series)
    found: list[float] = series.values.tolist()
    return found


def test_a_stop_does_not_wait_for_a_persister_that_still_reads_its_files(serve: Serve) -> None:
    server = serve(start=False)
    process = launch(server)
    persister = until(lambda: child_of(server, "persister"), "the persister")
    os.kill(persister, signal.SIGSTOP)  # as one that replays for minutes: it does not listen
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 0
    assert stale(name_prefix(server.directory)) == []


def test_workers_are_not_started_any_more_when_the_persister_gets_ready_during_a_stop(serve: Serve) -> None:
    server = serve(start=False)
    process = launch(server)
    persister = until(lambda: child_of(server, "persister"), "the persister")
    assert process.stdout is not None
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: b"recovered" in server.log.read_bytes(), "the persister's readiness")
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    assert finish(process) == 0
    assert not Path(f"/proc/{persister}").exists()
    assert "mstore: " not in " ".join(children(os.getpid()).values())


def test_a_stop_in_the_middle_of_a_renewal_leaves_no_segment(serve: Serve, now: int) -> None:
    server = serve()
    write_one(server, now)
    assert server.process is not None
    supervisor = server.process.pid
    persister, query = child_of(server, "persister"), child_of(server, "query")
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(persister, signal.SIGKILL)
    os.kill(query, signal.SIGKILL)
    os.kill(supervisor, signal.SIGCONT)
    os.kill(supervisor, signal.SIGTERM)
    assert finish(server.process) == 0
    assert stale(name_prefix(server.directory)) == []
    server.start()
    assert read_one(server, now) == [1.5]


@pytest.mark.parametrize("how", ["signal", "command"])
def test_a_stop_in_the_middle_of_a_renewal_keeps_the_memory_if_it_is_to_be_kept(
    serve: Serve, now: int, how: str
) -> None:
    server = serve("keep_memory = true\n" if how == "signal" else "")
    write_one(server, now)
    assert server.process is not None
    supervisor = server.process.pid
    persister, query = child_of(server, "persister"), child_of(server, "query")
    with server.client() as client:
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(persister, signal.SIGKILL)
        os.kill(query, signal.SIGKILL)
        if how == "signal":
            os.kill(supervisor, signal.SIGTERM)
        else:
            asking = threading.Thread(target=client.control, args=("stop", "keep"))
            asking.start()
            time.sleep(0.5)  # its request waits in the socket
        os.kill(supervisor, signal.SIGCONT)
        assert finish(server.process) == 0
        if how == "command":
            asking.join()
    assert len(stale(name_prefix(server.directory))) >= 4
    assert (server.directory / "run" / "kept.json").exists()
    server.start()
    assert "memory adopted" in server.log_text()
    assert read_one(server, now) == [1.5]
    with server.client() as client:
        client.control("stop", "free")
    assert server.wait() == 0


def test_a_stop_in_the_middle_of_a_restart_keeps_the_memory_if_it_is_to_be_kept(
    serve: Serve, now: int
) -> None:
    server = serve("keep_memory = true\n")
    write_one(server, now)
    assert server.process is not None
    command = subprocess.Popen(
        [sys.executable, "-m", "mstore", "restart", "--dir", str(server.directory)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: not child_of(server, "ingest"), "the end of the ingest worker")
    server.process.send_signal(signal.SIGTERM)
    assert finish(server.process, 100) == 0
    command.wait(60)
    assert (server.directory / "run" / "kept.json").exists()
    server.start()
    assert "memory adopted" in server.log_text()
    assert read_one(server, now) == [1.5]
    with server.client() as client:
        client.control("stop", "free")
    assert server.wait() == 0


@pytest.mark.parametrize("delay_children", [0, 1])
def test_a_stop_in_the_middle_of_a_restart_leaves_no_segment(
    serve: Serve, now: int, delay_children: int
) -> None:
    server = serve()
    write_one(server, now)
    assert server.process is not None
    before = child_of(server, "persister")
    command = subprocess.Popen(
        [sys.executable, "-m", "mstore", "restart", "--dir", str(server.directory)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if delay_children:
        until(lambda: child_of(server, "persister") not in (before, 0), "the next life")
    else:
        until(lambda: not child_of(server, "ingest"), "the end of the ingest worker")
    server.process.send_signal(signal.SIGTERM)
    assert finish(server.process, 100) == 0
    command.wait(60)
    assert stale(name_prefix(server.directory)) == []
    server.start()
    assert read_one(server, now) == [1.5]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_leave_signals_to_the_supervisor(serve: Serve, now: int, number: signal.Signals) -> None:
    server = serve()
    assert server.process is not None
    pids = {kind: child_of(server, kind) for kind in ("persister", "ingest", "query")}
    for pid in pids.values():
        os.kill(pid, number)
    write_one(server, now)
    assert read_one(server, now) == [1.5]
    assert {kind: child_of(server, kind) for kind in pids} == pids


def test_ctrl_c_while_children_are_starting_shows_no_traceback(serve: Serve) -> None:
    server = serve(start=False)
    process = launch(server)
    persister = until(lambda: child_of(server, "persister"), "the persister")
    os.kill(persister, signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert finish(process) in (0, -signal.SIGINT)
    assert "Traceback" not in server.log_text()


def test_a_store_started_with_its_standard_descriptors_closed_works_and_every_child_holds_the_lock(
    serve: Serve, now: int
) -> None:
    server = serve(start=False)
    arguments = " ".join(f"'{argument}'" for argument in server.arguments)
    shell = f"exec {sys.executable} -m mstore serve {arguments} <&- >&- 2>&-"
    server.process = subprocess.Popen(["sh", "-c", shell], text=True)

    def answers() -> bool:
        try:
            return bool(server.info()["state"] == "ready")
        except mstore.MstoreError:
            return False

    until(answers, "the store")
    write_one(server, now)
    assert read_one(server, now) == [1.5]
    lock = os.stat(server.directory / "lock")
    processes = {server.process.pid: "", **children(server.process.pid)}
    assert len(processes) == 5
    for pid, line in processes.items():
        if line.startswith("mstore: nursery"):  # it touches no file, and nobody waits for its end
            continue
        open_files = {fd: os.stat(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert any(os.path.samestat(one, lock) for one in open_files.values()), (
            f"{pid} does not hold the lock"
        )
        assert all(os.path.samestat(open_files[fd], os.stat(os.devnull)) for fd in "012")


def test_the_group_can_use_a_store_whatever_the_umask_of_who_started_it(serve: Serve, now: int) -> None:
    server = serve(start=False)
    inner = server.directory / "made"
    server.arguments = ["--dir", str(inner)]
    held = os.umask(0o077)
    try:
        process = launch(server)
    finally:
        os.umask(held)
    assert process.stdout is not None
    assert process.stdout.readline() == f"mstore ready {inner}\n"
    modes = {path: (inner / path).stat().st_mode & 0o777 for path in (".", "run")}
    assert modes == {".": 0o750, "run": 0o750}
    sockets = {name: (inner / "run" / f"{name}.sock").stat() for name in ("ingest", "query", "control")}
    assert {name: one.st_mode & 0o777 for name, one in sockets.items()} == {
        "ingest": 0o660, "query": 0o660, "control": 0o600,
    }  # fmt: skip
    assert {one.st_gid for one in sockets.values()} == {inner.stat().st_gid}


def test_a_killed_store_can_be_started_at_once(serve: Serve, now: int) -> None:
    server = serve()
    write_one(server, now)
    assert server.process is not None
    persister = child_of(server, "persister")
    os.kill(persister, signal.SIGSTOP)  # it holds the lock a little longer than its supervisor lives
    server.process.kill()
    finish(server.process)
    server.start()
    assert read_one(server, now) == [1.5]


def test_a_snapshot_helper_holds_the_lock_and_nothing_of_the_supervisor(serve: Serve, now: int) -> None:
    server = serve()
    write_one(server, now)
    persister = child_of(server, "persister")
    command = subprocess.Popen(
        [sys.executable, "-m", "mstore", "snapshot", "--dir", str(server.directory)],
        stdout=subprocess.DEVNULL,
    )
    helper = until(
        lambda: next(
            (pid for pid, line in children(persister).items() if line.startswith("mstore: snapshot")), 0
        ),
        "the helper",
    )
    os.kill(helper, signal.SIGSTOP)
    links = {os.readlink(f"/proc/{helper}/fd/{fd}") for fd in os.listdir(f"/proc/{helper}/fd")}
    channel = {os.readlink(f"/proc/{persister}/fd/{fd}") for fd in os.listdir(f"/proc/{persister}/fd")}
    group = os.getpgid(helper)
    os.kill(helper, signal.SIGCONT)
    assert group != os.getpgid(persister), "Ctrl-C does not reach it"
    assert str(server.directory / "lock") in links
    shared = {link for link in links & channel if link.startswith("socket:")}
    assert len(shared) <= 1, "its own standard output at most"
    assert command.wait(60) == 0
