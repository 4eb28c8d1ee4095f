"""`mstore ls` and `mstore info`: what is in the store, and how it is."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from mstore.cli import common, render
from mstore.errors import UnknownSelector

NAMES = ("ls", "info")


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
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=run_ls)
    info = common.command(
        commands,
        "info",
        "show what the store holds, how it runs and what was refused",
        "mstore info\nmstore info --json",
    )
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)


def run_ls(args: argparse.Namespace) -> int:
    path = args.path[0].strip("/").split("/") if len(args.path) == 1 else list(args.path)
    path = [part for part in path if part]
    with common.open_client(args) as client:
        if args.metrics:
            return _print_metrics(client.metrics(path[0] if path else None), args.json)
        names = sorted_naturally(client.children(*path))
        if not names and path:
            _check_exists(client, path)
    if args.json:
        print(json.dumps(names, ensure_ascii=False))
    elif sys.stdout.isatty():
        print("\n".join(render.in_columns(names, common.width())))
    else:
        print("\n".join(names)) if names else None
    return 0


def sorted_naturally(names: list[str]) -> list[str]:
    from mstore.topology import natural_key

    return sorted(names, key=natural_key)


def _check_exists(client: Any, path: list[str]) -> None:
    """No children: of a lowest level, or of something that is not there?"""
    for depth in range(len(path)):
        if path[depth] not in (siblings := client.children(*path[:depth])):
            where = "/".join(path[:depth]) or "the store"
            raise UnknownSelector(f"{where} has no {path[depth]!r}; it has {_some(siblings)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted_naturally(names)[:5])
    return (shown + (f", ... ({len(names)} in all)" if len(names) > 5 else "")) or "nothing below it"


def _print_metrics(metrics: list[Any], as_json: bool) -> int:
    keys = ("cluster", "name", "step_s", "type", "aggregation", "unit")
    rows = [[_field(metric, key) for key in keys] for metric in metrics]
    rows.sort(key=lambda row: (str(row[0]), str(row[1])))
    if as_json:
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], ensure_ascii=False))
    elif rows:
        shown = [
            [str(c), str(n), f"{step} s" if step else "stamped", *map(str, rest)]
            for c, n, step, *rest in rows
        ]
        print(
            "\n".join(
                render.table(("cluster", "metric", "step", "type", "aggregation", "unit"), shown, "<<>")
            )
        )
    return 0


def _field(metric: Any, key: str) -> Any:
    return metric[key] if isinstance(metric, dict) else getattr(metric, key)


def run_info(args: argparse.Namespace) -> int:
    with common.open_client(args) as client:
        found = client.info()
    if args.json:
        print(json.dumps(found, ensure_ascii=False, default=str, indent=2))
    else:
        print("\n".join(describe(found)))
    return 0


def describe(found: dict[str, Any]) -> list[str]:
    """A nested dictionary as sections of `name  value`; units are taken from the names' endings."""
    plain = {key: value for key, value in found.items() if not isinstance(value, (dict, list))}
    lines = _pairs(plain)
    for key, value in found.items():
        if isinstance(value, dict) and value:
            if key == "counters":  # what never happened is not worth a line
                value = {name: n for name, n in value.items() if n}
            lines += ["", render.paint(key.replace("_", " "), render.BOLD), *_pairs(value)]
        elif isinstance(value, list) and value:
            lines += ["", render.paint(key.replace("_", " "), render.BOLD), *_listed(value)]
    return lines


def _pairs(values: dict[str, Any], indent: int = 2) -> list[str]:
    wide = max((len(_title(key)) for key in values), default=0)
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [" " * indent + _title(key), *_pairs(value, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{_title(key):<{wide}}  {_shown(key, value)}")
    return lines


def _listed(values: list[Any]) -> list[str]:
    if all(isinstance(value, dict) for value in values):
        keys = list(
            dict.fromkeys(
                key for value in values for key in value if not isinstance(value[key], (dict, list))
            )
        )
        rows = [[_shown(key, value.get(key, "")) for key in keys] for value in values]
        if (
            rows
            and sum(max(len(row[i]) for row in [keys, *rows]) + 2 for i in range(len(keys)))
            <= common.width() - 2
        ):
            numeric = "".join(
                ">" if all(isinstance(v.get(k), (int, float)) for v in values) else "<" for k in keys
            )
            return ["  " + line for line in render.table([_title(key) for key in keys], rows, numeric)]
    return [f"  {_shown('', value)}" for value in values]


_UNITS = ("_bytes", "_s", "_ms", "_us")


def _title(key: str) -> str:
    ending = next((unit for unit in _UNITS if key.endswith(unit)), "")
    return key.removesuffix(ending).removeprefix("n_").replace("_", " ")


def _shown(key: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, (int, float)):
        if key == "now_s":
            return f"{render.clock(value, False)} {render.zone(value, False)}"
        if key.endswith("_bytes"):
            return render.size(value)
        unit = (
            next((unit for unit in _UNITS[1:] if key.endswith(unit)), "")
            .replace("_", " ")
            .replace("us", "µs")
        )
        text = f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else render.number(value)
        # Identifiers are not quantities.
        return (str(value) if key in ("pid", "instance", "version") else text) + unit
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
