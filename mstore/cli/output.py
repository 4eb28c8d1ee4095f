"""Where a command's answer goes: --format, -o FILE and --plot FILE, which `mstore query` and `mstore job` share."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mstore.cli import render, streams
from mstore.cli.targets import refuse_unwritable
from mstore.errors import InvalidRequest

_SAVED = ("csv", "json", "parquet")
_PICTURES = ("png", "svg")


def add(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """--format of these, the first by default, -o and --plot."""
    saved = [name for name in formats if name in _SAVED]
    parser.add_argument(
        "--format",
        choices=formats,
        help=f"default: {formats[0]}, or what -o FILE ends with: {', '.join(saved)}",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="write there; it appears whole or not at all"
    )
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw it: FILE.png or FILE.svg (needs matplotlib)"
    )
    parser.add_argument("--quiet", action="store_true", help="do not say which file was written")
    parser.set_defaults(formats=tuple(formats))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the answer becomes, and where it goes."""

    text: str
    """The format; of a picture "plot"."""
    file: Path | None = None
    """None: standard output."""
    picture: str = ""
    """png or svg: the file is a picture."""
    quiet: bool = False

    def save(self, content: bytes) -> None:
        """Put the file there, whole or not at all, and say so on standard error. raises StorageError"""
        from mstore.persistence.files import Files

        assert self.file is not None
        Files().replace(self.file, content)
        if not self.quiet:
            streams.complain(f"wrote {self.file} ({render.size(len(content))})")

    @contextlib.contextmanager
    def printed(self) -> Iterator[None]:
        """Inside, what is printed goes to standard output, or to the file once all of it is there."""
        if self.file is None:
            yield
            return
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            yield
        self.save(text.getvalue().encode())


def wanted(args: argparse.Namespace) -> Wanted:
    """Of the parsed arguments; raises InvalidRequest for what does not go together, StorageError where FILE cannot be."""
    found = _wanted(args)
    if found.file is not None:
        refuse_unwritable(found.file)
    return found


def _wanted(args: argparse.Namespace) -> Wanted:
    if args.plot is not None:
        kind = _ending(args.plot)
        if kind not in _PICTURES:
            raise InvalidRequest(f"--plot {args.plot}: expected a name that ends in .png or .svg")
        if args.output is not None or args.format not in (None, "plot"):
            raise InvalidRequest("--plot FILE draws a picture: give --format and -o in a call of their own")
        return Wanted("plot", args.plot, kind, args.quiet)
    saved = [name for name in args.formats if name in _SAVED]
    if args.output is None:
        if args.format == "parquet":
            raise InvalidRequest("--format parquet needs -o FILE: it is no text")
        return Wanted(args.format or args.formats[0])
    text = args.format or _ending(args.output)
    if text not in saved:
        raise InvalidRequest(
            f"-o {args.output}: expected --format {' or '.join(saved)}, or a name that ends so"
        )
    return Wanted(text, args.output, quiet=args.quiet)


def _ending(file: Path) -> str:
    return file.suffix.removeprefix(".").lower()
