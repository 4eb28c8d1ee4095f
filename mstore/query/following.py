"""What one subscriber gets: the series that match, and their samples in the order of the log. No sockets, no files.

    refresh()   select() -> live series -> wanted[slot] = generation, index_of[slot]     at the start, and when the
                                           series of the others of its chain, too         log defines something
    take()      a block of the log -> samples of wanted slots -> Runs                     for each block
    stored()    since a time: what memory holds, series by series                         at the start, if asked for

A series is announced once, under an index that stays; its eras share it. The times of grid samples are nominal, those
that a query answers. What memory holds was read after the block was noted from which on samples are taken, so nothing
is left out between the two; a sample may come twice, always with its newest value last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mstore.errors import LimitExceeded
from mstore.frames import U64_MISSING
from mstore.kernels import _follow
from mstore.kernels._gather import Gatherer
from mstore.limits import FOLLOW_SERIES_MAX
from mstore.query.gather import SLOTS_MAX, Replan, checked, stamped_rows
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

_MS_PER_S = 1000
_NEVER_MS = (1 << 63) - 1
_ROWS = 0
"""Type of a row of a stamped series: one word a column. Else layout.TYPE_*: one word, floats as bits of a double."""

_ERAS_MAX = 4096
"""Of one series; more than any has: a bound for links that change while they are followed."""

Select = Callable[[], NDArray[np.uint64]]
"""References of the live series that are followed, each once."""


@dataclass(slots=True)
class Runs:
    """Samples of followed series. index uint32[m], stamps_ms int64[m], types uint8[m], words uint64[k]."""

    index: NDArray[np.uint32]
    stamps_ms: NDArray[np.int64]
    types: NDArray[np.uint8]
    words: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_bytes(self) -> int:
        return self.index.nbytes + self.stamps_ms.nbytes + self.types.nbytes + self.words.nbytes


@dataclass(slots=True)
class Missed:
    """Samples that were not delivered: how many (-1 = nobody can say) and the earliest of their times."""

    n_samples: int = 0
    since_ms: int = _NEVER_MS

    def add(self, n_samples: int, since_ms: int) -> None:
        known = self.n_samples >= 0 and n_samples >= 0
        self.n_samples = self.n_samples + n_samples if known else -1
        self.since_ms = min(self.since_ms, since_ms)

    def __bool__(self) -> bool:
        return self.n_samples != 0


@dataclass(frozen=True, slots=True)
class Announced:
    """A series under its index: [cluster, host, metric, type, type_id, subtype, subtype_id], step, unit, columns."""

    index: int
    path: tuple[str, ...]
    step_s: int
    unit: str
    columns: tuple[str, ...]


class Following:
    """One subscription, from the block that is the next to be taken when it is made."""

    def __init__(self, directory: DirectoryReader, select: Select) -> None:
        self._directory = directory
        self._select = select
        self._wanted: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._index_of: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._chained: set[int] = set()
        """Slots with an era before or after: the era of their samples is looked up one by one."""
        self.n_series = 0
        """Indexes given so far."""
        self._fresh: list[tuple[int, int, int]] = []
        """(index, level, metric) of series that are not announced yet."""

    def refresh(self) -> None:
        """Look again which series match. raises LimitExceeded, Replan"""
        refs = self._select()
        if len(refs) > FOLLOW_SERIES_MAX:
            raise LimitExceeded(
                f"{len(refs)} series match; at most {FOLLOW_SERIES_MAX} can be followed at once: follow fewer",
                limit=FOLLOW_SERIES_MAX,
            )
        table = self._directory.series_table()
        slots = (refs & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
        generations = (refs >> np.uint64(32)).astype(np.uint32)
        n = max(len(table), int(slots.max(initial=0)) + 1)
        wanted, index_of = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
        index_of[: len(self._index_of)] = self._index_of
        before = np.zeros(n, np.uint32)
        before[: len(self._wanted)] = self._wanted
        wanted[slots] = generations
        chains = {
            slot: _earlier(table, slot) for slot in slots[table["prev_generation"][slots] != 0].tolist()
        }
        for slot, earlier in chains.items():
            known = next((at for at in earlier if before[at] == table["generation"][at]), None)
            if before[slot] != wanted[slot] and known is not None:
                index_of[slot], before[slot] = index_of[known], wanted[slot]
        self._number(table, slots[before[slots] != wanted[slots]], index_of)
        for slot, earlier in chains.items():
            # Late samples, and those that were on their way, carry the references of earlier eras.
            wanted[earlier], index_of[earlier] = table["generation"][earlier], index_of[slot]
        self._chained = {*chains, *(at for earlier in chains.values() for at in earlier)}
        self._wanted, self._index_of = wanted, index_of

    def _number(
        self, table: NDArray[np.void], fresh: NDArray[np.uint32], index_of: NDArray[np.uint32]
    ) -> None:
        indexes = range(self.n_series, self.n_series + len(fresh))
        index_of[fresh] = np.array(indexes, np.uint32)
        self._fresh += zip(
            indexes, table["level"][fresh].tolist(), table["metric"][fresh].tolist(), strict=True
        )
        self.n_series += len(fresh)

    def announced(self, limit: int) -> list[Announced]:
        """At most `limit` series that were given an index and are not announced; those before them come first."""
        found = [self._describe(*fresh) for fresh in self._fresh[:limit]]
        del self._fresh[:limit]
        return found

    @property
    def unannounced(self) -> bool:
        return bool(self._fresh)

    def _describe(self, index: int, level: int, metric: int) -> Announced:
        info = self._directory.metric(metric)
        path = self._directory.path(level, info.name)
        stamped = info.kind == layout.KIND_STAMPED
        pairs = info.columns or ((("value", info.type),) if stamped else ())
        columns = tuple(f"{name}:{kind}" for name, kind in pairs)
        return Announced(
            index, (path.cluster, path.host, path.metric, path.type, path.type_id, path.subtype, path.subtype_id),
            info.step_s, info.unit, columns,
        )  # fmt: skip

    def take(self, payload: memoryview, room_bytes: int, missed: Missed) -> tuple[Runs, bool]:
        """(the followed samples of a block of the log, whether it defines anything).

        room_bytes  what may be taken; the rest is counted in `missed`
        """
        limit = room_bytes // 24
        slots, stamps_ms, types, words, n_left_out, left_out_ms, defines = _follow.pick(
            payload, self._wanted, limit
        )
        if n_left_out:
            missed.add(n_left_out, left_out_ms)
        if len(slots):
            self._to_nominal(slots, stamps_ms, types)
        return Runs(self._index_of[slots], stamps_ms, types, words), defines

    def _to_nominal(
        self, slots: NDArray[np.uint32], stamps_ms: NDArray[np.int64], types: NDArray[np.uint8]
    ) -> None:
        """Times of grid samples become those of their slots, as a query answers them."""
        table = self._directory.series_table()
        grid = np.flatnonzero((types != _ROWS) & (slots < len(table)))
        at = slots[grid]
        eras = at.copy()
        if self._chained:
            for i in np.flatnonzero(np.isin(at, np.fromiter(self._chained, np.uint32))).tolist():
                eras[i] = _era_of(table, int(at[i]), int(stamps_ms[grid[i]]) // _MS_PER_S)
        anchors, steps = table["anchor_s"][eras], table["step_s"][eras].astype(np.int64)
        t = stamps_ms[grid] // _MS_PER_S
        known = steps > 0  # a slot that is free by now has none: its samples keep their own times
        steps = np.where(known, steps, 1)
        nominal = anchors + steps // 2 + (t - anchors) // steps * steps
        stamps_ms[grid] = np.where(known, nominal, t) * _MS_PER_S

    def stored(self, gatherer: Gatherer, since_s: int, until_s: int) -> Iterator[Runs]:
        """What memory holds of each followed series in [since_s, until_s); a series that goes meanwhile is left out."""
        for ref in self._select().tolist():
            index = self._index_of[ref & 0xFFFF_FFFF]
            try:
                found = self._stored_one(gatherer, ref, since_s, until_s)
            except Replan:
                continue
            if found is not None and len(found[0]):
                stamps_ms, value_type, words = found
                n = len(stamps_ms)
                yield Runs(np.full(n, index, np.uint32), stamps_ms, np.full(n, value_type, np.uint8), words)

    def _stored_one(
        self, gatherer: Gatherer, ref: int, since_s: int, until_s: int
    ) -> tuple[NDArray[np.int64], int, NDArray[np.uint64]] | None:
        kind = checked(gatherer.describe(ref))[0]
        if kind == layout.KIND_STAMPED:
            stamps_ms, rows, _ = stamped_rows(gatherer, ref, since_s, until_s)
            return stamps_ms, _ROWS, rows.reshape(-1)
        since_s = max(since_s, self._oldest_s(ref & 0xFFFF_FFFF))
        if since_s >= until_s:
            return None
        values, start, step, value_type, n_present, _ = checked(
            gatherer.grid(ref, since_s, until_s, SLOTS_MAX)
        )
        if not n_present:
            return None
        present = values != U64_MISSING if value_type == layout.TYPE_U64 else ~np.isnan(values)
        stamps_ms = (start + step * np.flatnonzero(present).astype(np.int64)) * _MS_PER_S
        kept = values[present]
        words = kept if value_type == layout.TYPE_U64 else kept.astype(np.float64).view(np.uint64)
        return stamps_ms, value_type, words

    def _oldest_s(self, slot: int) -> int:
        """Start of the first chunk of a grid series, all its eras: nothing before it needs room in an answer."""
        table = self._directory.series_table()
        starts = [
            int(table["anchor_s"][era])
            + int(table["first_n"][era]) * layout.CHUNK_SLOTS * int(table["step_s"][era])
            for era in (slot, *_earlier(table, slot))
            if table["first_n"][era] <= table["last_n"][era]
        ]
        return min(starts, default=_NEVER_MS)


def _earlier(table: NDArray[np.void], slot: int) -> list[int]:
    """Slots of the eras before that of `slot`, newest first, as far as they still are what it names."""
    found: list[int] = []
    while len(found) < _ERAS_MAX and (generation := int(table["prev_generation"][slot])):
        slot = int(table["prev_slot"][slot]) - 1  # stored one higher: 0 = none
        if slot >= len(table) or table["generation"][slot] != generation:
            break
        found.append(slot)
    return found


def _era_of(table: NDArray[np.void], slot: int, t_s: int) -> int:
    """The slot of the era that a time belongs to (docs/format/wal-samples.md, rule 2)."""
    for _ in range(_ERAS_MAX):
        after = int(table["next_slot"][slot]) - 1
        if not table["next_generation"][slot] or after >= len(table) or t_s < table["era_start"][after]:
            break
        slot = after
    for _ in range(_ERAS_MAX):
        before = int(table["prev_slot"][slot]) - 1
        if not table["prev_generation"][slot] or before >= len(table) or t_s >= table["era_start"][slot]:
            break
        slot = before
    return slot
