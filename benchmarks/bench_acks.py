"""How long does a durable acknowledgement take: of one small write to an idle store, and of many while it does other work?

First one writer sends a line at a time, each after a pause: what the group commit adds to the disk's own time is in that.

Lines of a store of fritz's size come at half the rate that it can take, and every frame's way is timed: from when it is
ready to be sent until it is acknowledged as on disk. First nothing else goes on, then a snapshot, then a retention pass
that frees a chunk of every series. Frames are sent whether or not the ones before are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import mstore
from benchmarks.common import Report, Result, Store, store
from benchmarks.references import quiet_disk, quiet_fdatasync_ms
from benchmarks.stamped_frames import StampedFrames
from mstore.client.aio import connect_async

SLOTS = 100
THREADS = 72
OLD_S = 120
"""How long ago the first chunk of each series ended."""
KEPT_S, KEPT_LATER_S = 320, 60
"""Retention: with the first, the old chunks stay; with the second, the next pass, within 5 s, frees all of them."""
CONFIG = (
    'retention = "{}s"\ndefault_step = 1\nsnapshot_interval = "0"\nwal_bytes = "1TiB"\nmax_series = 1000000\n'
)
PER_QUIET, FLOOR_MS = 3, 10
"""The budget: so many times the quiet p99, or this if that is more."""
COMMIT_MS_MAX = 2
"""The budget of a single small write to an idle store, p50."""
BLOCK = 1024
PAUSE_S = 0.002
"""Between two small writes: everything sleeps again."""


@dataclass
class Sizes:
    n_frames: int = 63
    frame_lines: int = 8192
    quiet_s: float = 6.0
    in_flight: int = 8
    n_single: int = 1000

    @property
    def n_series(self) -> int:
        return self.n_frames * self.frame_lines


def path(i: int) -> tuple[str, str, str, str, str]:
    return "fritz", f"f{i // THREADS:05d}", "cpu_user", "hwthread", str(10 + i % THREADS)


def value(i: int) -> float:
    return 10 + i % 8999 / 100


def line(i: int) -> str:
    """A line without its timestamp; all are equally long."""
    cluster, host, metric, kind, thread = path(i)
    return f"{metric},cluster={cluster},hostname={host},type={kind},type-id={thread} value={value(i):.2f}"


def frames_of(sizes: Sizes) -> StampedFrames:
    """Lines of all series, one a series; there are more frames than are ever under way."""
    n = sizes.frame_lines
    return StampedFrames([[line(i) for i in range(k * n, (k + 1) * n)] for k in range(sizes.n_frames)])


class Sender:
    """Frames to one store, and when each was ready and answered (seconds of the loop's clock)."""

    def __init__(self, client: mstore.AsyncClient, frames: StampedFrames, sizes: Sizes) -> None:
        self._client, self._frames, self._sizes = client, frames, sizes
        self.answered: list[tuple[float, float]] = []

    async def one(self) -> None:
        began = time.perf_counter()
        result = await self._client.write(self._frames.take(int(time.time())))
        assert (result.written, result.durable) == (self._sizes.frame_lines, True), result
        self.answered.append((began, time.perf_counter()))

    async def most(self, seconds: float) -> float:
        """Frames a second with a window of them always under way."""
        until = time.perf_counter() + seconds

        async def go_on() -> int:
            n = 0
            while time.perf_counter() < until:
                await self.one()
                n += 1
            return n

        began = time.perf_counter()
        sent = await asyncio.gather(*(go_on() for _ in range(self._sizes.in_flight)))
        return sum(sent) / (time.perf_counter() - began)

    async def paced(self, per_s: float, until: asyncio.Event) -> None:
        """A frame every 1 / per_s seconds; none waits for the one before."""
        began, n = time.perf_counter(), 0
        under_way: set[asyncio.Task[None]] = set()
        while not until.is_set():
            while n < (time.perf_counter() - began) * per_s:
                task = asyncio.ensure_future(self.one())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                n += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*under_way)

    def took_ms(self, start: float, stop: float) -> NDArray[np.float64]:
        """Of the frames that were under way at any moment in between."""
        return np.array(
            [1e3 * (done - began) for began, done in self.answered if done > start and began < stop]
        )


def bench_single(report: Report, sizes: Sizes) -> None:
    """From when a frame of one line is about to be sent until it is acknowledged as on disk; nothing else goes on."""
    took = []
    with store(CONFIG.format(KEPT_S)) as running:
        disk = quiet_fdatasync_ms(running.directory)
        with mstore.connect(running.directory) as client:
            client.write(line(0))
            second = int(time.time()) - sizes.n_single
            for k in range(sizes.n_single):
                time.sleep(PAUSE_S)
                text = f"{line(0)} {second + k}\n".encode()
                began = time.perf_counter()
                result = client.write(text)
                took.append(1e3 * (time.perf_counter() - began))
                assert result.written == 1, result
    for share, alone, budget in ((50, disk[0], COMMIT_MS_MAX), (99, disk[1], None)):
        found = float(np.percentile(took, share))
        report.add(
            Result(f"p{share} of a durable acknowledgement, one line, idle store", found, "ms", budget, at_least=False,
                   reference=f"{found / alone:.1f} x quiet fdatasync p{share} {alone:.2f} ms; {sizes.n_single:,} writes"),
        )  # fmt: skip


def fill(running: Store, sizes: Sizes) -> int:
    """A chunk of every series, which ended OLD_S ago; the second of its end.

    The first sample is where chunk 0 begins; those before it are in chunk -1.
    """
    end = int(time.time()) - OLD_S
    before = end + np.arange(-SLOTS, 0)
    with mstore.connect(running.directory, timeout=300) as client, client.writer() as writer:
        for first in range(0, sizes.n_series, BLOCK):
            series = range(first, min(first + BLOCK, sizes.n_series))
            handles = writer.open([path(i) for i in series])
            row = np.array([value(i) for i in series], np.float32)
            writer.write(handles, [end], row[None, :])
            writer.write(handles, before, np.broadcast_to(row, (SLOTS, len(series))))
        assert writer.flush().written == (1 + SLOTS) * sizes.n_series
    return end


async def quiet(seconds: float) -> tuple[float, float]:
    """(start, stop) of a while in which nothing else goes on."""
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    return began, time.perf_counter()


async def snapshot(operator: mstore.AsyncClient) -> tuple[float, float]:
    began = time.perf_counter()
    await operator.control("snapshot")
    return began, time.perf_counter()


async def retention_pass(operator: mstore.AsyncClient, running: Store, n_chunks: int) -> tuple[float, float]:
    """Shorten retention, wait for the pass that frees `n_chunks`; when it began and ended, as nearly as `info` tells."""
    before = (await operator.info())["counters"]
    (running.directory / "mstore.toml").write_text(CONFIG.format(KEPT_LATER_S))
    await operator.control("reload")
    began = looked = time.perf_counter()
    freed = 0
    while freed < n_chunks:
        counters = (await operator.info())["counters"]
        freed = counters["chunks_freed"] - before["chunks_freed"]
        if not freed:
            began = looked
        looked = time.perf_counter()
        await asyncio.sleep(0.01)
    return began, looked


async def measure(
    running: Store, frames: StampedFrames, sizes: Sizes
) -> tuple[float, dict[str, NDArray[np.float64]]]:
    """(frames a second at half load, milliseconds of each acknowledgement by what went on meanwhile)."""
    found = {}
    async with (
        await connect_async(running.directory) as client,
        await connect_async(running.directory, timeout=600) as operator,
    ):
        sender = Sender(client, frames, sizes)
        for _ in range(sizes.n_frames):  # every key is known from here on
            await sender.one()
        per_s = await sender.most(sizes.quiet_s / 3) / 2
        meanwhile: dict[str, Callable[[], Awaitable[tuple[float, float]]]] = {
            "quiet": lambda: quiet(sizes.quiet_s),
            "snapshot": lambda: snapshot(operator),
            "retention": lambda: retention_pass(operator, running, sizes.n_series),
        }
        for name, work in meanwhile.items():
            sender.answered.clear()
            enough = asyncio.Event()
            sending = asyncio.ensure_future(sender.paced(per_s, enough))
            await asyncio.sleep(0.3)
            span = await work()
            enough.set()
            await sending
            found[name] = sender.took_ms(*span)
    return per_s, found


def verify(running: Store, sizes: Sizes, last: int) -> None:
    """Every sample that is served is its series' own, and the freed chunks are gone."""
    end = int(time.time()) + 1
    with mstore.attach(running.directory) as reader:
        for i in np.linspace(0, sizes.n_series - 1, min(sizes.n_series, 2000)).astype(int).tolist():
            cluster, host, metric, kind, thread = path(i)
            series = reader.query(cluster, host, metric, last, end, type=kind, type_ids=thread)
            assert isinstance(series, mstore.Series)
            assert set(series.values[series.valid].tolist()) == {float(np.float32(value(i)))}, path(i)
            chunks = list(reader.chunks(cluster, host, metric, kind, thread))
            assert chunks
            assert min(chunk.start for chunk in chunks) == last, "the chunk before is gone"


def run(report: Report, *, small: bool = False) -> None:
    sizes = Sizes(n_frames=40, frame_lines=64, quiet_s=0.5, n_single=50) if small else Sizes()
    bench_single(report, sizes)
    frames = frames_of(sizes)
    with store(CONFIG.format(KEPT_S)) as running:
        last = fill(running, sizes)
        disk = quiet_disk(running.directory)
        per_s, found = asyncio.run(measure(running, frames, sizes))
        verify(running, sizes, last)
    p99 = {name: float(np.percentile(took, 99)) for name, took in found.items()}
    budget = max(PER_QUIET * p99["quiet"], FLOOR_MS)
    load = f"{sizes.n_series:,} series, {per_s * sizes.frame_lines / 1e6:.2f} M lines/s in frames of {sizes.frame_lines}"
    report.add(
        Result("p99 of a durable acknowledgement, half load, quiet", p99["quiet"], "ms",
               reference=f"{load}; {disk}"),
        *(
            Result(f"  the same during a {what}", p99[name], "ms", budget, at_least=False,
                   reference=f"{p99[name] / p99['quiet']:.2f} of the quiet one; {len(found[name]):,} frames")
            for name, what in (("snapshot", "snapshot"), ("retention", "retention pass"))
        ),
    )  # fmt: skip
