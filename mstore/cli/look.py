"""`mstore ls`: what is in the store."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mstore.cli import common, render
from mstore.cli.hints import did_you_mean
from mstore.errors import UnknownSelector
from mstore.nearest import nearest


def add(commands: common.Commands) -> None:
    ls = common.command(
        commands,
        "ls",
        "list clusters, hosts and the levels below them",
        "mstore ls\nmstore ls fritz\nmstore ls fritz/f0101\nmstore ls --metrics fritz",
        "PATH is CLUSTER[/HOST[/LEVEL...]]. Level names that hold a slash themselves are given as separate\n"
        'arguments: mstore ls fritz f0101 "disk/home".',
    )
    ls.add_argument("path", metavar="PATH", nargs="*", help="where to look; nothing = the clusters")
    ls.add_argument(
        "--metrics", action="store_true", help="list a cluster's metrics: step, type, unit, aggregation"
    )
    common.json_option(ls)
    ls.set_defaults(run=run_ls)


def run_ls(args: argparse.Namespace) -> int:
    path = args.path[0].strip("/").split("/") if len(args.path) == 1 else list(args.path)
    path = [part for part in path if part]
    with common.open_client(args) as client:
        if args.metrics:
            metrics = client.metrics(path[0] if path else None)
            if not metrics and path:
                _check_exists(client, path[:1])
            return _print_metrics(metrics, args.json)
        names = sorted_naturally(client.children(*path))
        if not names and path:
            _check_exists(client, path)
    if args.json:
        common.print_json(names)
    elif sys.stdout.isatty():
        print("\n".join(render.in_columns(names, common.width())))
    else:
        print("\n".join(names)) if names else None
    return 0


def sorted_naturally(names: list[str]) -> list[str]:
    from mstore.hostlists import natural_key

    return sorted(names, key=natural_key)


def _check_exists(client: Any, path: list[str]) -> None:
    """No children: of a lowest level, or of something that is not there?"""
    for depth in range(len(path)):
        if path[depth] not in (siblings := client.children(*path[:depth])):
            where = "/".join(path[:depth]) or "the store"
            hint = did_you_mean(nearest(path[depth], siblings)) or f"; it has {_some(siblings)}"
            raise UnknownSelector(f"{where} has no {path[depth]!r}{hint}")


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted_naturally(names)[:5])
    return (shown + (f", ... ({len(names)} in all)" if len(names) > 5 else "")) or "nothing below it"


def _print_metrics(metrics: list[Any], as_json: bool) -> int:
    keys = ("cluster", "name", "step_s", "type", "aggregation", "unit")
    rows = [[_field(metric, key) for key in keys] for metric in metrics]
    rows.sort(key=lambda row: (str(row[0]), str(row[1])))
    if as_json:
        common.print_json([dict(zip(keys, row, strict=True)) for row in rows])
    elif rows:
        shown = [[str(c), str(n), render.step(step), *map(str, rest)] for c, n, step, *rest in rows]
        print(
            "\n".join(
                render.table(("cluster", "metric", "step", "type", "aggregation", "unit"), shown, "<<>")
            )
        )
    return 0


def _field(metric: Any, key: str) -> Any:
    return metric[key] if isinstance(metric, dict) else getattr(metric, key)
