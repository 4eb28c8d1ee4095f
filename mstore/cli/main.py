"""The command `mstore`: one module a group of commands, one clear line and a status for every error.

Status: 0 done; 1 it did not work, or lines were refused; 2 wrong usage or configuration; 130 interrupted.
A command's module imports what it needs when it runs, so that --help and --version answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import zlib
from collections.abc import Sequence
from typing import NoReturn

import mstore
from mstore.cli import collect, demo, info, look, query, simulate, store, write
from mstore.errors import ConfigError, InvalidRequest, MstoreError

EX_FAILED, EX_USAGE, EX_INTERNAL, EX_INTERRUPTED = 1, 2, 70, 130
_COMMANDS = (demo, store, write, query, look, info, simulate, collect)


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line, and a mistyped command gets a hint."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: error: {_hinted(message)} (see {self.prog} --help)\n")
        sys.exit(EX_USAGE)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
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
    for module in _COMMANDS:
        module.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its status. The last line of defence: no traceback reaches the user."""
    parser = build_parser()
    try:
        args = parser.parse_args(_with_times_joined(sys.argv[1:] if argv is None else argv))
        if args.command is None:
            parser.print_help()
            return 0
        return int(args.run(args) or 0)
    except KeyboardInterrupt:
        return _say("interrupted", EX_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_FAILED
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
        name = f"{error.filename}: " if error.filename else ""
        return _say(f"{name}{error.strerror or error}", EX_FAILED)
    except Exception as error:
        if os.environ.get("MSTORE_TRACEBACK"):
            raise
        text = f"internal error: {type(error).__name__}: {error} (MSTORE_TRACEBACK=1 shows where)"
        return _say(text, EX_INTERNAL)


def _say(text: str, status: int) -> int:
    sys.stdout.flush()
    one_line = " ".join(text.split())
    sys.stderr.write(f"mstore: {one_line}\n")
    return status


def _with_times_joined(argv: Sequence[str]) -> list[str]:
    """--from -2h as --from=-2h: argparse would take -2h for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in ("--from", "--to") and re.match(r"-\d", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _hinted(message: str) -> str:
    """argparse's list of commands, shortened to the nearest one."""
    if "invalid choice" not in message or "COMMAND" not in message:
        return message
    wrong = message.split("'")[1]
    known = [name for module in _COMMANDS for name in module.NAMES]
    near = difflib.get_close_matches(wrong, known, 1)
    return f"there is no command {wrong!r}" + (f"; did you mean {near[0]!r}?" if near else "")


if __name__ == "__main__":
    sys.exit(main())
