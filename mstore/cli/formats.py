"""How `mstore query` shows series: as a table, CSV, JSON, Parquet, or a plot in the terminal."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mstore.cli import common, render
from mstore.cli.courses import drawn, lacking, summary
from mstore.conversions import labels, library, long_table

if TYPE_CHECKING:
    from mstore.frames import Series

EMPTY_ROWS_MAX = 3
"""More empty rows than this at either end of a table become one line."""


def titles(found: list[Series], args: argparse.Namespace) -> tuple[str, str]:
    """(what it is of, how its samples follow each other and when they are)"""
    first = found[0]
    unit = f" [{first.unit}]" if first.unit else ""
    step = ("every " if first.step else "") + render.step(first.step)
    if _picked(args):
        step = f"lttb of {render.step(args.resolution)}"
    how = (
        f", {first.aggregation} of {first.n_series} series"
        if first.aggregation and first.n_series > 1
        else ""
    )
    title = f"{first.cluster or args.cluster}/{args.host}  {first.metric or args.metric}{unit}"
    if args.function:
        window = f" over {render.step(args.window)}" if args.window else ""
        step = f"{args.function.replace('_', ' ')}{window}, {step}"
    # The last slot of a coarser step may reach beyond what was asked for, and into the future.
    end = min(max(series.end for series in found), args.until_s)
    return title, f"{step}{how}, {render.time_range(first.start, max(first.start, end), args.utc)}"


def heading(found: list[Series], args: argparse.Namespace) -> str:
    title, details = titles(found, args)
    fits = render.columns_of(title) + 2 + render.columns_of(details) <= common.width()
    return ("  " if fits else "\n").join(
        [render.paint(title, render.BOLD), render.paint(details, render.DIM)]
    )


def flattened(found: list[Series]) -> list[tuple[str, Series]]:
    """(name, series with one column): a stamped series of several columns becomes one for each."""
    flat = []
    for name, series in zip(labels(found), found, strict=True):
        if series.columns:
            prefix = "" if len(found) == 1 else f"{name} "
            flat += [(prefix + column, series.column(column)) for column in series.columns]
        else:
            flat.append((name, series))
    return flat


# --- formats


def as_table(found: list[Series], args: argparse.Namespace) -> None:
    flat = flattened(found)
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
    _print_lacking(flat, args)


def _print_lacking(flat: list[tuple[str, Series]], args: argparse.Namespace) -> None:
    """Where a dip may be that of series that are missing."""
    if told := lacking(flat, args.utc):
        print("\n".join(render.paint(line, render.DIM) for line in told))


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

    flat = flattened(found)
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


def as_parquet(found: list[Series], args: argparse.Namespace) -> bytes:
    """A row a sample, as conversions.long_table() has it. raises MissingLibrary"""
    parquet = library("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(long_table(found), file, compression="zstd")
    return file.getvalue()


def as_picture(found: list[Series], args: argparse.Namespace, kind: str) -> bytes:
    """PNG or SVG of one panel. raises MissingLibrary"""
    from mstore.cli.picture import Panel, picture

    flat = [(name, series) for name, series in flattened(found) if series.valid.any()]
    title, details = titles(found, args)
    return picture([Panel(details, found[0].unit, flat)], title, kind, utc=args.utc)


def as_plot(found: list[Series], args: argparse.Namespace) -> None:
    from mstore.cli.plot import legend, plot

    flat = [(name, series) for name, series in flattened(found) if series.valid.any()]
    print(heading(found, args))
    times = [series.times_ms / 1000 for _, series in flat]
    values = [drawn(series) for _, series in flat]
    print("\n".join(plot(times, values, columns=common.width(), utc=args.utc, colour=common.colours())))
    _print_lacking(flat, args)
    if len(flat) > 1:
        # The last value tells which line is which where there are no colours.
        ends = (float(series.values[series.valid][-1]) for _, series in flat)
        print(
            "\n".join(
                legend([f"{name} {render.number(end, 4)}" for (name, _), end in zip(flat, ends, strict=True)])
            )
        )


PRINTED = {"table": as_table, "csv": as_csv, "json": as_json, "plot": as_plot}
