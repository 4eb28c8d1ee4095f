"""What is sound in the damaged files of one cluster, put together from all its generations.

The entries of a file are in order of series, and blocks are numbered. So its sound blocks leave *holes*: ranges of
series of which chunks may be missing, where a number is skipped or the end is.

    newest   [1 .. 40][damaged][90 .. 130]      hole 40..90
    older    [1 .. 55][55 .. 97][damaged]       hole 97..
    both     1 .. 40, of the older one what it has of 40..90, 90 .. 130: no hole is left

The log is replayed from the older one's sequence: that makes its chunks what they should be, and changes nothing of
the newer one's. A chunk that neither gives is lost up to that sequence; what came behind it is in the log.

What is lost is counted: a manifest says how many chunks a file had, and damaged bytes mostly still read as entries,
for it is the values that take the room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mstore.persistence.files import Files
from mstore.persistence.snapshot_files import (
    BLOCK_HEADER_BYTES,
    CHUNKS,
    END,
    Gap,
    Part,
    block_length,
    read_sound_blocks,
)
from mstore.persistence.snapshot_manifest import Manifest
from mstore.shm import layout

_SLOT_MAX = (1 << 32) - 1
_NAMED_MAX = 8
"""Series that are told by name."""
_HEADER_BYTES = layout.CHUNK.itemsize
_PAYLOAD_BYTES_MAX = layout.SIZE_CLASS_BYTES[layout.CLASS_FULL_8] - _HEADER_BYTES

Key = tuple[int, int, int]
"""(slot, generation, chunk number)"""


class Entry(NamedTuple):
    """One chunk in a block, and where it stands in the payload."""

    key: Key
    t_min: int
    """Seconds, of its first slot or row."""
    t_max: int
    start: int
    stop: int


@dataclass(slots=True)
class Hole:
    """Chunks of series first_slot .. last_slot may be missing, those of `held` (of the first and the last) are not."""

    first_slot: int = 0
    last_slot: int = _SLOT_MAX
    held: set[Key] = field(default_factory=set)

    def lacks(self, key: Key) -> bool:
        return self.first_slot <= key[0] <= self.last_slot and key not in self.held

    def both(self, other: Hole) -> Hole | None:
        """What is missing here and there; None: nothing."""
        first, last = max(self.first_slot, other.first_slot), min(self.last_slot, other.last_slot)
        if first > last:
            return None
        return Hole(first, last, {key for key in self.held | other.held if first <= key[0] <= last})


@dataclass(frozen=True, slots=True)
class Lost:
    """Chunks that no file gave: their samples up to the oldest generation's sequence, but for what the log holds."""

    n_chunks: int
    """At most; exactly so many if `exact`; -1: nobody knows."""
    exact: bool
    n_series: int
    """As the damaged bytes still read; 0 = nobody knows."""
    first_slot: int
    last_slot: int
    t_min: int
    """Seconds; t_min > t_max: nobody knows."""
    t_max: int
    refs: tuple[int, ...] = ()
    """Of the series, generation << 32 | slot, as the damaged bytes still read; of many the first."""


@dataclass(slots=True)
class _Taken:
    """What one file gave."""

    manifest: Manifest
    part: Part
    n_entries: int
    gaps: list[Gap]
    holes: list[Hole]


class Salvage:
    """The chunks of one cluster from several damaged files: the newest first, then what is still missing.

    load  given whole entries, as a snapshot's block holds them; each chunk once
    """

    def __init__(self, files: Files, load: Callable[[memoryview], None]) -> None:
        self._files = files
        self._load = load
        self._taken: list[_Taken] = []
        self.holes = [Hole()]

    def take(self, manifest: Manifest, part: Part) -> None:
        """Load what is sound in a file and not there yet."""
        holes: list[Hole] = []
        gaps: list[Gap] = []
        n_entries = 0
        for payload, entries in self._sound(manifest, part, holes, gaps):
            n_entries += len(entries)
            if chosen := self._missing(payload, entries):
                self._load(chosen)
        if n_entries == part.totals.n_chunks > 0:
            holes = []  # what is damaged is no chunk
        self._taken.append(_Taken(manifest, part, n_entries, gaps, holes))
        self.holes = [both for one in self.holes for other in holes if (both := one.both(other))]

    def _sound(
        self, manifest: Manifest, part: Part, holes: list[Hole], gaps: list[Gap]
    ) -> Iterator[tuple[memoryview, list[Entry]]]:
        """(payload, its entries) of each sound block; `holes` is complete when they have ended."""
        place, last = 1, Hole(0, 0)  # BEGIN is block 0; `last`: the newest series so far, and its chunks
        open_hole: Hole | None = None
        expected = manifest.expect(part)
        for block in read_sound_blocks(self._files, manifest.path_of(part), expected, gaps):
            if block.kind == CHUNKS and (entries := list(entries_of(block.payload))):
                first = entries[0].key[0]
                if block.index != place:
                    open_hole = Hole(last.last_slot, first, last.held)
                    holes.append(open_hole)
                keys = [entry.key for entry in entries]
                if open_hole is not None:
                    open_hole.held.update(key for key in keys if key[0] == open_hole.last_slot)
                newest = keys[-1][0]
                of_newest = {key for key in keys if key[0] == newest}
                last = Hole(newest, newest, of_newest | (last.held if last.last_slot == newest else set()))
                yield block.payload, entries
            if block.kind == END and block.index == place:
                return
            place = max(place, block.index + 1)
        holes.append(Hole(last.last_slot, _SLOT_MAX, last.held))

    def _missing(self, payload: memoryview, entries: list[Entry]) -> memoryview | None:
        """The entries that are not there yet."""
        wanted = [entry for entry in entries if any(hole.lacks(entry.key) for hole in self.holes)]
        if len(wanted) == len(entries):
            return payload
        return memoryview(b"".join(payload[one.start : one.stop] for one in wanted)) if wanted else None

    def lost(self) -> Lost | None:
        """What is missing after all files; None: nothing."""
        if not self.holes:
            return None
        oldest = min(self._taken, key=lambda taken: taken.manifest.log_seq)
        n_missing, n_read, lost = self._counts(oldest)
        # A chunk that a newer file does not have either, and whose manifest does not count, was freed meanwhile.
        # A part of which neither a manifest nor its own END says anything bounds nothing.
        bounds = [self._counts(taken) for taken in self._taken if taken.part.n_bytes >= 0]
        n_chunks = max(len(lost), min(m - (n - len(some)) for m, n, some in bounds)) if bounds else -1
        if not n_chunks:
            return None  # what is missing was made behind the oldest generation: all of it is in the log
        first, last = min(hole.first_slot for hole in self.holes), max(hole.last_slot for hole in self.holes)
        refs = sorted({entry.key[1] << 32 | entry.key[0] for entry in lost})
        return Lost(
            n_chunks, bool(bounds) and n_read == n_missing, len(refs), first, last,
            min((entry.t_min for entry in lost), default=1), max((entry.t_max for entry in lost), default=0),
            tuple(refs[:_NAMED_MAX]),
        )  # fmt: skip

    def _counts(self, taken: _Taken) -> tuple[int, int, list[Entry]]:
        """(chunks that are not in a file's sound blocks, how many of them still read, those that no file gave)"""
        n_missing = max(0, taken.part.totals.n_chunks - taken.n_entries)
        read = {
            entry.key: entry
            for gap in taken.gaps
            for entry in self._read(taken, gap)
            if any(hole.lacks(entry.key) for hole in taken.holes)
        }
        lost = [entry for key, entry in read.items() if any(hole.lacks(key) for hole in self.holes)]
        return n_missing, len(read), lost

    def _read(self, taken: _Taken, gap: Gap) -> Iterator[Entry]:
        """What damaged bytes still look like, as long as they make sense."""
        if gap.sound or not gap.n_bytes:
            return
        fd = self._files.open(taken.manifest.path_of(taken.part))
        try:
            text = memoryview(self._files.pread(fd, gap.n_bytes, gap.offset))
        finally:
            self._files.close(fd)
        at = 0
        while at + BLOCK_HEADER_BYTES < len(text):
            body = at + BLOCK_HEADER_BYTES
            at = body + block_length(text[at:body], len(text) - body)
            yield from entries_of(text[body:at])


def entries_of(payload: memoryview) -> Iterator[Entry]:
    """The entries of a CHUNKS block in their order; ends early where the bytes cannot be one."""
    at = 0
    while at + _HEADER_BYTES <= len(payload):
        head = np.frombuffer(payload, layout.CHUNK, 1, at)[0]
        n_bytes, kind = int(head["reserved"]), int(head["kind"])
        stop = at + _HEADER_BYTES + (n_bytes + 7) // 8 * 8
        if not 0 < n_bytes <= _PAYLOAD_BYTES_MAX or stop > len(payload):
            return
        key = int(head["series"]), int(head["generation"]), int(head["n"])
        if kind == layout.KIND_GRID:
            t_min = int(head["anchor_s"]) + key[2] * layout.CHUNK_SLOTS * int(head["step_s"])
            t_max = t_min + int(head["count"]) * int(head["step_s"])
        elif kind == layout.KIND_STAMPED:
            t_min, t_max = int(head["anchor_s"]) // 1000, int(head["t_max_ms"]) // 1000
        else:
            return
        yield Entry(key, t_min, t_max, at, stop)
        at = stop
