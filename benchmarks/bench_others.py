"""mstore beside VictoriaMetrics and InfluxDB 1: the same lines, the same machine, one store after the other.

    python -m benchmarks others [--victoria-metrics FILE] [--influxd FILE]

Each store, started on an empty directory, takes the lines of load.py: first a pass in which every series is new, then ticks
in steady order, some rounds of them (the median counts; no round is begun after a minute). Then its memory is read, a
sample of the series is read back and compared with what was written, and after a day of samples for one host it is asked
for one of its series over 24 hours, a different one each time, until the numbers are in an array. Each is spoken to in its
own way: mstore as plain text over its Unix socket, acknowledged as durable at the end; the others by HTTP requests of some
thousand lines each, on loopback.

Programs are taken from PATH or from the options; one that is not there is left out. No service is started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import mstore
from benchmarks.bench_answers import p50_ms
from benchmarks.bench_ingest import stream
from benchmarks.bench_memory import shm_bytes
from benchmarks.common import Report, Result, Store, number, store
from benchmarks.load import CLUSTER, HWTHREADS, METRIC, STEP_S, Load
from benchmarks.other_stores import Measured, Samples, influxdb, process_bytes, victoria_metrics

CONFIG = 'retention = "0"\n'
REQUEST_LINES = 10_000
DAY_TICKS = 1440
QUIET_S = 3.0
"""Before memory is read: garbage collectors and commit threads have done what they do at once."""


@dataclass
class Sizes:
    hosts: int = 1600
    ticks: int = 20
    rounds: int = 5
    seconds_max: float = 60.0
    sampled: int = 500
    questions: int = 300


class Ours:
    """mstore, as Measured."""

    name = "mstore"

    def __init__(self, running: Store, client: mstore.Client) -> None:
        self._running = running
        self._client = client

    def write(self, bodies: Sequence[bytes]) -> float:
        return stream(self._running, b"".join(bodies))

    def settle(self) -> None:
        return

    def samples(self, host: str, thread: int, start: int, end: int) -> Samples:
        found = self._client.query(
            CLUSTER, host, METRIC, start, end, type="hwthread", type_ids=str(thread), archive=False
        )
        assert isinstance(found, mstore.Series)
        return found.times[found.valid], found.values[found.valid].astype(np.float64)

    def memory_bytes(self) -> int:
        """Its shared memory, mapped or not, and what else its processes have."""
        return shm_bytes(self._running.directory) + process_bytes(self._running.pids())


@contextlib.contextmanager
def ours() -> Iterator[Ours]:
    with store(CONFIG) as running, mstore.connect(running.directory) as client:
        yield Ours(running, client)


# --- programs


@dataclass(frozen=True)
class Program:
    """A program that may be there."""

    name: str
    command: str
    package: str
    option: str
    start: Callable[[str], contextlib.AbstractContextManager[Measured]]

    def find(self, given: Path | None) -> str | None:
        """Its path; None when it is not there."""
        found = shutil.which(self.command if given is None else str(given))
        return None if found is None else str(Path(found).absolute())

    def how_to_get_it(self) -> str:
        return (
            f"{self.name} is left out: no {self.command} in PATH or by {self.option} FILE. Get it by apt-get install "
            f"{self.package}; or, without a service, by apt-get download {self.package} && "
            f"dpkg -x {self.package}_*.deb DIR, and {self.option} DIR/usr/bin/{self.command}"
        )


PROGRAMS = (
    Program(
        "VictoriaMetrics", "victoria-metrics", "victoria-metrics", "--victoria-metrics", victoria_metrics
    ),
    Program("InfluxDB", "influxd", "influxdb", "--influxd", influxdb),
)


# --- what is measured


@dataclass
class Figures:
    """Of one store. lines/s; bytes a series (everything; without what an empty store takes); ms."""

    first_sight: float
    steady: float
    spread: list[float]
    memory: float
    memory_grown: float
    question_ms: float
    compared: int
    wrong: int


def bodies_of(load: Load, first: int, stop: int) -> list[bytes]:
    """The lines of these ticks, a request each."""
    return [part for k in range(first, stop) for part in load.parts(k, REQUEST_LINES)]


def host_of(series: int) -> tuple[str, int]:
    """Host and hwthread of a series of a Load."""
    return f"f{series // HWTHREADS:04d}", series % HWTHREADS


def compare(running: Measured, load: Load, series: Sequence[int], n_ticks: int) -> tuple[int, int]:
    """How many samples of these series were looked for, and how many are not there as they were written."""
    end = load.t0 + n_ticks * STEP_S
    wrong = 0
    for one in series:
        wrong += n_wrong(running.samples(*host_of(one), load.t0, end), load, one, n_ticks)
    return n_ticks * len(series), wrong


def n_wrong(samples: Samples, load: Load, series: int, n_ticks: int) -> int:
    """Of the first ticks of a series: samples that are missing or not what was sent, and those that nobody sent."""
    sent = {
        load.t0 + k * STEP_S: hundredths
        for k, hundredths in enumerate(load.values[:n_ticks, series].tolist())
    }
    times, values = samples
    found = list(zip(times.tolist(), np.rint(values * 100).astype(np.int64).tolist(), strict=True))
    n_right = len({(at, hundredths) for at, hundredths in found if sent.get(at) == hundredths})
    return len(sent) - n_right + len(found) - n_right


def measure(running: Measured, load: Load, day: Load, sizes: Sizes) -> Figures:
    empty_bytes = running.memory_bytes()
    first_sight = load.n_series / running.write(bodies_of(load, 0, 1))
    rates: list[float] = []
    until_s = time.monotonic() + sizes.seconds_max
    for k in range(sizes.rounds):
        bodies = bodies_of(load, 1 + k * sizes.ticks, 1 + (k + 1) * sizes.ticks)
        rates.append(load.n_series * sizes.ticks / running.write(bodies))
        if time.monotonic() > until_s:
            break
    n_ticks = 1 + len(rates) * sizes.ticks
    running.settle()
    time.sleep(QUIET_S)
    used_bytes = running.memory_bytes()
    sampled = np.linspace(0, load.n_series - 1, min(sizes.sampled, load.n_series)).astype(int).tolist()
    compared, wrong = compare(running, load, sampled, n_ticks)
    running.write(bodies_of(day, 0, DAY_TICKS))
    running.settle()
    of_day, wrong_of_day = compare(running, day, range(HWTHREADS), DAY_TICKS)

    def ask(i: int) -> None:
        running.samples(*host_of(i % HWTHREADS), day.t0, day.t0 + DAY_TICKS * STEP_S)

    return Figures(
        first_sight, float(np.median(rates)), rates, used_bytes / load.n_series,
        (used_bytes - empty_bytes) / load.n_series, p50_ms(ask, sizes.questions), compared + of_day, wrong + wrong_of_day,
    )  # fmt: skip


# --- what is told


def results(name: str, found: Figures, n_series: int) -> list[Result]:
    rounds = ", ".join(number(rate) for rate in found.spread)
    memory = f"{number(found.memory_grown)} without what it takes empty; {n_series:,} series"
    read_back = f"{found.compared:,} samples were read back, {found.wrong:,} of them not as they were written"
    return [
        Result(f"{name}: lines, steady order", found.steady, "lines/s", reference=f"rounds: {rounds}"),
        Result(f"{name}: lines, first sight of series", found.first_sight, "lines/s"),
        Result(f"{name}: memory", found.memory, "bytes/series", reference=memory),
        Result(f"{name}: one series x 24 h, p50", found.question_ms, "ms", reference=read_back),
    ]


def ratios(found: dict[str, Figures]) -> list[str]:
    """How many times as good mstore is as each of the others: more than 1 is better for mstore."""
    mine = found["mstore"]
    others = {name: one for name, one in found.items() if name != "mstore"}
    told = {
        "lines/s, steady order": {name: mine.steady / one.steady for name, one in others.items()},
        "lines/s, first sight": {name: mine.first_sight / one.first_sight for name, one in others.items()},
        "memory a series": {name: one.memory / mine.memory for name, one in others.items()},
        "one series x 24 h": {name: one.question_ms / mine.question_ms for name, one in others.items()},
    }
    if not others:
        return []
    return [
        f"{what}: mstore {', '.join(f'{ratio:.3g} x {name}' for name, ratio in row.items())}"
        for what, row in told.items()
    ]


def run(
    report: Report,
    seed: int,
    victoria_metrics_file: Path | None = None,
    influxd_file: Path | None = None,
    sizes: Sizes | None = None,
) -> None:
    sizes = sizes or Sizes()
    n_ticks = 1 + sizes.rounds * sizes.ticks
    t0 = int(time.time()) // STEP_S * STEP_S - n_ticks * STEP_S
    load = Load(t0, n_ticks, seed, sizes.hosts)
    day = Load(t0 - DAY_TICKS * STEP_S, DAY_TICKS, seed + 1, hosts=1)
    starts: dict[str, Callable[[], contextlib.AbstractContextManager[Measured]]] = {"mstore": ours}
    for program, given in zip(PROGRAMS, (victoria_metrics_file, influxd_file), strict=True):
        path = program.find(given)
        if path is None:
            print(program.how_to_get_it())
        else:
            starts[program.name] = partial(program.start, path)
    print(f"others: each store and its sender have {len(os.sched_getaffinity(0))} cores to themselves")
    found: dict[str, Figures] = {}
    for name, start in starts.items():
        with start() as running:
            found[name] = measure(running, load, day, sizes)
        report.add(*results(name, found[name], load.n_series))
    for line in ratios(found):
        print(line)
