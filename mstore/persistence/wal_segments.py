"""The files of a log, in the order of their blocks: the newest is written to, the older ones wait to be given up.

open      a spare gets the name of the first sequence that will be in it
leave     part of the newest cannot be written: the next one may have to take its name
settle    the descriptors of files are closed when everything in them is durable
forsake   after a failed sync: files keep what is durable, or lose their names
retire    files that nobody needs become spares, unless somebody holds the log
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

from mstore.errors import StorageError
from mstore.persistence.files import WAL_SUFFIX, Files, number_of, wal_name
from mstore.persistence.spares import Spares


@dataclass(slots=True)
class Segment:
    path: Path
    first_seq: int
    fd: int = -1
    """Open while it may hold blocks that are not durable."""
    segment_id: int = 0
    tainted: bool = False
    """A sync of it failed: it may be read, never recycled."""


class SegmentFile(NamedTuple):
    """One file of the log, for who looks after it."""

    path: Path
    first_seq: int
    last_seq: int
    """Of the blocks written so far; below first_seq: none."""
    n_bytes: int
    """That it must have while it is open."""
    fd: int
    """-1: it is closed, everything in it is durable."""
    segment_id: int
    """0: of a run before."""

    @property
    def key(self) -> tuple[Path, int]:
        """Which one it is: one that was given up empty and the one after it have the same name."""
        return self.path, self.segment_id


class Segments(Sequence[Segment]):
    """Oldest first; empty until begin() and open().

    files, directory  DIR/wal; must exist
    spares            where new files come from, and old ones go
    on_segment        given the id of every segment that becomes the newest, when its name is on the disk's way
    """

    def __init__(
        self, files: Files, directory: Path, spares: Spares, on_segment: Callable[[int], None] | None
    ) -> None:
        self._files = files
        self._directory = directory
        self._spares = spares
        self._on_segment = on_segment
        self._all: list[Segment] = []
        self._left: Path | None = None
        """A file whose first block could not be written: it still has a name, which would end the one before it."""
        self._holds: set[int] = set()
        self._retire_upto = 0

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Segment]: ...
    def __getitem__(self, index: int | slice) -> Segment | list[Segment]:
        return self._all[index]

    def files(self, next_seq: int, segment_bytes: int) -> list[SegmentFile]:
        """What each of them holds; the next block of the log is `next_seq`."""
        ends = [later.first_seq for later in self._all[1:]] + [next_seq]
        return [
            SegmentFile(one.path, one.first_seq, end - 1, segment_bytes, one.fd, one.segment_id)
            for one, end in zip(self._all, ends, strict=False)
        ]

    @property
    def n_holds(self) -> int:
        return len(self._holds)

    def begin(self, next_seq: int) -> None:
        """Take over the files of earlier runs; none may hold a block from `next_seq` on."""
        self._all = [
            Segment(self._directory / name, number)
            for name in self._files.list(self._directory)
            if (number := number_of(name, WAL_SUFFIX)) is not None
        ]
        assert all(segment.first_seq < next_seq for segment in self._all), "finish_replay first"

    def open(self, first_seq: int) -> None:
        """Continue in a new file; the old one stays open until its blocks are durable."""
        spare = self._spares.get()
        path = self._directory / wal_name(first_seq)
        try:
            self._files.rename(spare.path, path)
        except StorageError:
            self._files.close(spare.fd)
            self._files.unlink(spare.path)
            raise
        if path == self._left:
            self._left = None
        self._all.append(Segment(path, first_seq, spare.fd, spare.segment_id))
        if self._on_segment is not None:
            self._on_segment(spare.segment_id)

    def leave(self, next_seq: int) -> None:
        """Write to the newest no more. If `next_seq` were its first block, nothing of it counts."""
        segment = self._all[-1]
        segment.tainted = True
        if segment.first_seq == next_seq:  # the next file takes its name
            self._close(segment)
            self._all.pop()
            self._left = segment.path

    def settle(self, durable: int) -> None:
        """Close the files that hold nothing but durable blocks."""
        for segment, later in zip(self._all, self._all[1:], strict=False):
            if segment.fd >= 0 and later.first_seq <= durable + 1:
                self._close(segment)

    def forsake(self, durable: int) -> None:
        """Take the names of files without durable blocks away; the others are never written or synced again."""
        if self._left is not None:
            self._files.unlink(self._left)
            self._left = None
        for segment in [segment for segment in self._all if segment.first_seq > durable]:
            self._close(segment)
            self._files.unlink(segment.path)
            self._all.remove(segment)
        for segment in self._all:
            segment.tainted = segment.tainted or segment.fd >= 0
            self._close(segment)

    def retire(self, upto_seq: int, durable: int) -> int:
        """Give up files that hold only blocks up to `upto_seq` and durable ones; how many. None while there is a hold."""
        self._retire_upto = max(self._retire_upto, upto_seq)
        if self._holds:
            return 0
        bound = min(self._retire_upto, durable)
        n_retired = 0
        while len(self._all) > 1 and self._all[1].first_seq <= bound + 1:
            segment = self._all[0]
            assert segment.fd < 0
            if segment.tainted:
                self._files.unlink(segment.path)
            else:
                self._spares.recycle(segment.path)
            del self._all[0]
            n_retired += 1
        return n_retired

    def hold(self) -> int:
        number = secrets.randbits(62)  # who held the log of a persister before this one must not end it here
        self._holds.add(number)
        return number

    def release(self, hold: int) -> None:
        self._holds.discard(hold)

    def close(self) -> None:
        """Close every descriptor."""
        for segment in self._all:
            self._close(segment)

    def _close(self, segment: Segment) -> None:
        if segment.fd >= 0:
            self._files.close(segment.fd)
            segment.fd = -1
