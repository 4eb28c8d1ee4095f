"""Memory a sample, memory a short series, idle CPU, import time: what a store costs while it does nothing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import mstore
from benchmarks.common import Report, Result, store
from benchmarks.references import bare_listener_cpu_s, bare_start_s, cpu_s, open_files_max
from mstore import paths

STEP_S = 60
RAW_BYTES = 4
"""Of an f32 value."""
SHORT = 16
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
    beside = f"{used / samples / RAW_BYTES:.3f} x bare f32 values; {n_series} series x {n} samples"
    report.add(Result("memory, full chunks of f32, everything", used / samples, "bytes/sample", 4.4, at_least=False,
                      reference=beside))  # fmt: skip


def bench_short_series(report: Report, n_series: int) -> None:
    """Bytes a series of SHORT samples sent as text, one level each: all segments, rings and tables included."""
    t0 = int(time.time()) // STEP_S * STEP_S - 20 * STEP_S
    heads = [
        f"job_reads,cluster=fritz,hostname=oss{i % 16:02d},type=job,type-id={4_000_000 + i},unit=1/s value="
        for i in range(n_series)
    ]
    with store() as running, mstore.connect(running.directory) as client:
        for k in range(SHORT):
            result = client.write("".join([f"{head}{k}.5 {t0 + k * STEP_S}\n" for head in heads]))
            assert result.written == n_series, result
        used = shm_bytes(running.directory)
    bare = SHORT * RAW_BYTES + sum(len(head) - len(" value=") for head in heads) / n_series
    beside = f"{used / n_series / bare:.1f} x the bare values and the text of the key, {bare:.0f} bytes; {n_series} series"
    report.add(Result(f"memory, series of {SHORT} samples, everything", used / n_series, "bytes/series", 512,
                      at_least=False, reference=beside))  # fmt: skip


def bench_idle(report: Report, seconds: float = 10.0, n_connections: int = 1000) -> None:
    """CPU time of all processes of a store that holds data and many connections, over some idle seconds."""
    with (
        open_files_max(n_connections + 500),
        store() as running,
        mstore.connect(running.directory) as client,
        contextlib.ExitStack() as stack,
    ):
        client.write("a,cluster=c,hostname=h value=1\n")
        for k in range(n_connections):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(paths.socket_path(running.directory, ("ingest", "query")[k % 2]))
        while client.info()["counters"]["connections_open"] < n_connections:
            time.sleep(0.01)
        time.sleep(2)
        used = cpu_s(running.pids(), seconds)
    bare = 100 * bare_listener_cpu_s(n_connections, seconds) / seconds
    report.add(Result("idle, all processes", 100 * used / seconds, "% of a core", 0.2, at_least=False,
                      reference=f"a bare uvloop process {bare:.2g}%; {n_connections:,} connections each"))  # fmt: skip


def bench_import(report: Report) -> None:
    """`import mstore` beside the start of the bare interpreter; no server-only package may come with it."""
    bare = bare_start_s("pass", 7)
    whole = bare_start_s("import mstore; mstore.connect", 7)
    code = "import mstore, sys; mstore.connect; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    extra = [name for name in SERVER_ONLY if name in loaded]
    assert not extra, f"import mstore loads {extra}"
    report.add(Result("import mstore, with connect", 1e3 * (whole - bare), "ms", 150, at_least=False,
                      reference=f"{(whole - bare) / bare:.2f} x a bare interpreter, {1e3 * bare:.0f} ms"))  # fmt: skip


def run(report: Report, *, small: bool = False) -> None:
    bench_full_chunks(report, 500 if small else 40_000, 1 if small else 5)
    bench_short_series(report, 2_000 if small else 200_000)
    bench_idle(report, 2.0 if small else 10.0)
    bench_import(report)
