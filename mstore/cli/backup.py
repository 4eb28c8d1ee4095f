"""`mstore backup TARGET`: a copy of the store that a store can serve, while it runs or stopped."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from mstore.cli import common, render, streams
from mstore.limits import HOLD_S_DEFAULT


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "backup",
        "copy the store into a new directory, also while it runs",
        "mstore backup /backup/mstore-monday\nmstore serve --dir /backup/mstore-monday",
        "Everything acknowledged as durable before is in the copy; each byte is checked on the way. TARGET appears "
        "whole or not at all. The configuration file is not part of DIR: copy it, too.",
    )
    parser.add_argument("target", metavar="TARGET", type=Path, help="a directory that does not exist yet")
    parser.add_argument(
        "--limit",
        metavar="TIME",
        type=common.period,
        default=HOLD_S_DEFAULT,
        help="how long the store keeps its log for this (default: 1h)",
    )
    common.json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.workers.backup import backup

    made = backup(common.store_dir(args), args.target, limit_s=args.limit)
    if args.json:
        common.print_json(asdict(made))
        return 0
    for text in made.warnings:
        streams.complain(f"mstore: warning: {text}")
    print(
        f"{made.target}: {render.size(made.n_bytes)}, all up to block {made.seq:,} of the log,"
        f" in {made.seconds:.2f} s"
    )
    held = f"{render.count(made.n_series, 'series')} in {render.count(made.n_chunks, 'chunk')}"
    where = f"the snapshot of block {made.snapshot_seq:,} with {held}" if made.snapshot_seq else "no snapshot"
    written = (
        f"{render.count(made.n_blocks, 'block')} of the log with {render.count(made.n_log_samples, 'sample')}"
    )
    print(f"{where}, and {written} written since; every byte was checked")
    return 0
