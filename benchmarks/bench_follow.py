"""What followers cost ingest, and how long a sample takes to them: steady lines as in bench_ingest, followers beside them.

    nobody | one of one host | one of everything | four of a host each

Each is a process of its own that reads what arrives and counts it: samples that came and samples that it was told to have
missed must be those that were written, and where none was missed their values must add up to what was sent. The cases
take turns over one store, in the other direction every other round; a case is compared with the turn of nobody of the
same round. Latency is from the beginning of the write until the follower's process holds the last sample of a host, at
half the rate that was taken with nobody following.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_ingest import stream
from benchmarks.common import Report, Result, Store, store
from benchmarks.follower import Received
from benchmarks.load import CLUSTER, HWTHREADS, STEP_S, Load
from mstore import paths

CONFIG = 'retention = "0"\nsnapshot_interval = "0"\nwal_bytes = "1TiB"\n'
BUDGET_MS = 100.0
WATCHED = 16
"""Hosts whose samples a follower of everything notes the arrival of."""
WRITTEN_HOSTS = 25
"""Hosts a write, when latency is measured: a collector's batch."""
DAYS_S = 5 * 86_400
END_S_MAX = 120.0


@dataclass
class Sizes:
    """ticks: of a turn, each a line for every series; latency_ticks: at most so many of them when latency is measured"""

    hosts: int = 1600
    ticks: int = 40
    rounds: int = 5
    latency_s: float = 5.0
    latency_ticks: int = 250


@dataclass(frozen=True)
class Following:
    """One follower: of one host, or of everything."""

    selector: str
    hosts: tuple[int, ...]
    """That are watched; all that it follows, unless it follows everything."""
    everything: bool = False

    def series(self, load: Load) -> NDArray[np.int64]:
        """The numbers of what it follows."""
        if self.everything:
            return np.arange(load.n_series)
        return np.concatenate([np.arange(host * HWTHREADS, (host + 1) * HWTHREADS) for host in self.hosts])


def cases(n_hosts: int) -> dict[str, list[Following]]:
    four = [k * n_hosts // 4 for k in range(4)]
    watched = sorted({k * n_hosts // WATCHED for k in range(WATCHED)})
    return {
        "nobody": [],
        "1 of one host": [_of_host(four[1])],
        "1 of everything": [Following(CLUSTER, tuple(watched), everything=True)],
        "4 of a host each": [_of_host(host) for host in four],
    }


def _of_host(host: int) -> Following:
    return Following(f"{CLUSTER}/{name_of(host)}", (host,))


def name_of(host: int) -> str:
    return f"f{host:04d}"


class Followers:
    """Processes that follow a store; `with` runs them, and those that are not done by then are ended."""

    def __init__(self, running: Store, followed: list[Following], load: Load) -> None:
        self._followed, self._load = followed, load
        self._processes: list[subprocess.Popen[str]] = []
        self._command = [sys.executable, "-m", "benchmarks.follower", str(running.directory)]

    def __enter__(self) -> Followers:
        try:
            for one in self._followed:
                n_series = len(one.series(self._load))
                arguments = [one.selector, str(n_series), str(n_series * self._load.n_ticks)]
                hosts = ",".join(map(name_of, one.hosts))
                self._processes.append(
                    subprocess.Popen([*self._command, *arguments, hosts], stdout=subprocess.PIPE, text=True)
                )
            for process in self._processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "following\n", "a follower did not begin"
        except BaseException:
            self.__exit__()
            raise
        return self

    def results(self) -> list[Received]:
        """What each has received, compared with what was written."""
        found = []
        for one, process in zip(self._followed, self._processes, strict=True):
            text, _ = process.communicate(timeout=END_S_MAX)
            received = Received(**json.loads(text))
            check(received, self._load.values[:, one.series(self._load)], one.selector)
            found.append(received)
        return found

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def check(received: Received, written: NDArray[np.int64], selector: str) -> None:
    """raises AssertionError when samples neither came nor were told to be missed, or are not those that were written"""
    if received.missed >= 0 and received.seen + received.missed != written.size:
        raise AssertionError(
            f"a follower of {selector}: {received.seen:,} samples came, {received.missed:,} were told to be missed, "
            f"{written.size:,} were written"
        )
    if received.missed == 0 and received.hundredths != int(written.sum()):
        raise AssertionError(f"a follower of {selector}: what came is not what was written")


class Times:
    """Hands out the time that follows, so that every line is a new sample."""

    def __init__(self, seed: int, hosts: int) -> None:
        self._t0 = int(time.time()) // STEP_S * STEP_S - DAYS_S
        self._seed, self._hosts = seed, hosts

    def load(self, n_ticks: int) -> Load:
        load = Load(self._t0, n_ticks, self._seed, self._hosts)
        self._t0 += n_ticks * STEP_S
        return load


def turn(running: Store, followed: list[Following], load: Load) -> tuple[float, list[Received]]:
    """Lines/s, and what the followers received."""
    text = b"".join(load.tick(k) for k in range(load.n_ticks))
    with Followers(running, followed, load) as followers:
        rate = load.n_series * load.n_ticks / stream(running, text)
        return rate, followers.results()


def bench_ingest_beside(report: Report, running: Store, times: Times, sizes: Sizes) -> float:
    """Lines/s with nobody following; the others are told as shares of it."""
    asked = cases(sizes.hosts)
    rates: dict[str, list[float]] = {name: [] for name in asked}
    received: dict[str, list[Received]] = {name: [] for name in asked}
    for k in range(sizes.rounds):
        for name in list(asked)[:: 1 if k % 2 == 0 else -1]:
            rate, found = turn(running, asked[name], times.load(sizes.ticks))
            rates[name].append(rate)
            received[name] += found
    alone = np.array(rates.pop("nobody"))
    median = float(np.median(alone))
    spread = f"{alone.min() / 1e6:.3g} to {alone.max() / 1e6:.3g} M/s in {sizes.rounds} rounds"
    report.add(Result("lines, durable, text stream, nobody follows", median, "lines/s", reference=spread))
    for name, followed in rates.items():
        share = 100 * np.array(followed) / alone
        told = f"{share.min():.3g} to {share.max():.3g}; {account(received[name])}"
        report.add(Result(f"  followed by {name}", float(np.median(share)), "% of that", reference=told))
    return median


def account(received: list[Received]) -> str:
    """What came, what was missed, what reading took."""
    if any(one.missed < 0 for one in received):
        missed = "nobody knows how many were missed"
    else:
        missed = f"{sum(one.missed for one in received):,} told to be missed"
    seen = sum(one.seen for one in received)
    cpu_s = sum(one.cpu_s for one in received)
    return f"{seen:,} samples came, {missed}; reading them took {cpu_s:.2g} s of a core"


def write_paced(
    running: Store, t0: int, ticks: list[list[bytes]], lines_per_s: float
) -> tuple[dict[tuple[int, int], float], float]:
    """One write after the other, at a pace; the first tick is that of t0.

    returns  (by (number of the write in its tick, time of its samples): monotonic seconds when it began; lines/s kept)
    """
    began: dict[tuple[int, int], float] = {}
    n_sent, n_lines = 0, [text.count(b"\n") for text in ticks[0]]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(paths.socket_path(running.directory, "ingest"))
        start_s = time.monotonic()
        for k, writes in enumerate(ticks):
            for i, text in enumerate(writes):
                time.sleep(max(0.0, start_s + n_sent / lines_per_s - time.monotonic()))
                began[i, t0 + k * STEP_S] = time.monotonic()
                sock.sendall(text)
                n_sent += n_lines[i]
        kept = n_sent / (time.monotonic() - start_s)
        sock.shutdown(socket.SHUT_WR)
        reply = sock.makefile().readline()
    assert "rejected=0 ignored=0 durable=yes\n" in reply, reply
    return began, kept


def waits_ms(received: list[Received], began: dict[tuple[int, int], float]) -> NDArray[np.float64]:
    """Of every host that was watched and every time: from its write to its arrival."""
    return np.array(
        [
            1e3 * (came_s - began[int(host[1:]) // WRITTEN_HOSTS, second])
            for one in received
            for host, second, came_s in one.arrivals
        ]
    )


def bench_latency(report: Report, running: Store, times: Times, sizes: Sizes, lines_per_s: float) -> None:
    n_series = sizes.hosts * HWTHREADS
    n_ticks = max(2, min(int(lines_per_s * sizes.latency_s / n_series), sizes.latency_ticks))
    for name, followed in cases(sizes.hosts).items():
        if not followed:
            continue
        load = times.load(n_ticks)
        ticks = [load.parts(k, WRITTEN_HOSTS * HWTHREADS) for k in range(n_ticks)]
        with Followers(running, followed, load) as followers:
            began, kept = write_paced(running, load.t0, ticks, lines_per_s)
            received = followers.results()
        took = waits_ms(received, began)
        if not len(took):
            raise AssertionError(f"followed by {name}: no sample of a watched host came")
        p50, p99 = np.percentile(took, [50, 99])
        told = f"p50 {p50:.3g}, max {took.max():.4g} ms of {len(took):,}; {kept / 1e6:.3g} M lines/s; {account(received)}"
        report.add(
            Result(f"write to follower, half load, {name}, p99", float(p99), "ms", BUDGET_MS, False, told)
        )


def run(report: Report, seed: int, sizes: Sizes | None = None) -> None:
    sizes = sizes or Sizes()
    times = Times(seed, sizes.hosts)
    print(
        f"followers: sender, store and followers share {os.cpu_count()} cores; a follower of everything wants one of "
        "its own, and so does the query worker that feeds it"
    )
    with store(CONFIG) as running:
        stream(running, times.load(1).tick(0))  # every series is known from here on
        rate = bench_ingest_beside(report, running, times, sizes)
        bench_latency(report, running, times, sizes, rate / 2)
