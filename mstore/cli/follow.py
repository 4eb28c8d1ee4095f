"""`mstore follow`: samples as they are stored, one a line, until Ctrl-C."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mstore.cli import common, render, streams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mstore.client.following import FollowBatch, FollowedSeries

_COLUMNS = ("time", "cluster", "host", "level", "metric", "value", "unit")


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "follow",
        "print samples as they are stored",
        "mstore follow fritz\n"
        "mstore follow 'fritz/f02[01-64]' cpu_load mem_bw\n"
        "mstore follow 'fritz/*/hwthread*' flops_any --since -10m --format csv",
        "SELECTOR is CLUSTER[/HOSTS[/LEVELS...]]: names, hostlists such as f02[01-64], and * for any.\n"
        "What matches later is followed, too. When samples come faster than they are printed, a line on\n"
        "standard error says how many were left out.",
    )
    parser.add_argument("selector", metavar="SELECTOR")
    parser.add_argument("metrics", metavar="METRIC", nargs="*", help="metrics to follow (default: all)")
    parser.add_argument("--since", metavar="TIME", help="first what is stored from TIME on, such as -10m")
    parser.add_argument("--count", metavar="N", type=common.count, help="end after N samples")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("--utc", action="store_true", help="show times in UTC instead of the local zone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    left = args.count
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if args.format == "csv":
        writer.writerow(("time_ms", *_COLUMNS[1:]))
    with (
        common.open_client(args) as client,
        client.follow(args.selector, args.metrics or None, since=args.since) as follow,
    ):
        for batch in follow:
            if batch.missed:
                streams.complain(f"mstore: {_gap(batch, args.utc)}")
            for series, time_ms, value in samples(batch):
                if args.format == "csv":
                    writer.writerow((time_ms, *_cells(series, value)))
                elif args.format == "json":
                    print(json.dumps(_document(series, time_ms, value), ensure_ascii=False))
                else:
                    print(_line(series, time_ms, value, args.utc))
                left = None if left is None else left - 1
                if left == 0:
                    return 0
            sys.stdout.flush()
    return 0


def samples(batch: FollowBatch) -> Iterator[tuple[FollowedSeries, int, Any]]:
    """(series, time in ms, value) in order of time; a row of several columns is a dict."""
    found = [
        (int(time_ms), i, series, _plain(values[i]))
        for series, times_ms, values in batch.runs()
        for i, time_ms in enumerate(times_ms.tolist())
    ]
    for time_ms, _, series, value in sorted(found, key=lambda sample: (sample[0], sample[1])):
        yield series, time_ms, value


def _plain(value: NDArray[Any]) -> Any:
    return dict(zip(value.dtype.names, value.item(), strict=True)) if value.dtype.names else value.item()


def _cells(series: FollowedSeries, value: Any) -> tuple[str, ...]:
    level = "/".join(
        part for part in (series.type + series.type_id, series.subtype + series.subtype_id) if part
    )
    text = json.dumps(value) if isinstance(value, dict) else repr(value)
    return series.cluster, series.host, level, series.metric, text, series.unit


def _document(series: FollowedSeries, time_ms: int, value: Any) -> dict[str, Any]:
    names = ("cluster", "host", "metric", "type", "type_id", "subtype", "subtype_id", "unit")
    said = {name: text for name in names if (text := getattr(series, name))}
    return {"time_ms": time_ms, **said, "value": value}


def _line(series: FollowedSeries, time_ms: int, value: Any, utc: bool) -> str:
    text = json.dumps(value) if isinstance(value, dict) else f"{value:.6g}"
    clock = render.clock(time_ms // 1000, utc, "%H:%M:%S")
    return f"{clock}  {series.path:<32}  {series.metric:<16}  {text:>12} {series.unit}".rstrip()


def _gap(batch: FollowBatch, utc: bool) -> str:
    n = "some samples were" if batch.missed < 0 else f"{batch.missed:,} samples were"
    since = render.clock(batch.missed_since, utc, "%Y-%m-%d %H:%M:%S")
    return f"{n} left out, none older than {since}: mstore query has them"
