"""`mstore debug`: all that helps to understand a store, in one file or on the terminal."""

from __future__ import annotations

import argparse
import gzip
import io
import os
import sys
import tarfile
from pathlib import Path

from mstore import clock
from mstore.cli import common
from mstore.cli.targets import refuse_unwritable
from mstore.errors import InvalidRequest

_FOLDER = "mstore-debug"


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "debug",
        "collect stacks, counters, connections and messages of a store",
        "mstore debug | less\nmstore debug -o report.tar.gz\nmstore debug -o - | ssh host 'cat > report.tar.gz'\n"
        "mstore debug dump fritz/f0201",
        "Works while parts of the store are stuck: these are named. Status 1 when something did not answer. There are "
        "names of hosts, metrics and users in it, and no samples. `dump SELECTOR` prints the chunks below a level, as JSON.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write a .tar.gz, - for standard output (default: text on it)"
    )
    parser.add_argument(
        "dump", metavar="dump SELECTOR", nargs="*", help="the chunks of what is selected, as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.workers.debug import collect

    if args.dump:
        return _dump(args)
    if args.output not in (None, "-"):
        refuse_unwritable(Path(args.output), whole=False)
    bundle = collect(common.store_dir(args))
    if args.output is None:
        for name, text in bundle.texts.items():
            print(f"==> {name} <==\n{text}")
    elif args.output == "-":
        sys.stdout.buffer.write(archive(bundle.texts))
        sys.stdout.buffer.flush()
    else:
        _write_privately(args.output, archive(bundle.texts))
        print(bundle.texts["summary.txt"], end="")
        print(f"{args.output}: {len(bundle.texts)} files")
    return 0 if bundle.healthy else 1


def _dump(args: argparse.Namespace) -> int:
    if len(args.dump) != 2 or args.dump[0] != "dump" or args.output:
        raise InvalidRequest("expected nothing, or: mstore debug dump SELECTOR")
    with common.open_client(args) as client:
        sys.stdout.write(client.debug_dump(args.dump[1]))
    return 0


def _write_privately(path: str, content: bytes) -> None:
    """For its owner alone: there are names of hosts and users in it."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(content)


def archive(texts: dict[str, str]) -> bytes:
    """A .tar.gz of these files in one folder."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb") as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for name, text in texts.items():
            content = text.encode()
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), clock.now_s(), 0o640
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
