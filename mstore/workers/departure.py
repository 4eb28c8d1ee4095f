"""What leaves memory before it is archived, and what comes after its time was: put into files for the next pass.

Between two drains, and at once: a chunk is copied as it lies in memory, a late sample is noted by its time. What finds
no room in the files, or no disk, goes all the same, is counted and logged: ingest never waits for the archive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.archive import leavers
from mstore.archive.leavers import LeaversFile
from mstore.archive.lives import chunk_span
from mstore.archive.manifest import NOTHING_S
from mstore.errors import StorageError
from mstore.kernels._late import late_marks
from mstore.shm import layout
from mstore.shm.chunks import value_bytes
from mstore.workers.leaving import Why

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_BLOCK_BYTES = 4 << 20
_TELL_EVERY_S = 60.0

ArchivedTo = Callable[[int], int]
"""Index of a metric -> everything before this second is in the archive."""


class Departure:
    """Owned by the persister's archiving.

    late_before_s   samples before this second may be too late for the archive
    """

    def __init__(self, persister: Persister, files: LeaversFile) -> None:
        self._persister = persister
        self._files = files
        self.late_before_s = NOTHING_S
        self._late_slots: set[int] = set()
        self._late_before: set[int] = set()
        """Slots of the series with late samples: since the pass that is under way began, and before it."""
        self._told_s = -_TELL_EVERY_S

    # --- late samples

    def look_for_late(self, records: memoryview, seq: int) -> None:
        """Note the samples of a block that was applied whose times are archived already."""
        if self.late_before_s == NOTHING_S:
            return
        marks = late_marks(records, self.late_before_s)
        if not len(marks):
            return
        self._late_slots.update(np.unique(marks["slot"]).tolist())
        times = marks["t_ms"] // 1000
        span = int(times.min()), int(times.max())
        if not self._put(leavers.MARKS, [marks.tobytes()], len(marks), seq, span, 0):
            self._lose(len(marks), "late samples")

    def pass_begins(self) -> None:
        """What is late up to now is archived by the pass that begins."""
        self._late_before |= self._late_slots
        self._late_slots = set()

    def pass_ends(self, *, done: bool) -> None:
        """It is archived, or is still to be."""
        if not done:
            self._late_slots |= self._late_before
        self._late_before = set()

    # --- chunks

    def leaves(self, why: Why, ranges: NDArray[np.void], archived_to: ArchivedTo, *, during: bool) -> None:
        """Copy what of these chunks is not in the archive.

        during  a pass is under way: it may have archived some of it
        """
        late = self._late_slots | self._late_before
        if why is Why.RETENTION:  # may_free() let it go: all of it is archived but for what came late
            ranges = ranges[np.isin(ranges["slot"], np.fromiter(late, np.uint32, len(late)))]
        elif len(ranges):
            ranges = ranges[[self._is_needed(one, late, archived_to) for one in ranges]]
        if not len(ranges):
            return
        flags = leavers.DURING if during else 0
        seq = self._persister.wal.written + 1
        payload: list[bytes | bytearray | memoryview] = []
        spans: list[tuple[int, int]] = []
        n_bytes = n_lost = 0
        for head, values in self._chunks(ranges):
            payload += leavers.entry(head, values)
            spans.append(chunk_span(head))
            n_bytes += layout.CHUNK.itemsize + len(values)
            if n_bytes >= _BLOCK_BYTES:
                n_lost += self._put_chunks(payload, spans, seq, flags)
                payload, spans, n_bytes = [], [], 0
        n_lost += self._put_chunks(payload, spans, seq, flags)
        if n_lost:
            self._lose(n_lost, "chunks")
        # Readers look for it here from now on; it is freed after this.
        self._persister.control.left += 1

    def _is_needed(self, one: np.void, late: set[int], archived_to: ArchivedTo) -> bool:
        series = self._persister.directory.series(int(one["slot"]))
        if series is None or series.generation != one["generation"]:
            return False
        if series.slot in late:
            return True
        last_s = int(one["last"]) // 1000 + 1
        if series.kind == layout.KIND_GRID:
            last_s = series.anchor_s + (int(one["last"]) + 1) * layout.CHUNK_SLOTS * series.step_s
        return last_s > archived_to(series.metric)

    def _chunks(self, ranges: NDArray[np.void]) -> list[tuple[np.void, bytes | memoryview]]:
        """(header, slots or rows) of every chunk that ranges name, as it lies in memory."""
        samples = self._persister.samples
        memory = samples.view()
        found: list[tuple[np.void, bytes | memoryview]] = []
        for slot, _, first, last in ranges.tolist():
            for n, offset, _, _ in samples.chunks_of(slot):
                head = np.frombuffer(memory, layout.CHUNK, 1, offset)[0].copy()
                at = offset + layout.CHUNK.itemsize
                if head["kind"] == layout.KIND_GRID:
                    if first <= n <= last:
                        n_bytes = int(head["capacity"]) * value_bytes(int(head["type"]))
                        head["count"] = head["capacity"]
                        found.append((head, memory[at : at + n_bytes]))
                    continue
                width = 1 + int(head["n_columns"])
                rows = np.frombuffer(memory, np.uint64, width * int(head["count"]), at).reshape(-1, width)
                stamps = rows[:, 0].view(np.int64)
                rows = rows[(stamps >= first) & (stamps <= last)]
                if len(rows):
                    head["count"] = len(rows)
                    found.append((head, rows.tobytes()))
        return found

    def _put_chunks(
        self,
        payload: list[bytes | bytearray | memoryview],
        spans: list[tuple[int, int]],
        seq: int,
        flags: int,
    ) -> int:
        """Append one block; the chunks that found no room."""
        if not spans:
            return 0
        span = min(first for first, _ in spans), max(stop for _, stop in spans) - 1
        return 0 if self._put(leavers.CHUNKS, payload, len(spans), seq, span, flags) else len(spans)

    def _put(
        self,
        kind: int,
        payload: list[bytes | bytearray | memoryview],
        entries: int,
        seq: int,
        span: tuple[int, int],
        flags: int,
    ) -> bool:
        try:
            return self._files.put(kind, payload, entries, seq, span, flags)
        except StorageError as error:
            self._tell("what leaves memory cannot be kept for the archive: %s", error)
            return False

    def _lose(self, n: int, what: str) -> None:
        self._persister.slot.add("archive_lost", n)
        self._tell("%d %s are not archived: there is no room for them beside the archive", n, what)

    def _tell(self, text: str, *arguments: object) -> None:
        if clock.monotonic_s() - self._told_s >= _TELL_EVERY_S:
            self._told_s = clock.monotonic_s()
            log.error(text, *arguments)
