"""What runs out while a store runs: /dev/shm, descriptors. Nothing acknowledged is lost, and it goes on by itself."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import mstore
from mstore import limits
from mstore.errors import StoreFull
from mstore.shm.segment import name_prefix
from tests.stores import PREFIXES, Server, SmallServer, read_all, until

Serve = Callable[..., Server]
STEP = 60
N_SERIES = 3000


def lines(first: int, n_slots: int, start: int, metric: str = "m") -> str:
    """n_slots values of N_SERIES series, from slot `first` on; the value tells series and slot."""
    return "".join(
        f"{metric},cluster=c,hostname=h{i} value={i}.{k:02d} {start + STEP * k}\n"
        for k in range(first, first + n_slots)
        for i in range(N_SERIES)
    )


def check(client: mstore.Client, start: int, n_slots: int) -> None:
    for i in (0, 1, 17, N_SERIES - 1):
        found = client.query("c", f"h{i}", "m", start, start + STEP * n_slots)
        wanted = [float(f"{i}.{k:02d}") for k in range(n_slots)]
        assert found.values.tolist() == pytest.approx(wanted, rel=1e-6)


def test_a_full_dev_shm_holds_back_what_was_taken_refuses_what_comes_and_goes_on_when_there_is_room(
    short_dir: Path, now: int
) -> None:
    """Every series is written to now, so that nothing may be evicted; the next values need larger chunks."""
    server = SmallServer(short_dir, 'ring_bytes = "4MiB"\nretention = "0"\nmax_series = 10000\n', 48)
    server.start()
    start = now // STEP * STEP - 20 * STEP
    try:
        with (
            server.client(timeout=60) as client,
            server.client(timeout=60) as other,
            other.writer() as writer,
        ):
            handles = writer.open([("c", "h0", "m")])
            assert client.write(lines(0, 16, start)).written == 16 * N_SERIES
            server.fill_shm()
            replies: list[mstore.WriteResult] = []
            sender = threading.Thread(target=lambda: replies.append(client.write(lines(16, 1, start))))
            sender.start()
            until(lambda: other.info()["full"], "the state")
            assert not replies, "what was taken is neither acknowledged nor refused"
            refused = other.write(f"m,cluster=c,hostname=h0 value=1 {start}\n")
            assert (refused.written, refused.reasons) == (0, {"store_full": 1})
            writer.write(handles, [start], [[1.0]])
            with pytest.raises(StoreFull, match="no room and nothing it may evict"):
                writer.flush()
            check(other, start, 16)
            assert "holding back all writes" in server.log_text()

            server.empty_shm()
            sender.join(60)
            assert replies[0].written == N_SERIES
            until(lambda: not other.info()["full"], "the state")
            assert client.write(lines(17, 1, start)).written == N_SERIES
            check(client, start, 18)
            counters = other.info()["counters"]
            assert (counters["restarts"], counters["stale_samples"], counters["chunks_evicted"]) == (0, 0, 0)
        server.kill()
        server.start()
        with server.client() as client:
            check(client, start, 18)
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


def test_a_full_dev_shm_makes_the_oldest_give_way_before_anybody_waits(short_dir: Path, now: int) -> None:
    server = SmallServer(short_dir, 'ring_bytes = "4MiB"\nretention = "0"\nmax_series = 10000\n', 48)
    server.start()
    start = now // STEP * STEP - 20 * STEP
    old = start - 2000 * STEP
    try:
        with server.client(timeout=60) as client:
            assert client.write(lines(0, 16, start)).written == 16 * N_SERIES
            assert client.write(lines(0, 1, old)).written == N_SERIES
            server.fill_shm()
            assert client.write(lines(16, 2, start)).written == 2 * N_SERIES
            check(client, start, 18)
            info = client.info()
            assert not info["full"]
            assert info["counters"]["chunks_evicted"] > 0
            assert not client.query("c", "h0", "m", old, old + STEP).valid.any(), "the oldest went"
    finally:
        server.stop()


def one_slot(hosts: range, t: int, value: float) -> str:
    return "".join(f"m,cluster=c,hostname=h{i} value={value} {t}\n" for i in hosts)


def test_at_the_cap_new_series_are_refused_then_the_oldest_go_then_all_wait_and_a_higher_cap_frees_them(
    serve: Serve, now: int
) -> None:
    config = 'memory_cap = "{}"\nring_bytes = "4MiB"\nretention = "0"\nmax_series = 200000\n'
    server = serve(config.format("16MiB"))
    start = now // STEP * STEP  # and after, as far ahead as is accepted: the newest chunks stay
    old = start - 2000 * STEP
    with server.client(timeout=60) as client, server.client(timeout=60) as other, other.writer() as writer:
        handles = writer.open([("c", "h0", "m")])
        assert client.write(one_slot(range(1000), start, 0)).written == 1000
        assert client.write(one_slot(range(1000), old, 9)).written == 1000
        n, step = 1000, 2000
        while (result := client.write(one_slot(range(n, n + step), start, 0))).written == step:
            n += step
            assert n < 100_000, "there is no end of it"
        assert result.reasons == {"store_full": step - result.written}, "new series are refused"
        hosts = range(n + result.written)
        assert not client.info()["full"]

        slots = [0]  # acknowledged for every series
        replies: list[mstore.WriteResult] = []

        def fill() -> None:
            while len(slots) < 50:
                replies.append(client.write(one_slot(hosts, start + STEP * len(slots), len(slots))))
                if replies[-1].written < len(hosts):
                    return
                slots.append(len(slots))

        sender = threading.Thread(target=fill)
        sender.start()
        until(lambda: other.info()["full"] or not sender.is_alive(), "the state", 60)
        assert sender.is_alive(), "what was taken waits"
        assert not other.query("c", "h0", "m", old, old + STEP).valid.any(), "the oldest went first"
        assert other.info()["counters"]["chunks_evicted"] >= 1000
        writer.write(handles, [start], [[1.0]])
        with pytest.raises(StoreFull):
            writer.flush()
        (server.directory / "mstore.toml").write_text(config.format("256MiB"))
        client.control("reload")
        sender.join(60)
        refused = replies[-1].reasons.get("store_full", 0)
        assert replies[-1].written + refused == len(hosts)
        until(lambda: not other.info()["full"], "the state")
        last = start + STEP * 55
        assert client.write(one_slot(hosts, last, 55)).written == len(hosts)
        assert other.info()["counters"]["stale_samples"] == 0

    def check_slots() -> None:
        with server.client() as client:
            for i in (hosts[0], hosts[1234], hosts[-1]):
                found = client.query("c", f"h{i}", "m", start, start + STEP * len(slots))
                assert found.values.tolist() == slots
                assert client.query("c", f"h{i}", "m", last, last + STEP).values.tolist() == [55]

    check_slots()
    server.kill()
    server.start()
    check_slots()


@pytest.mark.parametrize("n_ingest", [1, 5])
def test_a_store_serves_with_the_descriptors_that_it_says_it_needs(short_dir: Path, n_ingest: int) -> None:
    """And with one less it does not begin."""
    needed = limits.DESCRIPTORS_MIN + limits.DESCRIPTORS_A_QUERY_WORKER
    needed += n_ingest * limits.DESCRIPTORS_AN_INGEST_WORKER
    command = [sys.executable, "-m", "mstore", "serve", "--dir", str(short_dir), "--query-workers", "1"]
    command += ["--ingest-workers", str(n_ingest)]

    def start(n: int) -> subprocess.Popen[str]:
        whole = ["bash", "-c", f'ulimit -n {n}; exec "$@"', "bash", *command]
        return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    out, complaint = start(needed - 1).communicate(timeout=60)
    assert out == ""
    assert complaint.count("\n") == 1
    assert f"need {needed}" in complaint
    assert not list(short_dir.iterdir()), "nothing is made"
    process = start(needed)
    PREFIXES.add(name_prefix(short_dir))
    assert process.stdout is not None
    assert process.stdout.readline() == f"mstore ready {short_dir}\n"
    with mstore.connect(short_dir) as client:
        assert client.write("m,cluster=c,hostname=h value=1\n").written == 1
        assert client.control("snapshot")["seq"] >= 0
    process.terminate()
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "ERROR" not in complaint


def test_an_ingest_worker_at_its_limit_of_descriptors_lets_connections_wait(serve: Serve, now: int) -> None:
    server = serve(None, "--ingest-workers", "1")
    line = "m,cluster=c,hostname=h{} value=1 {}\n"
    server.send_text(line.format("first", now).encode())
    worker = server.worker_pid("ingest")
    held = len(os.listdir(f"/proc/{worker}/fd"))
    _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (held + 10, hard))
    senders = [server.connect("ingest") for _ in range(300)]
    try:
        for i, sender in enumerate(senders):
            sender.sendall(line.format(i, now).encode())
        until(lambda: "may open no more descriptors" in server.log_text(), "the limit")
        assert server.info()["counters"]["connections_open"] < 20
        for sender in senders:
            sender.shutdown(socket.SHUT_WR)
        for sender in senders:
            assert read_all(sender) == b"written=1 rejected=0 ignored=0 durable=yes\n"
            sender.close()
    finally:
        for sender in senders:
            sender.close()
    assert server.worker_pid("ingest") == worker
    assert server.info()["counters"]["restarts"] == 0
    with server.client() as client:
        assert len(client.children("c")) == 301
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, hard))  # and at a stop it still hears
    waiting = server.connect("ingest")
    assert server.stop() == 0
    waiting.close()
    assert "did not stop within" not in server.log_text()
