"""`mstore query`: one metric of one or several hosts, as a table, CSV, JSON or a plot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mstore import choices, clock
from mstore.cli import common, render
from mstore.errors import ConfigError, InvalidRequest, InvalidTimeRange

if TYPE_CHECKING:
    from mstore.frames import Series

NAMES = ("query",)
ROWS_DEFAULT = 20
EMPTY_ROWS_MAX = 3
"""More empty rows than this at either end of a table become one line."""
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
    parser.add_argument("--format", choices=("table", "csv", "json", "plot"), default="table")
    rows_help = f"rows of a table, half from each end; 0 = all (default: {ROWS_DEFAULT})"
    parser.add_argument("--rows", type=int, default=ROWS_DEFAULT, metavar="N", help=rows_help)
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
    hosts = _hosts(args)
    start, end = _range(args)
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
    n_slots = sum(len(series) for series in found)
    if n_slots > SLOTS_MAX:
        raise InvalidRequest(
            f"{n_slots:,} values, gaps included, are too many to print (at most {SLOTS_MAX:,}):"
            " ask for a shorter time, or for fewer with --resolution"
        )
    empty = not any(len(series) and series.valid.any() for series in found)
    if not empty or args.format in ("csv", "json"):
        FORMATS[args.format](found, args)
    if not empty:
        return 0
    why = next((series.why for series in found if series.why), "no samples in this time range")
    sys.stdout.flush()
    sys.stderr.write(f"mstore: {args.cluster}/{args.host} {args.metric}: {why}\n")
    return 1


def _hosts(args: argparse.Namespace) -> list[str]:
    from mstore.topology import expand

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


# --- names and headings


def names_of(found: list[Series]) -> list[str]:
    """What tells the series apart: the parts of their paths that differ, "value" for a single one."""
    if len(found) == 1:
        return ["value"]
    several_hosts = len({series.host for series in found}) > 1
    names = []
    for series in found:
        below = [series.type + series.type_id, series.subtype + series.subtype_id]
        parts = ([series.host] if several_hosts else []) + [part for part in below if part]
        names.append("/".join(parts) or series.host)
    return names


def heading(found: list[Series], args: argparse.Namespace) -> str:
    first = found[0]
    unit = f" [{first.unit}]" if first.unit else ""
    step = ("every " if first.step else "") + render.step(first.step)
    if _picked(args):
        step = f"lttb of {render.step(args.resolution)}"
    start, end = first.start, max(series.end for series in found)
    one_day = render.clock(start, args.utc, "%j") == render.clock(end, args.utc, "%j")
    until = render.clock(end, args.utc, "%H:%M" if one_day else "%Y-%m-%d %H:%M")
    range_text = (
        f"{render.clock(start, args.utc, '%Y-%m-%d %H:%M')} to {until} {render.zone(start, args.utc)}"
    )
    how = (
        f", {first.aggregation} of {first.n_series} series"
        if first.aggregation and first.n_series > 1
        else ""
    )
    title = f"{first.cluster or args.cluster}/{args.host}  {first.metric or args.metric}{unit}"
    if args.function:
        window = f" over {render.step(args.window)}" if args.window else ""
        step = f"{args.function.replace('_', ' ')}{window}, {step}"
    details = f"{step}{how}, {range_text}"
    fits = render.columns_of(title) + 2 + render.columns_of(details) <= common.width()
    return ("  " if fits else "\n").join(
        [render.paint(title, render.BOLD), render.paint(details, render.DIM)]
    )


def _flat(found: list[Series]) -> list[tuple[str, Series]]:
    """(name, series with one column): a stamped series of several columns becomes one for each."""
    flat = []
    for name, series in zip(names_of(found), found, strict=True):
        if series.columns:
            prefix = "" if len(found) == 1 else f"{name} "
            flat += [(prefix + column, series.column(column)) for column in series.columns]
        else:
            flat.append((name, series))
    return flat


# --- formats


def as_table(found: list[Series], args: argparse.Namespace) -> None:
    flat = _flat(found)
    print(heading(found, args))
    rows, heads = _rows(flat, args)
    wide = [max(map(render.columns_of, column)) for column in zip(heads, *rows, strict=True)]
    if sum(wide) + 2 * len(wide) - 2 <= common.width():
        print("\n".join(_shortened(render.table(heads, rows, "<" + ">" * len(flat)), rows, args.rows)))
    else:
        print("\n".join(summary(flat)))
        print(
            render.paint("too many series to stand side by side: --format csv prints every value", render.DIM)
        )


def _shortened(lines: list[str], rows: list[list[str]], n_rows: int) -> list[str]:
    """A table's lines without many empty rows at its ends and, when they are still too many, without the middle."""
    if n_rows <= 0:
        return lines
    filled = [place for place, row in enumerate(rows) if any(cell != "-" for cell in row[1:])]
    first, stop = (filled[0], filled[-1] + 1) if filled else (0, len(rows))
    first = first if first > EMPTY_ROWS_MAX else 0
    stop = stop if len(rows) - stop > EMPTY_ROWS_MAX else len(rows)
    shown = lines[2 + first : 2 + stop]
    if len(shown) > n_rows + 1:
        head, tail = n_rows - n_rows // 2, n_rows // 2
        left_out = f"... {len(shown) - n_rows:,} rows left out (--rows 0 prints all)"
        shown = [*shown[:head], render.paint(left_out, render.DIM), *(shown[-tail:] if tail else [])]
    before = [render.paint(f"... {first:,} slots without a sample", render.DIM)] if first else []
    after = (
        [render.paint(f"... {len(rows) - stop:,} slots without a sample", render.DIM)]
        if stop < len(rows)
        else []
    )
    return [*lines[:2], *before, *shown, *after]


def summary(flat: list[tuple[str, Series]], columns: int | None = None) -> list[str]:
    """One line a series: how many samples, smallest, mean, largest, last, and its course in the room left."""
    from mstore.display import sparkline

    rows = []
    for name, series in flat:
        stats = series.stats
        told = [render.number(None)] * 4
        if stats.count:
            told = [render.number(float(one), 5) for one in (stats.min, stats.avg, stats.max, stats.last)]
        rows.append([name, f"{stats.count:,}", *told])
    heads = ("series", "samples", "min", "mean", "max", "last")
    plain = render.table(heads, rows, "<>>>>>", colour=False)
    room = (columns or common.width()) - max(map(render.columns_of, plain)) - 2
    if room < 8 or not common.unicode_ok():
        return render.table(heads, rows, "<>>>>>")
    for row, (_, series) in zip(rows, flat, strict=True):
        row.append(sparkline(series.values, series.valid, min(room, 40)))
    return render.table((*heads, ""), rows, "<>>>>>")


def _rows(flat: list[tuple[str, Series]], args: argparse.Namespace) -> tuple[list[list[str]], list[str]]:
    """Cells of a time table: the union of all times, "-" where a series has no sample."""
    times = _all_times(flat)
    stamped = _in_ms(flat, args)
    one_day = (
        len(times) and len({render.clock(ms / 1000, args.utc, "%j %Y") for ms in (times[0], times[-1])}) == 1
    )
    layout = "%H:%M:%S" if one_day else "%Y-%m-%d %H:%M:%S"
    columns = [_by_time(series) for _, series in flat]
    rows = []
    for ms in times:
        shown = render.clock(ms // 1000, args.utc, layout) + (f".{ms % 1000:03}" if stamped else "")
        rows.append([shown, *(render.number(column.get(ms)) for column in columns)])
    return rows, ["time", *(name for name, _ in flat)]


def _picked(args: argparse.Namespace) -> bool:
    """Whether lttb picked the slots of the answers: their own times are whole seconds, and those of no rows."""
    return bool(args.algo == "lttb" and args.resolution)


def _in_ms(flat: list[tuple[str, Series]], args: argparse.Namespace) -> bool:
    return not _picked(args) and any(series.stamped for _, series in flat)


def _all_times(flat: list[tuple[str, Series]]) -> list[int]:
    found: set[int] = set()
    for _, series in flat:
        found.update(series.times_ms.tolist())
    return sorted(found)


def _by_time(series: Series) -> dict[int, float | int]:
    """Unix ms -> value, of the slots that hold a sample."""
    valid = series.valid
    return dict(zip(series.times_ms[valid].tolist(), render.exact(series.values[valid]), strict=True))


def as_csv(found: list[Series], args: argparse.Namespace) -> None:
    import csv

    flat = _flat(found)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    stamped = _in_ms(flat, args)
    writer.writerow(["time_ms" if stamped else "time", *(name for name, _ in flat)])
    columns = [_by_time(series) for _, series in flat]
    for ms in _all_times(flat):
        writer.writerow([ms if stamped else ms // 1000, *(column.get(ms, "") for column in columns)])


def as_json(found: list[Series], args: argparse.Namespace) -> None:
    common.print_json([_document(series) for series in found])


def _document(series: Series) -> dict[str, Any]:
    fields = (
        "cluster",
        "host",
        "metric",
        "type",
        "type_id",
        "subtype",
        "subtype_id",
        "unit",
        "aggregation",
        "why",
    )
    document: dict[str, Any] = {name: text for name in fields if (text := getattr(series, name))}
    document |= {"start": series.start, "step": series.step}
    if series.stamped:
        document["times_ms"] = series.times_ms.tolist()
    if series.columns:
        document["columns"] = {name: list(_or_null(series.column(name))) for name in series.columns}
    else:
        document["values"] = list(_or_null(series))
    if series.coverage is not None:
        document["coverage"] = series.coverage.tolist()
    return document


def _or_null(series: Series) -> Iterator[float | int | None]:
    for value, valid in zip(render.exact(series.values), series.valid.tolist(), strict=True):
        yield value if valid else None


def as_plot(found: list[Series], args: argparse.Namespace) -> None:
    import numpy as np

    from mstore.cli.plot import plot

    flat = [(name, series) for name, series in _flat(found) if series.valid.any()]
    print(heading(found, args))
    times = [series.times_ms / 1000 for _, series in flat]
    values = [np.where(series.valid, series.values.astype(np.float64), np.nan) for _, series in flat]
    print("\n".join(plot(times, values, columns=common.width(), utc=args.utc, colour=common.colours())))
    if len(flat) > 1:
        # The last value tells which line is which where there are no colours.
        ends = (float(series.values[series.valid][-1]) for _, series in flat)
        print(
            "\n".join(
                _legend(
                    [f"{name} {render.number(end, 4)}" for (name, _), end in zip(flat, ends, strict=True)]
                )
            )
        )


def _legend(names: list[str], lines_max: int = 3) -> list[str]:
    """The series' names in their colours, as many as fit on a few lines."""
    lines, room = [""], 0
    for index, name in enumerate(names):
        if index and room + len(name) + 2 > common.width():
            if len(lines) == lines_max:
                return [*lines, f"  ... {len(names) - index} more"]
            lines.append("")
            room = 0
        lines[-1] += "  " + render.paint(name, render.SERIES_COLOURS[index % len(render.SERIES_COLOURS)])
        room += len(name) + 2
    return lines


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json, "plot": as_plot}
