"""`mstore collect host`: this machine's own metrics, once or again and again."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from mstore import clock
from mstore.cli import common, render

if TYPE_CHECKING:
    from mstore.collectors.host import Reading

# Between the two readings of --once that rates need.
ONCE_S = 1.0


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "collect",
        "collect real metrics of this machine: load, memory, disks, network",
        "mstore collect host\n"
        "mstore collect host --interval 60 --cluster lab\n"
        "mstore collect host --once --text",
        "Goes into the store of --dir unless --text is given; new metrics get --interval as their step.",
    )
    parser.add_argument("what", choices=("host",), help="what to collect")
    parser.add_argument(
        "--interval", metavar="TIME", type=common.period, default=10, help="seconds (default: 10)"
    )
    parser.add_argument("--once", action="store_true", help="one reading, then stop")
    parser.add_argument("--text", action="store_true", help="write line protocol to standard output")
    parser.add_argument(
        "--cluster", metavar="NAME", default="local", help="cluster to store under (default: local)"
    )
    parser.add_argument("--host", metavar="NAME", help="store as this host (default: this machine's name)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.collectors.host import Host, lines

    host = Host(args.cluster, args.host)
    if args.text:
        _repeat(host, args.interval, args.once, lambda readings, t_s: _print(lines(readings, t_s)))
        return 0
    with common.open_client(args) as client:
        sink = StoreSink(client, args.interval)
        interrupt: KeyboardInterrupt | None = None
        try:
            _repeat(host, args.interval, args.once, sink.take)
        except KeyboardInterrupt as caught:
            interrupt = caught
        what = f"{render.count(sink.n_samples, 'sample')} of {render.count(sink.n_series, 'series')}"
        print(f"{what} written to {host.cluster}/{host.host}")
        for reason, n in sink.refused.items():
            print(f"{n:,} refused: {reason}")
    if interrupt is not None:
        raise interrupt
    return 1 if sink.refused else 0


class StoreSink:
    """Columns frames: a series is opened when it is first seen, with its unit and the interval as step."""

    def __init__(self, client: Any, interval_s: int) -> None:
        self._writer = client.writer()
        self._interval_s = interval_s
        self._handles: dict[Any, int] = {}
        self.n_samples = 0
        self.refused: dict[str, int] = {}

    @property
    def n_series(self) -> int:
        return len(self._handles)

    def take(self, readings: list[Reading], t_s: int) -> None:
        import numpy as np

        self._open([reading for reading in readings if reading.path not in self._handles])
        handles = np.array([self._handles[reading.path] for reading in readings], np.uint32)
        values = np.array([[reading.value for reading in readings]], np.float32)
        self._writer.write(handles, np.array([t_s], np.int64), values)
        result = self._writer.flush()
        self.n_samples += len(readings) - result.rejected - result.ignored
        self.refused.update(result.reasons)

    def _open(self, readings: list[Reading]) -> None:
        from mstore.model import MetricSpec

        groups: dict[MetricSpec, list[Reading]] = {}
        for one in readings:
            spec = MetricSpec(one.path.metric, self._interval_s, one.aggregation, "f32", one.unit)
            groups.setdefault(spec, []).append(one)
        for spec, group in groups.items():
            handles = self._writer.open([one.path for one in group], spec=spec)
            self._handles.update(zip((one.path for one in group), handles.tolist(), strict=True))


def _repeat(host: Any, interval_s: int, once: bool, take: Any) -> None:
    """Read at whole multiples of the interval, so that a restarted collector keeps its series' grid."""
    host.read(clock.monotonic_s())
    if once:
        time.sleep(ONCE_S)
        take(host.read(clock.monotonic_s()), clock.now_s())
        return
    while True:
        time.sleep(interval_s - clock.now_ns() / 1e9 % interval_s)
        take(host.read(clock.monotonic_s()), clock.now_s())


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
