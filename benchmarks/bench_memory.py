"""Memory a sample, memory a short series, idle CPU, import time: what a store costs while it does nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

import mstore
from benchmarks.common import Report, Result, store
from mstore import paths

STEP_S = 60
SERVER_ONLY = ("uvloop", "psutil", "crc32c", "mstore.workers", "mstore.persistence", "mstore.apply")


def shm_bytes(directory: Path) -> int:
    """Pages that the store's segments really occupy in /dev/shm, all of them."""
    from mstore.shm.segment import SHM_DIR, name_prefix

    prefix = name_prefix(directory)
    return sum(
        path.stat().st_blocks * 512 for path in Path(SHM_DIR).iterdir() if path.name.startswith(prefix)
    )


def bench_full_chunks(report: Report, n_series: int, n_chunks: int) -> None:
    """Bytes a sample with every chunk full: all segments, rings and tables included."""
    n = 512 * n_chunks
    t0 = int(time.time()) // STEP_S * STEP_S - n * STEP_S
    block = 500
    values = np.random.default_rng(1).random((n, block), dtype=np.float32)
    with store() as running, mstore.connect(running.directory) as client:
        with client.writer() as writer:
            for first in range(0, n_series, block):
                handles = writer.open(
                    [
                        ("c", f"h{(first + i) // 8:05d}", "m", "hwthread", str((first + i) % 8))
                        for i in range(block)
                    ]
                )
                for row in range(0, n, 2048):
                    times = t0 + STEP_S * np.arange(row, min(row + 2048, n))
                    writer.write(handles, times, values[row : row + 2048])
            written = writer.flush().written
        used = shm_bytes(running.directory)
    samples = n_series * n
    assert written == samples, (written, samples)
    report.add(Result("memory, full chunks of f32, everything", used / samples, "bytes/sample", 4.4, at_least=False,
                      reference=f"{n_series} series x {n} samples"))  # fmt: skip


def bench_short_series(report: Report, n_series: int) -> None:
    """Bytes a series of 16 samples sent as text, one level each: all segments, rings and tables included."""
    t0 = int(time.time()) // STEP_S * STEP_S - 20 * STEP_S
    heads = [
        f"job_reads,cluster=fritz,hostname=oss{i % 16:02d},type=job,type-id={4_000_000 + i},unit=1/s value="
        for i in range(n_series)
    ]
    with store() as running, mstore.connect(running.directory) as client:
        for k in range(16):
            result = client.write("".join([f"{head}{k}.5 {t0 + k * STEP_S}\n" for head in heads]))
            assert result.written == n_series, result
        used = shm_bytes(running.directory)
    report.add(Result("memory, series of 16 samples, everything", used / n_series, "bytes/series", 512, at_least=False,
                      reference=f"{n_series} series"))  # fmt: skip


def bench_idle(report: Report, seconds: float = 10.0, n_connections: int = 1000) -> None:
    """CPU time of all processes of a store that holds data and many connections, over some idle seconds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, n_connections + 500)), hard))
    with store() as running, mstore.connect(running.directory) as client, contextlib.ExitStack() as stack:
        client.write("a,cluster=c,hostname=h value=1\n")
        for k in range(n_connections):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(paths.socket_path(running.directory, ("ingest", "query")[k % 2]))
        while client.info()["counters"]["connections_open"] < n_connections:
            time.sleep(0.01)
        time.sleep(2)
        processes = [psutil.Process(pid) for pid in running.pids()]

        def cpu_s() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in processes)

        before = cpu_s()
        time.sleep(seconds)
        used = cpu_s() - before
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    report.add(Result("idle, all processes", 100 * used / seconds, "% of a core", 0.2, at_least=False,
                      reference=f"{n_connections:,} connections"))  # fmt: skip


def bench_import(report: Report) -> None:
    """`import mstore` beside the start of the bare interpreter; no server-only package may come with it."""

    def best(code: str) -> float:
        took = []
        for _ in range(7):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
            )
            took.append(time.perf_counter() - began)
        return min(took)

    bare = best("pass")
    whole = best("import mstore; mstore.connect")
    code = "import mstore, sys; mstore.connect; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    extra = [name for name in SERVER_ONLY if name in loaded]
    assert not extra, f"import mstore loads {extra}"
    report.add(Result("import mstore, with connect", 1e3 * (whole - bare), "ms", 150, at_least=False,
                      reference=f"bare interpreter {1e3 * bare:.0f} ms"))  # fmt: skip


def run(report: Report, *, small: bool = False) -> None:
    bench_full_chunks(report, 500 if small else 40_000, 1 if small else 5)
    bench_short_series(report, 2_000 if small else 200_000)
    bench_idle(report, 2.0 if small else 10.0)
    bench_import(report)
