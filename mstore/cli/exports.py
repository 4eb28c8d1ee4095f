"""`mstore export`: a store as a directory that ClusterCockpit's metric store loads, or as Parquet."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from mstore import clock
from mstore.cli import common, progress, render, streams
from mstore.cli.targets import refuse_unwritable_directory
from mstore.errors import InvalidTimeRange

if TYPE_CHECKING:
    from mstore.compat.sinks import Exported

FORMATS = ("bin", "json", "wal", "parquet")


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "export",
        "write the files of ClusterCockpit's metric store",
        "mstore export /opt/cc-metric-store/var/checkpoints\n"
        "mstore export /tmp/fritz --format parquet --cluster fritz --from -24h",
        "bin and json: a checkpoint for each host and half a day; wal: a log for each host; parquet: a table for each "
        "cluster. Each file appears whole or not at all. `mstore import` reads them all. Values are written as f32 "
        "(json: in full); rows of stamped metrics have no place in these files.",
    )
    parser.add_argument("target", metavar="TARGET", type=Path, help="directory; made where there is none")
    parser.add_argument("--format", choices=FORMATS, default="bin", help="default: bin")
    parser.add_argument(
        "--cluster", metavar="NAME", action="append", default=[], help="only this cluster; may be repeated"
    )
    parser.add_argument("--from", dest="start", metavar="TIME", help="first time (default: all there is)")
    parser.add_argument(
        "--to", dest="end", metavar="TIME", default="now", help="end, not included (default: now)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    common.json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.compat.exporting import NO_DIRECTORY, ROUNDED, Export
    from mstore.times import to_seconds
    from mstore.workers.export_source import open_source

    refuse_unwritable_directory(args.target)
    now_s = clock.now_s()
    began_s = clock.monotonic_s()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(common.store_dir(args)))
        end = to_seconds(args.end, now_s) + (args.end == "now")
        start = (
            to_seconds(args.start, now_s) if args.start is not None else min(source.oldest_s() or end, end)
        )
        if start > end:
            raise InvalidTimeRange(f"--from {args.start} is after --to {args.end}")
        bar = progress.bar(None, "hosts", began_s, on=not args.quiet)
        stack.callback(bar.clear)
        done = Export(
            source, args.target, args.format, start, end, clusters=args.cluster,
            tell=lambda n_done, n_all, _: bar.update(n_done, n_done, clock.monotonic_s()),
        ).run()  # fmt: skip
    seconds = clock.monotonic_s() - began_s
    if source.damage:
        streams.complain(f"mstore: the store is damaged, and what is lost is not exported: {source.damage}")
    if args.json:
        common.print_json({**done.to_plain(), "from": start, "to": end, "seconds": round(seconds, 3)})
    else:
        if not args.quiet:
            print(_summary(args.target, done, seconds))
        for text, n in sorted(done.notes.items()):
            if n:
                which = f": {', '.join(done.left_out)}" if text == NO_DIRECTORY else ""
                streams.complain(
                    f"mstore: {'changed' if text == ROUNDED else 'left out'}: {n:,} {text}{which}"
                )
    if not done.n_samples:
        streams.complain("mstore: there is nothing to export in this time range")
        return 1
    return 0


def _summary(target: Path, done: Exported, seconds: float) -> str:
    per_s = 1 / max(seconds, 1e-9)
    counted = ((done.n_hosts, "host"), (done.n_series, "series"), (done.n_samples, "sample"))
    what = ", ".join(render.count(n, noun) for n, noun in counted)
    files = f"{render.count(done.n_files, 'file')}, {render.size(done.n_bytes)}"
    return f"{target}: {what} in {files}, in {seconds:.2f} s ({render.si(done.n_samples * per_s)} samples/s)"
