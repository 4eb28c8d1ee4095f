"""How fast does line protocol become runs in a ring? (scan + encode, one core, no sockets, no interning)

    python -m benchmarks.bench_lines [--series N] [--ticks N] [--seed N]

Lines of about 92 bytes for --series series whose keys are all known, first in the order they always come in,
then in random order, then as lines nobody knows (first sight: keys collected, not answered). The speed of the
machine in the same run: a copy of the same bytes, and a search for every newline in them.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from mstore.kernels._lines import LineBatch, LineScanner
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words
from mstore.kernels._segment import Segment
from mstore.kernels.reference_lines import Target, build_directory
from mstore.shm import layout

RING_BYTES = 1 << 24
NOW_S = 1_725_827_464
HWTHREADS = 72
METRICS = ("cpu_user", "flops_any", "mem_bw_share", "clock_mhz")


def series_keys(n: int) -> list[bytes]:
    """Keys as collectors of one cluster write them, in their order."""
    found: list[bytes] = []
    node = 0
    while len(found) < n:
        for metric in METRICS:
            for thread in range(HWTHREADS):
                tags = f"cluster=fritz,hostname=f{node:04d},type=hwthread,type-id={thread:02d},unit=x"
                found.append(f"{metric},{tags}".encode())
        node += 1
    return found[:n]


def one_tick(keys: list[bytes], t_s: int, rng: random.Random) -> bytes:
    return b"".join(b"%s value=%.2f %d\n" % (key, rng.random() * 100, t_s) for key in keys)


class Pipe:
    """Scanner, batch and ring, drained at once."""

    def __init__(self, directory: bytearray) -> None:
        self.scanner = LineScanner(Segment(directory))
        self.batch = LineBatch()
        self.ring = Segment(bytearray(layout.RING_DATA + RING_BYTES), writable=True)
        create_ring_words(self.ring, RING_BYTES)
        self.writer, self.reader = RingWriter(self.ring), RingReader(self.ring)
        self.bytes_out = 0

    def run(self, text: bytes) -> int:
        """Lines consumed."""
        at = lines = 0
        while at < len(text):
            at = self.scanner.scan(
                self.batch, text, at, len(text), final=True, cluster_id=0, precision=0, now_s=NOW_S,
                oldest_s=0, newest_s=NOW_S + 3600, config_version=0, join=False,
            )  # fmt: skip
            lines += self.batch.n_lines
            if self.batch.n_unknown == 0:
                self.batch.encode(self.writer)
                head = self.writer.publish()
                self.bytes_out += head - self.reader.drained()
                self.reader.set_drained(head)
                self.reader.set_durable(head)
            self.batch.clear()
        return lines


def best_of(action: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=115_000)
    parser.add_argument("--ticks", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    keys = series_keys(chosen.series)
    known = {(key, 0): Target(1 << 32 | i) for i, key in enumerate(keys)}
    pipe = Pipe(build_directory(layout, known))
    text = one_tick(keys, NOW_S, rng)
    n = len(keys)
    print(f"{n} series, {len(text) / n:.1f} bytes a line, best of {chosen.ticks}, seed {chosen.seed}")
    copy_s = best_of(lambda: bytearray(text), chosen.ticks)
    search_s = best_of(lambda: text.count(b"\n"), chosen.ticks)
    copied, searched = len(text) / copy_s, len(text) / search_s
    print(f"copy of the same bytes       {copied / 1e9:8.2f} GB/s")
    print(f"search for every newline     {searched / 1e9:8.2f} GB/s")

    def report(name: str, pipe: Pipe, text: bytes) -> None:
        n = pipe.run(text)
        hashed, out = pipe.scanner.n_hashed, pipe.bytes_out
        took = best_of(lambda: pipe.run(text), chosen.ticks)
        hashed, out = pipe.scanner.n_hashed - hashed, pipe.bytes_out - out
        print(
            f"{name:<28} {n / took / 1e6:8.2f} M lines/s {len(text) / took / 1e9:6.2f} GB/s = "
            f"{len(text) / took / copied:.3f} of the copy, {len(text) / took / searched:.3f} of the search; "
            f"{hashed / n / chosen.ticks:.3f} hashed, {out / n / chosen.ticks:.1f} ring bytes a line"
        )

    report("steady order", pipe, text)
    rng.shuffle(keys)
    shuffled = one_tick(keys, NOW_S, rng)
    report("a new order, kept", pipe, shuffled)
    orders = [rng.sample(keys, n) for _ in range(2)]
    report(
        "random order",
        Pipe(build_directory(layout, known)),
        b"".join(one_tick(order, NOW_S, rng) for order in orders),
    )
    report("first sight", Pipe(build_directory(layout, {})), text)


if __name__ == "__main__":
    main()
