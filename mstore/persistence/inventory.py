"""The files that the promises of a running store rest on, and whether they are still what they were.

    the newest segment of the log   the file that is open, of its whole length
    older segments                  as they were when the log went on to the next: nobody writes to them any more
    generations of snapshots        as they were when they were complete, every file that a manifest names

A look is one stat for each of them: it shows what was removed, cut, replaced or written over, whoever did it. What a
disk does to bytes underneath shows when they are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mstore.errors import CorruptRecord, LayoutMismatch
from mstore.persistence.files import Files, FileStatus, snapshot_dir, wal_dir
from mstore.persistence.snapshot import list_snapshots
from mstore.persistence.snapshot_manifest import read_manifest
from mstore.persistence.wal_segments import SegmentFile


@dataclass(frozen=True, slots=True)
class LostFile:
    """Something that the store counted on and that is not what it was."""

    path: Path
    what: str
    """What has become of it, a few words."""
    last_seq: int = 0
    """Of the last block that was in it, when it is a segment of the log."""
    generation: int = 0
    """Whose file it is, when it is a snapshot's."""

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass(frozen=True, slots=True)
class _Known:
    state: FileStatus
    generation: int = 0
    at_rest: bool = True
    """Nobody has a reason to write to it any more."""


class Inventory:
    """What there should be in DIR/wal and DIR/snapshots. Looking raises StorageError when it cannot be told."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._segments: dict[tuple[Path, int], _Known] = {}
        self._snapshots: dict[Path, _Known] = {}
        self._told: set[tuple[Path, int]] = set()

    # --- the log

    def look_at_log(self, segments: Sequence[SegmentFile]) -> list[LostFile]:
        """Of the log's segments, oldest first, those that are not what they were; each is told once."""
        known, self._segments = self._segments, {}
        self._told &= {segment.key for segment in segments}
        lost = []
        for segment in segments:
            if segment.key in self._told:
                continue
            found = self._files.status(segment.path)
            what = self._fault(segment, found, known.get(segment.key))
            if what:
                self._told.add(segment.key)
                lost.append(LostFile(segment.path, what, last_seq=segment.last_seq))
            elif found is not None:
                self._segments[segment.key] = _Known(found, at_rest=segment.fd < 0)
        return lost

    def _fault(self, segment: SegmentFile, found: FileStatus | None, known: _Known | None) -> str:
        if segment.fd >= 0:
            return _difference(found, self._files.status_of(segment.fd).inode, segment.n_bytes)
        if known is None:  # of a run before, or it came and went on between two looks
            return "" if found is not None else "is gone"
        what = _difference(found, known.state.inode, known.state.n_bytes)
        if not what and known.at_rest and found != known.state:
            what = "was written to by somebody"
        return what

    # --- snapshots

    def learn_snapshots(self, unsound: Collection[int], log_first_seq: int) -> list[LostFile]:
        """Take the generations there are for those that count; what is missing of them already.

        unsound        sequences of generations that do not count: they were found damaged
        log_first_seq  where the log begins: a generation from before is of no use
        """
        self._snapshots = {}
        lost = []
        for log_seq, path in list_snapshots(self._files, snapshot_dir(self._directory)):
            if log_seq in unsound:
                continue
            if log_first_seq > log_seq + 1:
                what = (
                    f"begins with block {log_first_seq}, the snapshot of block {log_seq} needs the one before"
                )
                lost.append(LostFile(wal_dir(self._directory), what, generation=log_seq))
                continue
            lost += self._learn(path, log_seq)
        return lost

    def _learn(self, path: Path, log_seq: int) -> Iterator[LostFile]:
        try:
            manifest = read_manifest(self._files, path, log_seq)
        except (CorruptRecord, LayoutMismatch) as failure:
            yield LostFile(path, f"is damaged: {failure.message}", generation=log_seq)
            return
        named = [(path, manifest.n_bytes)]
        named += [(manifest.path_of(part), part.n_bytes) for part in manifest.parts]
        for one, n_bytes in named:
            found = self._files.status(one)
            if found is None or found.n_bytes != n_bytes:
                inode = found.inode if found is not None else (0, 0)
                yield LostFile(one, _difference(found, inode, n_bytes), generation=log_seq)
            else:
                self._snapshots[one] = _Known(found, log_seq)

    def look_at_snapshots(self, from_seq: int = 0) -> list[LostFile]:
        """Of the generations from `from_seq` on, the files that are not what they were.

        A generation of which one is lost does not count any more: it is forgotten.
        """
        lost = []
        for path, known in self._snapshots.items():
            if known.generation < from_seq:
                continue
            found = self._files.status(path)
            what = _difference(found, known.state.inode, known.state.n_bytes)
            if not what and found != known.state:
                what = "was written to by somebody"
            if what:
                lost.append(LostFile(path, what, generation=known.generation))
        self.forget({one.generation for one in lost})
        return lost

    def forget(self, generations: Collection[int]) -> None:
        """These do not count any more."""
        self._snapshots = {
            path: known for path, known in self._snapshots.items() if known.generation not in generations
        }

    def generations(self) -> list[int]:
        """Sequences of those that count, newest first."""
        return sorted({known.generation for known in self._snapshots.values()}, reverse=True)


def _difference(found: FileStatus | None, inode: tuple[int, int], n_bytes: int) -> str:
    if found is None:
        return "is gone"
    if found.inode != inode:
        return "is another file"
    if found.n_bytes != n_bytes:
        return (
            f"{'was cut' if found.n_bytes < n_bytes else 'has grown'} to {found.n_bytes} bytes from {n_bytes}"
        )
    return ""
