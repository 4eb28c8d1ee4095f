"""How long a store is away: `mstore restart`, kill -9 of everything and a new start, kill -9 of the persister alone.

A store of fritz's size is filled through the socket, then taken away and brought back over its kept memory. Away means:
from the command, or the kill, until a client has a durable acknowledgement again. The answers before and after are
compared, bit for bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mstore
from benchmarks.bench_memory import shm_bytes
from benchmarks.common import Report, Result

N_SERIES = 514_000
STEP_S = 60
CHUNK_SLOTS = 512
BLOCK = 1000
SAMPLED = 200
"""Series whose samples are compared."""


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

    def pids(self) -> list[int]:
        import psutil

        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> None:
        with mstore.connect(self.directory, timeout=300) as client:
            client.control("stop", "free")
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def fill(directory: Path, n_series: int, n_chunks: int) -> int:
    """Full chunks of f32 for every series; the time of the first sample."""
    n = CHUNK_SLOTS * n_chunks
    t0 = int(time.time()) // STEP_S * STEP_S - n * STEP_S
    values = np.random.default_rng(1).random((n, BLOCK), dtype=np.float32)
    with mstore.connect(directory, timeout=300) as client, client.writer() as writer:
        for first in range(0, n_series, BLOCK):
            handles = writer.open([_path(i) for i in range(first, first + BLOCK)])
            for row in range(0, n, CHUNK_SLOTS):
                times = t0 + STEP_S * np.arange(row, row + CHUNK_SLOTS)
                writer.write(handles, times, values[row : row + CHUNK_SLOTS])
        assert writer.flush().written == n_series * n
    return t0


def _path(i: int) -> tuple[str, str, str, str, str]:
    return "fritz", f"f{i // 72:05d}", "cpu_user", "hwthread", str(i % 72)


def look(directory: Path, n_series: int, t0: int, t1: int) -> NDArray[np.float32]:
    """Samples of some series all over the store."""
    with mstore.connect(directory, timeout=60) as client:
        found = [
            client.query(
                "fritz", f"f{i // 72:05d}", "cpu_user", t0, t1, type="hwthread", type_ids=str(i % 72)
            ).values
            for i in np.linspace(0, n_series - 1, SAMPLED).astype(int).tolist()
        ]
    return np.array(found)


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


def bench_warm(report: Report, directory: Path, n_series: int, n_chunks: int, rounds: int = 3) -> None:
    running = Restarted(directory)
    try:
        t0 = fill(directory, n_series, n_chunks)
        t1 = t0 + CHUNK_SLOTS * n_chunks * STEP_S
        size = shm_bytes(directory)
        before = look(directory, n_series, t0, t1)
        took: dict[str, list[float]] = {"restart": [], "kill": [], "persister": []}
        for _ in range(rounds):
            began = time.perf_counter()
            with mstore.connect(directory, timeout=300) as client:
                client.control("restart")
            acknowledged(directory)
            took["restart"].append(time.perf_counter() - began)
            running.kill()
            began = time.perf_counter()
            running.start()
            acknowledged(directory)
            took["kill"].append(time.perf_counter() - began)
            began = time.perf_counter()
            os.kill(_persister(directory), signal.SIGKILL)
            acknowledged(directory)
            took["persister"].append(time.perf_counter() - began)
            assert np.array_equal(before, look(directory, n_series, t0, t1), equal_nan=True)
    finally:
        running.stop()
    what = f"{n_series:,} series, {size / 1e9:.1f} GB, median of {rounds}, all answers equal"
    for name, text in (
        ("restart", "warm: mstore restart until acknowledged"),
        ("kill", "warm: kill -9 of all, start until acknowledged"),
        ("persister", "warm: kill -9 of the persister until acknowledged"),
    ):
        report.add(Result(text, float(np.median(took[name])), "s", 1.0, at_least=False, reference=what))


def _persister(directory: Path) -> int:
    with mstore.connect(directory) as client:
        return next(int(one["pid"]) for one in client.info()["workers"] if one["kind"] == "persister")


def run(report: Report, *, small: bool = False, largest_gb: float = 0.0) -> None:
    import tempfile

    sizes = [1] if small else [1, *([round(largest_gb / 1.085)] if largest_gb else [])]
    for n_chunks in sizes:
        with tempfile.TemporaryDirectory(prefix="mstore-bench-") as directory:
            size, rounds = (2_000, 1) if small else (N_SERIES, 3)
            bench_warm(report, Path(directory), size, n_chunks, rounds)
