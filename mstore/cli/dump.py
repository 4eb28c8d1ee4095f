"""`mstore dump`: any file of a store, or all of them, as text or as JSON."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstore.cli import common, render, streams
from mstore.errors import StorageError

if TYPE_CHECKING:
    from mstore.persistence.dump import Choice, Item, Names

VALUES_SHOWN = 8
_SAMPLES = ("values", "columns", "times", "times_ms", "slots", "generations", "ranges", "memory_by_age")
_RUNS = ("row", "column", "stamped", "scatter", "chunk")
_NOUNS = {"free_slot": "free slot", **{name: f"{name} run" for name in _RUNS if name != "chunk"}}
_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "dump",
        "print log segments, snapshots and shared memory as text",
        "mstore dump --dir /var/lib/mstore | less\n"
        "mstore dump /var/lib/mstore/wal/0000000000000001.wal --seq 100-120\n"
        "mstore dump /var/lib/mstore/snapshots/*.chunks --type chunk --no-values\n"
        "mstore dump mstore-0a1b2c3d4e5f-6a7b8c9d-control --json",
        "Without FILE: all files of the store in DIR. Every checksum is verified, and what is damaged is shown with the "
        "place where reading goes on; the status is 1 then. Only reads, and needs no lock: also beside a running store.",
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="*", help="path of a file, or name of a segment in /dev/shm"
    )
    parser.add_argument(
        "--limit", metavar="N", type=common.count, default=0, help="show N blocks and records of each file"
    )
    parser.add_argument(
        "--type", metavar="TYPE", action="append", default=[], dest="types", type=_types,
        help="only records of this type: level, metric, series, key, row, chunk, ...; several with commas",
    )  # fmt: skip
    parser.add_argument(
        "--seq",
        metavar="FROM-TO",
        type=_range,
        default=None,
        help="only blocks of the log with these sequences",
    )
    values = parser.add_mutually_exclusive_group()
    values.add_argument(
        "--values",
        action="store_true",
        default=None,
        help=f"all values (default: {VALUES_SHOWN} of each run)",
    )
    values.add_argument("--no-values", action="store_false", dest="values", help="no values")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line, with all values")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.persistence.dump import Choice, Names, find, store_files

    directory = common.store_dir(args)
    paths = [find(name) for name in args.file] or store_files(directory)
    if not paths:
        raise StorageError(f"there is no store in {directory}: neither log nor snapshots nor shared memory")
    first, last = args.seq or (0, (1 << 64) - 1)
    chosen = Choice(frozenset(name for names in args.types for name in names), first, last, args.limit)
    names = Names()
    status = 0
    for path in paths:
        try:
            status |= _dump(path, chosen, names, args)
        except StorageError as error:
            if len(paths) == 1:
                raise
            status = 1
            streams.complain(f"mstore: {error.message}")
    return status


def _dump(path: Path, choice: Choice, names: Names, args: argparse.Namespace) -> int:
    from mstore.persistence.dump import dump_file

    status = 0
    for item in dump_file(path, choice, names):
        status |= int(bool(item.wrong))
        if args.json:
            common.print_json(_document(item, path, args.values is not False))
        else:
            for line in as_text(item, names, args.values):
                print(line)
    if not args.json:
        print()
    return status


# --- arguments


def _types(text: str) -> frozenset[str]:
    from mstore.persistence.dump import RECORD_NAMES

    wanted = {name.strip().lower() for name in text.split(",") if name.strip()}
    if unknown := sorted(wanted - RECORD_NAMES):
        known = ", ".join(sorted(RECORD_NAMES))
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no type of record: expected {known}")
    return frozenset(wanted)


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,20})?(-)?(\d{1,20})?", text)
    if not found or not (found[1] or found[3]):
        raise argparse.ArgumentTypeError(
            f"{text} is not allowed: expected FROM-TO, FROM-, -TO or one sequence"
        )
    first = int(found[1] or 0)
    last = int(found[3]) if found[3] else (1 << 64) - 1 if found[2] else first
    if first > last:
        raise argparse.ArgumentTypeError(f"{text} is not allowed: {first} is after {last}")
    return first, last


# --- JSON


def _document(item: Item, path: Path, values: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"file": str(path), "what": item.what, "at": item.at}
    for name, value in item.fields.items():
        if name in _SAMPLES and not values:
            continue
        document[name] = _plain(value)
    if item.wrong:
        document["wrong"] = item.wrong
    return document


def _plain(value: Any) -> Any:
    """Lists and numbers: NaN is null, infinities are the texts "inf" and "-inf"."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "dtype"):
        return [_number(one) for one in render.exact(value)]
    return value


def _number(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None if value != value else str(value)
    return value


# --- text


def as_text(item: Item, names: Names, values: bool | None) -> Iterator[str]:
    """Lines of an item; values: True = all, None = a few of each run, False = none."""
    wrong = [render.paint(f"WRONG: {_safe(item.wrong)}", render.RED)] if item.wrong else []
    if item.what == "file":
        holds = f"{item.fields['holds']}, " if "holds" in item.fields else ""
        title = _safe(f"{item.fields['path']}: {holds}{item.fields['bytes']:,} bytes")
        yield "  ".join([render.paint(title, render.BOLD), *wrong])
        return
    if item.what == "end":
        yield from _fitted(" ", [*_counts(item.fields), *(wrong or ["all sound"])], 2, " ")
        return
    place = f"{item.at:>12}  {'  ' * (item.depth - 1)}"
    indent = len(place) + 2
    run = item.what in _RUNS and "count" in item.fields
    told = _run_head(item, names) if run else _fields(item.fields)
    what = render.paint(item.what, render.BOLD if item.depth == 1 else render.CYAN)
    yield from _fitted(place + what, told + wrong, indent)
    if values is False or not (run or "ranges" in item.fields):
        return
    lines = list(_run_lines(item, names) if run else map(_range_line, item.fields["ranges"]))
    shown = lines if values else lines[:VALUES_SHOWN]
    for line in shown:
        yield " " * indent + line
    if len(shown) < len(lines):
        left_out = f"... {len(lines) - len(shown):,} more (--values shows all)"
        yield " " * indent + render.paint(left_out, render.DIM)


def _fitted(line: str, parts: list[str], indent: int, gap: str = "  ") -> Iterator[str]:
    """The parts behind one another; on a terminal as lines that fit it, elsewhere as one."""
    room = common.width() if sys.stdout.isatty() else 0
    for part in parts:
        wide = _columns_of(line) + len(gap) + _columns_of(part)
        if room and wide > room and _columns_of(line) > indent:
            yield line
            line = " " * indent + part
        else:
            line += gap + part
    yield line


def _columns_of(text: str) -> int:
    return render.columns_of(re.sub(r"\x1b\[\d*m", "", text))


def _counts(fields: dict[str, Any]) -> list[str]:
    counts = [render.count(n, _NOUNS.get(name, name)) for name, n in fields.items() if name != "not_shown"]
    left_out = [f"({fields['not_shown']:,} not shown):"] if "not_shown" in fields else []
    told = [f"{text}," for text in counts[:-1]] + (counts[-1:] or ["nothing in it"])
    return [*told, *left_out] if left_out else [*told[:-1], f"{told[-1]}:"]


def _fields(fields: dict[str, Any]) -> list[str]:
    shown = ((name, value) for name, value in fields.items() if name not in _SAMPLES)
    return [f"{name.removesuffix('_ns')} {_shown(name, value)}" for name, value in shown]


def _shown(name: str, value: Any) -> str:
    if name.endswith("_ns") and isinstance(value, int):
        return _time(value // 1_000_000)
    if isinstance(value, str):
        plain = name in ("note", "text", "dead") or (value and not re.search(r"\s", value))
        return _safe(value) if plain else f'"{_safe(value)}"'
    if value is None:
        return "-"
    if name == "missing":
        first, last = value
        return f"{first} to {last}" if first != last else str(first)
    return str(value)


def _run_head(item: Item, names: Names) -> list[str]:
    fields = item.fields
    one = "slot" in fields or len(fields["slots"]) == 1
    parts = [str(fields["value_type"])] if "value_type" in fields and "columns" not in fields else []
    if one:
        parts.append(_series(*_reference(fields, 0), names))
    if item.what == "chunk":
        parts.append(f"chunk {fields['n']}")
    if "first_t" in fields:
        parts.append(f"from {_time(fields['first_t'] * 1000)} every {fields['step_s']} s")
    elif "dt_s" in fields:
        parts.append(
            f"from {_time(int(fields['times'][0]) * 1000)} every {fields['dt_s']} s"
            if fields["count"]
            else ""
        )
    elif item.what in ("row", "scatter") and len(fields["times"]):
        parts.append(f"at {_time(int(fields['times'][0]) * 1000)}")
    noun = "row" if "columns" in fields else "slot" if item.what == "chunk" else "sample"
    return [*parts, render.count(fields["count"], noun)]


def _reference(fields: dict[str, Any], at: int) -> tuple[int, int]:
    if "slot" in fields:
        return fields["slot"], fields["generation"]
    return int(fields["slots"][at]), int(fields["generations"][at])


def _series(slot: int, generation: int, names: Names) -> str:
    name = names.of_series(slot, generation)
    return f"{slot}.{generation}" + (f" {_safe(name)}" if name else "")


def _run_lines(item: Item, names: Names) -> Iterator[str]:
    """A line for every sample or row; the slots of a chunk that hold none are left out."""
    fields = item.fields
    if "columns" in fields:
        columns = [render.exact(column) for column in fields["columns"]]
        for stamp, *row in zip(fields["times_ms"].tolist(), *columns, strict=True):
            yield "  ".join([_time(stamp, "milliseconds"), *map(str, row)])
        return
    values = render.exact(fields["values"])
    if item.what == "chunk":
        missing = (1 << 64) - 1 if fields["value_type"] == "u64" else None
        for at, value in enumerate(values):
            if value != missing and value == value:
                yield f"{_time((fields['first_t'] + at * fields['step_s']) * 1000)}  {value}"
    elif item.what == "column":
        for t, value in zip(fields["times"].tolist(), values, strict=True):
            yield f"{_time(t * 1000)}  {value}"
    else:
        for at, value in enumerate(values):
            yield f"{_series(*_reference(fields, at), names)}  {value}"


def _range_line(found: list[int]) -> str:
    slot, generation, first, last = found
    return f"{slot}.{generation}  {first} to {last}"


def _time(milliseconds: int, resolution: str = "auto") -> str:
    """ISO 8601 in UTC; the number itself where no calendar reaches."""
    if not 0 <= milliseconds <= _MS_MAX:
        return f"{milliseconds} ms"
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
    resolution = (
        ("milliseconds" if milliseconds % 1000 else "seconds") if resolution == "auto" else resolution
    )
    return moment.isoformat(timespec=resolution).replace("+00:00", "Z")


def _safe(text: str) -> str:
    """Text that a terminal shows and does not obey; what its encoding lacks as an escape."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
