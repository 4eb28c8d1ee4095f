"""`mstore serve` and the commands to a running store: stop, restart, reload, snapshot, check, config."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mstore import clock
from mstore.cli import common, render
from mstore.errors import StorageError

NAMES = ("serve", "stop", "restart", "reload", "snapshot", "check", "config")
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
    serve.set_defaults(run=run_serve)

    _command(commands, "stop", "stop the store: acknowledge, write a last snapshot, free the memory")
    _command(commands, "restart", "stop the store's processes and start them again")
    _command(commands, "reload", "make the store read its configuration file again")
    _command(commands, "snapshot", "make the store write a snapshot now")

    check = common.command(
        commands, "check", "check the files and the memory of a store", "mstore check --dir /var/lib/mstore"
    )
    check.set_defaults(run=run_check)

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


def _command(commands: common.Commands, name: str, summary: str) -> None:
    parser = common.command(commands, name, summary, f"mstore {name}\nmstore {name} --dir /var/lib/mstore")
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=common.duration,
        default=SLOW_S_MAX,
        help="how long to wait (default: 10m)",
    )
    parser.set_defaults(run=run_command)


def run_serve(args: argparse.Namespace) -> int:
    from mstore.workers.supervisor import serve

    return int(serve(common.store_dir(args), args.config, args.ingest_workers, args.query_workers))


def run_command(args: argparse.Namespace) -> int:
    directory = common.store_dir(args)
    start = clock.monotonic_s()
    details = common.send_command(directory, args.command, args.timeout)
    print(f"{DONE[args.command]} in {clock.monotonic_s() - start:.2f} s: {directory}")
    for line in _told(args.command, details):
        print(line)
    return 0


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


def run_check(args: argparse.Namespace) -> int:
    directory = common.store_dir(args)
    if not directory.is_dir():
        raise StorageError(f"there is no store in {directory}: no such directory")
    from mstore.workers.check import check

    return int(check(directory))


def run_config(args: argparse.Namespace) -> int:
    from mstore import config

    if args.example:
        print(config.example(), end="")
        return 0
    found = config.load(args.config)
    if args.cluster:
        specs = found.metrics_of(args.cluster).values()
        rows = [
            [s.name, f"{s.step_s} s" if s.step_s else "stamped", s.type, s.aggregation, s.unit] for s in specs
        ]
        print("\n".join(render.table(("metric", "step", "type", "aggregation", "unit"), rows, "<>")))
        return 0
    print(config.render(found), end="")
    for cluster in found.clusters.values():
        print(f"# cluster {cluster.name}: {render.count(len(cluster.hosts()), 'host')}, "
              f"{render.count(len(cluster.metrics), 'metric')}, {cluster.n_series():,} series")  # fmt: skip
    for warning in found.warnings:
        print(f"# warning: {warning}")
    return 0
