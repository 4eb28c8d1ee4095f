"""Who may write which memory, who gets which connection, what is printed: rules of a whole store's processes."""

from __future__ import annotations

import os
import re
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mstore.shm.segment import SHM_DIR, name_prefix, stale
from tests.process.test_review_life import children
from tests.process.test_snapshot_life import run
from tests.stores import Server, until

Serve = Callable[..., Server]

WRITES = {
    "persister": {"control", "directory", "samples", "ring-0", "ring-1"},
    "ingest 0": {"control", "ring-0"},
    "ingest 1": {"control", "ring-1"},
    "query 0": {"control"},
    "query 1": {"control"},
}
READS: dict[str, set[str]] = {
    "persister": set(),
    "ingest 0": {"directory"},
    "ingest 1": {"directory"},
    "query 0": {"directory", "samples"},
    "query 1": {"directory", "samples"},
}


def mapped(pid: int, rights: str) -> set[str]:
    """Roles of the segments that a process has mapped with exactly these rights ("r--s", "rw-s")."""
    found = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if match := re.search(r"/dev/shm/mstore-[0-9a-f]+-[0-9a-f]+-(\S+)", line):
            assert line.split()[1] in ("r--s", "rw-s"), line
            found |= {match[1]} if line.split()[1] == rights else set()
    return found


def test_each_process_can_write_its_own_memory_alone_and_gets_its_share_of_the_connections(
    serve: Serve, now: int
) -> None:
    server = serve(None, "--ingest-workers", "2", "--query-workers", "2", start=False)
    if os.geteuid() == 0:  # DIR's group, which need not be that of who starts the store
        os.chown(server.directory, -1, 4242)
    server.start()
    server.send_text(f"m,cluster=c,hostname=h value=1 {now}\n".encode())
    pids = {
        "persister" if one["kind"] == "persister" else f"{one['kind']} {one['index']}": one["pid"]
        for one in server.info()["workers"]
    }
    assert {name: mapped(pid, "rw-s") for name, pid in pids.items()} == WRITES
    assert {name: mapped(pid, "r--s") for name, pid in pids.items()} == READS
    for name in stale(name_prefix(server.directory)):
        status = (SHM_DIR / name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert status.st_gid == server.directory.stat().st_gid

    for kind in ("ingest", "query"):
        socks = [server.connect(kind) for _ in range(40)]
        try:

            def shares(kind: str = kind) -> list[int]:
                with server.client() as client:
                    workers = client.info()["workers"]
                return sorted(one["connections"] for one in workers if one["kind"] == kind)

            until(lambda: sum(shares()) >= 40, "all connections")
            # The question itself is one more, at a query worker.
            assert max(shares()) - min(shares()) <= 1 + (kind == "query"), shares()
        finally:
            for sock in socks:
                sock.close()

    assert server.process is not None
    assert server.process.stdout is not None
    server.process.terminate()
    assert server.process.stdout.read() == "", "the line that it is ready was the only one"
    assert server.wait() == 0


def test_a_snapshot_under_way_is_shown_and_its_helper_can_write_no_shared_memory(
    serve: Serve, now: int
) -> None:
    """Stopped in the middle: the store is large enough for that to be a good part of a second."""
    server = serve('retention = "0"\n')
    n_series = 30_000
    times = now // 60 * 60 - 60 * np.arange(512, 0, -1)
    with server.client() as client, client.writer() as writer:
        handles = writer.open([("c", f"h{i}", "m") for i in range(n_series)])
        writer.write(handles, times, np.arange(512 * n_series, dtype=np.float32).reshape(512, n_series))
        assert writer.flush().written == 512 * n_series
    assert "a snapshot is being written" not in run("info", directory=server.directory)
    taken: list[dict[str, object]] = []

    def ask() -> None:
        with server.client(timeout=120) as client:
            taken.append(client.control("snapshot"))

    asking = threading.Thread(target=ask)
    persister = server.worker_pid("persister")
    asking.start()
    helper = until(
        lambda: next(
            (pid for pid, line in children(persister).items() if line.startswith("mstore: snapshot")), 0
        ),
        "the helper",
    )
    while "samples" not in mapped(helper, "r--s"):
        time.sleep(0.001)
    os.kill(helper, signal.SIGSTOP)
    try:
        assert mapped(helper, "r--s") == {"control", "directory", "samples"}
        assert mapped(helper, "rw-s") == set()
        told = run("info", directory=server.directory)
        assert re.search(r"a snapshot is being written: \d+%, [\d.]+ [KMG]?i?B", told), told
        assert server.send_text(f"m,cluster=c,hostname=h0 value=7 {now}\n".encode()).startswith(b"written=1")
    finally:
        os.kill(helper, signal.SIGCONT)
    asking.join(120)
    assert [one["series"] for one in taken] == [n_series]
    assert "a snapshot is being written" not in run("info", directory=server.directory)


def test_an_idle_store_is_woken_for_its_looks_at_files_alone(serve: Serve, now: int) -> None:
    """Each process sleeps until somebody wants something; every 5 s supervisor and persister look around."""
    server = serve()
    with server.client() as client:
        client.write(f"m,cluster=c,hostname=h value=1 {now}\n")
    assert server.process is not None
    pids = [server.process.pid, *children(server.process.pid)]
    until(
        lambda: _sleeps(pids),
        "the end of what follows a start and a write: spare segments, a mark in the log",
    )
    before = {pid: wakeups(pid) for pid in pids}
    time.sleep(10)
    woken = {Path(f"/proc/{pid}/comm").read_text().strip(): wakeups(pid) - before[pid] for pid in pids}
    assert len(woken) == 5
    assert sum(woken.values()) <= 12, woken  # a timer of every second more would be 10 more


def _sleeps(pids: list[int]) -> bool:
    before = sum(map(wakeups, pids))
    time.sleep(1)
    return sum(map(wakeups, pids)) - before <= 5


def wakeups(pid: int) -> int:
    """How often the threads of a process have gone to sleep so far."""
    found = 0
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        found += int(path.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return found
