"""Reads of a running store, attached and over the socket, beside bare references measured in the same run.

Single series, and a job view: 64 nodes x 8 metrics x 72 hwthreads averaged to node, 24 h at 60 s.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

import mstore
from benchmarks.common import Report, Result, store
from mstore.query import Request

STEP_S = 60
SAMPLES = 2880  # 48 h at 60 s
SERIES = 2_000
NODES, METRICS, THREADS = 64, 8, 72
JOB_SAMPLES = 1440  # 24 h at 60 s
JOB_CONFIG = 'retention = "0"\n' + "".join(f'[metrics.m{i}]\naggregation = "avg"\n' for i in range(METRICS))
FRAME_VALUES = 1 << 20


def percentiles(took_us: list[float]) -> tuple[float, float]:
    return float(np.percentile(took_us, 50)), float(np.percentile(took_us, 99))


QUESTION_BYTES = 64


def answering_blocked(sock: socket.socket, answer: bytes) -> None:
    """The barest server there is."""
    while sock.recv(QUESTION_BYTES):
        sock.sendall(answer)


def answering_in_loop(sock: socket.socket, answer: bytes) -> None:
    """What a query worker does but for the question: a uvloop that is woken by its socket."""
    import asyncio

    import uvloop

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(answer)

        def connection_lost(self, exc: Exception | None) -> None:
            done.set()

    done = asyncio.Event()

    async def serve() -> None:
        sock.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(Answering, sock)
        await done.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def echo_us(
    n_bytes: int, answering: Callable[[socket.socket, bytes], None] = answering_blocked, rounds: int = 500
) -> float:
    """p50 of a bare round trip over a Unix socket to another process that answers n_bytes."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        answering(theirs, bytes(n_bytes))
        os._exit(0)
    theirs.close()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        ours.sendall(b"?" * QUESTION_BYTES)
        left = n_bytes
        while left:
            left -= len(ours.recv(left))
        took.append((time.perf_counter() - began) * 1e6)
    ours.close()
    os.waitpid(pid, 0)
    return percentiles(took)[0]


def run(report: Report, rounds: int = 3000) -> None:
    single_series(report, rounds)
    job_view(report)


def single_series(report: Report, rounds: int) -> None:
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
        echo, echo_in_loop = echo_us(4 * SAMPLES), echo_us(4 * SAMPLES, answering_in_loop)
    report.add(
        Result("attached read, one series x 48 h, p50 (warm)", percentiles(attached)[0], "us", 10, at_least=False,
               reference=f"numpy copy of the same values {percentiles(copy)[0]:.1f} us"),
        Result("attached read, one series x 48 h, p99 (warm)", percentiles(attached)[1], "us"),
        Result("query over the socket, one series x 48 h, p50", percentiles(over_socket)[0], "us", 100, at_least=False,
               reference=f"bare round trip of the same bytes {echo:.1f} us, to a uvloop {echo_in_loop:.1f} us"),
        Result("query over the socket, one series x 48 h, p99", percentiles(over_socket)[1], "us"),
    )  # fmt: skip


def job_view(report: Report, n_nodes: int = NODES, n_samples: int = JOB_SAMPLES, rounds: int = 15) -> None:
    """The view as one query_many over the socket, and the same attached; all answers are compared once."""
    t0 = int(time.time()) // STEP_S * STEP_S - n_samples * STEP_S
    end = t0 + n_samples * STEP_S
    hosts = [(node, metric) for node in range(n_nodes) for metric in range(METRICS)]
    with store(JOB_CONFIG) as running, mstore.connect(running.directory) as client:
        expected = fill_job(client, n_nodes, n_samples, t0)
        asked = [
            mstore.Question("c", f"n{node}", f"m{metric}", t0, end, "hwthread", aggregate=True)
            for node, metric in hosts
        ]
        with mstore.attach(running.directory) as reader:
            requests = [Request("c", f"n{node}", f"m{metric}", t0, end, "hwthread", aggregate=True)
                        for node, metric in hosts]  # fmt: skip
            attached = milliseconds(lambda: reader.query_many(requests), rounds)
        over_socket = milliseconds(lambda: client.query_many(asked), rounds)
        for (node, metric), found in zip(hosts, client.query_many(asked), strict=True):
            assert isinstance(found, mstore.Series)
            assert np.allclose(found.values, expected[:, node, metric], rtol=1e-6)
        aware, unaware = bare_means_ms(n_nodes, n_samples)
    scale = n_nodes * n_samples / (NODES * JOB_SAMPLES)
    name = f"job view, {n_nodes * METRICS * THREADS * n_samples / 1e6:.0f} M samples"
    report.add(
        Result(f"{name}, attached (warm)", float(np.median(attached)), "ms", 45 * scale, at_least=False,
               reference=f"numpy over a plain array: nanmean {aware:.1f} ms, mean {unaware:.1f} ms"),
        Result(f"{name}, over the socket", float(np.median(over_socket)), "ms", 60 * scale, at_least=False,
               reference=f"best {min(over_socket):.1f} ms, attached {min(attached):.1f} ms"),
    )  # fmt: skip


def fill_job(client: mstore.Client, n_nodes: int, n_samples: int, t0: int) -> NDArray[np.float64]:
    """Write a job's samples; the means over its hwthreads, float64[n_samples, n_nodes, METRICS]."""
    rng = np.random.default_rng(4)
    means = np.empty((n_samples, n_nodes, METRICS))
    with client.writer() as writer:
        handles = writer.open(
            [("c", f"n{node}", f"m{metric}", "hwthread", str(thread))
             for node in range(n_nodes) for thread in range(THREADS) for metric in range(METRICS)]
        )  # fmt: skip
        height = max(1, FRAME_VALUES // len(handles))
        for row in range(0, n_samples, height):
            n = min(height, n_samples - row)
            values = rng.random((n, len(handles)), dtype=np.float32)
            writer.write(handles, t0 + STEP_S * np.arange(row, row + n), values)
            means[row : row + n] = values.reshape(n, n_nodes, THREADS, METRICS).mean(axis=2, dtype=np.float64)
        assert writer.flush().written == n_samples * len(handles)
    return means


def bare_means_ms(n_nodes: int, n_samples: int, rounds: int = 3) -> tuple[float, float]:
    """The same means by numpy, of float32[groups, THREADS, n_samples] in float64: what passes over NaN, as the store does,
    and what does not look for it. The best of some rounds each.
    """
    samples = np.random.default_rng(5).random((n_nodes * METRICS, THREADS, n_samples), dtype=np.float32)
    means = np.empty((n_nodes * METRICS, n_samples))

    def by(mean: Callable[..., object]) -> float:
        def call() -> None:
            for group, into in zip(samples, means, strict=True):
                mean(group, axis=0, dtype=np.float64, out=into)

        return min(milliseconds(call, rounds))

    return by(np.nanmean), by(np.mean)


def milliseconds(call: Callable[[], object], rounds: int) -> list[float]:
    """Of each call but the first, which touches the memory."""
    took = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1e3)
    return took[1:]


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
