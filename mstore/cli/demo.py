"""`mstore demo`: a store from nothing to a plot in half a minute, and nothing of it left behind."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstore import clock
from mstore.cli import common, render, signals
from mstore.errors import InvariantBroken, StoreLocked, Unavailable
from mstore.persistence import store_lock

if TYPE_CHECKING:
    from mstore.frames import Series
    from mstore.simulate import Simulator

READY_S_MAX = 60.0
STOP_S_MAX = 60.0
LIVE_S_DEFAULT = 3
NEXT = "{mstore} serve &\n                {mstore} collect host --once\n                {mstore} ls"


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "demo",
        "show it all: a temporary store, a simulated cluster, queries and a plot",
        "mstore demo\nmstore demo --span 6h --live 10",
        "Runs in a directory of its own, which is removed at the end; --dir is not used.",
    )
    parser.add_argument(
        "--span", metavar="TIME", type=common.period, default=3600, help="simulated past (default: 1h)"
    )
    parser.add_argument(
        "--live",
        metavar="SECONDS",
        type=common.number,
        default=LIVE_S_DEFAULT,
        help=f"live seconds (default: {LIVE_S_DEFAULT})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import mstore
    from mstore.simulate import Simulator

    with temporary_store() as store:
        step(1, f"a store in {store.directory}", f"ready in {store.started_s:.2f} s")
        simulator = Simulator(seed=7)
        with mstore.connect(store.directory) as client:
            show_ingest(client, simulator, args.span)
            if args.live > 0:
                show_live(client, simulator, args.live)
            found = show_queries(client, store.directory, args.span)
        show_crash(store, found)
        stop_start = clock.monotonic_s()
    step(6, "the store stopped and its directory removed", f"{clock.monotonic_s() - stop_start:.2f} s")
    print(f"\n Now your own:  {render.paint(NEXT.format(mstore=called_as()), render.BOLD)}")
    return 0


def called_as() -> str:
    """How to call this command again: by its name where the shell finds it, else by its path as it was given."""
    if shutil.which("mstore"):
        return "mstore"
    return sys.argv[0] if Path(sys.argv[0]).name == "mstore" else "python -m mstore"


# --- the store


class DemoStore:
    """A store's process in a directory that knows the built-in cluster."""

    def __init__(self, directory: Path) -> None:
        from mstore.simulate.generator import builtin_path

        self.directory = directory
        self.started_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._config = directory / "mstore.toml"
        self._config.write_text(f"topology = [{str(builtin_path())!r}]\n", encoding="utf-8")

    def start(self) -> None:
        start = clock.monotonic_s()
        command = [sys.executable, "-P", "-m", "mstore", "serve", "--dir", str(self.directory)]
        with (self.directory / "serve.log").open("wb") as log:
            # A group of its own: Ctrl-C is for the demo, which then stops the store in order.
            self._process = subprocess.Popen(
                [*command, "--config", str(self._config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip
        wait_ready(self._process, self.directory / "serve.log")
        self.started_s = clock.monotonic_s() - start

    def crash(self) -> None:
        """SIGKILL to all its processes at once; returns when the last of them is gone."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        end = clock.monotonic_s() + STOP_S_MAX
        while clock.monotonic_s() < end:
            try:
                os.close(store_lock.lock(self.directory))
                return
            except StoreLocked:
                time.sleep(0.01)
        raise Unavailable("the demo's store did not end when it was killed")

    def stop(self) -> None:
        if self._process is not None:
            stop(self._process)


@contextmanager
def temporary_store() -> Iterator[DemoStore]:
    """A running store of its own; stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="mstore-demo-"))
    store: DemoStore | None = None
    try:
        store = DemoStore(directory)
        store.start()
        yield store
    finally:
        with signals.undisturbed():
            if store is not None:
                store.stop()
            shutil.rmtree(directory, ignore_errors=True)


def wait_ready(process: subprocess.Popen[bytes], log: Path, timeout_s: float = READY_S_MAX) -> None:
    """Until the store has said `mstore ready DIR`; raises Unavailable with its last words otherwise."""
    end = clock.monotonic_s() + timeout_s
    while clock.monotonic_s() < end:
        said = log.read_text(errors="replace")
        if any(line.startswith("mstore ready ") for line in said.splitlines()):
            return
        if process.poll() is not None:
            last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
            raise Unavailable(f"the demo's store did not start (status {process.returncode}): {last}")
        time.sleep(0.02)
    raise Unavailable(f"the demo's store was not ready within {timeout_s:.0f} s")


def stop(process: subprocess.Popen[bytes], timeout_s: float = STOP_S_MAX) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- what is shown


def step(number: int, what: str, outcome: str) -> None:
    dots = "·" if common.unicode_ok() else "."
    columns = min(common.width(), 80)
    room = max(3, columns - len(what) - len(outcome) - 6)
    head = render.paint(f" {number} ", render.BOLD)
    print(f"{head} {what} {render.paint(dots * room, render.DIM)} {outcome}", flush=True)


def show_ingest(client: Any, simulator: Simulator, span_s: int) -> None:
    """An hour of line protocol, made beforehand so that what is timed is the store."""
    from mstore.simulate.pace import backfill

    batches = list(backfill(simulator, span_s))
    text = b"".join(simulator.lines(batch) for batch in batches)
    start = clock.monotonic_s()
    result = client.write(text)
    seconds = clock.monotonic_s() - start
    hosts, n_series = len(simulator.hosts), len(simulator.paths)
    what = f"{hosts} nodes, {n_series} series, {render.span(span_s)} as {result.written:,} lines"
    step(2, what, "durable" if result.durable else "in memory")
    speed = f"{render.si(result.written / seconds)} lines/s, {render.size(len(text) / seconds)}/s"
    print(f"    {render.size(len(text))} of text in {seconds:.2f} s: {render.paint(speed, render.GREEN)}")
    if result.rejected or result.ignored:
        print(f"    {result.rejected} rejected, {result.ignored} ignored: {dict(result.reasons)}")


def show_live(client: Any, simulator: Simulator, seconds: int) -> None:
    """A few ticks at real speed, and how long each took to be on disk."""
    from mstore.simulate.pace import live

    n_lines, slowest = 0, 0.0
    for batch in live(simulator, seconds):
        start = clock.monotonic_s()
        n_lines += client.write(simulator.lines(batch)).written
        slowest = max(slowest, clock.monotonic_s() - start)
    step(
        3,
        f"{render.count(seconds, 'live second')}, {n_lines:,} lines",
        f"on disk in {slowest * 1000:.1f} ms at most",
    )


def show_queries(client: Any, directory: Path, span_s: int) -> list[Series]:
    """The nodes' power as a table, and one node's course as a plot; what was answered."""
    import mstore
    from mstore.cli.courses import summary
    from mstore.cli.look import sorted_naturally

    now = clock.now_s()
    hosts = sorted_naturally(client.children("demo"))
    start = clock.monotonic_s()
    found: list[Series] = [client.query("demo", host, "cpu_power", now - span_s, now + 1) for host in hosts]
    milliseconds = (clock.monotonic_s() - start) * 1000 / max(1, len(found))
    n_samples = sum(int(series.valid.sum()) for series in found)
    what = f"{len(found)} queries, two sockets summed each, {n_samples:,} samples"
    step(4, what, f"{milliseconds:.2f} ms each")
    with mstore.attach(directory) as attached:
        start = clock.monotonic_s()
        again: Any = [attached.query("demo", host, "cpu_power", now - span_s, now + 1) for host in hosts]
        milliseconds = (clock.monotonic_s() - start) * 1000 / max(1, len(again))
    check_equal(found, again)
    told = render.paint(f"{milliseconds:.2f} ms each", render.GREEN)
    print(f"    the same numbers straight from shared memory, mstore.attach(): {told}")
    print()
    print(_title("cpu_power", found, "of every node"))
    print(_indent(summary([(series.host, series) for series in found], min(common.width(), 80) - 4)))
    print()
    busiest = max(
        found, key=lambda series: float(series.values[series.valid].mean()) if series.valid.any() else 0.0
    )
    _plot(busiest, f"of {busiest.host}, as `mstore query demo {busiest.host} cpu_power --format plot`")
    print()
    return found


def show_crash(store: DemoStore, before: list[Series]) -> None:
    """Kill the store without warning; what was acknowledged is there again."""
    import mstore

    store.crash()
    store.start()
    with mstore.connect(store.directory) as client:
        after: Any = [client.query("demo", one.host, "cpu_power", one.start, one.end) for one in before]
    check_equal(before, after)
    step(5, "killed (SIGKILL) and started again", f"every sample back in {store.started_s:.2f} s")


def check_equal(one: list[Series], other: list[Series]) -> None:
    """A demo that hides a difference would be none."""
    import numpy as np

    for a, b in zip(one, other, strict=True):
        same = np.array_equal(a.times, b.times) and np.array_equal(a.valid, b.valid)
        if not (same and np.array_equal(a.values[a.valid], b.values[b.valid])):
            raise InvariantBroken(f"two answers about {a.host} differ: please report this")


def _plot(series: Series, where: str) -> None:
    import numpy as np

    from mstore.cli.plot import plot

    values = np.where(series.valid, series.values.astype(np.float64), np.nan)
    lines = plot([series.times.astype(np.float64)], [values], columns=min(common.width(), 80) - 4, rows=8,
                 colour=common.colours())  # fmt: skip
    print(_title("cpu_power", [series], where))
    print(_indent(lines))


def _title(metric: str, found: list[Series], where: str) -> str:
    unit = next((f" [{series.unit}]" for series in found if series.unit), "")
    return f"    {render.paint(metric + unit, render.BOLD)} {render.paint(where, render.DIM)}"


def _indent(lines: list[str]) -> str:
    return "\n".join("    " + line for line in lines)
