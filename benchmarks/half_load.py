"""A sender of its own: python -m benchmarks.half_load DIR NODES. Sends lines at half the rate that the store takes.

Prints the rate it is going to keep (lines/s), sends until a line comes on stdin, prints the rate that was acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from benchmarks.bench_answers import LIVE, THREADS, host
from benchmarks.stamped_frames import StampedFrames
from mstore.client.aio import AsyncClient, connect_async

IN_FLIGHT = 8
FRAME_NODES = 62
PROBE_S = 2.0
STEP_S = 60


def frames(n_nodes: int) -> StampedFrames:
    """Lines of one hwthread metric; every frame holds some hosts."""
    return StampedFrames(
        [
            [
                _line(node, k)
                for node in range(first, min(first + FRAME_NODES, n_nodes))
                for k in range(THREADS)
            ]
            for first in range(0, n_nodes, FRAME_NODES)
        ]
    )


def _line(node: int, thread: int) -> str:
    """All are equally long: where the id of the thread is shorter, the value has a digit more."""
    value = f"{10 + node % 80:.{3 if thread < 10 else 2}f}"
    return f"{LIVE},cluster=fritz,hostname={host(node)},type=hwthread,type-id={thread} value={value}"


class Sender:
    """Never more than half of the frames are under way: none is stamped anew before it is answered."""

    def __init__(self, client: AsyncClient, frames: StampedFrames) -> None:
        self._client = client
        self._frames = frames
        self._second = int(time.time()) - 86_400
        self.in_flight = max(1, min(IN_FLIGHT, len(frames) // 2))
        self.written = 0

    def _next(self) -> bytearray:
        """Frame after frame; each round of all hosts is one step later, so that every line is a new sample."""
        return self._frames.take(self._second + self._frames.n_rounds % 1400 * STEP_S)

    async def one(self) -> None:
        result = await self._client.write(self._next())
        assert result.rejected == result.ignored == 0, result
        self.written += result.written

    async def most(self, seconds: float) -> float:
        """Lines/s with a window of frames always under way."""
        began, before = time.perf_counter(), self.written

        async def go_on() -> None:
            while time.perf_counter() - began < seconds:
                await self.one()

        await asyncio.gather(*(go_on() for _ in range(self.in_flight)))
        return (self.written - before) / (time.perf_counter() - began)

    async def paced(self, per_s: float, until: asyncio.Event) -> float:
        """Frames at a pace, never more than a window of them under way; lines/s that were acknowledged."""
        began, before, n = time.perf_counter(), self.written, 0
        places = asyncio.Semaphore(self.in_flight)
        under_way: set[asyncio.Task[None]] = set()

        async def send() -> None:
            try:
                await self.one()
            finally:
                places.release()

        while not until.is_set():
            if n < (time.perf_counter() - began) * per_s:
                await places.acquire()
                task = asyncio.ensure_future(send())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                n += 1
            else:
                await asyncio.sleep(0.001)
        await asyncio.gather(*under_way)
        return (self.written - before) / (time.perf_counter() - began)


async def main(directory: Path, n_nodes: int) -> None:
    stamped = frames(n_nodes)
    lines_a_frame = stamped.texts[0].count(b"\n")
    async with await connect_async(directory, timeout=60) as client:
        sender = Sender(client, stamped)
        for _ in range(len(stamped)):  # every series is known from here on
            await sender.one()
        rate = await sender.most(PROBE_S) / 2
        print(rate, flush=True)
        enough = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), enough.set)
        print(await sender.paced(rate / lines_a_frame, enough), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
