"""`mstore check`: is everything there and sound; `--repair`: do what it says about what is not."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mstore.cli import common, streams
from mstore.errors import InvalidRequest, MstoreError

if TYPE_CHECKING:
    from mstore.workers.check import Result
    from mstore.workers.repair import Plan


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "check",
        "verify every checksum and rule of a store, running or stopped",
        "mstore check --dir /var/lib/mstore\nmstore check --repair",
        "Says of each fault what is lost by it. Status 0: sound, 1: damaged, 2: it could not be checked. "
        "--repair works on a stopped store: it shows what it will do, asks, and does only that.",
    )
    common.json_option(parser)
    parser.add_argument("--repair", action="store_true", help="plan what to do about faults, ask, and do it")
    parser.add_argument("--yes", action="store_true", help="with --repair: do not ask")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.workers.check import UNKNOWN, check

    if args.yes and not args.repair:
        raise InvalidRequest("--yes answers the question of --repair: give both")
    try:
        if args.repair:
            return _repair(args)
        found = check(common.store_dir(args))
    except MstoreError as error:
        streams.complain(f"mstore: {error.message}")
        return UNKNOWN
    if args.json:
        common.print_json(found.to_plain(), indent=2)
    else:
        print("\n".join(found.lines()))
    return found.status


def _repair(args: argparse.Namespace) -> int:
    """Check, plan, ask, do, and check again: the status is that of the second check."""
    from mstore.workers.check import check, repair

    directory = common.store_dir(args)

    def agree(found: Result, plan: Plan) -> bool:
        if not args.json:
            print("\n".join([*found.lines(), "", "repair:", *(f"  {text}" for text in plan.lines())]))
        if args.yes:
            return True
        if args.json or not sys.stdin.isatty():
            how = "with --json" if args.json else "without a terminal"
            streams.complain(f"mstore: nothing was changed: {how}, --repair needs --yes")
            return False
        return input("do this? [y/N] ").strip().lower() in ("y", "yes")

    before, plan, done = repair(directory, agree)
    after = check(directory) if done else before
    if args.json:
        steps = [{"verb": step.verb, "path": step.path} for step in plan.steps]
        common.print_json(
            {"before": before.to_plain(), "plan": steps, "done": done, "after": after.to_plain()}
        )
    elif not plan.steps:
        print("\n".join([*before.lines(), "nothing to repair"]))
    elif done:
        print("\n".join(["", "done; now:", *after.lines()]))
    return after.status
