"""Whether a question needs the archive at all: most do not, and must not pay for it.

    DIR/run/archive.json    written by the store where it has an archive: {"directory": "/data/archive", "writes": true}

Memory has everything that retention serves, unless something left early (evicted at the memory cap, or freed by a
command): then the manifest names parts that are `early`. So the archive is asked for what lies before retention, and
for ranges that early parts reach into. Nothing here needs pyarrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mstore import clock
from mstore.archive import names
from mstore.archive.manifest import Part, read_manifest
from mstore.errors import ArchiveError, StorageError
from mstore.persistence.files import Files, ReadOnly, archive_note_path

_LOOK_EVERY_S = 1.0
"""How long what the files said is taken for true."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What DIR/run/archive.json says."""

    directory: Path
    writes: bool
    """False: the archive is only read any more."""


def read_setup(store_dir: Path) -> Setup | None:
    """None when the store has no archive. raises ArchiveError when the note cannot be read"""
    path = archive_note_path(store_dir)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Setup(Path(content["directory"]), bool(content["writes"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path} does not say where the archive is: {error}", path=str(path)) from error


def write_setup(files: Files, store_dir: Path, setup: Setup | None) -> None:
    """Say where the archive is, or that there is none. raises StorageError"""
    path = archive_note_path(store_dir)
    if setup is None:
        files.unlink(path)
        return
    files.replace(path, json.dumps({"directory": str(setup.directory), "writes": setup.writes}).encode())


class Switch:
    """What one process knows of the archive of the store in `store_dir`.

    kept_from_s  the time from which on retention serves everything of all metrics, seconds
    """

    def __init__(self, store_dir: Path, kept_from_s: Callable[[], int]) -> None:
        self._store_dir = store_dir
        self._kept_from_s = kept_from_s
        self._looked_at_s = -_LOOK_EVERY_S
        self._setup: Setup | None = None
        self._from_s = 0
        self._early: dict[str, tuple[tuple[int, int, int], list[tuple[int, int]]]] = {}
        self._checked: dict[str, list[tuple[int, int]]] = {}

    @property
    def setup(self) -> Setup | None:
        """None: there is no archive, or nobody knows where. raises ArchiveError"""
        self._look()
        return self._setup

    def needed(self, cluster: str, start: int, end: int) -> bool:
        """Whether memory alone may lack samples of [start, end) that the archive has. raises ArchiveError"""
        self._look()
        if self._setup is None or start >= end:
            return False
        if start < self._from_s:
            return True
        return any(first < end and last >= start for first, last in self._early_of(self._setup, cluster))

    def _look(self) -> None:
        now_s = clock.monotonic_s()
        if now_s - self._looked_at_s < _LOOK_EVERY_S:
            return
        self._setup = read_setup(self._store_dir)
        self._from_s = self._kept_from_s()
        self._checked = {}
        self._looked_at_s = now_s

    def _early_of(self, setup: Setup, cluster: str) -> list[tuple[int, int]]:
        """(first, last) second of each early part of a cluster, joined where they meet."""
        if (known := self._checked.get(cluster)) is not None:
            return known
        try:
            status = os.stat(names.manifest_path(setup.directory, cluster))
        except FileNotFoundError:
            found: list[tuple[int, int]] = []
        except OSError as error:
            raise ArchiveError(
                f"the archive at {setup.directory} cannot be read: {error.strerror}"
            ) from error
        else:
            mark = status.st_ino, status.st_mtime_ns, status.st_size
            kept = self._early.get(cluster)
            if kept is None or kept[0] != mark:
                kept = self._early[cluster] = mark, self._read(setup, cluster)
            found = kept[1]
        self._checked[cluster] = found
        return found

    def _read(self, setup: Setup, cluster: str) -> list[tuple[int, int]]:
        try:
            manifest = read_manifest(ReadOnly(), setup.directory, cluster)
        except (ArchiveError, StorageError):
            # Nobody knows: the question goes to the archive, and its answer says what is wrong.
            return [(-(1 << 62), 1 << 62)]
        return _joined([part for part in manifest.parts if part.early]) if manifest is not None else []


def _joined(parts: list[Part]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for first, last in sorted((part.first_s, part.last_s) for part in parts):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found
