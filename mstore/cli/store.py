"""`mstore serve` and the commands to a running store: stop, restart, reload, snapshot, config."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mstore import clock
from mstore.cli import common, render
from mstore.errors import Unavailable

# A stop writes a last snapshot; a restart loads one.
SLOW_S_MAX = 600
DONE = {
    "stop": "stopped",
    "restart": "restarted",
    "reload": "configuration reloaded",
    "snapshot": "snapshot written",
}


def add(commands: common.Commands) -> None:
    serve = common.command(
        commands,
        "serve",
        "run a store in the foreground",
        "mstore serve\nmstore serve --dir /var/lib/mstore --config /etc/mstore.toml",
        "Prints `mstore ready DIR` when clients can connect. Stops on Ctrl-C, SIGTERM and `mstore stop`; "
        "SIGHUP reads the configuration again.",
    )
    serve.add_argument(
        "--config", metavar="FILE", type=Path, help="configuration (see mstore config --example)"
    )
    serve.add_argument("--ingest-workers", metavar="N", type=common.count, help="processes that take lines")
    serve.add_argument(
        "--query-workers", metavar="N", type=common.count, help="processes that answer queries"
    )
    serve.add_argument(
        "--keep-memory",
        action="store_true",
        help="a stop leaves the shared memory: the next start on this boot is ready within a second",
    )
    serve.add_argument(
        "--strict",
        action="store_true",
        help="refuse to start from a damaged log or snapshot, instead of going on without the damaged part",
    )
    serve.set_defaults(run=run_serve)

    stop = _command(commands, "stop", "stop the store: acknowledge, write a last snapshot, free the memory")
    what = stop.add_mutually_exclusive_group()
    what.add_argument(
        "--keep-memory", dest="memory", action="store_const", const="keep", default="",
        help="leave the shared memory for the next start, and write no snapshot",
    )  # fmt: skip
    what.add_argument(
        "--free-memory", dest="memory", action="store_const", const="free",
        help="write a snapshot and free the memory, whatever keep_memory says",
    )  # fmt: skip
    restart = _command(
        commands, "restart", "stop the store's processes and start them again, over the same memory"
    )
    restart.add_argument(
        "--cold", dest="memory", action="store_const", const="free", default="",
        help="make the memory anew from snapshot and log",
    )  # fmt: skip
    _command(commands, "reload", "make the store read its configuration file again")
    _command(commands, "snapshot", "make the store write a snapshot now")

    config = common.command(
        commands,
        "config",
        "check a configuration and show what it amounts to",
        "mstore config --example > mstore.toml\n"
        "mstore config --config mstore.toml\n"
        "mstore config --config mstore.toml --cluster fritz",
        "Without --config: the defaults.",
    )
    config.add_argument("--config", metavar="FILE", type=Path, help="configuration to check")
    config.add_argument("--example", action="store_true", help="print a documented example with all keys")
    config.add_argument("--cluster", metavar="NAME", help="list the metrics of a cluster as configured")
    config.set_defaults(run=run_config)


def _command(commands: common.Commands, name: str, summary: str) -> argparse.ArgumentParser:
    parser = common.command(commands, name, summary, f"mstore {name}\nmstore {name} --dir /var/lib/mstore")
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=common.period,
        default=SLOW_S_MAX,
        help="how long to wait (default: 10m)",
    )
    parser.set_defaults(run=run_command)
    return parser


def run_serve(args: argparse.Namespace) -> int:
    from mstore.workers.serve import serve

    workers = args.ingest_workers, args.query_workers
    return int(
        serve(common.store_dir(args), args.config, *workers, keep_memory=args.keep_memory, strict=args.strict)
    )


def run_command(args: argparse.Namespace) -> int:
    directory = common.store_dir(args)
    start = clock.monotonic_s()
    memory = getattr(args, "memory", "")
    try:
        details = common.send_command(directory, args.command, args.timeout, memory)
    except Unavailable:
        if args.command != "stop" or memory != "free" or not _kept_memory_freed(directory):
            raise
        return 0
    print(f"{DONE[args.command]} in {clock.monotonic_s() - start:.2f} s: {directory}")
    for line in _told(args.command, details):
        print(line)
    return 0


def _kept_memory_freed(directory: Path) -> bool:
    """Of a store that was stopped with its memory kept: give it back, and say so."""
    from mstore.workers.look import free_kept_memory

    names = free_kept_memory(directory)
    if names:
        print(f"no store runs; {render.count(len(names), 'segment')} of kept memory freed: {directory}")
    return bool(names)


def _told(verb: str, details: dict[str, Any]) -> list[str]:
    lines = [f"warning: {text}" for text in details.get("warnings", ())]
    if later := details.get("needs_restart"):
        lines.append(f"not taken over until `mstore restart`: {', '.join(later)}")
    if verb == "snapshot" and "seq" in details:
        what = f"{render.count(details['series'], 'series')}, {render.count(details['chunks'], 'chunk')}"
        lines.append(f"up to block {details['seq']:,}: {what}, {render.size(details['bytes'])}")
        if retired := details.get("retired_segments"):
            lines.append(f"{render.count(retired, 'log segment')} no longer needed")
    return lines


def run_config(args: argparse.Namespace) -> int:
    from mstore import config
    from mstore.workers.settings import refuse_impossible

    if args.example:
        print(config.example(), end="")
        return 0
    found = config.load(args.config)
    refuse_impossible(found)
    if args.cluster:
        specs = found.metrics_of(args.cluster).values()
        rows = [[s.name, render.step(s.step_s), s.type, s.aggregation, s.unit] for s in specs]
        print("\n".join(render.table(("metric", "step", "type", "aggregation", "unit"), rows, "<>")))
        return 0
    print(config.render(found), end="")
    for cluster in found.clusters.values():
        print(f"# cluster {cluster.name}: {render.count(len(cluster.hosts()), 'host')}, "
              f"{render.count(len(cluster.metrics), 'metric')}, {cluster.n_series():,} series")  # fmt: skip
    for warning in found.warnings:
        print(f"# warning: {warning}")
    return 0
