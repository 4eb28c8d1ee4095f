"""What a start would make of the files, found out without one: definitions are applied, samples only looked at.

A lost block takes more along than its own samples when it defined something: later definitions that build on
it are refused, samples of its series have no series. So `mstore check` applies all definitions of snapshot and
log to a directory in private memory, by the code that a start uses, and looks up the series of every sample.
That costs some hundred bytes a series and nothing a sample.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np

from mstore.errors import CorruptRecord, UnknownMessage
from mstore.kernels._segment import Segment
from mstore.kernels._snapshot import series_by_cluster
from mstore.limits import SERIES_MAX
from mstore.persistence.tally import Tally, records, run_of
from mstore.shm import layout
from mstore.shm.directory import DirectoryWriter, create_directory, directory_bytes
from mstore.shm.protection import decode, holds_protection, record_type
from mstore.shm.series_names import series_names

_DEFINITIONS = range(layout.REC_LEVEL, layout.REC_ERA + 1)
_FREES = (layout.REC_FREE, layout.REC_EVICT)
_SERIES_MIN = 65_536
_MAP_NORESERVE = 0x4000
"""Of Linux; mmap names it from Python 3.13 on."""


class PrivateMemory:
    """Zeros that take no page before they are used, and have no name: what a segment is to one process alone."""

    fd = -1

    def __init__(self, n_bytes: int) -> None:
        self.buffer = mmap.mmap(-1, n_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self.segment = Segment(self.buffer, True)


class Rehearsal:
    """A directory of its own, filled as a start would fill the real one.

    max_series  an upper bound of the series in the files
    """

    def __init__(self, max_series: int) -> None:
        max_series = min(max(max_series, _SERIES_MIN), SERIES_MAX)
        memory = PrivateMemory(directory_bytes(max_series))
        create_directory(memory, max_series, 1)
        self.segment = memory.segment
        self.directory = DirectoryWriter(memory.segment)
        self.orphans = Tally()
        """Samples in sound blocks whose series was never defined: its definition is lost."""
        self.refused_at: list[int] = []
        """Of each payload that was refused: how many of its bytes were applied before."""

    # --- target.Target

    def define(self, records: memoryview) -> int:
        """A snapshot's definitions, or what it holds of protected hosts."""
        if record_type(records) == layout.REC_PROTECT:
            return sum(bool(decode(record)) for record in holds_protection(records))
        return self.directory.apply_definition(records)

    def foresee(self, record: memoryview) -> None:
        """A PROTECT record of the log behind the snapshot: which chunks are too old makes no difference here."""

    def load(
        self, entries: memoryview, expired_s: int, older_s: int
    ) -> tuple[int, int, int, int, int, int, int]:
        """A snapshot's chunks: counted, those without a series apart. Slots without a sample count as samples."""
        at = n_chunks = n_slots = n_stale = 0
        table = self.directory.series_table()
        while at < len(entries):
            head = np.frombuffer(entries, layout.CHUNK, 1, at)[0]
            at += layout.CHUNK.itemsize + (int(head["reserved"]) + 7) // 8 * 8
            slot = int(head["series"])
            row = table[slot] if slot < len(table) else None
            if (
                row is None
                or row["generation"] != head["generation"]
                or not row["flags"] & layout.SERIES_LIVE
            ):
                n_stale += 1
                continue
            n_chunks += 1
            n_slots += int(head["count"])
        return n_chunks, n_slots, n_stale, 0, 0, 0, 0

    def prepare(self, n_bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def forget(self, cluster: int) -> None:
        pass

    def room(self) -> int:
        return 1 << 62

    def clusters_with_series(self) -> list[int]:
        found: list[int] = np.unique(series_by_cluster(self.segment)[2]).tolist()
        return found

    def name_of(self, cluster: int) -> str:
        try:
            return self.directory.level(cluster).name
        except IndexError:
            return ""

    def series_names(self, refs: Sequence[int]) -> str:
        return series_names(self.directory, refs)

    def apply(self, payload: memoryview) -> None:
        """A log block. raises CorruptRecord where a start refuses it, UnknownMessage for a newer version's record"""
        at = 0
        try:
            for record in records(payload):
                at = record.start
                self._apply(record.kind, payload[record.start : record.stop])
                at = record.stop
            if at < len(payload):
                raise CorruptRecord(f"a malformed record at {at} of the block", offset=at)
        except CorruptRecord:
            self.refused_at.append(at)
            raise

    def _apply(self, kind: int, record: memoryview) -> None:
        if kind < layout.REC_LEVEL:
            if kind != layout.REC_PAD:
                self._look(record)
        elif kind in _DEFINITIONS:
            self.directory.apply_definition(record)
            self.directory.publish()
        elif kind == layout.REC_PROTECT:
            decode(record)
        elif kind not in _FREES:
            raise UnknownMessage(f"a record of type {kind}: a newer version of mstore wrote it", type=kind)

    def _look(self, record: memoryview) -> None:
        """Count samples without a series. One that was removed since the snapshot began is none of them."""
        refs, times = run_of(record)
        table = self.directory.series_table()
        slots = (refs & np.uint64(0xFFFF_FFFF)).astype(np.int64)
        generations = (refs >> np.uint64(32)).astype(np.int64)
        known = slots < len(table)
        rows = table[slots[known]]
        held = rows["generation"].astype(np.int64)
        live = (rows["flags"] & layout.SERIES_LIVE) != 0
        known[known] = (held > generations[known]) | ((held == generations[known]) & live)
        if known.all():
            return
        lost = ~known
        n_times = len(times) if len(refs) == 1 else int(lost.sum())
        self.orphans.n_samples += n_times
        self.orphans.series.update(refs[lost].tolist())
        if len(times):
            self.orphans.t_first = min(self.orphans.t_first, int(times.min()))
            self.orphans.t_last = max(self.orphans.t_last, int(times.max()))

    def described(self, series: set[int]) -> str:
        """ "12 series of fritz: f0101 cpu_load, ...": what these references lead to, as far as that is known."""
        known = series_names(self.directory, sorted(series))
        return f"{len(series):,} series" + (f" of {known}" if known else "")
