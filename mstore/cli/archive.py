"""`mstore archive`: what the archive holds; archiving now, of a running store or of a stopped one."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstore.cli import common, render, streams
from mstore.errors import InvalidRequest, StoreLocked

if TYPE_CHECKING:
    from mstore.archive.switch import Setup

_SLOW_S_MAX = 24 * 3600


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "archive",
        "show the archive, or archive what memory holds now",
        "mstore archive --list\nmstore archive --now\nmstore archive --now --delete --cluster fritz",
        "A running store archives as its configuration says. Of a stopped one the files are read as a start would; "
        "--delete then takes out of them what was archived. Needs pyarrow: pip install 'mstore[archive]'.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--now", action="store_true", help="archive what memory, or a stopped store, holds")
    what.add_argument("--list", action="store_true", help="what the archive holds, by cluster")
    parser.add_argument(
        "--delete", action="store_true", help="with --now: free what was archived, as retention would"
    )
    parser.add_argument(
        "--cluster",
        metavar="NAME",
        action="append",
        default=[],
        help="only this one; may be given several times",
    )
    parser.add_argument(
        "--to",
        metavar="DIRECTORY",
        type=Path,
        help="of a stopped store: where the archive is (default: as configured last)",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=common.period,
        default=_SLOW_S_MAX,
        help="how long to wait (default: 1d)",
    )
    common.json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.delete and not args.now:
        raise InvalidRequest("--delete frees what --now has archived: give both")
    if args.list:
        return _list(args)
    done = _now(args)
    if args.json:
        common.print_json(done)
    else:
        _print(done)
    for text in done["failed"]:
        streams.complain(f"mstore: not archived: {text}")
    if damage := done.get("damage"):
        streams.complain(
            f"mstore: the store is damaged, what could be read is archived and nothing freed: {damage}"
        )
    return 1 if done["failed"] or done.get("damage") else 0


def _now(args: argparse.Namespace) -> dict[str, Any]:
    from mstore.client.sync import Client
    from mstore.workers.archive_stopped import archive_stopped

    store_dir = common.store_dir(args)
    setup = _setup(args)
    try:
        stopped = archive_stopped(
            store_dir, setup.directory, clusters=args.cluster or None, delete=args.delete, level=setup.level,
            max_bytes=setup.max_bytes,
        )  # fmt: skip
    except StoreLocked:
        if args.to is not None:
            raise InvalidRequest("--to is for a stopped store: a running one has its own archive") from None
        with Client(store_dir, timeout=args.timeout) as client:
            return client.archive(args.cluster, delete=args.delete)
    result = stopped.result
    return {
        "rows": result.n_rows, "bytes": result.n_bytes, "parts": result.n_parts,
        "days_deleted": result.n_days_deleted, "freed": stopped.n_freed, "failed": result.failed,
        "damage": stopped.damage,
    }  # fmt: skip


def _setup(args: argparse.Namespace) -> Setup:
    """Where the archive is: --to, else where the store's last run had it, else DIR/archive."""
    from mstore.archive.switch import Setup, read_setup

    store_dir = common.store_dir(args)
    found = read_setup(store_dir) or Setup(store_dir / "archive", True)
    return found if args.to is None else replace(found, directory=args.to.absolute())


def _print(done: dict[str, Any]) -> None:
    parts = render.count(done["parts"], "part")
    print(f"{render.count(done['rows'], 'sample')} archived in {parts}, {render.size(done['bytes'])}")
    if done["freed"]:
        print(f"{render.count(done['freed'], 'chunk')} of memory freed")
    if done["days_deleted"]:
        print(
            f"{render.count(done['days_deleted'], 'day')} deleted, the oldest: the archive has reached max_bytes"
        )


def _list(args: argparse.Namespace) -> int:
    from mstore.archive.manifest import manifests
    from mstore.archive.names import day_text
    from mstore.persistence.files import ReadOnly

    root = _setup(args).directory
    found, wrong = manifests(ReadOnly(), root)
    chosen = [one for one in found if not args.cluster or one.cluster in args.cluster]
    if args.json:
        common.print_json(
            {"directory": str(root), "clusters": [one.to_plain() for one in chosen], "wrong": wrong}
        )
        return 1 if wrong else 0
    rows = []
    for one in chosen:
        days = sorted({part.day for part in one.parts})
        reached = max(one.archived_to.values(), default=0)
        rows.append(
            [
                one.cluster, str(len(days)), day_text(days[0]) if days else "", day_text(days[-1]) if days else "",
                str(len(one.parts)), f"{sum(part.n_rows for part in one.parts):,}", render.size(one.n_bytes()),
                render.clock(reached, utc=False) if reached else "",
            ]
        )  # fmt: skip
    head = ("cluster", "days", "first", "last", "parts", "samples", "size", "archived up to")
    print("\n".join([str(root), *render.table(head, rows, "<><<>>><")]) if rows else f"{root}: empty")
    for text in wrong:
        streams.complain(f"mstore: {text}")
    return 1 if wrong else 0
