"""`mstore query`: one metric of one or several hosts, as a table, CSV, JSON, Parquet or a plot."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mstore import choices, clock
from mstore.cli import common, output, streams
from mstore.cli.reasons import reason
from mstore.errors import ConfigError, InvalidRequest, InvalidTimeRange

if TYPE_CHECKING:
    from mstore.frames import Series

ROWS_DEFAULT = 20
SLOTS_MAX = 5_000_000
"""Beyond this many values Python would print for minutes; programs have `mstore.connect` and `mstore.attach`."""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "query",
        "show one metric of one or several hosts",
        "mstore query fritz f0101 cpu_load --from -2h\n"
        "mstore query fritz f0101 flops_any --type hwthread --format csv\n"
        "mstore query fritz 'f[0101-0104]' mem_bw --format plot\n"
        "mstore query fritz f0101 cpu_user --type hwthread --type-id 0 1 2 --aggregate\n"
        "mstore query fritz f0101 energy --function rate --window 10m --from -1d",
        "HOST may be a hostlist. Times: Unix seconds, ISO 8601 (UTC unless it says otherwise), -2h, now.\n"
        "Without --type a metric that exists only below the host is aggregated over all its parts.",
    )
    parser.add_argument("cluster", metavar="CLUSTER")
    parser.add_argument("host", metavar="HOST", help="host name or hostlist, such as f[0101-0104,0201]")
    parser.add_argument("metric", metavar="METRIC")
    parser.add_argument(
        "--exact", action="store_true", help="HOST is one name as it stands, brackets and commas included"
    )
    parser.add_argument(
        "--from", dest="start", metavar="TIME", default="-1h", help="first time (default: -1h)"
    )
    parser.add_argument(
        "--to", dest="end", metavar="TIME", default="now", help="end, not included (default: now)"
    )
    parser.add_argument("--type", metavar="TYPE", help="socket, core, hwthread, accelerator, ...")
    parser.add_argument("--type-id", metavar="ID", nargs="+", help="ids of --type (default: all)")
    parser.add_argument("--subtype", metavar="TYPE", help="a level below: disk, network, ...")
    parser.add_argument("--subtype-id", metavar="ID", nargs="+", help="ids of --subtype (default: all)")
    parser.add_argument(
        "--aggregate", action="store_true", help="one series out of all ids, by the metric's own rule"
    )
    _add_shape(parser)
    output.add(parser, ("table", "csv", "json", "parquet", "plot"))
    rows_help = f"rows of a table, half from each end; 0 = all (default: {ROWS_DEFAULT})"
    parser.add_argument("--rows", type=common.number, default=ROWS_DEFAULT, metavar="N", help=rows_help)
    parser.add_argument("--utc", action="store_true", help="show times in UTC instead of the local zone")
    parser.set_defaults(run=run)


def _add_shape(parser: argparse.ArgumentParser) -> None:
    """What is done to the samples, in the order in which it is done."""
    parser.add_argument(
        "--function", choices=choices.FUNCTIONS[1:], default="", metavar="NAME",
        help=f"of every series, before several become one: {', '.join(choices.FUNCTIONS[1:])}",
    )  # fmt: skip
    parser.add_argument(
        "--window", metavar="TIME", type=common.duration, default=0,
        help="of the function, such as 10m (default: from each sample to the next)",
    )  # fmt: skip
    parser.add_argument(
        "--missing", choices=choices.MISSING, default="skip",
        help="what --aggregate makes of a slot that some series miss (default: skip them)",
    )  # fmt: skip
    parser.add_argument(
        "--resolution", metavar="STEP", type=common.duration, default=0,
        help="one value for every STEP, such as 5m",
    )  # fmt: skip
    parser.add_argument(
        "--algo", choices=choices.ALGORITHMS, default="average", metavar="NAME",
        help=f"how --resolution makes it: {', '.join(choices.ALGORITHMS)} (default: average)",
    )  # fmt: skip
    parser.add_argument("--scale-by", metavar="FACTOR", type=float, default=1.0, help="multiply every value")
    parser.add_argument(
        "--fill", choices=choices.FILLS, default="none", help="values for slots without a sample"
    )
    parser.add_argument(
        "--max-gap", metavar="TIME", type=common.duration, default=0,
        help="fill no gap that is longer (default: any)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    wanted = output.wanted(args)
    hosts = _hosts(args)
    start, end = _range(args)
    args.until_s = end - (args.end == "now")
    found: list[Series] = []
    with common.open_client(args) as client:
        for host in hosts:
            answer = client.query(
                args.cluster, host, args.metric, start, end,
                type=args.type, type_ids=args.type_id, subtype=args.subtype, subtype_ids=args.subtype_id,
                aggregate=args.aggregate, resolution=args.resolution, algo=args.algo, function=args.function,
                window=args.window, missing=args.missing, scale_by=args.scale_by, fill=args.fill,
                max_gap=args.max_gap,
            )  # fmt: skip
            found += answer if isinstance(answer, list) else [answer]
        empty = not any(len(series) and series.valid.any() for series in found)
        why = reason(client, args, hosts[0], found) if empty else ""
    _refuse_too_many(sum(len(series) for series in found))
    if not empty or wanted.text in ("csv", "json", "parquet"):
        _show(found, args, wanted)
    if empty:
        streams.complain(f"mstore: {args.cluster}/{args.host} {args.metric}: {why}")
    return 1 if empty else 0


def _refuse_too_many(n_slots: int) -> None:
    if n_slots > SLOTS_MAX:
        raise InvalidRequest(
            f"{n_slots:,} values, gaps included, are too many to print (at most {SLOTS_MAX:,}):"
            " ask for a shorter time, or for fewer with --resolution"
        )


def _show(found: list[Series], args: argparse.Namespace, wanted: output.Wanted) -> None:
    from mstore.cli import formats

    if wanted.picture:
        wanted.save(formats.as_picture(found, args, wanted.picture))
    elif wanted.text == "parquet":
        wanted.save(formats.as_parquet(found, args))
    else:
        with wanted.printed():
            formats.PRINTED[wanted.text](found, args)


def _hosts(args: argparse.Namespace) -> list[str]:
    from mstore.hostlists import expand

    try:
        hosts = [args.host] if args.exact and args.host else expand(args.host)
    except ConfigError as error:
        raise InvalidRequest(f"{error.message}; --exact takes HOST for a name as it stands") from None
    if not hosts:
        raise InvalidRequest("HOST is empty: expected a host name or a hostlist")
    return hosts


def _range(args: argparse.Namespace) -> tuple[int, int]:
    """Both ends in Unix seconds: worked out here once, so that all hosts are asked for the same range."""
    from mstore.times import to_seconds

    now = clock.now_s()
    # `now` itself is included: the newest sample is what people look for.
    start, end = to_seconds(args.start, now), to_seconds(args.end, now) + (args.end == "now")
    if start > end:
        raise InvalidTimeRange(f"--from {args.start} is after --to {args.end}")
    return start, end
