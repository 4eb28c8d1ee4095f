"""What the commands share: their parsers, the connection to the store, what the terminal can show."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from mstore.errors import shortened

if TYPE_CHECKING:
    from mstore.client.sync import Client

Children: TypeAlias = "Callable[..., list[str]]"
"""Client.children: the names of the levels below a path."""
Commands: TypeAlias = "argparse._SubParsersAction[Any]"
_DIGITS_MAX = 18
"""Of whole numbers: more is meant by nobody, and has no place in a message."""


def command(
    commands: Commands, name: str, summary: str, example: str, more: str = ""
) -> argparse.ArgumentParser:
    """A sub-command with --dir and an example in its --help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description="\n\n".join([f"{summary[0].upper()}{summary[1:]}.", textwrap.fill(more, 78)]).rstrip(),
        epilog=f"Example:\n{_indented(example)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # SUPPRESS: not given here must not hide one given before the command's name.
    parser.add_argument("--dir", metavar="DIR", default=argparse.SUPPRESS, help="the store's directory")
    return parser


def store_dir(args: argparse.Namespace) -> Path:
    """The directory the command is about: --dir, else $MSTORE_DIR, else ~/.local/state/mstore."""
    from mstore import paths

    return paths.store_dir(args.dir)


def open_client(args: argparse.Namespace, **options: Any) -> Client:
    """A connection to the store; tests put a stand-in here."""
    import mstore

    return mstore.connect(store_dir(args), **options)


def send_command(directory: Path, verb: str, timeout_s: float, memory: str = "") -> dict[str, Any]:
    """Stop, restart, reload or snapshot a running store: the details of its answer."""
    from mstore.client.sync import Client

    with Client(directory, timeout=timeout_s) as client:
        return client.control(verb, memory)


def starting_info(args: argparse.Namespace, timeout_s: float) -> dict[str, Any]:
    """The store's own figures from control.sock, which answers while query.sock does not yet. raises MstoreError"""
    from mstore.client.sync import Client

    with Client(store_dir(args), timeout=timeout_s) as client:
        return client.info(starting=True)


def width(default: int = 80) -> int:
    """Columns of the terminal; a pipe counts as 80."""
    return max(40, shutil.get_terminal_size((default, 24)).columns)


def colours(stream: IO[str] | None = None) -> bool:
    stream = stream or sys.stdout
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def unicode_ok(stream: IO[str] | None = None) -> bool:
    encoding = (getattr(stream or sys.stdout, "encoding", None) or "ascii").lower()
    return encoding.replace("-", "").startswith("utf")


def json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def print_json(document: object, indent: int | None = None) -> None:
    """One JSON document on standard output; what JSON does not know is shown as text."""
    import json

    print(json.dumps(document, ensure_ascii=False, allow_nan=False, default=str, indent=indent))


def part(text: str) -> float:
    """Argument type: a share such as 0.05 or 5%."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(
            f"{text} is not allowed: expected 0 up to, not including, 1 (or 100%)"
        )
    return value


def duration(text: str) -> int:
    """Argument type: seconds of 90s, 15m, 2h."""
    from mstore.config import Refused, parse_duration

    try:
        return parse_duration(text)
    except Refused as refused:
        raise argparse.ArgumentTypeError(f"{shortened(text)} is not allowed: expected {refused}") from None


def period(text: str) -> int:
    """Argument type: seconds of 90s, 15m, 2h, at least one."""
    found = duration(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is not allowed: expected a duration of at least 1s")
    return found


def count(text: str) -> int:
    """Argument type: a whole number from 1."""
    return _whole(text, 1)


def number(text: str) -> int:
    """Argument type: a whole number from 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or len(text) > _DIGITS_MAX or int(text) < least:
        raise argparse.ArgumentTypeError(
            f"{shortened(text)} is not allowed: expected a whole number from {least}"
        )
    return int(text)


def _indented(example: str) -> str:
    return "\n".join("  " + line for line in example.strip().splitlines())
