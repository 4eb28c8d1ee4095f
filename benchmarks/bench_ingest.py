"""Ingest budgets: line protocol over the Unix socket (steady, random, first sight), columns, `memory` against `durable`.

Steady lines go two ways: mstore.connect().write(), whose frames are acknowledged in a window of 8, and as plain text.

One store, one client, on this machine's cores. Every run is read back whole and compared with the model of load.py.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import numpy as np

import mstore
from benchmarks.common import Report, Result, Store, store
from benchmarks.load import CLUSTER, HWTHREADS, METRIC, STEP_S, Load
from benchmarks.references import bare_socket_bytes_per_s, quiet_disk
from mstore import paths

TICKS = 90
ROUNDS = 3
RANDOM_TICKS = 12
WINDOW = 8
COLUMN_TIMES = 8
RAW_BYTES = 4
"""Of an f32 value."""


@dataclass
class Sizes:
    hosts: int = 1600
    ticks: int = TICKS
    random_ticks: int = RANDOM_TICKS
    column_ticks: int = 400


def verify(directory: str, load: Load, first: int, stop: int) -> None:
    """Every value of these ticks, read attached, equals the model bit for bit."""
    expected = load.expected(first, stop)
    with mstore.attach(directory) as reader:
        for host in range(load.hosts):
            start = load.t0 + first * STEP_S
            found = reader.query(
                CLUSTER, f"f{host:04d}", METRIC, start, start + (stop - first) * STEP_S, type="hwthread"
            )
            assert isinstance(found, list)
            values = np.array([series.values for series in found])
            wanted = expected[host * HWTHREADS : (host + 1) * HWTHREADS]
            if len(found) != HWTHREADS or not np.array_equal(values, wanted):
                raise AssertionError(f"host f{host:04d}: what was read back is not what was sent")


def send(store_: Store, text: bytes, ack: str = "durable") -> float:
    """Seconds from the first byte to the last acknowledgement."""
    with mstore.connect(store_.directory, ack=ack) as client:
        client.info()
        began = time.perf_counter()
        result = client.write(text)
        took = time.perf_counter() - began
    if result.rejected or result.ignored:
        raise AssertionError(f"lines were not stored: {result}")
    return took


def stream(store_: Store, text: bytes) -> float:
    """As plain text, half-closed: seconds from the first byte to the line that says all of it is durable."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        sock.connect(paths.socket_path(store_.directory, "ingest"))
        began = time.perf_counter()
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        reply = sock.makefile().readline()
        took = time.perf_counter() - began
    if "rejected=0 ignored=0 durable=yes\n" not in reply:
        raise AssertionError(f"lines were not stored: {reply}")
    return took


WAYS = {"client": send, "text stream": stream}


def beside_bare_socket(data: bytes, n_bytes: int, took: float) -> str:
    """What share of a bare socket's speed with `data` it is to take n_bytes in so many seconds."""
    bare = bare_socket_bytes_per_s(data)
    return f"{100 * n_bytes / took / bare:.2g}% of a bare socket, {bare / 1e9:.2f} GB/s"


def beside_bare(running: Store, data: bytes, n_bytes: int, took: float) -> str:
    """The same, and what the store's disk takes alone: of what is acknowledged as durable."""
    return f"{beside_bare_socket(data, n_bytes, took)}; {quiet_disk(running.directory)}"


def bench_lines(report: Report, sizes: Sizes, seed: int) -> None:
    """First sight, steady order by client and as plain text in turn, random order; all `durable`."""
    now = int(time.time()) // STEP_S * STEP_S
    n_steady = ROUNDS * len(WAYS) * sizes.ticks
    n_ticks = 1 + n_steady + sizes.random_ticks
    load = Load(now - n_ticks * STEP_S, n_ticks, seed, sizes.hosts)
    rng = np.random.default_rng(seed)
    with store() as running:
        text = load.tick(0)
        took = send(running, text)
        beside = beside_bare(running, text, len(text), took)
        report.add(
            Result("first sight of series", load.n_series / took, "series/s", 300_000, reference=beside)
        )
        verify(str(running.directory), load, 0, 1)
        bench_steady(report, sizes, load, running)
        shuffled = b"".join(
            load.tick(k, rng.permutation(load.n_series)) for k in range(1 + n_steady, n_ticks)
        )
        took = send(running, shuffled)
        verify(str(running.directory), load, 1 + n_steady, n_ticks)
        rate = load.n_series * sizes.random_ticks / took
        beside = beside_bare(running, shuffled, len(shuffled), took)
        report.add(Result("lines, random order, durable", rate, "lines/s", 4e6, reference=beside))


def bench_steady(report: Report, sizes: Sizes, load: Load, running: Store) -> None:
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    n_lines = load.n_series * sizes.ticks
    first, text = 1, b""
    for _ in range(ROUNDS):
        for way, send_by in WAYS.items():
            text = b""  # before the next one is made: only one is held
            text = b"".join(load.tick(k) for k in range(first, first + sizes.ticks))
            rates[way].append(n_lines / send_by(running, text))
            first += sizes.ticks
    verify(str(running.directory), load, 1, first)
    bare = bare_socket_bytes_per_s(text)
    line_bytes = len(text) / n_lines
    disk = quiet_disk(running.directory)
    for way, found in rates.items():
        name = f"lines, steady order, durable, {way}"
        share = 100 * max(found) * line_bytes / bare
        bare_text = f"bare socket {bare / 1e9:.2f} GB/s"
        report.add(
            Result(
                f"{name} (best of {ROUNDS})",
                max(found),
                "lines/s",
                15e6,
                reference=f"{disk}; lines of {line_bytes:.0f} bytes",
            ),
            Result(f"{name} (median)", float(np.median(found)), "lines/s", reference=disk),
            Result("  best as a share of the bare socket's speed", share, "%", 18, reference=bare_text),
        )


def bench_log_bytes(report: Report, sizes: Sizes, seed: int) -> None:
    """Bytes of log a sample of a steady f32 stream, definitions not counted."""
    now = int(time.time()) // STEP_S * STEP_S
    load = Load(now - 11 * STEP_S, 11, seed, sizes.hosts)
    with store() as running, mstore.connect(running.directory) as client:
        client.write(load.tick(0))
        before = client.info()["counters"]["wal_bytes"]
        for k in range(1, 11):
            client.write(load.tick(k))
        grown = client.info()["counters"]["wal_bytes"] - before
        verify(str(running.directory), load, 0, 11)
        log_bytes = grown / (10 * load.n_series)
        beside = (
            f"{log_bytes / RAW_BYTES:.3f} x a bare f32 value; with a time of 8 bytes it has {RAW_BYTES + 8}"
        )
        report.add(
            Result("log, steady f32 stream", log_bytes, "bytes/sample", 5, at_least=False, reference=beside)
        )


def bench_levels(report: Report, sizes: Sizes, seed: int) -> None:
    """`memory` against `durable` with a window of 8 batches under way."""
    now = int(time.time()) // STEP_S * STEP_S
    load = Load(now - (sizes.ticks + 1) * STEP_S, sizes.ticks + 1, seed, sizes.hosts)
    text = b"".join(load.tick(k) for k in range(1, sizes.ticks + 1))
    with store() as running:
        send(running, load.tick(0))
        best: dict[str, float] = {}
        for level in ("memory", "durable") * 4:
            took = send(running, text, level)
            best[level] = min(best.get(level, took), took)
        verify(str(running.directory), load, 0, 1 + sizes.ticks)
        n = load.n_series * sizes.ticks
        report.add(
            Result("lines, steady order, memory", n / best["memory"], "lines/s",
                   reference=beside_bare_socket(text, len(text), best["memory"])),
            Result("durable as a share of memory", 100 * best["memory"] / best["durable"], "%", 85,
                   reference=beside_bare(running, text, len(text), best["durable"])),
        )  # fmt: skip


def bench_columns(report: Report, sizes: Sizes, seed: int) -> None:
    """Columnar frames from the Python client: all series x one time a frame, and x eight."""
    now = int(time.time()) // STEP_S * STEP_S
    rng = np.random.default_rng(seed)
    n = sizes.hosts * HWTHREADS
    names = [
        (CLUSTER, f"f{host:04d}", METRIC, "hwthread", str(thread))
        for host in range(sizes.hosts)
        for thread in range(HWTHREADS)
    ]
    ticks = sizes.column_ticks
    values = rng.random((1 + ticks, n), dtype=np.float32)
    t0 = now - (ticks + 1) * STEP_S
    for width in (1, COLUMN_TIMES):
        with store() as running, mstore.connect(running.directory) as client:
            with client.writer(window=WINDOW) as writer:
                handles = writer.open(names)
                writer.write(handles, [t0], values[:1])
                writer.flush()
                began = time.perf_counter()
                for k in range(1, 1 + ticks, width):
                    stop = min(k + width, 1 + ticks)
                    writer.write(handles, [t0 + tick * STEP_S for tick in range(k, stop)], values[k:stop])
                result = writer.flush()
                took = time.perf_counter() - began
            assert result.rejected == 0, result
            with mstore.attach(running.directory) as reader:
                for host in range(sizes.hosts):
                    found = reader.query(
                        CLUSTER, f"f{host:04d}", METRIC, t0, t0 + (1 + ticks) * STEP_S, type="hwthread"
                    )
                    assert isinstance(found, list)
                    stored = np.array([series.values for series in found]).T
                    assert np.array_equal(stored, values[:, host * HWTHREADS : (host + 1) * HWTHREADS])
            disk = quiet_disk(running.directory)
        name = f"columnar frames, durable, {width} time{'s' * (width > 1)} a frame"
        # Each frame: a handle a series, a time a row, a value each.
        n_bytes = 4 * n * ticks + 4 * n * -(-ticks // width) + 8 * ticks
        beside = f"{beside_bare_socket(values[:40].tobytes(), n_bytes, took)}; {disk}"
        report.add(Result(name, n * ticks / took, "samples/s", 40e6, reference=beside))


def run(report: Report, seed: int, sizes: Sizes | None = None) -> None:
    sizes = sizes or Sizes()
    bench_lines(report, sizes, seed)
    bench_levels(report, sizes, seed)
    bench_log_bytes(report, sizes, seed)
    bench_columns(report, sizes, seed)
