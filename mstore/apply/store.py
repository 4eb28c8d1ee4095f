"""The store's memory: directory and samples, and the one way records change them.

    rings --> log --> apply_block() <-- log          live data and replay take the same path
                        |
                        +-- PAD, ROW, COLUMN, STAMPED, SCATTER ---- Samples.apply
                        +-- LEVEL .. ERA -------------------------- DirectoryWriter.apply_definition
                        +-- FREE, EVICT --------------------------- Samples.free_ranges

Whatever frees samples is planned first (`plan_free`, `plan_evict`: records, nothing changed), then logged,
then applied: so it is gone after every replay as well. docs/format/wal-samples.md describes the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.errors import CorruptRecord, InvariantBroken, StoreFull, UnknownMessage
from mstore.kernels._expiry import RANGE
from mstore.kernels._ring import record_fault, record_length
from mstore.kernels._samples import STOPPED_NO_ROOM, STOPPED_OTHER, Samples
from mstore.shm import chunks, layout
from mstore.shm.directory import DirectoryWriter

RANGES_PER_RECORD = 2048
"""48 KiB a record: a log block takes several, whatever its size."""
RANGES_PER_PLAN = 32_768
"""786 KB of records at most from one plan."""
CANDIDATES = 16_384
"""Chunks that one scan of the series table finds for eviction; several plans use them up."""
ROOM_STEP_BYTES = 4 << 20
_END_OF_TIME_S = 1 << 53

_DEFINITIONS = (
    layout.REC_LEVEL, layout.REC_METRIC, layout.REC_SERIES, layout.REC_KEY, layout.REC_REMOVE, layout.REC_ERA,
)  # fmt: skip
_NAMES = {value: name.removeprefix("REC_") for name, value in vars(layout).items() if name.startswith("REC_")}
_NO_RANGES: NDArray[np.void] = np.empty(0, RANGE)


@dataclass(slots=True)
class Applied:
    """What one block did."""

    n_samples: int = 0
    n_stale: int = 0
    """Samples of references whose series is gone, or that do not fit its definition; never stored."""
    n_definitions: int = 0
    n_evicted: int = 0
    """Chunks, to make room for what was not expected to need any."""


class Store:
    """Directory and samples of one store, written by this process alone.

    directory, samples   the writers of both segments
    on_evict             given EVICT records just before they are applied because a block that is in the log
                         already found no room; None: they are not logged (the next replay does it again)
    """

    def __init__(
        self, directory: DirectoryWriter, samples: Samples, on_evict: Callable[[bytes], None] | None = None
    ) -> None:
        self.directory = directory
        self.samples = samples
        self.on_evict = on_evict
        self.system_free: Callable[[], int] | None = None
        """Bytes that /dev/shm has left; None: nobody asks."""
        self.replaying = False
        """The files are being read back: the newest chunk of any series may be evicted, too, rather than not start."""
        self._candidates = np.empty(0, np.uint32), np.empty(0, np.int64)

    # ---- records ----

    def apply_block(self, records: bytes | bytearray | memoryview) -> Applied:
        """Apply whole records in order: sample runs, definitions, FREE and EVICT. Twice is the same as once.

        raises  StoreFull when there is no room for a chunk and nothing to evict: records before `stopped_at`
                are applied; CorruptRecord for a malformed record, UnknownMessage for a type of a newer
                version: what comes before it is applied, what comes after it is not
        """
        view = memoryview(records).cast("B")
        done = Applied()
        at = 0
        while at < len(view):
            at += self._apply_samples(view[at:], at, done)
            if at < len(view):
                at += self._apply_other(view[at:], at, done)
        return done

    def _apply_samples(self, view: memoryview, at: int, done: Applied) -> int:
        """Bytes up to the first record of type >= 16, all applied."""
        position = 0
        while True:
            try:
                result = self.samples.apply(view[position:])
            except ValueError as error:
                reason, offset = (*error.args, 0)[:2]
                raise CorruptRecord(f"samples: {reason}", offset=at + position + int(offset)) from error
            done.n_samples += result.n_samples
            done.n_stale += result.n_stale
            position += result.stopped_at
            if result.why != STOPPED_NO_ROOM:
                assert result.why == STOPPED_OTHER or position == len(view)
                return position
            evicted, n_chunks = self.plan_evict(ROOM_STEP_BYTES)
            if not n_chunks:
                raise StoreFull("no room for a chunk and nothing may be evicted", stopped_at=at + position)
            if self.on_evict is not None:
                self.on_evict(evicted)
            self.apply_block(evicted)
            done.n_evicted += n_chunks

    def _apply_other(self, view: memoryview, at: int, done: Applied) -> int:
        """Apply the record of type >= 16 that begins here; its length."""
        record = np.frombuffer(view, layout.RECORD, 1)[0]
        kind, stop = int(record["type"]), record_length(view)
        if stop == 0:
            raise CorruptRecord(f"malformed record at offset {at}: {record_fault(view)}", offset=at)
        body = view[layout.RECORD.itemsize : stop]
        if kind in _DEFINITIONS:
            self._free_predecessor(kind, body)
            done.n_definitions += self.directory.apply_definition(view[:stop])
        elif kind in (layout.REC_FREE, layout.REC_EVICT):
            if len(body) % RANGE.itemsize:
                raise CorruptRecord(f"{_NAMES[kind]} with {len(body)} bytes of ranges", offset=at)
            self.samples.free_ranges(body)
        else:
            name = _NAMES.get(kind, "unknown")
            raise UnknownMessage(
                f"a record of type {kind} ({name}) at offset {at}: a newer version of mstore wrote it",
                type=kind,
            )
        return stop

    def _free_predecessor(self, kind: int, body: memoryview) -> None:
        """A slot that a record is about to take from a series gives its chunks back first."""
        if kind == layout.REC_REMOVE and len(body) >= 8:
            ref = int(np.frombuffer(body, "<u8", 1)[0])
            slot, generation = ref & 0xFFFF_FFFF, (ref >> 32) + 1
        elif kind in (layout.REC_SERIES, layout.REC_ERA) and len(body) >= 8:
            slot, generation = (int(word) for word in np.frombuffer(body, "<u4", 2))
        else:
            return
        held = self.directory.series(slot) if slot < self.directory.counts()["n_series"] else None
        if held is not None and held.generation < generation:
            self.samples.free_series(slot)

    # ---- removal ----

    def remove_finish(self, slot: int) -> bytes:
        """Free a series whose keys `directory.remove_begin` unpublished and take it out: REMOVE records."""
        self.samples.free_series(slot)
        records: bytes = self.directory.remove_finish(slot)
        return records

    # ---- retention and memory cap ----

    def plan_free(self, start: int, n_slots: int, before_s: int | NDArray[np.int64]) -> tuple[bytes, int]:
        """(FREE records, chunks they free) for whole chunks of these series that end by `before_s`.

        before_s  seconds for all, or int64[n_slots]; INT64_MIN keeps everything of that series
        """
        assert n_slots <= RANGES_PER_PLAN
        ranges = self.samples.expired(start, n_slots, before_s)
        return _records(layout.REC_FREE, ranges), self.samples.chunks_in(ranges)[0]

    def plan_evict(
        self, n_bytes: int, *, now_s: int | None = None, protected: NDArray[np.uint8] | None = None
    ) -> tuple[bytes, int]:
        """(EVICT records, chunks they free) for the oldest chunks: n_bytes of them, or the little there is.

        The newest chunk of a series is among them only when it had no sample for several steps before now_s
        (default: now). `protected`, uint8[>= n_series], marks series that come last: only when no other has
        anything to give.
        """
        if now_s is None:
            now_s = _END_OF_TIME_S if self.replaying else clock.now_s()
        for mask in (protected, None) if protected is not None else (None,):
            ranges, n_chunks = self._oldest(n_bytes, now_s, mask)
            if n_chunks:
                return _records(layout.REC_EVICT, ranges), n_chunks
        return b"", 0

    def look_again(self) -> None:
        """Forget what the last scan found: the next plan_evict() goes through the series table anew."""
        self._candidates = np.empty(0, np.uint32), np.empty(0, np.int64)

    def _oldest(
        self, n_bytes: int, now_s: int, mask: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.void], int]:
        """Ranges of the oldest chunks and their number, from what the last scan found as long as it lasts."""
        taken: list[NDArray[np.void]] = []
        n_chunks = taken_bytes = n_scans = 0
        while taken_bytes < n_bytes and n_chunks < RANGES_PER_PLAN:
            slots, numbers = self._candidates
            if not len(slots):
                if n_scans or n_chunks:  # another scan would find what this plan names already
                    break
                n_scans += 1
                self._candidates = self.samples.oldest(CANDIDATES, now_s, mask)[1:]
                continue
            # A chunk has 4 KiB at most: look at as many as will do if they were all full.
            count = max(1, (n_bytes - taken_bytes) // 4160 + 1)
            self._candidates = slots[count:], numbers[count:]
            slots, numbers = slots[:count], numbers[:count]
            if mask is not None:
                allowed = mask[slots] == 0
                slots, numbers = slots[allowed], numbers[allowed]
            ranges = self.samples.ranges_of(slots, numbers, now_s)
            _, found_bytes = self.samples.chunks_in(ranges)
            taken.append(ranges)
            n_chunks, taken_bytes = n_chunks + len(ranges), taken_bytes + found_bytes
        return np.concatenate(taken) if taken else _NO_RANGES, n_chunks

    def make_room(
        self,
        records: bytes | bytearray | memoryview,
        log: Callable[[bytes], None],
        *,
        protected: NDArray[np.uint8] | None = None,
    ) -> int:
        """Evict, oldest first, until these sample records surely fit; the number of chunks evicted.

        log     writes EVICT records to the log; called before each is applied
        raises  StoreFull when nothing may be evicted any more; details: need, free (bytes), evicted (chunks)
        """
        n_evicted = 0
        while True:
            free = allowed = self.samples.free_bytes()
            if self.system_free is not None:
                # Half of what is left may go without a second look: others use /dev/shm, too.
                free = min(allowed, self.samples.secure(0) + self.system_free() // 2)
            need = self.samples.need(records, free)
            if need <= free:
                return n_evicted
            if need <= allowed:
                free = self.samples.secure(need)
                if need <= free:
                    return n_evicted
            step = min(max(need - free, 64 << 10), ROOM_STEP_BYTES)
            evicted, n_chunks = self.plan_evict(step, protected=protected)
            if not n_chunks:
                raise StoreFull(
                    f"{need} bytes are needed for new samples, {free} are free and nothing may be evicted",
                    need=need, free=free, evicted=n_evicted,
                )  # fmt: skip
            log(evicted)
            self.apply_block(evicted)
            n_evicted += n_chunks

    # ---- checks ----

    def validate(self) -> None:
        """Every rule of directory and samples, shared and private; InvariantBroken names a broken one."""
        self.directory.validate()
        mapped = np.frombuffer(self.samples.view(), np.uint8)
        used = chunks.validate(self.directory.series_table(), mapped, self.samples.committed_bytes)
        for size_class, stats in self.samples.stats().items():
            linked = used[size_class]
            if stats.chunks != linked:
                raise InvariantBroken(
                    f"samples: {stats.chunks} chunks of class {size_class} handed out, {linked} linked"
                )

    def stats(self) -> dict[str, Any]:
        """Numbers for info and metrics: bytes, and chunks by size."""
        by_class = self.samples.stats()
        return {
            "used_bytes": self.samples.used_bytes(),
            "committed_bytes": self.samples.committed_bytes,
            "free_bytes": self.samples.free_bytes(),
            "chunks": {by_class[c].chunk_bytes: by_class[c].chunks for c in range(layout.CLASS_TABLE_8)},
            "chunk_bytes": sum(stats.chunks * stats.chunk_bytes for stats in by_class.values()),
        }


def split_records(records: bytes, limit: int) -> Iterator[bytes]:
    """Concatenated records of type >= 16 in pieces of at most `limit` bytes that end at record borders.

    A single record longer than `limit` is a piece of its own.
    """
    start = at = 0
    while at < len(records):
        stop = at + int.from_bytes(records[at + 4 : at + 8], "little")
        if stop > start + limit and at > start:
            yield records[start:at]
            start = at
        at = stop
    if at > start:
        yield records[start:at]


def ranges_in(records: bytes | memoryview) -> NDArray[np.void]:
    """RANGE[k] of concatenated FREE or EVICT records."""
    found, at, view = [_NO_RANGES], 0, memoryview(records)
    while at < len(view):
        stop = at + int.from_bytes(view[at + 4 : at + 8], "little")
        found.append(np.frombuffer(view[at + layout.RECORD.itemsize : stop], RANGE))
        at = stop
    return np.concatenate(found)


def _records(kind: int, ranges: NDArray[np.void]) -> bytes:
    """FREE or EVICT records that hold these ranges."""
    found = []
    for first in range(0, len(ranges), RANGES_PER_RECORD):
        body = ranges[first : first + RANGES_PER_RECORD].tobytes()
        head = np.array((kind, 0, 0, layout.RECORD.itemsize + len(body)), layout.RECORD)
        found.append(head.tobytes() + body)
    return b"".join(found)
