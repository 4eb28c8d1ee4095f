"""The command `mstore`: one module a group of commands, one clear line and a status for every error.

Status: 0 done; 1 it did not work, or lines were refused; 2 wrong usage or configuration; 128 + n ended by signal n.
Only the module of the command that is named is loaded, and it imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import zlib
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any, NoReturn

import mstore
from mstore.cli import signals, streams
from mstore.errors import ConfigError, InvalidRequest, MstoreError, UnknownMetric, UnknownSelector

EX_FAILED, EX_USAGE, EX_INTERNAL = 1, 2, 70
MODULES = {
    "demo": ("demo",),
    "store": ("serve", "stop", "restart", "reload", "snapshot", "config"),
    "check": ("check",),
    "backup": ("backup",),
    "archive": ("archive",),
    "debug": ("debug",),
    "dump": ("dump",),
    "write": ("write",),
    "query": ("query",),
    "job": ("job",),
    "follow": ("follow",),
    "top": ("top",),
    "look": ("ls",),
    "info": ("info",),
    "life": ("free", "protect", "sizes"),
    "imports": ("import",),
    "exports": ("export",),
    "simulate": ("simulate",),
    "collect": ("collect",),
}
"""Modules of mstore.cli, and the commands that each adds, in the order of the help."""
COMMANDS = tuple(name for names in MODULES.values() for name in names)


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line, and a mistyped command gets a hint."""

    def error(self, message: str) -> NoReturn:
        streams.complain(f"{self.prog}: error: {_hinted(message)} (see {self.prog} --help)")
        sys.exit(EX_USAGE)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version. argparse would say nothing when they cannot be written."""
        (file or sys.stderr).write(message)


class _PartialParser(Parser):
    """Knows the commands that were named, and helps with all."""

    def format_help(self) -> str:
        return build_parser().format_help()


def build_parser(words: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of a command line of these words: only the modules of commands among them are loaded."""
    parser = (Parser if words is COMMANDS else _PartialParser)(
        prog="mstore",
        description="An in-memory metric store: line protocol in, numpy arrays out.",
        epilog="Start here:  mstore demo\n"
        "Then:        mstore serve &\n"
        "             mstore collect host --once\n"
        "             mstore ls\n\n"
        "DIR is --dir, else $MSTORE_DIR, else ~/.local/state/mstore.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mstore {mstore.__version__}")
    parser.add_argument("--dir", metavar="DIR", default=None, help="the store's directory")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for module, names in MODULES.items():
        if any(name in words for name in names):
            import_module(f"mstore.cli.{module}").add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its status. The last line of defence: no traceback reaches the user."""
    streams.hold()
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        failure = streams.flush()
        return status if failure is None else _output_failed(failure)
    except KeyboardInterrupt as interrupt:
        return _say("interrupted", signals.status(interrupt))
    except (ConfigError, InvalidRequest) as error:
        return _say(error.message, EX_USAGE)
    except MstoreError as error:
        return _say(error.message, EX_FAILED)
    except (EOFError, zlib.error) as error:
        return _say(f"the input is cut short or damaged: {error}", EX_FAILED)
    except UnicodeEncodeError as error:
        return _say(
            f"this terminal's encoding cannot show {error.object[error.start : error.end]!r}", EX_FAILED
        )
    except OSError as error:
        if (failure := streams.cause(error)) is not None:
            return _output_failed(failure)
        name = f"{error.filename}: " if error.filename else ""
        return _say(f"{name}{error.strerror or error}", EX_FAILED)
    except Exception as error:
        if os.environ.get("MSTORE_TRACEBACK"):
            raise
        text = f"internal error: {type(error).__name__}: {error} (MSTORE_TRACEBACK=1 shows where)"
        return _say(text, EX_INTERNAL)


def _run(argv: Sequence[str]) -> int:
    parser = build_parser(argv)
    try:
        args = parser.parse_args(_with_times_joined(argv))
    except SystemExit as done:  # --help, --version and wrong usage: all is said
        return int(done.code or 0)
    if args.command is None:
        parser.print_help()
        return 0
    if args.command == "serve":
        # The store handles signals itself, from the moment when it can stop in order; what comes before waits for that.
        signals.hold()
        status = int(args.run(args) or 0)
        streams.flush()
        return status
    with signals.interruptible():
        signals.release()
        try:
            return int(args.run(args) or 0)
        except (UnknownMetric, UnknownSelector) as error:
            from mstore.cli import hints

            return _say(error.message + hints.hint(error, args), EX_FAILED)


def _output_failed(failure: OSError) -> int:
    if isinstance(failure, BrokenPipeError):  # head or less has seen enough
        return 128 + signal.SIGPIPE
    return _say(f"write error: {failure.strerror}", EX_FAILED)


def _say(text: str, status: int) -> int:
    streams.complain(f"mstore: {' '.join(text.split())}")
    streams.flush()
    return status


def _with_times_joined(argv: Sequence[str]) -> list[str]:
    """--from -2h as --from=-2h: argparse would take -2h for an option."""
    joined: list[str] = []
    for word in argv:
        if (
            joined
            and joined[-1] in ("--from", "--to", "--since", "--before", "--until")
            and re.match(r"-\d", word)
        ):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _hinted(message: str) -> str:
    """argparse's list of commands, shortened to the nearest one."""
    if "invalid choice" not in message or "COMMAND" not in message:
        return message
    from mstore.nearest import nearest

    wrong = message.split("'")[1]
    near = nearest(wrong, COMMANDS)
    return f"there is no command {wrong!r}" + (f"; did you mean {near!r}?" if near else "")


if __name__ == "__main__":
    sys.exit(main())
