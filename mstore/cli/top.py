"""`mstore top`: a store and a cluster as they are now, in the terminal, again every two seconds."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mstore.cli import common, info, render
from mstore.errors import MissingLibrary, MstoreError, Unavailable

if TYPE_CHECKING:
    from mstore.cli.top_looks import Choice, Look, Model

ASK_S_MAX = 5.0
"""A store that does not answer for so long is said not to."""
LOOK_S = 0.5
"""Between the two looks of --once."""
_COLOURS = {
    "title": render.BOLD, "dim": render.DIM, "good": render.GREEN, "warn": render.YELLOW, "bad": render.RED,
    "heat0": render.BLUE, "heat1": render.CYAN, "heat2": render.GREEN, "heat3": render.YELLOW, "heat4": render.RED,
}  # fmt: skip


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "top",
        "watch a store and its hosts: traffic, memory, health, a metric over all hosts",
        "mstore top\nmstore top --cluster fritz --metric mem_bw --interval 5s\nmstore top --once",
        "Keys: q quits, m the next metric, c the next cluster, p pauses. Needs textual; --once does not.",
    )
    parser.add_argument(
        "--cluster", metavar="NAME", default="", help="shown first (default: the first there is)"
    )
    parser.add_argument("--metric", metavar="NAME", default="", help="shown first (default: cpu_load)")
    parser.add_argument(
        "--interval", metavar="TIME", type=common.period, default=2, help="between two looks (default: 2s)"
    )
    parser.add_argument("--once", action="store_true", help="print one frame and end, for scripts")
    parser.add_argument("--utc", action="store_true", help="show times in UTC instead of the local zone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.cli.top_looks import Choice, Model, take

    model = Model()
    model.choice = Choice(args.cluster, args.metric)
    with common.open_client(args, timeout=ASK_S_MAX) as client:

        def look(choice: Choice) -> Look:
            try:
                return take(client, choice)
            except Unavailable:
                if started := info.while_it_starts(args):
                    raise Unavailable(f"the store is starting: {info.how_far(started)}") from None
                raise

        model.add(look(model.choice))  # no store at all is an error, and no screen
        if args.once:
            time.sleep(LOOK_S)
            model.add(look(model.choice))
            _print(model, args.utc)
            return 0
        _watch(model, look, args)
    return 0


_PLAIN = str.maketrans("─█▁▂▃▄▅▆▇·…", "-#_.,-=+*. ")
"""For terminals without Unicode."""


def _print(model: Model, utc: bool) -> None:
    from mstore.cli.top_frame import WIDTH_MIN, frame, plain

    columns, lines = shutil.get_terminal_size((80, 24))
    rows = frame(model, max(columns, WIDTH_MIN), max(lines - 1, 23), utc=utc)
    while rows and not rows[-1]:
        rows.pop()
    for row in rows:
        if not common.unicode_ok():
            print(plain(row).translate(_PLAIN).encode("ascii", "replace").decode())
        elif common.colours():
            print("".join(render.paint(text, _COLOURS[style]) if style else text for text, style in row))
        else:
            print(plain(row))


def _watch(model: Model, look: Callable[[Choice], Look], args: argparse.Namespace) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise MstoreError("mstore top needs a terminal; --once prints one frame")
    from mstore.conversions import library

    try:
        library("textual")
    except MissingLibrary as error:
        raise MissingLibrary(f"{error.message}; mstore top --once goes without") from None
    from mstore.cli.top_app import TopApp

    TopApp(model, look, args.interval, args.utc).run()
