"""Two ingest workers, several writers at once, readers beside them: nothing lost, torn, stale or misplaced."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

import mstore
from tests.process.test_known_faults import power_off
from tests.stores import Server, until

Serve = Callable[..., Server]
STEP_S = 10
HOSTS = 40
THREADS = 8
TICKS = 300


def value_of(host: int, thread: int, tick: int) -> float:
    """Exact in float32, and different for every series and slot: a misplaced value is recognised as such."""
    return float((host * THREADS + thread) * 512 + tick)


def write_part(directory: str, first_host: int, stop_host: int, t0: int, seed: int) -> None:
    """All ticks of some hosts, ticks in pieces of random size, each acknowledged before the next."""
    rng = np.random.default_rng(seed)
    with mstore.connect(directory) as client:
        tick = 0
        while tick < TICKS:
            n = int(rng.integers(1, 12))
            text = "".join(
                f"m,cluster=c,hostname=h{host},type=core,type-id={thread}"
                f" value={value_of(host, thread, k)} {t0 + STEP_S * k}\n"
                for k in range(tick, min(tick + n, TICKS))
                for host in range(first_host, stop_host)
                for thread in range(THREADS)
            )
            result = client.write(text)
            assert result.rejected == 0
            assert result.durable
            tick += n


def read_all_the_time(directory: str, t0: int, stop: str, wrong: str) -> None:
    """Every value ever seen is that of its series and slot, and none that was seen disappears again."""
    seen = np.zeros((HOSTS, THREADS), dtype=np.int64)
    with mstore.attach(directory) as reader:
        while not Path(stop).exists():
            for host in range(HOSTS):
                if "c" not in reader.children() or f"h{host}" not in reader.children("c"):
                    continue
                for series in reader.query("c", f"h{host}", "m", t0, t0 + TICKS * STEP_S, type="core"):
                    thread = int(series.type_id)
                    there = ~np.isnan(series.values)
                    ticks = (series.times[there] - t0) // STEP_S
                    expected = (host * THREADS + thread) * 512.0 + ticks
                    count = int(there.sum())
                    if not np.array_equal(series.values[there], expected) or count < seen[host, thread]:
                        Path(wrong).write_text(f"host {host} thread {thread}: {series.values.tolist()}")
                        os._exit(1)
                    seen[host, thread] = count


def role(name: str, *arguments: object) -> subprocess.Popen[bytes]:
    """One of the functions above in a process of its own."""
    code = f"from tests.process.test_hammer import {name}; {name}(*{arguments!r})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])


def test_writers_on_two_workers_and_readers_at_once_lose_and_tear_nothing(
    serve: Serve, seed: int, tmp_path: Path
) -> None:
    server = serve("[metrics.m]\nstep = 10\n", "--ingest-workers", "2")
    directory = str(server.directory)
    t0 = int(time.time()) // STEP_S * STEP_S - (TICKS + 10) * STEP_S
    stop, wrong = tmp_path / "stop", tmp_path / "wrong"
    reader = role("read_all_the_time", directory, t0, str(stop), str(wrong))
    bounds = [0, 10, 20, 30, 40]
    writers = [
        role("write_part", directory, first, last, t0, seed + first) for first, last in pairwise(bounds)
    ]
    # A fifth writer sends the same hosts as the first again: same slots, same values.
    writers.append(role("write_part", directory, 0, 10, t0, seed + 99))
    assert [process.wait(120) for process in writers] == [0] * len(writers)
    stop.touch()
    assert reader.wait(60) == 0, wrong.read_text() if wrong.exists() else "the reader failed"
    with mstore.attach(server.directory) as attached:
        for host in range(HOSTS):
            found = attached.query(
                "c", f"h{host}", "m", t0, t0 + TICKS * STEP_S, type="core", type_ids=list(range(THREADS))
            )
            for thread, series in enumerate(found):
                assert series.values.tolist() == [value_of(host, thread, k) for k in range(TICKS)]
    assert server.info()["counters"]["stale_samples"] == 0
    connections = [one["connections"] for one in server.info()["workers"] if one["kind"] == "ingest"]
    assert len(connections) == 2


def batches_by_worker(server: Server) -> list[int]:
    """How many batches each ingest worker has put into its ring: it enters and leaves its epoch once for each."""
    workers = [one for one in server.info()["workers"] if one["kind"] == "ingest"]
    return [one["epoch"] // 2 for one in sorted(workers, key=lambda one: int(one["index"]))]


def test_a_write_sent_after_anothers_acknowledgement_wins_now_and_after_replay(
    serve: Serve, now: int
) -> None:
    server = serve(None, "--ingest-workers", "2")
    rounds = 200
    with server.client(ack="memory") as first, server.client() as second:
        for round_ in range(rounds):
            writer = (first, second)[round_ % 2]
            assert writer.write(f"m,cluster=c,hostname=h value={round_} {now}\n").written == 1
        batches = batches_by_worker(server)
        assert len(batches) == 2
        assert min(batches) >= rounds // 2, f"both workers, in turn: {batches}"
        assert first.query("c", "h", "m", now, now + 60).values.tolist() == [199.0]
    power_off(server)
    server.start()
    with server.client() as client:
        assert client.query("c", "h", "m", now, now + 60).values.tolist() == [199.0]


CLIENTS = 4
SLOTS = 240
SLOTS_A_WRITE = 3
"""So few that no client's last writes cover what the others have left."""
WRITES = 150


def write_against_each_other(directory: str, client_number: int, t0: int, seed: int, ready: str) -> None:
    """Random slots of the same series as others write, a value nobody else has each time; begins when all are there."""
    rng = np.random.default_rng(seed)
    with mstore.connect(directory, ack=("durable", "memory")[client_number % 2]) as client:
        (Path(ready) / str(client_number)).touch()
        until(lambda: len(list(Path(ready).iterdir())) == CLIENTS, "the other clients", 60)
        for n in range(WRITES):
            value = client_number * WRITES + n
            text = "".join(
                f"m,cluster=c,hostname=h{host} value={value} {t0 + STEP_S * int(slot)}\n"
                for host in range(4)
                for slot in rng.choice(SLOTS, SLOTS_A_WRITE, replace=False)
            )
            result = client.write(text)
            assert result.rejected == 0


def test_what_clients_of_two_workers_write_against_each_other_is_the_same_after_a_power_cut(
    serve: Serve, seed: int, now: int, tmp_path: Path
) -> None:
    """Of values sent at once any may win, but the log must say the same as the memory that was asked."""
    server = serve("[metrics.m]\nstep = 10\n", "--ingest-workers", "2")
    t0 = now // STEP_S * STEP_S - SLOTS * STEP_S
    writers = [
        role("write_against_each_other", str(server.directory), number, t0, seed + number, str(tmp_path))
        for number in range(CLIENTS)
    ]
    assert [process.wait(120) for process in writers] == [0] * CLIENTS

    def content() -> list[list[float | None]]:
        with server.client() as client:
            found = [client.query("c", f"h{host}", "m", t0, t0 + SLOTS * STEP_S) for host in range(4)]
        return [[None if np.isnan(value) else value for value in series.values.tolist()] for series in found]

    live = content()
    batches = batches_by_worker(server)
    assert len(batches) == 2
    assert min(batches) >= WRITES, batches
    by_client = {value // WRITES for values in live for value in values if value is not None}
    assert len(by_client) > 1, "several have left something"
    power_off(server)
    server.start()
    assert content() == live
