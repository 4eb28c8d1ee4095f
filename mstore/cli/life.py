"""`mstore free`, `mstore protect` and `mstore sizes`: what goes, what stays, what it takes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mstore.cli import common, render, streams
from mstore.errors import ConfigError, InvalidRequest, UnknownSelector, shortened

if TYPE_CHECKING:
    from mstore.client.outcomes import Freed, Protection

_SLOW_S_MAX = 600


def add(commands: common.Commands) -> None:
    _add_free(commands)
    _add_protect(commands)
    _add_sizes(commands)


def _add_free(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "free",
        "free data now: by selector and time, the oldest of each series, or all of it",
        "mstore free 'fritz/f02[01-64]' --before -24h\n"
        "mstore free alex/a0329/memoryDomain2 alex/a0903 --before 1724536800\n"
        "mstore free fritz --before -12h --exclude 'fritz/f02[01-08]'\n"
        "mstore free fritz --oldest\n"
        "mstore free --all --yes",
        "Whole chunks of 512 samples go, of everything below the selected levels, also of protected hosts. It is logged "
        "first: what goes does not come back after a restart. Hosts that are left with nothing vanish.",
    )
    parser.add_argument("selector", metavar="SELECTOR", nargs="*", help="CLUSTER[/HOSTS[/LEVELS...]]")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--before", metavar="TIME", help="chunks that end by then, such as -24h")
    which.add_argument(
        "--oldest", action="store_true", help="the oldest chunk of every series, however new it is"
    )
    which.add_argument("--all", action="store_true", help="everything there is")
    parser.add_argument(
        "--exclude", metavar="SELECTOR", action="append", default=[], help="what keeps its data"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before --all and --oldest")
    parser.add_argument("--timeout", metavar="TIME", type=common.period, default=_SLOW_S_MAX)
    common.json_option(parser)
    parser.set_defaults(run=run_free)


def run_free(args: argparse.Namespace) -> int:
    from mstore.selector import Selector

    if args.all and (args.selector or args.exclude):
        raise InvalidRequest("--all frees everything: it takes no selector and no --exclude")
    if not args.all and not args.selector:
        raise InvalidRequest('name what to free, such as "fritz" or "*", or give --all')
    if (args.all or args.oldest) and not (args.yes or _agreed(args)):
        print("nothing is freed")
        return 1
    selectors = [Selector.parse(text) for text in args.selector]
    with common.open_client(args, timeout=args.timeout) as client:
        if args.all:
            freed = client.free_all()
        elif args.oldest:
            freed = client.force_free(selectors, args.exclude)
        else:
            freed = client.free(selectors, args.before, args.exclude)
    if args.json:
        common.print_json({name: getattr(freed, name) for name in ("chunks", "samples", "series", "levels")})
    else:
        print(_told(freed))
    return 0


def _agreed(args: argparse.Namespace) -> bool:
    """Ask at a terminal; a script says --yes."""
    if not sys.stdin.isatty():
        raise InvalidRequest("this frees data that may be new: give --yes")
    what = "everything" if args.all else f"the oldest chunk of every series of {', '.join(args.selector)}"
    return input(f"free {what} in {common.store_dir(args)}? [y/N] ").strip().lower() in ("y", "yes")


def _told(freed: Freed) -> str:
    if not freed.levels:
        return "nothing matches: no data is freed"
    what = f"{render.count(freed.samples, 'sample')} in {render.count(freed.chunks, 'chunk')}"
    return f"freed {what} of {render.count(freed.series, 'series')}"


def _add_protect(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "protect",
        "keep the data of hosts past retention, or list the hosts that are protected",
        "mstore protect fritz 'f02[01-08]' --until 2026-01-31\n"
        "mstore protect fritz 'f02[01-08]' --clear\n"
        "mstore protect",
        "Without a cluster: who is protected now, by whomever.",
    )
    parser.add_argument("cluster", metavar="CLUSTER", nargs="?")
    parser.add_argument("hosts", metavar="HOSTS", nargs="?", help="a hostlist")
    parser.add_argument("others", nargs="*", help=argparse.SUPPRESS)  # for a hint
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--until", metavar="TIME", help="protect until then (default: until --clear)")
    how.add_argument("--clear", action="store_true", help="take back what this command protected")
    common.json_option(parser)
    parser.set_defaults(run=run_protect)


def run_protect(args: argparse.Namespace) -> int:
    if args.others:
        raise InvalidRequest(f"HOSTS is one hostlist: give {_one_hostlist([args.hosts, *args.others])}")
    with common.open_client(args) as client:
        if args.cluster is None:
            hosts = client.protected()
            if args.json:
                common.print_json(hosts)
            else:
                _print_hosts(hosts)
            return 0
        if args.hosts is None:
            raise InvalidRequest(f"which hosts of {args.cluster}? Give a hostlist, such as 'f02[01-08]'")
        done = client.protect(args.cluster, args.hosts, "clear" if args.clear else args.until)
    if args.json:
        document = {"protected": done.n_hosts, "unknown": done.unknown, "n_unknown": done.n_unknown}
        common.print_json(document)
        return 0
    print(f"{render.count(done.n_hosts, 'host')} protected now, by whomever")
    if done.n_unknown:
        streams.complain(f"mstore: {_unknown(args.cluster, done, cleared=args.clear)}")
    return 0


def _one_hostlist(hosts: list[str]) -> str:
    """What was meant by several arguments: "f[1-2] or f1,f2"."""
    from mstore.hostlists import expand, fold

    listed = ",".join(hosts)
    try:
        folded = fold(expand(listed))
    except ConfigError:
        folded = listed
    ways = dict.fromkeys((folded, listed))
    return " or ".join(f"'{shortened(one, 80)}'" for one in ways)


def _unknown(cluster: str, done: Protection, *, cleared: bool) -> str:
    shown = ", ".join(done.unknown)
    if done.n_unknown > len(done.unknown):
        shown += f", ... ({done.n_unknown:,} in all)"
    later = "" if cleared else "; what appears under such a name is protected"
    return f"no host of {cluster} today: {shown}{later}"


def _print_hosts(hosts: dict[str, list[str]]) -> None:
    from mstore.hostlists import fold

    if not hosts:
        print("no host that holds data is protected")
    for cluster, names in hosts.items():
        print(f"{cluster}: {fold(names)} ({len(names)})")


def _add_sizes(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "sizes",
        "what clusters, hosts and levels take of the memory",
        "mstore sizes\nmstore sizes --depth 2\nmstore sizes 'fritz/f02[01-64]'\nmstore sizes 'fritz/f0201/*' --json",
        "Each level with all below it, the largest first. Bytes are those of chunks and link tables.",
    )
    parser.add_argument("selector", metavar="SELECTOR", nargs="?", help="CLUSTER[/HOSTS[/LEVELS...]]")
    parser.add_argument(
        "--depth", metavar="N", type=common.count, help="of all: 1 clusters (default), 2 hosts, ..."
    )
    common.json_option(parser)
    parser.set_defaults(run=run_sizes)


def run_sizes(args: argparse.Namespace) -> int:
    if args.selector is not None and args.depth is not None:
        raise InvalidRequest(
            f"{args.selector} says how deep it goes: add /* for each level more, and no --depth"
        )
    with common.open_client(args, timeout=_SLOW_S_MAX) as client:
        found = client.sizes(args.selector, depth=args.depth or 1)
    if args.selector is not None and not found:
        raise UnknownSelector(f"no level matches {args.selector}", selector=args.selector)
    found.sort(key=lambda one: -one.n_bytes)
    if args.json:
        common.print_json(
            [
                {"path": list(one.path), "bytes": one.n_bytes, "chunks": one.chunks, "series": one.series,
                 "samples": one.samples}
                for one in found
            ]
        )  # fmt: skip
        return 0
    rows = [
        [
            "/".join(one.path),
            render.size(one.n_bytes),
            f"{one.chunks:,}",
            f"{one.series:,}",
            f"{one.samples:,}",
        ]
        for one in found
    ]
    print("\n".join(render.table(("level", "memory", "chunks", "series", "samples"), rows, "<>>>>")))
    return 0
