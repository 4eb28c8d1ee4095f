"""`mstore import`: files of ClusterCockpit's metric store, and archives in Parquet, into a store."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstore import clock
from mstore.cli import common, progress, render, streams
from mstore.cli.targets import refuse_unwritable
from mstore.errors import InvalidRequest, InvalidTimeRange, MstoreError

if TYPE_CHECKING:
    from mstore.compat.imported import Report
    from mstore.compat.importing import Wanted
    from mstore.compat.walk import Found, Skipped

TOLD_MAX = 20
"""Files that something is wrong with, named one by one; --json names all."""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "import",
        "read checkpoints, snapshots, logs and Parquet of ClusterCockpit's metric store",
        "mstore import /opt/cc-metric-store/var/checkpoints\n"
        "mstore import var/checkpoints --cluster fritz --from -12h --dry-run\n"
        "mstore import 1700000000.bin --as fritz/f0201",
        "PATH is a directory CLUSTER/HOST/<seconds>.json, <seconds>.bin, current.wal, any part of one, a file, or an "
        "archive of *.parquet. Samples keep their times; what the store's retention refuses is counted. Damaged and "
        "foreign files are reported and do not stop the others: the status is 1 if there were any, or if samples were "
        "refused. The same files may be imported again: nothing is stored twice.",
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path)
    parser.add_argument(
        "--cluster", metavar="NAME", action="append", default=[], help="only this cluster; may be repeated"
    )
    parser.add_argument("--from", dest="start", metavar="TIME", help="first time (default: all)")
    parser.add_argument("--to", dest="end", metavar="TIME", help="end, not included (default: all)")
    parser.add_argument(
        "--as", dest="whose", metavar="CLUSTER/HOST", help="of files that lie in no such directory"
    )
    parser.add_argument(
        "--type", metavar="TYPE", action="append", default=[], dest="types",
        help="a type of levels of your own whose ids do not begin with a digit; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--salvage", action="store_true", help="of a damaged .bin, take what stands before the damage"
    )
    parser.add_argument(
        "--state", metavar="FILE", type=Path, help="note finished files there; pass over them"
    )
    parser.add_argument("--dry-run", action="store_true", help="read and check everything, write nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, and only what is wrong")
    common.json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.compat.imported import Journal
    from mstore.compat.importing import Import

    wanted = _wanted(args)
    if args.state is not None:
        refuse_unwritable(args.state, whole=False)
    found, skipped = _files(args)
    journal = Journal(args.state) if args.state is not None else None
    began_s = clock.monotonic_s()
    bar = progress.bar(sum(one.n_bytes for one in found), "samples", began_s, on=not args.quiet)

    def tell(n_bytes: int, n_samples: int) -> None:
        bar.update(n_bytes, n_samples, clock.monotonic_s())

    client = None if args.dry_run else common.open_client(args)
    one_run = Import(client, wanted, journal, tell)
    one_run.report.skipped = skipped
    failure: MstoreError | None = None
    try:
        one_run.run(found)
    except MstoreError as error:  # what is there by then is told before
        failure = error
    finally:
        bar.clear()
        if client is not None:
            client.close()
    _tell(one_run.report, args, clock.monotonic_s() - began_s)
    if failure is not None:
        raise failure
    return 0 if one_run.report.whole else 1


def _wanted(args: argparse.Namespace) -> Wanted:
    from mstore.compat.importing import Wanted
    from mstore.times import to_seconds

    now_s = clock.now_s()
    wanted = Wanted(clusters=tuple(args.cluster), types=tuple(args.types), salvage=args.salvage)
    if args.start is not None:
        wanted = replace(wanted, start=to_seconds(args.start, now_s))
    if args.end is not None:
        wanted = replace(wanted, end=to_seconds(args.end, now_s))
    if wanted.start > wanted.end:
        raise InvalidTimeRange(f"--from {args.start} is after --to {args.end}")
    return wanted


def _files(args: argparse.Namespace) -> tuple[list[Found], list[Skipped]]:
    from mstore.compat.walk import in_order, walk

    cluster, slash, host = (args.whose or "").partition("/")
    if args.whose is not None and not (cluster and slash and host):
        raise InvalidRequest(f"--as {args.whose} is not allowed: expected CLUSTER/HOST")
    found: list[Found] = []
    skipped: list[Skipped] = []
    for path in args.paths:
        some, others = walk(path)
        found += [replace(one, cluster=cluster, host=host) for one in some] if args.whose else some
        skipped += others
    return in_order(found), skipped


# --- what is told


def _tell(report: Report, args: argparse.Namespace, seconds: float) -> None:
    if args.json:
        common.print_json(_plain(report, seconds))
        return
    if not args.quiet:
        print("\n".join([*_table(report), *_summary(report, args.dry_run, seconds)]))
    for line in _wrong(report):
        streams.complain(f"mstore: {line}")


def _table(report: Report) -> list[str]:
    if not report.clusters:
        return []
    rows = [
        [
            cluster, f"{len(tally.hosts):,}", f"{tally.n_files:,}", f"{tally.n_series:,}", f"{tally.n_samples:,}",
            render.clock(tally.t_first, False), render.clock(tally.t_last, False),
        ]
        for cluster, tally in sorted(report.clusters.items())
    ]  # fmt: skip
    heads = ("cluster", "hosts", "files", "series", "samples", "from", "to")
    return render.table(heads, rows, "<>>>><<")


def _summary(report: Report, dry_run: bool, seconds: float) -> list[str]:
    n = sum(tally.n_samples for tally in report.clusters.values())
    n = n if dry_run else report.result.written
    verb, end = ("read", "; nothing was written") if dry_run else ("written", "")
    speed = f"{render.si(n / max(seconds, 1e-9))} samples/s"
    lines = [f"{render.count(n, 'sample')} {verb} in {seconds:.2f} s ({speed}){end}"]
    if report.n_done_before:
        lines.append(f"{render.count(report.n_done_before, 'file')} imported before, passed over")
    if report.n_exact:
        what = render.count(report.n_exact, "sample")
        lines.append(f"{what} left as stored: the store holds exactly what the files have rounded")
    if report.unknown_metrics:
        told = ", ".join(f"{name} {n:,}" for name, n in report.unknown_metrics.most_common(TOLD_MAX))
        lines.append(f'samples of metrics that the store does not keep (unknown_metrics = "ignore"): {told}')
    return lines


def _wrong(report: Report) -> list[str]:
    lines = []
    if report.result.rejected:
        reasons = {name: n for name, n in report.result.reasons.items() if name != "unknown_metric"}
        told = ", ".join(
            f"{name} {n:,}" for name, n in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
        )
        lines.append(f"{render.count(report.result.rejected, 'sample')} refused: {told}")
        if "too_late" in reasons:
            lines.append(
                'too_late: older than the store keeps: raise "retention", `mstore reload`, import again'
            )
    for (cluster, metric), (step_s, kept_s) in sorted(report.coarser.items()):
        lines.append(
            f"{cluster} {metric}: every {step_s} s in the files, every {kept_s} s in the store:"
            " of several samples the last is kept"
        )
    files = [f"damaged: {_about(path, text)}" for path, text in report.damaged]
    files += [f"skipped: {one.path}: {one.why}" for one in report.skipped]
    lines += files[:TOLD_MAX]
    if len(files) > TOLD_MAX:
        lines.append(f"{len(files) - TOLD_MAX:,} more files damaged or skipped: --json names them")
    return lines


def _about(path: Path, text: str) -> str:
    return text if str(path) in text else f"{path}: {text}"


def _plain(report: Report, seconds: float) -> dict[str, Any]:
    return {
        "whole": report.whole,
        "seconds": round(seconds, 3),
        "written": report.result.written,
        "rejected": report.result.rejected,
        "ignored": report.result.ignored,
        "reasons": dict(report.result.reasons),
        "exact": report.n_exact,
        "unknown_metrics": dict(report.unknown_metrics),
        "files_before": report.n_done_before,
        "clusters": {
            cluster: {
                "hosts": len(tally.hosts), "files": tally.n_files, "series": tally.n_series,
                "samples": tally.n_samples, "from": tally.t_first, "to": tally.t_last,
            }
            for cluster, tally in report.clusters.items()
        },
        "coarser": [[*key, *steps] for key, steps in report.coarser.items()],
        "damaged": [[str(path), text] for path, text in report.damaged],
        "skipped": [[str(one.path), one.why] for one in report.skipped],
    }  # fmt: skip
