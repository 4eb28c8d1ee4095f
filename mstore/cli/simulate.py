"""`mstore simulate`: a cluster's worth of realistic samples, as text or straight into a store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from mstore import clock, limits
from mstore.cli import common, progress, render

if TYPE_CHECKING:
    from mstore.client.results import WriteResult
    from mstore.simulate import Batch, Simulator

BLOCK_BYTES = 8 * limits.MIB
COLUMNS_VALUES = 256 * 1024
SPAN_S_DEFAULT = 3600


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "simulate",
        "generate the metrics of a cluster",
        "mstore simulate --text --span 10m > lines.lp\n"
        "mstore simulate --span 2h --columns\n"
        "mstore simulate --cluster fritz.json --nodes 64 --rate real\n"
        "mstore simulate --gaps 2% --late 1% --duplicates 1% --seed 7 --text",
        "Goes into the store of --dir unless --text is given. The simulated span lies in the past and ends\n"
        "now; --rate real then goes on at real speed. Metrics that the store does not know yet are defined\n"
        "with the cluster's step, unit and aggregation. --text cannot do that: lines of a metric that is not\n"
        "configured get the store's default_step, so give --step 60 to keep every one of them.",
    )
    parser.add_argument(
        "--cluster", metavar="FILE", help="a ClusterCockpit cluster.json (default: a built-in cluster)"
    )
    parser.add_argument("--nodes", metavar="N", type=common.count, help="only so many of its nodes")
    parser.add_argument(
        "--span",
        metavar="TIME",
        type=common.duration,
        help="length of the past (default: 1h; --rate real: none)",
    )
    parser.add_argument(
        "--rate", choices=("max", "real"), default="max", help="stop at now, or go on at real speed"
    )
    parser.add_argument(
        "--for",
        dest="live_s",
        metavar="TIME",
        type=common.duration,
        help="end --rate real after this (default: Ctrl-C)",
    )
    parser.add_argument("--step", metavar="S", type=common.count, help="one step in seconds for all metrics")
    parser.add_argument(
        "--gaps", metavar="PART", type=common.part, default=0.0, help="samples that never come: 2%%"
    )
    parser.add_argument(
        "--late", metavar="PART", type=common.part, default=0.0, help="samples that come 1 to 5 steps late"
    )
    parser.add_argument(
        "--duplicates", metavar="PART", type=common.part, default=0.0, help="samples that come twice"
    )
    parser.add_argument(
        "--seed", metavar="N", type=common.number, default=0, help="same seed, same values (default: 0)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--text", action="store_true", help="write line protocol to standard output")
    how.add_argument("--columns", action="store_true", help="send columns frames instead of lines")
    parser.add_argument(
        "--ack", choices=("durable", "memory"), default="durable", help="what the store waits for"
    )
    parser.set_defaults(run=run)


class Sink(Protocol):
    """Where batches go. sent: samples so far; finish: what became of them, None = unknown."""

    sent: int

    def take(self, batch: Batch) -> None: ...
    def push(self) -> None: ...
    def finish(self) -> WriteResult | None: ...


def run(args: argparse.Namespace) -> int:
    from mstore.simulate import Simulator
    from mstore.topology import load_cluster

    simulator = Simulator(
        load_cluster(args.cluster) if args.cluster else None,
        nodes=args.nodes,
        step_s=args.step,
        gaps=args.gaps,
        late=args.late,
        duplicates=args.duplicates,
        seed=args.seed,
    )
    live = args.rate == "real"
    if args.text:
        text = TextSink(simulator, sys.stdout.buffer)
        quiet = progress.bar(None, "samples", 0.0, on=False)
        pump(_batches(simulator, args), text, quiet, live=live)
        return 0
    start = clock.monotonic_s()
    with common.open_client(args, ack=args.ack) as client:
        sink: Sink = ColumnsSink(simulator, client) if args.columns else LinesSink(simulator, client)
        interrupt: KeyboardInterrupt | None = None
        try:
            result = pump(_batches(simulator, args), sink, progress.bar(None, "samples", start), live=live)
        except KeyboardInterrupt as caught:
            # The usual end of --rate real: what was sent is still acknowledged.
            interrupt, result = caught, sink.finish()
    seconds = clock.monotonic_s() - start
    # Of what was under way when the interrupt came nobody knows: tell what was acknowledged.
    n_samples = result.written if interrupt is not None and result is not None else sink.sent
    what = f"{render.count(n_samples, 'sample')} of {render.count(len(simulator.paths), 'series')}"
    print(f"{what} in {seconds:.2f} s ({render.si(n_samples / max(seconds, 1e-9))} samples/s)")
    status = report(result)
    if interrupt is not None:
        raise interrupt
    return status


def report(result: WriteResult | None) -> int:
    """Say what was refused; the status."""
    if result is None or not (result.rejected or result.ignored):
        return 0
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in result.reasons.items())
    print(f"{result.rejected:,} rejected and {result.ignored:,} ignored: {reasons}")
    return 1 if result.rejected else 0


def pump(
    batches: Iterator[Batch], sink: Sink, bar: progress.Bar, *, live: bool = False
) -> WriteResult | None:
    """Send all batches; live: each at once instead of in large blocks."""
    try:
        for batch in batches:
            sink.take(batch)
            if live:
                sink.push()
            bar.update(0, sink.sent, clock.monotonic_s())
        return sink.finish()
    finally:
        bar.clear()


def _batches(simulator: Simulator, args: argparse.Namespace) -> Iterator[Batch]:
    from mstore.simulate.pace import backfill, live

    real = args.rate == "real"
    span_s = args.span if args.span is not None else (0 if real else SPAN_S_DEFAULT)
    past = backfill(simulator, span_s)
    return chain(past, live(simulator, args.live_s)) if real else past


class TextSink:
    """Line protocol to a binary stream."""

    def __init__(self, simulator: Simulator, stream: Any) -> None:
        self.sent = 0
        self._simulator, self._stream = simulator, stream

    def take(self, batch: Batch) -> None:
        self._stream.write(self._simulator.lines(batch))
        self.sent += len(batch.index)

    def push(self) -> None:
        self._stream.flush()

    def finish(self) -> None:
        self.push()


class Definitions:
    """Makes the store know each metric's step, type and unit before a line of it arrives.

    A line alone would register its metric with the store's default step. So the first sample of one series of
    each metric goes ahead in a columns frame, which brings the definition along; its line, which says the same,
    follows. What the configuration says of a metric holds all the same.
    """

    def __init__(self, simulator: Simulator, client: Any) -> None:
        import numpy as np

        self._simulator, self._client = simulator, client
        known = {_name_of(metric) for metric in client.metrics(simulator.cluster.name)}
        names = sorted({path.metric for path in simulator.paths})
        number = {name: place for place, name in enumerate(names)}
        self._metric = np.array([number[path.metric] for path in simulator.paths], np.int64)
        self._missing = {place for place, name in enumerate(names) if name not in known}

    def before(self, batch: Batch) -> None:
        """Define the metrics of a batch that are not defined yet."""
        import numpy as np

        if not self._missing:
            return
        found, first = np.unique(self._metric[batch.index], return_index=True)
        chosen = [
            at for metric, at in zip(found.tolist(), first.tolist(), strict=True) if metric in self._missing
        ]
        if not chosen:
            return
        values = self._simulator.values(batch)
        with self._client.writer() as writer:
            for at in chosen:
                series = int(batch.index[at])
                handles = writer.open([self._simulator.paths[series]], spec=self._simulator.specs[series])
                writer.write(handles, np.array([batch.t_s], np.int64), values[at : at + 1].reshape(1, 1))
        self._missing -= set(found.tolist())


def _name_of(metric: Any) -> str:
    return str(metric["name"] if isinstance(metric, dict) else metric.name)


class LinesSink:
    """Line protocol to a store, in blocks that make the acknowledgement's round trip cheap."""

    def __init__(self, simulator: Simulator, client: Any) -> None:
        from mstore.client.results import WriteResult

        self.sent = 0
        self._simulator, self._client = simulator, client
        self._waiting: list[bytes] = []
        self._n_bytes = 0
        self._result = WriteResult()
        self._definitions = Definitions(simulator, client)

    def take(self, batch: Batch) -> None:
        self._definitions.before(batch)
        text = self._simulator.lines(batch)
        self._waiting.append(text)
        self._n_bytes += len(text)
        self.sent += len(batch.index)
        if self._n_bytes >= BLOCK_BYTES:
            self.push()

    def push(self) -> None:
        if self._waiting:
            text, self._waiting, self._n_bytes = b"".join(self._waiting), [], 0
            self._result += self._client.write(text)

    def finish(self) -> WriteResult:
        self.push()
        return self._result


class ColumnsSink:
    """Columns frames: handles once, then times and values only. Brings each metric's definition along."""

    def __init__(self, simulator: Simulator, client: Any) -> None:
        import numpy as np

        self.sent = 0
        self._simulator = simulator
        self._writer = client.writer()
        self._handles = np.zeros(len(simulator.paths), np.uint32)
        self._waiting: dict[bytes, list[Batch]] = {}
        self._n_waiting = 0
        by_spec: dict[Any, list[int]] = {}
        for index, spec in enumerate(simulator.specs):
            by_spec.setdefault(spec, []).append(index)
        for spec, places in by_spec.items():
            self._handles[places] = self._writer.open([simulator.paths[place] for place in places], spec=spec)

    def take(self, batch: Batch) -> None:
        self._waiting.setdefault(batch.index.tobytes(), []).append(batch)
        self._n_waiting += len(batch.index)
        self.sent += len(batch.index)
        if self._n_waiting >= COLUMNS_VALUES:
            self.push()

    def push(self) -> None:
        """Ticks of the same series become one frame: a matrix of times by series."""
        import numpy as np

        for batches in self._waiting.values():
            times = np.array([batch.t_s for batch in batches], np.int64)
            values = np.array([self._simulator.values(batch) for batch in batches], np.float32)
            self._writer.write(self._handles[batches[0].index], times, values)
        self._waiting, self._n_waiting = {}, 0

    def finish(self) -> WriteResult:
        self.push()
        result: WriteResult = self._writer.flush()
        return result
