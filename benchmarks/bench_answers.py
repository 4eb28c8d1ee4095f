"""The ten kinds of question that people ask most, over a store of fritz's size: attached, over the socket, under load.

    R1  the last value of all nodes           R6   all nodes x 24 h, resampled
    R2  one node, all its metrics, 10 min     R7   the ten largest of all series over 1 h
    R3  the view of a job of 64 nodes         R8   which series have been above a value for 5 min
    R4  its statistics alone                  R9   one series x 48 h
    R5  the sum of a node's hwthreads, 24 h   R10  all 72 hwthreads of a node, each by itself, 24 h

992 nodes with 14 metrics of their own and 7 for each of 72 hwthreads, a sample every 60 s for 24 h (9 metrics of the nodes:
48 h): 514,000 series, 760 M samples. Every answer is compared once with what numpy makes of the values that were written.

The reference beside each figure is numpy's own time for the arithmetic of the question over one contiguous array of the
same samples in this process, found, sliced and without gaps beforehand: what the answer would cost if storing, finding and
packing were free. "Under load" is the same question while another process sends lines of 71,424 other series of the same
hosts at half the rate that the store takes alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mstore
from benchmarks.common import Report, Result, Store, store

STEP_S = 60
DAY, TWO_DAYS, HOUR = 1440, 2880, 60
THREADS = 72
NODE_METRICS = [f"n{i}" for i in range(14)]
LONG_METRICS = NODE_METRICS[:9]
"""Of 48 h; the others are of 24 h."""
THREAD_METRICS = [f"t{i}" for i in range(7)]
LIVE = "live"
"""What is sent under load."""
VIEW = THREAD_METRICS + NODE_METRICS[:1]
"""The eight metrics of a job's view."""
JOB_NODES = 64
RESOLUTION_S = 120
THRESHOLD = 1000.0
CONFIG = 'retention = "0"\nsnapshot_interval = "0"\nwal_bytes = "1TiB"\nmax_series = 1000000\ntopology = ["fritz.json"]\n'


def host(node: int) -> str:
    return f"f{node + 1:04d}"


def topology(n_nodes: int) -> dict[str, Any]:
    """fritz as ClusterCockpit describes it, with the metrics of this benchmark."""
    threads = list(range(THREADS))
    metrics = [(name, "node", "avg") for name in NODE_METRICS] + [
        (name, "hwthread", "sum") for name in (*THREAD_METRICS, LIVE)
    ]
    shape = {
        "node": threads,
        "socket": [threads[:36], threads[36:]],
        "memoryDomain": [threads[at : at + 18] for at in range(0, THREADS, 18)],
        "core": [[thread] for thread in threads],
    }
    return {
        "name": "fritz",
        "metricConfig": [
            {"name": name, "scope": scope, "aggregation": aggregation, "timestep": STEP_S}
            for name, scope, aggregation in metrics
        ],
        "subClusters": [{"name": "main", "nodes": f"f[0001-{n_nodes:04d}]", "topology": shape}],
    }


class Values:
    """What is written: float32, a table of numbers for one node, and an offset for each.

    node metric m of node n at minute t      table[t, m] + n                   of 48 h; the last 24 h for the short ones
    thread metric m, thread k                threads[t, m * 72 + k] + n / 4    of 24 h
    """

    def __init__(self, n_nodes: int, t0: int) -> None:
        rng = np.random.default_rng(5)
        self.n_nodes = n_nodes
        self.t0 = t0
        self.end = t0 + TWO_DAYS * STEP_S
        self.day = self.end - DAY * STEP_S
        self._nodes = rng.random((TWO_DAYS, len(NODE_METRICS)), np.float32)
        self._threads = rng.random((DAY, len(THREAD_METRICS) * THREADS), np.float32)

    def node(self, node: int) -> NDArray[np.float32]:
        """float32[48 h, 14]"""
        return self._nodes + np.float32(node)

    def threads(self, node: int) -> NDArray[np.float32]:
        """float32[24 h, 7 * 72]; one series in 5000 is above THRESHOLD for the last 10 minutes."""
        found = self._threads + np.float32(node / 4)
        hot = np.arange(found.shape[1]) + node * found.shape[1]
        found[-10:, hot % 5000 == 4999] += np.float32(THRESHOLD)
        return found

    def metric(self, node: int, metric: int) -> NDArray[np.float32]:
        """float32[24 h, 72]"""
        return self.threads(node)[:, metric * THREADS : (metric + 1) * THREADS]


def fill(client: mstore.Client, values: Values) -> None:
    with client.writer() as writer:
        for node in range(values.n_nodes):
            name = host(node)
            own, threads = values.node(node), values.threads(node)
            n_long = len(LONG_METRICS)
            _write(writer, [("fritz", name, metric) for metric in LONG_METRICS], values.t0, own[:, :n_long])
            short = [("fritz", name, metric) for metric in NODE_METRICS[n_long:]]
            _write(writer, short, values.day, own[DAY:, n_long:])
            paths = [
                ("fritz", name, metric, "hwthread", str(k))
                for metric in THREAD_METRICS
                for k in range(THREADS)
            ]
            _write(writer, paths, values.day, threads)
        expected = values.n_nodes * (n_long * TWO_DAYS + (14 - n_long) * DAY + 7 * THREADS * DAY)
        assert writer.flush().written == expected


def _write(writer: mstore.Writer, paths: list[Any], first: int, values: NDArray[np.float32]) -> None:
    handles = writer.open(paths)
    writer.write(handles, first + STEP_S * np.arange(len(values)), np.ascontiguousarray(values))


@dataclass
class Kind:
    """One kind of question."""

    name: str
    ask: Callable[[Any, int], Any]
    """(client or attached reader, a number that changes with each call) -> the answer"""
    check: Callable[[Any, int], None]
    numpy: Callable[[], object]
    """The same arithmetic over contiguous arrays."""
    rounds: int


def kinds(values: Values) -> list[Kind]:
    n, day, end = values.n_nodes, values.day, values.end
    n_job = min(JOB_NODES, n)
    hour = end - HOUR * STEP_S
    job = {
        "jobId": 1, "cluster": "fritz", "subCluster": "main", "jobState": "completed", "startTime": day,
        "duration": end - day, "resources": [{"hostname": host(node)} for node in range(n_job)],
    }  # fmt: skip
    last = np.array([values.node(node)[-1, 0] for node in range(n)])
    all_day = np.stack([values.node(node)[DAY:, 1] for node in range(n)])
    last_hour = np.stack([values.metric(node, 2)[-HOUR:].T for node in range(n)]).reshape(n * THREADS, HOUR)
    view = np.stack([values.metric(node, 0).T for node in range(n_job)])  # one of the seven
    own = [np.ascontiguousarray(values.metric(node % n, 3).T) for node in range(4)]

    def job_numpy() -> None:
        for _ in THREAD_METRICS:
            view.sum(axis=1)

    def job_figures() -> None:
        for _ in THREAD_METRICS:
            view.min(), view.max(), view.mean()

    return [
        Kind("R1 last value of all nodes", lambda store, _: store.latest("fritz/*", "n0"),
             lambda found, _: _equal(found.values, last), last.copy, 100),
        Kind("R2 one node, all metrics, 10 min",
             lambda store, i: store.node_data("fritz", end - 600, end, nodes=[host(i * 37 % n)]),
             lambda found, i: _check_node(found, values, i * 37 % n), lambda: own[0][:, -10:].sum(axis=0), 100),
        Kind(f"R3 job view, {n_job} nodes x 8 metrics", lambda store, _: store.job_data(job, VIEW),
             lambda found, _: _check_job(found, values, n_job), job_numpy, 7),
        Kind("R4 its statistics only", lambda store, _: store.job_statistics(job, VIEW),
             lambda found, _: _check_statistics(found, values, n_job), job_figures, 7),
        Kind("R5 hwthreads to node sum, 24 h",
             lambda store, i: store.query("fritz", host(i % n), "t3", day, end, type="hwthread", aggregate=True),
             lambda found, i: _equal(found.values, values.metric(i % n, 3).sum(axis=1, dtype=np.float64)),
             lambda: own[0].sum(axis=0, dtype=np.float64), 200),
        Kind(f"R6 all nodes x 24 h at {RESOLUTION_S} s",
             lambda store, _: store.series("fritz/*", "n1", day, end, resolution=RESOLUTION_S),
             lambda found, _: _check_resampled(found, all_day),
             lambda: all_day.reshape(n, -1, RESOLUTION_S // STEP_S).mean(axis=2), 15),
        Kind("R7 top 10 of all hwthreads over 1 h",
             lambda store, _: store.top("fritz/*/hwthread*", "t2", hour, end, per="series"),
             lambda found, _: _equal(found.values, np.sort(last_hour.mean(axis=1, dtype=np.float64))[: -11 : -1]),
             lambda: np.sort(last_hour.mean(axis=1))[-10:], 15),
        Kind("R8 hwthreads above a value for 5 min",
             lambda store, _: store.above("fritz/*/hwthread*", "t2", THRESHOLD, "5m", at=end),
             lambda found, _: _check_above(found, last_hour),
             lambda: np.flatnonzero((last_hour[:, -5:] > THRESHOLD).all(axis=1)), 15),
        Kind("R9 one series x 48 h", lambda store, i: store.query("fritz", host(i % n), "n2", values.t0, end),
             lambda found, i: _equal(found.values, values.node(i % n)[:, 2]),
             lambda: own[0].reshape(-1)[:TWO_DAYS].copy(), 500),
        Kind("R10 72 hwthreads of a node x 24 h",
             lambda store, i: store.query("fritz", host(i % n), "t3", day, end, type="hwthread"),
             lambda found, i: _check_list(found, values.metric(i % n, 3)), own[0].copy, 200),
    ]  # fmt: skip


def _equal(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.allclose(found, expected, rtol=1e-6), "an answer differs"


def _check_node(found: Any, values: Values, node: int) -> None:
    data = found[host(node)]
    assert set(data) >= {*NODE_METRICS, *THREAD_METRICS}
    _equal(np.asarray(data["n5"].series[0].values), values.node(node)[-10:, 5])
    _equal(
        np.asarray(data["t6"].series[0].values), values.metric(node, 6)[-10:].sum(axis=1, dtype=np.float64)
    )


def _check_job(found: Any, values: Values, n_job: int) -> None:
    assert not found.errors
    for metric in range(len(THREAD_METRICS)):
        series = found[f"t{metric}"]["node"].series
        for node in range(n_job):
            _equal(np.asarray(series[node].values), values.metric(node, metric).sum(axis=1, dtype=np.float64))


def _check_statistics(found: Any, values: Values, n_job: int) -> None:
    for node in range(n_job):
        sums = values.metric(node, 4).sum(axis=1, dtype=np.float64)
        one = found["t4"][host(node)]
        _equal(np.array([one.min, one.max, one.avg]), np.array([sums.min(), sums.max(), sums.mean()]))


def _check_resampled(found: Any, all_day: NDArray[np.float32]) -> None:
    expected = all_day.reshape(len(all_day), -1, RESOLUTION_S // STEP_S).mean(axis=2, dtype=np.float64)
    assert len(found) == len(expected)
    for series, row in zip(found, expected, strict=True):
        _equal(series.values, row)


def _check_above(found: Any, last_hour: NDArray[np.float32]) -> None:
    assert len(found) == int((last_hour[:, -5:] > THRESHOLD).all(axis=1).sum())


def _check_list(found: Any, expected: NDArray[np.float32]) -> None:
    assert len(found) == THREADS
    for k, series in enumerate(found):
        assert series.path.endswith(f"hwthread{k}"), series.path
        _equal(series.values, expected[:, k])


def p50_ms(call: Callable[[int], object], rounds: int) -> float:
    call(0)
    took = []
    for i in range(rounds):
        began = time.perf_counter()
        call(i)
        took.append(time.perf_counter() - began)
    return float(np.median(took)) * 1e3


class HalfLoad:
    """A process that sends lines at half the rate that the store takes; `with` runs it."""

    def __init__(self, running: Store, n_nodes: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.half_load", str(running.directory), str(n_nodes)]
        self.rate = 0.0

    def __enter__(self) -> HalfLoad:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.rate = float(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        sent, _ = self._process.communicate("stop\n", timeout=120)
        assert self._process.returncode == 0, sent
        self.kept = float(sent)


def run(report: Report, n_nodes: int = 992, rounds: float = 1.0) -> None:
    t0 = int(time.time()) // STEP_S * STEP_S - TWO_DAYS * STEP_S
    values = Values(n_nodes, t0)
    with (
        store(CONFIG, files={"fritz.json": json.dumps(topology(n_nodes))}) as running,
        mstore.connect(running.directory, timeout=300) as client,
        mstore.attach(running.directory) as reader,
    ):
        fill(client, values)
        asked = kinds(values)
        alone = [measure(kind, client, reader, rounds) for kind in asked]
        with HalfLoad(running, n_nodes) as load:
            loaded = [measure(kind, client, reader, rounds) for kind in asked]
    print(
        f"half load: {load.rate / 1e6:.2f} M lines/s asked for, {load.kept / 1e6:.2f} M lines/s acknowledged"
    )
    for kind, (over_socket, attached, numpy_ms), (socket_loaded, attached_loaded, _) in zip(
        asked, alone, loaded, strict=True
    ):
        report.add(
            Result(f"{kind.name}, socket", over_socket, "ms", reference=f"{over_socket / numpy_ms:.1f} x numpy; "
                   f"under load {socket_loaded:.3g} ms, {socket_loaded / over_socket:.1f} x"),
            Result(f"{kind.name}, attached", attached, "ms", reference=f"{attached / numpy_ms:.1f} x numpy; "
                   f"under load {attached_loaded:.3g} ms, {attached_loaded / attached:.1f} x"),
        )  # fmt: skip


def measure(
    kind: Kind, client: mstore.Client, reader: mstore.Attached, rounds: float
) -> tuple[float, float, float]:
    """p50 in ms (over the socket, attached, numpy's); both answers are compared with the model first."""
    n = max(3, round(kind.rounds * rounds))
    for side in (client, reader):
        kind.check(kind.ask(side, 1), 1)
    return (
        p50_ms(lambda i: kind.ask(client, i), n),
        p50_ms(lambda i: kind.ask(reader, i), n),
        p50_ms(lambda _: kind.numpy(), n),
    )


if __name__ == "__main__":
    run(Report(), int(sys.argv[1]) if len(sys.argv) > 1 else 992)
