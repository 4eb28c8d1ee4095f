"""A sender of its own: python -m benchmarks.half_load DIR NODES. Sends lines at half the rate that the store takes.

Prints the rate it is going to keep (lines/s), sends until a line comes on stdin, prints the rate that was acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from benchmarks.bench_answers import LIVE, THREADS, host
from mstore.client.aio import AsyncClient, connect_async

IN_FLIGHT = 8
FRAME_NODES = 62
PROBE_S = 2.0
STEP_S = 60


def frames(n_nodes: int) -> list[str]:
    """Lines of one hwthread metric, with a place for the time; every frame holds some hosts."""
    return [
        "".join(
            f"{LIVE},cluster=fritz,hostname={host(node)},type=hwthread,type-id={k} value={node % 90 + k / 100:.2f} %(t)d\n"
            for node in range(first, min(first + FRAME_NODES, n_nodes))
            for k in range(THREADS)
        )
        for first in range(0, n_nodes, FRAME_NODES)
    ]


class Sender:
    def __init__(self, client: AsyncClient, texts: list[str]) -> None:
        self._client = client
        self._texts = texts
        self._at = 0
        self._second = int(time.time()) - 86_400
        self._ready = [b""] * len(texts)
        self.written = 0

    def _next(self) -> bytes:
        """Frame after frame; each round of all hosts is one step later, so that every line is a new sample."""
        k = self._at % len(self._texts)
        t = self._second + self._at // len(self._texts) % 1400 * STEP_S
        self._at += 1
        return (self._texts[k] % {"t": t}).encode()

    async def one(self) -> None:
        result = await self._client.write(self._next())
        assert result.rejected == result.ignored == 0, result
        self.written += result.written

    async def most(self, seconds: float) -> float:
        """Lines/s with IN_FLIGHT frames always under way."""
        began, before = time.perf_counter(), self.written

        async def go_on() -> None:
            while time.perf_counter() - began < seconds:
                await self.one()

        await asyncio.gather(*(go_on() for _ in range(IN_FLIGHT)))
        return (self.written - before) / (time.perf_counter() - began)

    async def paced(self, per_s: float, until: asyncio.Event) -> float:
        """Frames at a pace, never more than IN_FLIGHT under way; lines/s that were acknowledged."""
        began, before, n = time.perf_counter(), self.written, 0
        places = asyncio.Semaphore(IN_FLIGHT)
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
    texts = frames(n_nodes)
    lines_a_frame = texts[0].count("\n")
    async with await connect_async(directory, timeout=60) as client:
        sender = Sender(client, texts)
        for _ in texts:  # every series is known from here on
            await sender.one()
        rate = await sender.most(PROBE_S) / 2
        print(rate, flush=True)
        enough = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), enough.set)
        print(await sender.paced(rate / lines_a_frame, enough), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
