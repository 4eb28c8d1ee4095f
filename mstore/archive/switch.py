"""Whether a question needs the archive at all: most do not, and must not pay for it.

    DIR/run/archive.json    written by the store where it has an archive: {"directory": "/data/archive", "writes": true, ..}

Memory has everything that retention serves, unless something left early (evicted at the memory cap, or freed by a
command): then the manifest, or a file of early leavers, names the seconds. So the archive is asked for what lies before
retention, and for ranges that reach into those. Nothing here needs pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mstore import clock
from mstore.archive import leavers
from mstore.archive.begun import gone
from mstore.archive.manifest import joined, manifests, read_manifest
from mstore.errors import ArchiveError, StorageError
from mstore.persistence.files import Files, ReadOnly, archive_note_path

_LOOK_EVERY_S = 1.0
"""How long what the note and the configuration said is taken for true."""
_ANY_S = [(-(1 << 62), 1 << 62)]
_SLACK_S = 60
"""A question that begins so close to what retention still serves may be answered when it does not any more."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What DIR/run/archive.json says."""

    directory: Path
    writes: bool
    """False: the archive is only read any more."""
    level: int = 3
    """Of zstd; this and max_bytes are for whoever archives the stopped store."""
    max_bytes: int = 0


def read_setup(store_dir: Path) -> Setup | None:
    """None when the store has no archive. raises ArchiveError when the note cannot be read"""
    path = archive_note_path(store_dir)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        level, max_bytes = int(content["level"]), int(content["max_bytes"])
        return Setup(Path(content["directory"]), bool(content["writes"]), level, max_bytes)
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
    content = {**asdict(setup), "directory": str(setup.directory)}
    files.replace(path, json.dumps(content).encode())


class Switch:
    """What one process knows of the archive of the store in `store_dir`.

    shortest_s  the shortest time for which any metric is kept, seconds; 0 = all for ever
    left        control.left: changes whenever something leaves memory before its time, 0 = nothing has
    """

    def __init__(
        self,
        store_dir: Path,
        shortest_s: Callable[[], int],
        left: Callable[[], int],
        now_s: Callable[[], int],
    ) -> None:
        self._store_dir = store_dir
        self._ask_shortest_s = shortest_s
        self._left = left
        self._now_s = now_s
        self._look_at_s = 0.0
        self._setup: Setup | None = None
        self._shortest_s = 0
        self._early_as_of = 0
        self._early: dict[str, list[tuple[int, int]]] = {}

    @property
    def setup(self) -> Setup | None:
        """None: there is no archive. raises ArchiveError when nobody can know"""
        if clock.monotonic_s() >= self._look_at_s:
            self._look()
        return self._setup

    @property
    def reads(self) -> bool:
        """Whether there is an archive, as far as anybody can know."""
        if clock.monotonic_s() >= self._look_at_s:  # by itself: every question comes here
            try:
                self._look()
            except ArchiveError:
                return True
        return self._setup is not None

    def needed(self, cluster: str, start: int, end: int) -> bool:
        """Whether memory alone may lack samples of [start, end) that the archive has.

        Where that cannot be known the answer is yes: the one to the question will say what is wrong.
        """
        if clock.monotonic_s() >= self._look_at_s:  # by itself: attached questions come here each time
            try:
                self._look()
            except ArchiveError:
                return True
        if self._setup is None or start >= end:
            return False
        if self._shortest_s and start < self._now_s() - self._shortest_s + _SLACK_S:
            return True
        left = self._left()
        if not left:
            return False
        if left != self._early_as_of:
            self._early, self._early_as_of = {}, left
        found = self._early.get(cluster)
        if found is None:
            found = self._early[cluster] = self._early_of(cluster)
        return any(first < end and last >= start for first, last in found)

    def _look(self) -> None:
        self._setup = read_setup(self._store_dir)
        self._shortest_s = self._ask_shortest_s()
        self._look_at_s = clock.monotonic_s() + _LOOK_EVERY_S

    def clusters(self) -> list[str]:
        """Those that have something in the archive, as far as its manifests can be read."""
        try:
            found = manifests(ReadOnly(), self.setup.directory)[0] if self.setup is not None else []
        except (ArchiveError, StorageError):
            return []
        return [one.cluster for one in found]

    def _early_of(self, cluster: str) -> list[tuple[int, int]]:
        """(first, last) second of what left memory before its time, of a cluster in the archive, of any on its way."""
        try:
            if (setup := self.setup) is None:
                return []
            manifest = read_manifest(ReadOnly(), setup.directory, cluster)
            if manifest is None and gone(ReadOnly(), self._store_dir, setup.directory):
                return _ANY_S
            waiting = leavers.spans(ReadOnly(), self._store_dir)
        except (ArchiveError, StorageError):
            # Nobody knows: the question goes to the archive, and its answer says what is wrong.
            return _ANY_S
        return joined([*(manifest.early if manifest is not None else ()), *waiting])
