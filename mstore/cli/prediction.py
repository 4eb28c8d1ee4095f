"""`mstore info --predict`: what a configuration will take of the memory, beside what a running store takes."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mstore.cli import common, render
from mstore.errors import InvalidRequest

_METRICS_SHOWN = 10


def add(parser: argparse.ArgumentParser) -> None:
    """Its options of `mstore info`."""
    parser.add_argument(
        "--predict",
        action="store_true",
        help="what the configuration will take of the memory, once all series are as old as their retention",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="with --predict: of this file; no store needs to run"
    )
    parser.add_argument(
        "--nodes",
        metavar="N",
        type=common.count,
        help="with --predict: for so many nodes, not the topology's own",
    )


def run(args: argparse.Namespace) -> int:
    found: dict[str, Any] = {}
    if args.config is None and args.nodes is None:
        with common.open_client(args) as client:
            found = client.info(predict=True)
        said = found["prediction"]
    else:
        said = _predicted(args)
    if args.json:
        common.print_json(said, indent=2)
    else:
        print("\n".join(told(said, found.get("memory", {}).get("segments", {}))))
    return 0


def _predicted(args: argparse.Namespace) -> dict[str, Any]:
    from mstore import config
    from mstore.shm.prediction import predict

    if args.config is None:
        raise InvalidRequest("--nodes needs a configuration: give --config FILE")
    return predict(config.load(args.config), os.cpu_count() or 1, args.nodes).plain()


def told(said: dict[str, Any], segments: dict[str, Any]) -> list[str]:
    """Lines for people. segments: of a running store, by role; empty = there is none"""
    what = f"{render.count(said['nodes'], 'node')}, {render.count(said['series'], 'series')}"
    lines = [f"{what}, {render.si(said['samples_per_s'])} samples/s"]
    if not said["series"]:
        lines.append("no topology and no number of nodes: there is nothing to count (--nodes N)")
    rows = [
        ["samples", said["samples_bytes"], said["samples_peak_bytes"], _real(segments, "samples")],
        ["directory", said["directory_bytes"], said["directory_bytes"], _real(segments, "directory")],
        ["control, rings", said["fixed_bytes"], said["fixed_bytes"], _real(segments, "control", "ring-")],
        ["in all", said["total_bytes"], said["total_peak_bytes"], _real(segments, "")],
    ]
    names = ["segment", "on average", "at most", *(["now"] if segments else [])]
    shown = [[row[0], *(render.size(n) for n in row[1 : len(names)])] for row in rows]
    lines += ["", *render.table(names, shown, "<>>>"[: len(names)])]
    lines += _metrics(said["metrics"])
    lines += [f"{name} is kept for ever: a day of it is counted" for name in said["endless"]]
    lines += [f"{name} is stamped: nobody can tell how many samples come" for name in said["unknown"]]
    return [*lines, "", f"memory_cap and /dev/shm should allow for {render.size(said['total_peak_bytes'])}"]


def _real(segments: dict[str, Any], *roles: str) -> int:
    """Bytes that segments have now whose names begin so."""
    return sum(int(sizes["allocated_bytes"]) for role, sizes in segments.items() if role.startswith(roles))


def _metrics(metrics: list[dict[str, Any]]) -> list[str]:
    if not metrics:
        return []
    rows = [
        [f"{one['cluster']}:{one['metric']}".lstrip(":"), f"{one['series']:,}", render.step(one["step_s"]),
         render.span(one["retention_s"]) if one["retention_s"] else "for ever", render.size(one["n_bytes"])]
        for one in metrics[:_METRICS_SHOWN]
    ]  # fmt: skip
    lines = ["", *render.table(("largest metrics", "series", "step", "kept", "on average"), rows, "<>>>>")]
    if (more := len(metrics) - _METRICS_SHOWN) > 0:
        lines.append(f"and {more} more: --json has all")
    return [*lines, ""]
