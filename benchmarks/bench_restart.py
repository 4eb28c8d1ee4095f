"""How long a store is away: `mstore restart`, kill -9 of everything and a new start, kill -9 of the persister, power off.

A store of fritz's size is filled through the socket, then taken away and brought back over its kept memory; at last the
memory goes as well, and the store starts from a snapshot and the log behind it (a sample of every series). Away means:
from the command, or the kill, until a client has a durable acknowledgement again. After each of them times and bits of
all samples, or of as many hosts as make SAMPLES_COMPARED, are compared with what was written.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

import mstore
from benchmarks.bench_memory import shm_bytes
from benchmarks.common import Report, Result
from benchmarks.grid_values import grid_values, same_bits
from benchmarks.references import bare_start_s, drop_from_page_cache, first_touch, quiet_disk
from mstore.persistence.files import snapshot_dir, wal_dir
from mstore.shm import segment

N_SERIES = 514_000
STEP_S = 60
CHUNK_SLOTS = 512
BLOCK = 1000
THREADS = 72
SAMPLES_COMPARED = 300_000_000
MODULES = "import mstore.workers.nursery, mstore.workers.supervisor"
"""What whoever starts a store has to load."""


class Restarted:
    """A store that is ended and started again in one directory, with the memory kept by kill -9."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Neither snapshots nor retention: what is measured is the way back, over a log of everything.
        (directory / "mstore.toml").write_text(
            'retention = "0"\nsnapshot_interval = "0"\nwal_bytes = "1TiB"\n'
        )
        self.process: subprocess.Popen[str]
        self.start()

    def start(self) -> None:
        config = str(self.directory / "mstore.toml")
        command = [sys.executable, "-m", "mstore", "serve", "--dir", str(self.directory), "--config", config]
        environment = {**os.environ, "MSTORE_LOG": "warning"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("mstore ready")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def power_off(self) -> None:
        """Every process and the memory are gone."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.kill()
        _, alive = psutil.wait_procs(children, 60)
        assert not alive, alive
        for name in segment.stale(segment.name_prefix(self.directory)):
            segment.unlink(name)

    def stop(self) -> None:
        with mstore.connect(self.directory, timeout=300) as client:
            client.control("stop", "free")
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def fill(directory: Path, n_series: int, n_chunks: int) -> int:
    """Full chunks of grid_values for every series; the time of the first sample."""
    n = CHUNK_SLOTS * n_chunks
    t0 = int(time.time()) // STEP_S * STEP_S - (n + 1) * STEP_S
    write(directory, n_series, t0, 0, n)
    return t0


def write(directory: Path, n_series: int, t0: int, start: int, stop: int) -> None:
    """Slots start .. stop - 1 of every series."""
    with mstore.connect(directory, timeout=300) as client, client.writer() as writer:
        for first in range(0, n_series, BLOCK):
            series = np.arange(first, min(first + BLOCK, n_series))
            handles = writer.open([_path(i) for i in series.tolist()])
            for row in range(start, stop, CHUNK_SLOTS):
                slots = np.arange(row, min(row + CHUNK_SLOTS, stop))
                writer.write(handles, t0 + STEP_S * slots, np.ascontiguousarray(grid_values(series, slots).T))
        assert writer.flush().written == n_series * (stop - start)


def _path(i: int) -> tuple[str, str, str, str, str]:
    return "fritz", f"f{i // THREADS:05d}", "cpu_user", "hwthread", str(i % THREADS)


def compare(directory: Path, n_series: int, t0: int, n: int, rng: np.random.Generator) -> int:
    """Over the socket: how many series have the first n slots of grid_values, and nothing a slot before and behind.

    All of them, or of so many hosts, chosen at random, as make SAMPLES_COMPARED.
    """
    n_hosts = -(-n_series // THREADS)
    most = min(n_hosts, max(1, SAMPLES_COMPARED // (THREADS * n)))
    slots = np.arange(-1, n + 1)
    n_compared = 0
    with mstore.connect(directory, timeout=60) as client:
        for host in rng.permutation(n_hosts)[:most].tolist():
            series = np.arange(host * THREADS, min((host + 1) * THREADS, n_series))
            wanted = grid_values(series, slots)
            wanted[:, [0, -1]] = np.nan
            cluster, name, metric, kind, _ = _path(host * THREADS)
            found = client.query(cluster, name, metric, t0 - STEP_S, t0 + (n + 1) * STEP_S, type=kind)
            assert isinstance(found, list)
            assert {(one.start, one.step) for one in found} == {(t0 - STEP_S, STEP_S)}, f"{name}: other times"
            assert [one.type_id for one in found] == [_path(i)[4] for i in series.tolist()], f"{name}: others"
            values = np.array([one.values for one in found])
            assert same_bits(values, wanted), f"{name}: what is read is not what was written"
            n_compared += len(series)
    return n_compared


def acknowledged(directory: Path, until_s: float = 60.0) -> None:
    """Return when a line is durable: a sender that tries again until the store is back."""
    deadline = time.monotonic() + until_s
    while True:
        try:
            with mstore.connect(directory, timeout=5) as client:
                assert client.write("mark,cluster=fritz,hostname=f00000 value=1\n").written == 1
                return
        except mstore.MstoreError:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def bench(report: Report, directory: Path, n_series: int, n_chunks: int, rounds: int, *, cold: bool) -> None:
    """All ways of being away; `cold`: after the last one the files are not in the page cache either."""
    running = Restarted(directory)
    rng = np.random.default_rng(n_chunks)
    took: dict[str, list[float]] = {name: [] for name in WARM}
    disk = quiet_disk(directory)
    try:
        t0, n = fill(directory, n_series, n_chunks), CHUNK_SLOTS * n_chunks
        size = shm_bytes(directory)
        for _ in range(rounds):
            for name, away in WARM.items():
                took[name].append(away(running))
                n_compared = compare(directory, n_series, t0, n, rng)
        with mstore.connect(directory, timeout=600) as client:
            client.control("snapshot")
        write(directory, n_series, t0, n, n + 1)
        cold_s = power_off(running, cold=cold)
        n_compared = min(n_compared, compare(directory, n_series, t0, n + 1, rng))
    finally:
        running.stop()
    start_s = bare_start_s(MODULES)
    what = f"{n_series:,} series, {size / 1e9:.1f} GB; times and bits of {n_compared:,} series equal; {disk}"
    for name in WARM:
        away_s = float(np.median(took[name]))
        starts = WARM[name] is not kill_persister  # a fork: no interpreter is started
        beside = f"{away_s / start_s:.1f} x interpreter and modules, {start_s:.2f} s; " if starts else ""
        told = f"{beside}median of {rounds}; {what}"
        report.add(
            Result(f"warm: {name} until acknowledged", away_s, "s", 1.0, at_least=False, reference=told)
        )
    per_s, touch = first_touch()
    bare_s = start_s + size / per_s
    cache = "not in the page cache" if cold else "in the page cache"
    told = f"{cold_s / bare_s:.1f} x interpreter, modules and first touch, {bare_s:.2f} s ({touch}); files {cache}; {what}"
    report.add(Result("cold: power off, start until acknowledged", cold_s, "s", reference=told))


def restart(running: Restarted) -> float:
    """Seconds away, as what follows."""
    began = time.perf_counter()
    with mstore.connect(running.directory, timeout=300) as client:
        client.control("restart")
    acknowledged(running.directory)
    return time.perf_counter() - began


def kill(running: Restarted) -> float:
    running.kill()
    began = time.perf_counter()
    running.start()
    acknowledged(running.directory)
    return time.perf_counter() - began


def kill_persister(running: Restarted) -> float:
    began = time.perf_counter()
    os.kill(_persister(running.directory), signal.SIGKILL)
    acknowledged(running.directory)
    return time.perf_counter() - began


def power_off(running: Restarted, *, cold: bool) -> float:
    running.power_off()
    if cold:
        drop_from_page_cache(snapshot_dir(running.directory), wal_dir(running.directory))
    began = time.perf_counter()
    running.start()
    acknowledged(running.directory)
    return time.perf_counter() - began


WARM = {"mstore restart": restart, "kill -9 of all, start": kill, "kill -9 of the persister": kill_persister}


def _persister(directory: Path) -> int:
    with mstore.connect(directory) as client:
        return next(int(one["pid"]) for one in client.info()["workers"] if one["kind"] == "persister")


def run(report: Report, *, small: bool = False, largest_gb: float = 0.0, cold: bool = False) -> None:
    sizes = [1] if small else [1, *([round(largest_gb / 1.085)] if largest_gb else [])]
    for n_chunks in sizes:
        with tempfile.TemporaryDirectory(prefix="mstore-bench-") as directory:
            size, rounds = (2_000, 1) if small else (N_SERIES, 3)
            bench(report, Path(directory), size, n_chunks, rounds, cold=cold)
