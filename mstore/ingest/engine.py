"""What all connections of one ingest worker share: scanner, ring, directory, and the window of accepted times."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import clock, limits
from mstore.errors import StoreFull
from mstore.ingest.effects import Effect, NeedReferences, NeedRoom, NeedTurn, References
from mstore.ingest.tally import Tally
from mstore.kernels._lines import LineBatch, LineScanner
from mstore.kernels._ring import RingWriter
from mstore.model import Reason
from mstore.shm import layout
from mstore.shm.control import WorkerSlot
from mstore.shm.directory import KEEP_ALL_S, DirectoryReader

_FOREVER = -(1 << 62)
_BATCHES_KEPT = 16
"""Empty batches kept for the next piece of text: as many as usually wait at a time, 0.4 MB each."""
NEED_ROOM = NeedRoom()
NEED_TURN = NeedTurn()


def is_name(name: bytes) -> bool:
    """Whether this may name a level: 1 to NAME_BYTES_MAX bytes of UTF-8 without control characters."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return False
    return 0 < len(name) <= limits.NAME_BYTES_MAX and not any(c < " " or "\x7f" <= c < "\xa0" for c in text)


def ignore_word(reason: Reason, config_version: int) -> int:
    """What stands in place of a reference that there is not."""
    return (reason << 24 | config_version & 0xFF_FFFF) << 32 | layout.IGNORE_SLOT


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of the configuration that ingest workers apply; replaced whole by a reload."""

    retention_s: int
    """0 = keep all."""
    max_future_s: int
    join: bool
    """Every numeric field of a line becomes a metric of its own."""
    config_version: int
    """Ignore words of another version are asked for again."""
    own_retentions_s: frozenset[int] = frozenset()
    """Periods of clusters and metrics that have one of their own; which has which, the directory knows."""

    def accepts_for_s(self) -> int:
        """The longest period for which anything is accepted; 0 = for ever."""
        periods = self.own_retentions_s | {self.retention_s}
        return 0 if 0 in periods else max(periods)

    def keeps_for_s(self) -> int:
        """The shortest period for which anything is kept; 0 = everything is, for ever."""
        return min((self.own_retentions_s | {self.retention_s}) - {0}, default=0)


@dataclass(slots=True)
class LineState:
    """What a stream of lines carries from one piece of text to the next."""

    cluster: bytes = b""
    """Default cluster; empty = none."""
    precision: int = 0
    skipping: bool = False
    """The last piece ended inside an over-long line."""
    tally: Tally = field(default_factory=Tally)
    exact: bool = True
    """The tally counts all that is in the ring; not after an error in the middle of a batch, which only a farewell is."""


class Engine:
    """Turns text into runs in the ring. One per worker; sessions call it, effects go through it.

    A batch is resolved whole before any of it is published, so the order of one connection is the order in
    the ring, and so in the log.

    full  whether the persister has no room and nothing to evict: what arrives then is refused as store_full
    held  whether types of series are being changed: what arrives then waits
    """

    def __init__(
        self,
        scanner: LineScanner,
        directory: DirectoryReader,
        ring: RingWriter,
        slot: WorkerSlot,
        rules: Rules,
        ring_bell: Callable[[], None],
        full: Callable[[], bool],
        held: Callable[[], bool],
    ) -> None:
        self.scanner = scanner
        self.directory = directory
        self.ring = ring
        self.slot = slot
        self.rules = rules
        self.ring_bell = ring_bell
        self.full = full
        self.held = held
        self._batches: list[LineBatch] = []
        self._busy = 0

    def window(self) -> tuple[int, int, int]:
        """(now, oldest, newest) accepted seconds: of the metrics that are kept longest, see may_be_late()."""
        now, accepted_s = clock.now_s(), self.rules.accepts_for_s()
        return now, now - accepted_s if accepted_s else _FOREVER, now + self.rules.max_future_s

    def may_be_late(self) -> int:
        """Only samples before this second can be too old for their series; kept_from_s() tells for which they are."""
        kept_s = self.rules.keeps_for_s()
        return clock.now_s() - kept_s if kept_s else _FOREVER

    def kept_from_s(self, refs: NDArray[np.uint64]) -> NDArray[np.int64]:
        """int64[n]: the first second that retention keeps of each of these series, whose references are in hand."""
        slots = refs & np.uint64(0xFFFF_FFFF)
        table = self.directory.series_table()
        by_metric = self.directory.kept_from_s(clock.now_s(), self.rules.retention_s)
        known = slots < len(table)
        kept = np.full(len(slots), KEEP_ALL_S)
        kept[known] = by_metric[table["metric"][slots[known]]]
        return kept

    def enter(self) -> None:
        """References are in hand from here to leave(): no series they name is reused meanwhile."""
        if self._busy == 0:
            self.slot.epoch_enter()
        self._busy += 1

    def enter_in_turn(self) -> Generator[Effect, Any, None]:
        """enter(), once no types are being changed: references found from here on stay right until leave()."""
        self.enter()
        # SYNC POINT (full) worker-epoch: entered before the flag is read, as it is set before the epochs are.
        while self.held():
            self.leave()
            yield NEED_TURN
            self.enter()

    def leave(self) -> None:
        self._busy -= 1
        if self._busy == 0:
            self.slot.epoch_exit()

    def steps(self, refs: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Seconds for each of these references, which are in hand; 0 for ignore words."""
        slots = refs & np.uint64(0xFFFF_FFFF)
        table = self.directory.series_table()
        known = slots < len(table)
        steps = np.zeros(len(slots), dtype=np.uint32)
        steps[known] = table["step_s"][slots[known]]
        return steps

    def cluster_id(self, cluster: bytes) -> int:
        """Level id of a connection's default cluster; 0 until its first series exists."""
        if not cluster:
            return 0
        return max(0, self.directory.find_level(0, b"", cluster))

    def take_lines(
        self, text: memoryview | bytes, state: LineState, *, final: bool
    ) -> Generator[Effect, Any, bytes]:
        """Store the whole lines of `text` (with `final`, also a last one without newline).

        returns the bytes after the last line used. `text` may be a view of a buffer that the caller reuses:
        before the first effect it is copied, and the caller must not rely on it afterwards.
        raises what the persister answered to unknown keys: nothing of their batch is stored then, and all that is
        counted in the state's tally by then
        """
        batch = self._batches.pop() if self._batches else LineBatch()
        batch.skipping = state.skipping
        for turn in self.enter_in_turn():
            text = bytes(text)
            yield turn
        try:
            return (yield from self._batches_of(batch, text, state, final))
        finally:
            # Also after an error or a farewell: what is encoded by now is whole batches, or whole records of one.
            self.publish()
            self.leave()
            state.skipping = batch.skipping
            batch.clear()
            if len(self._batches) < _BATCHES_KEPT:
                self._batches.append(batch)

    def _batches_of(
        self, batch: LineBatch, text: memoryview | bytes, state: LineState, final: bool
    ) -> Generator[Effect, Any, bytes]:
        start, stop = 0, len(text)
        now, oldest, newest = self.window()
        rules = self.rules
        while True:
            used = self.scanner.scan(
                batch, text, start, stop, final=final, cluster_id=self.cluster_id(state.cluster),
                precision=state.precision, now_s=now, oldest_s=oldest, newest_s=newest,
                config_version=rules.config_version, join=rules.join,
            )  # fmt: skip
            if batch.n_lines:
                text = yield from self._store(batch, text, state)
            if used == start or used >= stop:
                return bytes(text[used:])
            start = used

    def _store(
        self, batch: LineBatch, text: memoryview | bytes, state: LineState
    ) -> Generator[Effect, Any, memoryview | bytes]:
        """Resolve, encode and count one batch; the text, a copy if there was an effect."""
        if batch.n_unknown:
            text = bytes(text)
            yield from self._resolve(batch, state.cluster)
        if self.rules.own_retentions_s:
            places, refs, times = batch.late(self.may_be_late())
            if len(places):
                batch.refuse(places[times < self.kept_from_s(refs)])
        counts, n_samples = batch.counts(), batch.n_samples
        if self.full():
            counts[Reason.STORE_FULL] += counts[0]
            counts[0] = n_samples = 0
        else:
            state.exact = False
            while not batch.encode(self.ring):
                self.publish()
                text = bytes(text)
                yield NEED_ROOM
            state.exact = True
        state.tally.add(counts)
        self.count(batch.n_lines, n_samples, counts)
        batch.clear()
        return text

    def _resolve(self, batch: LineBatch, cluster: bytes) -> Generator[Effect, Any, None]:
        keys, offsets, times = batch.unknown()
        try:
            known = yield NeedReferences(cluster, keys, offsets, times)
        except StoreFull:
            word = ignore_word(Reason.STORE_FULL, self.rules.config_version)
            nothing = bytes(batch.n_unknown)
            known = References(word.to_bytes(8, "little") * batch.n_unknown, nothing, nothing)
        steps = self.steps(np.frombuffer(known.refs, dtype="<u8"))
        batch.resolve(None, known.refs, known.types, known.kinds, steps.tobytes())

    def publish(self) -> int:
        """Make everything encoded visible to the persister and wake it; the ring position to wait for."""
        before = self.ring.head()
        position = self.ring.publish()
        if position != before:
            self.ring_bell()
        return position

    def count(self, lines: int, samples: int, counts: NDArray[np.int64]) -> None:
        self.slot.add("batches")
        self.slot.add("lines", lines)
        self.slot.add("samples", samples)
        self.slot.add_lines(counts)
