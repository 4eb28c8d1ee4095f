"""Which files of a directory are whose: the reference's layout, found from above or from within.

    DIRECTORY/fritz/f0201/1700000000.json        checkpoints of a host, by the second their window begins
    DIRECTORY/fritz/f0201/1700043200.bin         snapshots, possibly side by side with checkpoints
    DIRECTORY/fritz/f0201/current.wal            what came after the last of them
    DIRECTORY/fritz/1699913600.parquet           the archive of a cluster
    DIRECTORY/cluster=fritz/day=2023-11-14/*.parquet     mstore's own archive

A directory given may also be one cluster's or one host's: cluster and host are then its own name and its parent's.
Files that lie elsewhere name no host (the reference makes such ones for lines without a hostname) and are reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from mstore.errors import InvalidRequest

JSON, BIN, WAL, PARQUET = "json", "bin", "wal", "parquet"
WAL_NAME = "current.wal"
_SUFFIXES = {".json": JSON, ".bin": BIN, ".wal": WAL, ".parquet": PARQUET}
_CHECKPOINT = re.compile(r"(-?\d{1,15})\.(json|bin)")
_TABLE = re.compile(r"(-?\d{1,15})\.parquet")
_DEPTH_MAX = 6
_CLUSTER_DIR = "cluster="
"""How archives that are partitioned by directories name a cluster's."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file to be read."""

    path: Path
    kind: str
    cluster: str
    """Empty for Parquet that names it in a column."""
    host: str
    start: int
    """Second at which its window begins, by its name; of a log, after all others."""
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """What is not read, and why."""

    path: Path
    why: str
    holds_data: bool = True
    """Whether something may be missing without it."""


_LAST = 1 << 62
_AVRO_SUFFIX = ".avro"
_LEFT_OVER = "left over from a write that was not finished"
_AVRO = "Avro checkpoints are not read: let a version of the reference that still reads them write others"
_MISPLACED = "it lies in no host's directory: nothing says whose it is"
_FOREIGN = "not a file of the reference"
_BAD_NAME = "its name is no <seconds>.json, <seconds>.bin or current.wal"
_NOT_TEXT = "the name of its cluster or host is not UTF-8"


def walk(given: Path) -> tuple[list[Found], list[Skipped]]:
    """All files of a directory, or one file, in the order in which they are to be read.

    By cluster and host; of a host by time, the log last. raises InvalidRequest for what does not exist
    """
    if not given.exists():
        raise InvalidRequest(f"{given}: no such file or directory")
    given = Path(os.path.abspath(given))
    if given.is_file():
        return _single(given)
    found: list[Found] = []
    skipped: list[Skipped] = []
    files = list(_files(given, (), skipped))
    n_above = _depth_of_hosts(files)
    for parts in files:
        path = given.joinpath(*parts)
        one = _place(path, parts, n_above)
        (found if isinstance(one, Found) else skipped).append(one)  # type: ignore[arg-type]
    return in_order(found), skipped


def in_order(found: Iterable[Found]) -> list[Found]:
    """By cluster and host; of a host by time, the log last."""
    return sorted(found, key=lambda one: (one.cluster, one.host, one.start, one.path.name))


def _single(path: Path) -> tuple[list[Found], list[Skipped]]:
    kind = _SUFFIXES.get(path.suffix)
    if kind is None:
        return [], [Skipped(path, _FOREIGN)]
    cluster = "" if kind == PARQUET else path.parent.parent.name
    host = "" if kind == PARQUET else path.parent.name
    return [
        Found(path, kind, cluster or _partition(path.parts), host, _start(path.name), path.stat().st_size)
    ], []


def _files(top: Path, above: tuple[str, ...], skipped: list[Skipped]) -> Iterator[tuple[str, ...]]:
    """Names of all files below `top`, relative. Avro files are told of once a directory."""
    folder = top.joinpath(*above)
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        skipped.append(Skipped(folder, f"it cannot be listed: {error.strerror}"))
        return
    if any(entry.name.endswith(_AVRO_SUFFIX) for entry in listed):
        skipped.append(Skipped(folder, _AVRO))
    for entry in listed:
        if not entry.is_dir():
            if not entry.name.endswith(_AVRO_SUFFIX):
                yield (*above, entry.name)
        elif entry.name.startswith("_"):
            continue  # tables and notes beside an archive's samples
        elif len(above) + 1 < _DEPTH_MAX:
            yield from _files(top, (*above, entry.name), skipped)
        else:
            skipped.append(Skipped(folder / entry.name, "too deep to be the reference's"))


def _depth_of_hosts(files: Sequence[tuple[str, ...]]) -> int:
    """How many directories stand above a host's files: 2 from the top, 1 in a cluster's, 0 in a host's own."""
    depths = {len(parts) - 1 for parts in files if _is_checkpoint(parts[-1])}
    return min(max(depths, default=2), 2)


def _is_checkpoint(name: str) -> bool:
    return name == WAL_NAME or _CHECKPOINT.fullmatch(name) is not None


def _start(name: str) -> int:
    """The second its window begins; what says none comes after all others, as a log does."""
    named = _CHECKPOINT.fullmatch(name) or _TABLE.fullmatch(name)
    return int(named[1]) if named else _LAST


def _place(path: Path, parts: tuple[str, ...], n_above: int) -> Found | Skipped:
    """What a file is and whose."""
    name = parts[-1]
    if name.endswith(".tmp"):
        return Skipped(path, _LEFT_OVER, holds_data=False)
    try:
        n_bytes = path.stat().st_size
        os.fsdecode(path).encode()
    except OSError as error:
        return Skipped(path, f"it cannot be read: {error.strerror}")
    except UnicodeEncodeError:
        return Skipped(path, _NOT_TEXT)
    if path.suffix == ".parquet":
        return Found(path, PARQUET, _partition(path.parts), "", _start(name), n_bytes)
    if path.suffix not in _SUFFIXES:
        return Skipped(path, _FOREIGN)
    if not _is_checkpoint(name):
        return Skipped(path, _BAD_NAME)
    if len(parts) - 1 != n_above:
        return Skipped(path, _MISPLACED)
    return Found(
        path, _SUFFIXES[path.suffix], path.parent.parent.name, path.parent.name, _start(name), n_bytes
    )


def _partition(parts: Sequence[str]) -> str:
    """The cluster that a directory cluster=NAME names, percent-encoded; else nothing."""
    named = [unquote(part.removeprefix(_CLUSTER_DIR)) for part in parts if part.startswith(_CLUSTER_DIR)]
    return named[-1] if named else ""
