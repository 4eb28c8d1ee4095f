"""Single-series reads: attached, and over the socket, beside bare references measured in the same run."""

from __future__ import annotations

import socket
import time

import numpy as np

import mstore
from benchmarks.common import Report, Result, store

STEP_S = 60
SAMPLES = 2880  # 48 h at 60 s
SERIES = 2_000


def percentiles(took_us: list[float]) -> tuple[float, float]:
    return float(np.percentile(took_us, 50)), float(np.percentile(took_us, 99))


def echo_us(n_bytes: int, rounds: int = 500) -> float:
    """p50 of a bare round trip over a Unix socket to another process that answers n_bytes."""
    import os

    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        answer = bytes(n_bytes)
        while theirs.recv(64):
            theirs.sendall(answer)
        os._exit(0)
    theirs.close()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        ours.sendall(b"?" * 64)
        left = n_bytes
        while left:
            left -= len(ours.recv(left))
        took.append((time.perf_counter() - began) * 1e6)
    ours.close()
    os.waitpid(pid, 0)
    return percentiles(took)[0]


def run(report: Report, rounds: int = 3000) -> None:
    t0 = int(time.time()) // STEP_S * STEP_S - SAMPLES * STEP_S
    values = np.random.default_rng(2).random((SAMPLES, SERIES), dtype=np.float32)
    with store() as running, mstore.connect(running.directory) as client:
        with client.writer() as writer:
            handles = writer.open([("c", f"h{i:04d}", "load") for i in range(SERIES)])
            for row in range(0, SAMPLES, 1000):
                writer.write(
                    handles, t0 + STEP_S * np.arange(row, min(row + 1000, SAMPLES)), values[row : row + 1000]
                )
            assert writer.flush().written == SAMPLES * SERIES
        order = np.random.default_rng(3).integers(0, SERIES, rounds).tolist()
        end = t0 + SAMPLES * STEP_S
        with mstore.attach(running.directory) as reader:
            attached = measure(
                lambda i: reader.query("c", f"h{i:04d}", "load", t0, end).values, order, values
            )
        column = np.ascontiguousarray(values.T)
        copy = measure(lambda i: column[i].copy(), order, values)
        over_socket = measure(lambda i: client.query("c", f"h{i:04d}", "load", t0, end).values, order, values)
        echo = echo_us(4 * SAMPLES)
    report.add(
        Result("attached read, one series x 48 h, p50 (warm)", percentiles(attached)[0], "us", 10, at_least=False,
               reference=f"numpy copy of the same values {percentiles(copy)[0]:.1f} us"),
        Result("attached read, one series x 48 h, p99 (warm)", percentiles(attached)[1], "us"),
        Result("query over the socket, one series x 48 h, p50", percentiles(over_socket)[0], "us", 100, at_least=False,
               reference=f"bare round trip of the same bytes {echo:.1f} us"),
        Result("query over the socket, one series x 48 h, p99", percentiles(over_socket)[1], "us"),
    )  # fmt: skip


def measure(read: object, order: list[int], values: np.ndarray) -> list[float]:  # type: ignore[type-arg]  # any dtype
    """Microseconds of each read; every answer is compared with what was written, outside the clock."""
    assert callable(read)
    took = []
    for i in order:
        began = time.perf_counter()
        found = read(i)
        took.append((time.perf_counter() - began) * 1e6)
        assert np.array_equal(found, values[:, i])
    return took
