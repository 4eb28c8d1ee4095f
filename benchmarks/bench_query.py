"""Queries in the reader's own process: one series, one aggregate, a whole job view; and the kernel that adds.

No server: directory and samples are filled by the persister's kernels in this process and read through
read-only mappings, as an attached client does. Everything is warm: pages are touched before they are timed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.common import Report, Result
from mstore.kernels import _aggregate
from mstore.kernels._samples import Samples
from mstore.model import MetricSpec
from mstore.query import Reader, Request
from mstore.shm import layout, segment
from mstore.shm.directory import DirectoryWriter, PathItem, create_directory, directory_bytes

NODES, METRICS, THREADS = 64, 8, 72
STEP_S, SLOTS = 60, 1440
LONG_SLOTS = 2880
T0 = 1_700_000_000
RUN_MAX = 8192


@contextlib.contextmanager
def filled(n_nodes: int, n_slots: int) -> Iterator[Reader]:
    """A Reader over n_nodes x METRICS x THREADS series of n_slots samples, and 100 node series of 48 h."""
    n_series = n_nodes * METRICS * THREADS
    size = (n_series * (n_slots // 512 + 2) + 1000) * 2112 * 5 // 4 + (8 << 20)
    name = f"mstore-bench-query-{os.getpid()}"
    directory = segment.create(
        f"{name}-directory", layout.SEG_DIRECTORY, directory_bytes(1 << 17), 1, commit_bytes=8192
    )
    samples = segment.create(f"{name}-samples", layout.SEG_SAMPLES, size, 1, commit_bytes=layout.SAMPLES_DATA)
    try:
        create_directory(directory, 1 << 17, seed=1)
        writer = DirectoryWriter(directory.segment, directory.fd)
        writer.set_policy(True, STEP_S, 1, 1 << 17, 1 << 10)
        writer.set_metric_source(lambda cluster, metric: MetricSpec(metric.decode(), STEP_S, "avg", "f32"))
        kernel = Samples(directory.segment, samples.segment, samples.fd, size, True)
        threads: list[PathItem] = [
            ("c", f"n{node}", "hwthread", str(thread), "", "", f"m{metric}")
            for node in range(n_nodes)
            for thread in range(THREADS)
            for metric in range(METRICS)
        ]
        fill(writer, kernel, threads, n_slots)
        fill(writer, kernel, [("c", f"n{node}", "", "", "", "", "load") for node in range(100)], LONG_SLOTS)
        directory.mark_ready()
        samples.mark_ready()
        read_only = [
            segment.attach(mapping.name, kind, 1)
            for mapping, kind in ((directory, layout.SEG_DIRECTORY), (samples, layout.SEG_SAMPLES))
        ]
        yield Reader(read_only[0].segment, read_only[1].segment)
    finally:
        segment.unlink(directory.name)
        segment.unlink(samples.name)


def fill(writer: DirectoryWriter, kernel: Samples, paths: list[PathItem], n_slots: int) -> None:
    """One ROW record a time and RUN_MAX series, as collectors write: all series of a time together."""
    times = np.full(len(paths), T0, np.int64)
    refs = np.frombuffer(writer.intern_paths(paths, times.tobytes())[0], np.uint64)
    writer.publish()
    assert (np.diff(refs.astype(np.int64)) == 1).all()
    rng = np.random.default_rng(1)
    values = rng.random(len(paths), np.float32)
    for slot in range(n_slots):
        for at in range(0, len(paths), RUN_MAX):
            part = values[at : at + RUN_MAX]
            ref = int(refs[at])
            run = (
                layout.REC_ROW,
                layout.TYPE_F32,
                0,
                len(part),
                ref & 0xFFFF_FFFF,
                ref >> 32,
                T0 + slot * STEP_S,
            )
            record = np.array([run], layout.RUN).tobytes() + part.tobytes()
            result = kernel.apply(record + bytes(-len(record) % 8))
            assert result.n_samples == len(part), result


def best_s(call: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def p50_us(call: Callable[[int], object], rounds: int) -> float:
    took = []
    for i in range(rounds):
        began = time.perf_counter_ns()
        call(i)
        took.append(time.perf_counter_ns() - began)
    return float(np.percentile(took, 50)) / 1e3


def kernel(report: Report, rounds: int = 200) -> None:
    """72 series x 24 h of float32 added up slot by slot, and numpy's sum over the very same array."""
    matrix = np.random.default_rng(2).random((THREADS, SLOTS), np.float32)
    matrix[3, 100:200] = np.nan
    clean = np.nan_to_num(matrix)
    sums, coverage = np.zeros(SLOTS), np.zeros(SLOTS, np.uint32)

    def add_all() -> None:
        for row in matrix:
            _aggregate.add(sums, coverage, row)

    ours = matrix.size / best_s(add_all, rounds)
    numpys = matrix.size / best_s(lambda: clean.sum(), rounds)
    columns = matrix.size / best_s(lambda: clean.sum(axis=0, dtype=np.float64), rounds)
    report.add(
        Result("aggregate kernel, f32, with its 72 calls", ours, "samples/s", 1.2e9, True,
               f"{ours / numpys:.2f} x numpy.sum, {ours / columns:.2f} x sum(axis=0, float64)"),
    )  # fmt: skip


def reads(report: Report, n_nodes: int = NODES, n_slots: int = SLOTS, rounds: int = 3000) -> None:
    with filled(n_nodes, n_slots) as reader:
        query = reader.query
        hosts = [f"n{i * 37 % 100}" for i in range(rounds)]
        end = T0 + LONG_SLOTS * STEP_S
        for host in hosts[:200]:
            query("c", host, "load", T0, end)
        one = p50_us(lambda i: query("c", hosts[i], "load", T0, end), rounds)
        again = p50_us(lambda i: query("c", "n1", "load", T0, end), rounds)
        source = np.zeros(LONG_SLOTS, np.float32)
        copy = p50_us(lambda i: source.copy(), rounds)
        stop = T0 + n_slots * STEP_S
        node = best_s(lambda: query("c", "n3", "m2", T0, stop, type="hwthread", aggregate=True), 200)
        listed = best_s(lambda: query("c", "n3", "m2", T0, stop, type="hwthread"), 50)
        view = [
            Request("c", f"n{n}", f"m{m}", T0, stop, "hwthread", aggregate=True)
            for n in range(n_nodes) for m in range(METRICS)
        ]  # fmt: skip
        n_samples = n_nodes * METRICS * THREADS * n_slots
        job = best_s(lambda: reader.query_many(view), 7)
        budget_ms = 45.0 * n_samples / 53.1e6
        # The same memory read once from end to end: what its 4 KiB pages allow.
        whole = np.frombuffer(reader.gatherer.view(layout.SAMPLES_DATA, 4 * n_samples), np.int32)
        bare = best_s(lambda: whole.sum(dtype=np.int32), 5)
    report.add(
        Result("one series x 48 h, p50, 100 in turn", one, "us", 10.0, False, f"{one / copy:.1f} x copy"),
        Result("one series x 48 h, p50, the same", again, "us", 10.0, False, f"{again / copy:.1f} x copy"),
        Result(f"node aggregate of {THREADS} series x 24 h, warm", node * 1e6, "us", None, False,
               f"{THREADS * n_slots / node / 1e9:.2f} G samples/s"),
        Result(f"list of {THREADS} series x 24 h", listed * 1e6, "us", None, False),
        Result(f"job view, {n_samples / 1e6:.0f} M samples", job * 1e3, "ms", budget_ms, False,
               f"{n_samples / job / 1e9:.2f} G samples/s; {job / bare:.2f} x numpy.sum of the segment"),
    )  # fmt: skip


def run(report: Report) -> None:
    kernel(report)
    reads(report)


if __name__ == "__main__":
    run(Report())
