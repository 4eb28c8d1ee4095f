"""The manifest of one cluster: which files are the archive, and up to where each metric is in it.

A pass writes files, gives them their names, and then replaces the manifest: that is the moment at which what was
written belongs to the archive, and up to which all is in it that is older. So each sample is there once, whatever ends
a pass half way: files that the manifest does not name are removed by the next one, which writes them again.

    _manifest/cluster=fritz.json    {"crc32c": .., "version": 1, "cluster": "fritz", "next_part": 18,
                                     "archived_to": {"cpu_load": 1767350000}, "parts": [..], ...}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crc32c import crc32c

from mstore.archive import names
from mstore.errors import ArchiveError, StorageError
from mstore.persistence.files import Files

VERSION = 1
NOTHING_S = -(1 << 53)
"""Archived up to here: nothing is."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one pass has written of one day: a file of samples and the tables beside it."""

    number: int
    day: int
    n_rows: int
    n_bytes: int
    """Of all its files."""
    first_s: int
    """Time of its first and its last sample, seconds."""
    last_s: int
    footers: dict[str, int] = field(default_factory=dict, hash=False)
    """crc32c of the footer of each of its files, by table: Parquet's pages have checksums, its footer has none."""


@dataclass(slots=True)
class Manifest:
    """One cluster's; changed in memory, then written whole."""

    cluster: str
    next_part: int = 1
    archived_to: dict[str, int] = field(default_factory=dict)
    """By metric: everything older than this second is in the archive, or came later and is on its way there."""
    parts: list[Part] = field(default_factory=list)
    first_day: int = NOTHING_S
    """Of what is kept: the days before were deleted."""
    early: list[tuple[int, int]] = field(default_factory=list)
    """(first, last) seconds that memory may lack although retention would still serve them: what lies there left
    memory before its time."""
    leavers: list[str] = field(default_factory=list)
    """Files of early leavers whose rows of this cluster are in the archive."""

    def n_bytes(self) -> int:
        return sum(part.n_bytes for part in self.parts)

    def overlapping(self, start_s: int, end_s: int) -> list[Part]:
        """Parts with samples in [start_s, end_s), oldest part first: what a later one says holds."""
        found = (part for part in self.parts if part.first_s < end_s and part.last_s >= start_s)
        return sorted(found, key=lambda part: part.number)

    def to_plain(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def to_json(self) -> bytes:
        content = {"version": VERSION, **asdict(self)}
        return json.dumps({"crc32c": _checksum(content), **content}, indent=1).encode()


def _checksum(content: dict[str, Any]) -> int:
    return int(crc32c(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()))


def parse(text: bytes, where: Path) -> Manifest:
    """raises ArchiveError for anything that is not a whole manifest of this version"""
    try:
        content = json.loads(text)
        found = content.pop("crc32c")
        version = content.pop("version")
        if found != _checksum({"version": version, **content}):
            raise ArchiveError(f"{where}: checksum mismatch", path=str(where))
        if version != VERSION:
            raise ArchiveError(
                f"{where} is of version {version}, expected {VERSION}: another mstore wrote it",
                path=str(where),
            )
        parts = [Part(**part) for part in content.pop("parts")]
        early = [(int(first), int(last)) for first, last in content.pop("early")]
        return Manifest(**content, parts=parts, early=early)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{where} is no manifest: {error}", path=str(where)) from error


def read_manifest(files: Files, root: Path, cluster: str) -> Manifest | None:
    """None when there is none. raises ArchiveError, StorageError"""
    path = names.manifest_path(root, cluster)
    if not path.exists():
        return None
    found = parse(files.read(path), path)
    if found.cluster != cluster:
        raise ArchiveError(f"{path} is the manifest of cluster {found.cluster!r}", path=str(path))
    return found


def write_manifest(files: Files, root: Path, manifest: Manifest) -> None:
    """From here on, durably, the archive is what this manifest says. raises StorageError"""
    files.mkdir(names.manifest_dir(root))
    files.replace(names.manifest_path(root, manifest.cluster), manifest.to_json())


def manifests(files: Files, root: Path) -> tuple[list[Manifest], list[str]]:
    """Those of all clusters, by name, and what is wrong with others, a sentence each."""
    found, wrong = [], []
    for name in files.list(names.manifest_dir(root)):
        if name.endswith(".json"):
            path = names.manifest_dir(root) / name
            try:
                found.append(parse(files.read(path), path))
            except (ArchiveError, StorageError) as error:
                wrong.append(error.message)
    return sorted(found, key=lambda one: one.cluster), wrong


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same seconds in as few spans as there can be, in order."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        elif first <= last:
            found.append((first, last))
    return found
