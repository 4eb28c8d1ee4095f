"""The control segment: the store's few words, and a table of workers with their epochs and counters.

    word              written by               what a kill in between leaves
    STORE_STATE       supervisor               the state before
    CONFIG_VERSION    persister                the version before: ignored lines are asked about again
    RETENTION         persister                the retention before
    FLAGS             persister                the flags before
    WRITTEN, DURABLE  persister, committer     positions that are too low: recovery reads the log itself
    APPLIED           persister                too low: what follows in the log is applied once more
    LOG_ID            persister                not the newest segment's: the memory is not adopted
    LEFT              persister                too high: readers look at the archive once more
    worker's head     the worker, at claim()   a slot that is not yet claimed (state is stored last)
    worker's epoch    the worker               an odd epoch, which release() by the supervisor ends
    counters          the worker               one event not counted

Every word has one writer; all are read and written with release and acquire order, counters relaxed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.errors import InvariantBroken, LimitExceeded
from mstore.kernels._ring import EpochWord, load_u32, load_u64, store_u32, store_u64
from mstore.kernels._segment import Segment
from mstore.limits import WORKERS_MAX
from mstore.model import N_REASONS, Reason
from mstore.shm import layout

Counted: TypeAlias = list[tuple[int, int, NDArray[np.uint64]]]
"""Of each slot: kind, index, uint64[96] counters."""

CONTROL_BYTES = layout.WORKERS + WORKERS_MAX * layout.WORKER.itemsize

# States of a worker's slot.
WORKER_FREE, WORKER_STARTING, WORKER_READY = 0, 1, 2

STATE_NAMES = {
    layout.STATE_STARTING: "starting", layout.STATE_REPLAYING: "replaying", layout.STATE_READY: "ready",
    layout.STATE_STOPPING: "stopping",
}  # fmt: skip
WORKER_NAMES = {
    layout.WORKER_SUPERVISOR: "supervisor", layout.WORKER_PERSISTER: "persister", layout.WORKER_INGEST: "ingest",
    layout.WORKER_QUERY: "query",
}  # fmt: skip
WORKER_KINDS = {name: kind for kind, name in WORKER_NAMES.items()}


def _line_counters() -> tuple[str, ...]:
    """One name per Reason number; 0 counts the lines that were written."""
    names = ["written"] + [f"reason_{number}" for number in range(1, N_REASONS)]
    for reason in Reason:
        names[reason] = "ignored" if reason is Reason.UNKNOWN_METRIC else f"rejected_{reason.public}"
    return tuple(names)


LINE_COUNTERS = _line_counters()
COUNTERS: tuple[str, ...] = (
    *LINE_COUNTERS,
    # ingest
    "connections_open", "connections_total", "bytes_in", "batches", "lines", "samples", "frames",
    "handles_open", "intern_requests", "acks", "ring_full_waits", "errors",
    # query
    "queries", "query_series", "query_samples", "query_us_total", "bytes_out", "cancelled",
    # persister: interning, log, apply
    "series_removed", "wal_bytes", "wal_blocks", "fsyncs", "fsync_us_total", "fsync_errors", "samples_applied",
    "stale_samples",
    # persister: memory, snapshots
    "chunks_freed", "chunks_evicted", "eras_started", "retention_passes", "samples_bytes",
    "snapshots", "snapshot_bytes", "snapshot_us_total", "snapshot_errors",
    "snapshot_permille", "snapshot_now_bytes", "snapshot_began_s",
    # recovery
    "recovery_done_bytes", "recovery_all_bytes", "recovery_phase", "recovery_began_s",
    # supervisor
    "restarts",
    # persister: who holds the log; what became of its files, and what there must be of them
    "log_holds", "files_lost", "unprotected_seq", "log_first_seq", "newest_snapshot_seq", "older_snapshot_seq",
    # query: subscriptions
    "followers",
    # persister: exports
    "exports", "export_bytes", "export_errors", "export_permille", "export_began_s",
    # persister: hosts whose data outlives retention, when a provider told of them last, how often one failed
    "protected_hosts", "protection_heard_s", "protection_errors",
    # persister: the archive
    "archive_passes", "archive_rows", "archive_bytes", "archive_errors", "archive_lost", "archive_behind_s",
    "archive_permille",
)  # fmt: skip
# What a counter means right now; a worker that starts has none of it.
GAUGES = frozenset(
    {
        "connections_open", "handles_open", "samples_bytes", "log_holds", "followers",
        "log_first_seq", "newest_snapshot_seq", "older_snapshot_seq", "protected_hosts", "protection_heard_s",
        "archive_behind_s", "archive_permille", "snapshot_permille", "snapshot_now_bytes", "snapshot_began_s",
        "recovery_done_bytes", "recovery_all_bytes", "recovery_phase", "recovery_began_s",
        "export_permille", "export_began_s",
    }
)  # fmt: skip

# What is true of this memory, whoever writes it: it stays with it, and goes with it.
OF_MEMORY = frozenset({"unprotected_seq"})

_INDEX = {name: index for index, name in enumerate(COUNTERS)}
_QUERIES, _QUERY_SERIES, _QUERY_SAMPLES, _QUERY_US = map(
    _INDEX.__getitem__, ("queries", "query_series", "query_samples", "query_us_total")
)
_FOLLOWERS = _INDEX["followers"]
_N_COUNTERS = 96
_EPOCH = 128
_COUNTERS = 256

assert len(_INDEX) == len(COUNTERS) <= _N_COUNTERS
assert COUNTERS[:N_REASONS] == LINE_COUNTERS


class MappingLike(Protocol):
    """What a Control needs of a shm.segment.Mapping."""

    @property
    def segment(self) -> Segment: ...
    @property
    def buffer(self) -> memoryview: ...


class Control:
    """The store's words and workers; setters need a writable mapping."""

    def __init__(self, mapping: MappingLike) -> None:
        if len(mapping.buffer) < CONTROL_BYTES:
            raise InvariantBroken(f"a control segment has {CONTROL_BYTES} bytes, not {len(mapping.buffer)}")
        self._segment = mapping.segment
        self._buffer = mapping.buffer

    @property
    def state(self) -> int:
        """STATE_*; by the supervisor."""
        return load_u32(self._segment, layout.STORE_STATE)

    @state.setter
    def state(self, value: int) -> None:
        store_u32(self._segment, layout.STORE_STATE, value)

    def asking_retention_s(self) -> Callable[[], int]:
        """What gives retention_s, for those who ask at every question: a call without a frame of Python."""
        return partial(load_u64, self._segment, layout.STORE_RETENTION)

    @property
    def retention_s(self) -> int:
        """How long samples are served, seconds; 0 = all there are. Set by the persister."""
        return load_u64(self._segment, layout.STORE_RETENTION)

    @retention_s.setter
    def retention_s(self, value: int) -> None:
        store_u64(self._segment, layout.STORE_RETENTION, value)

    @property
    def config_version(self) -> int:
        """Of the configuration that unknown metrics are judged by; 24 bits of it are in ignore words."""
        return load_u32(self._segment, layout.STORE_CONFIG_VERSION)

    @config_version.setter
    def config_version(self, value: int) -> None:
        store_u32(self._segment, layout.STORE_CONFIG_VERSION, value)

    @property
    def flags(self) -> int:
        """FLAG_*, or-ed."""
        return load_u32(self._segment, layout.STORE_FLAGS)

    @flags.setter
    def flags(self, value: int) -> None:
        store_u32(self._segment, layout.STORE_FLAGS, value)

    def set_flag(self, flag: int, on: bool) -> None:
        """The persister is the only writer, so reading and storing again loses nothing."""
        self.flags = self.flags | flag if on else self.flags & ~flag

    @property
    def written(self) -> int:
        """Sequence of the last block written to the log."""
        return load_u64(self._segment, layout.STORE_WRITTEN)

    @written.setter
    def written(self, value: int) -> None:
        store_u64(self._segment, layout.STORE_WRITTEN, value)

    @property
    def durable(self) -> int:
        """Sequence of the last block that is fdatasynced."""
        return load_u64(self._segment, layout.STORE_DURABLE)

    @durable.setter
    def durable(self, value: int) -> None:
        store_u64(self._segment, layout.STORE_DURABLE, value)

    @property
    def applied(self) -> int:
        """Every block of the log up to this sequence is in directory and samples; 0 = they are not filled yet."""
        return load_u64(self._segment, layout.STORE_APPLIED)

    @applied.setter
    def applied(self, value: int) -> None:
        # SYNC POINT (release) store applied: what the block changed is in memory
        store_u64(self._segment, layout.STORE_APPLIED, value)

    @property
    def log_id(self) -> int:
        """Id of the newest segment of the log that this memory was filled from."""
        return load_u64(self._segment, layout.STORE_LOG_ID)

    @log_id.setter
    def log_id(self, value: int) -> None:
        store_u64(self._segment, layout.STORE_LOG_ID, value)

    @property
    def left(self) -> int:
        """Changes whenever something leaves memory that retention would still serve; 0 = nothing has."""
        return load_u64(self._segment, layout.STORE_LEFT)

    @left.setter
    def left(self, value: int) -> None:
        # SYNC POINT (release) store left: what leaves is in a file that readers of the archive find
        store_u64(self._segment, layout.STORE_LEFT, value)

    def worker(self, number: int) -> WorkerSlot:
        """Slot `number` of the table, 0 <= number < WORKERS_MAX."""
        if not 0 <= number < WORKERS_MAX:
            raise LimitExceeded(f"worker {number}: at most {WORKERS_MAX} workers", workers_max=WORKERS_MAX)
        return WorkerSlot(self._segment, self._buffer, number)

    def workers(self) -> Iterator[WorkerSlot]:
        """Slots that are not free."""
        return (slot for slot in map(self.worker, range(WORKERS_MAX)) if slot.state != WORKER_FREE)

    def totals(self) -> dict[str, int]:
        """Every counter added up over all slots, those of finished workers included: totals never fall."""
        start, stop = layout.WORKERS, layout.WORKERS + WORKERS_MAX * layout.WORKER.itemsize
        table = np.frombuffer(self._buffer[start:stop], layout.WORKER)
        sums = table["counters"].sum(axis=0, dtype=np.uint64)
        return {name: int(sums[index]) for name, index in _INDEX.items()}

    def counted(self) -> Counted:
        """What every slot counts, whose it is: for go_on_counting() of the life that comes after this one."""
        return [
            (slot.kind, slot.index, slot.counters.copy()) for slot in map(self.worker, range(WORKERS_MAX))
        ]

    def go_on_counting(self, before: Counted, places: Sequence[tuple[int, int]]) -> None:
        """Counters go on from those of the workers before; what says how things are now, and not how often, does not.

        before  of other memory, or of this one under other workers
        places  kind and index of who will claim slot 0, 1, ...; what workers counted that there are no more goes to
                slot 0, so that totals never fall
        """
        self.count_anew()
        numbers = {place: number for number, place in enumerate(places)}
        for number, (kind, index) in enumerate(places):
            self.worker(number).expect(kind, index)
        for kind, index, counters in before:
            self.worker(numbers.get((kind, index), 0)).go_on(counters)

    def count_anew(self) -> None:
        """Every counter 0; what is true of the memory stays."""
        for slot in map(self.worker, range(WORKERS_MAX)):
            kept = {name: slot.get(name) for name in OF_MEMORY}
            slot.counters[:] = 0
            for name, value in kept.items():
                slot.set(name, value)

    def validate(self) -> None:
        """Check every rule; beside a busy store one may look broken for a moment. InvariantBroken names the first fault."""
        from mstore.shm.control_check import check  # only tests and `mstore check` need it

        if faults := check(self):
            raise InvariantBroken(f"control: {faults[0]}", faults=faults[:20])

    def epochs(self) -> list[int]:
        """Every worker's epoch (odd = it may hold references), in order of the slots."""
        return [self.worker(number).epoch for number in range(WORKERS_MAX)]


class WorkerSlot:
    """One worker's 1024 bytes of the control segment. Only the process that claimed it writes to it.

    counters  uint64[96], named by COUNTERS; a view of the segment
    """

    def __init__(self, segment: Segment, buffer: memoryview, number: int) -> None:
        self.number = number
        self._segment = segment
        self._at = layout.WORKERS + number * layout.WORKER.itemsize
        self._words = buffer[self._at + _COUNTERS : self._at + _COUNTERS + 8 * _N_COUNTERS].cast("Q")
        self.counters: NDArray[np.uint64] = np.frombuffer(self._words, np.uint64)
        self._epoch: EpochWord | None = None

    @property
    def kind(self) -> int:
        """WORKER_*"""
        return load_u32(self._segment, self._field("kind"))

    @property
    def index(self) -> int:
        """Which of the workers of its kind."""
        return load_u32(self._segment, self._field("index"))

    @property
    def pid(self) -> int:
        return load_u32(self._segment, self._field("pid"))

    @property
    def started_ns(self) -> int:
        return load_u64(self._segment, self._field("started_ns"))

    @property
    def state(self) -> int:
        return load_u32(self._segment, self._field("state"))

    @state.setter
    def state(self, value: int) -> None:
        store_u32(self._segment, self._field("state"), value)

    @property
    def epoch(self) -> int:
        return load_u64(self._segment, self._at + _EPOCH)

    def claim(self, kind: int, index: int, pid: int) -> None:
        """Become the slot's owner. Counters go on from those of the same kind and index before; gauges are 0.

        The lock on DIR makes sure that the owner before is gone.
        """
        if (self.kind, self.index) != (kind, index):
            self.counters[:] = 0
        for name in GAUGES:
            self._words[_INDEX[name]] = 0
        self._epoch = EpochWord(self._segment, self._at + _EPOCH)
        store_u32(self._segment, self._field("kind"), kind)
        store_u32(self._segment, self._field("index"), index)
        store_u32(self._segment, self._field("pid"), pid)
        store_u64(self._segment, self._field("started_ns"), clock.now_ns())
        self.state = WORKER_STARTING

    def expect(self, kind: int, index: int) -> None:
        """Of a slot that nobody has claimed yet: who claims it as this kind and index goes on from its counters."""
        store_u32(self._segment, self._field("kind"), kind)
        store_u32(self._segment, self._field("index"), index)

    def go_on(self, counters: NDArray[np.uint64]) -> None:
        """Count these as well: uint64[96] of a worker before, without its gauges and what was true of its memory."""
        more = counters.copy()
        more[[_INDEX[name] for name in GAUGES | OF_MEMORY]] = 0
        self.counters[:] += more

    def release(self) -> None:
        """Give the slot back: by its owner at its end, by the supervisor once the owner is known to be dead.

        References a dead worker held died with it: its epoch is made even, so that nobody waits for it.
        """
        self._epoch = None
        EpochWord(self._segment, self._at + _EPOCH)
        for name in GAUGES:
            self._words[_INDEX[name]] = 0
        self.state = WORKER_FREE

    def add(self, name: str, n: int = 1) -> None:
        """Count `n` more; a gauge may also fall."""
        self._words[_INDEX[name]] += n

    def set(self, name: str, value: int) -> None:
        self._words[_INDEX[name]] = value

    def get(self, name: str) -> int:
        return self._words[_INDEX[name]]

    def add_query(self, n_series: int, n_samples: int, took_us: int) -> None:
        """Count a query and what it answered."""
        words = self._words
        words[_QUERIES] += 1
        words[_QUERY_SERIES] += n_series
        words[_QUERY_SAMPLES] += n_samples
        words[_QUERY_US] += took_us

    def add_lines(self, counts: NDArray[np.int64]) -> None:
        """Add int64[N_REASONS] of one batch: [0] lines written, [reason] lines refused or ignored."""
        self.counters[:N_REASONS] += counts.astype(np.uint64)

    def epoch_enter(self) -> None:
        """From here to epoch_exit() this worker may hold references that it looked up."""
        assert self._epoch is not None, "claim() first"
        self._epoch.enter()

    def epoch_exit(self) -> None:
        assert self._epoch is not None, "claim() first"
        self._epoch.exit()

    @property
    def followers(self) -> int:
        """Subscriptions of this (query) worker."""
        return self._words[_FOLLOWERS]

    def snapshot(self) -> dict[str, int]:
        """Every counter by name, each as of some moment during the call."""
        values = self.counters.tolist()
        return {name: values[index] for name, index in _INDEX.items()}

    def _field(self, name: str) -> int:
        return self._at + _FIELDS[name]


def _field_offsets() -> dict[str, int]:
    fields = layout.WORKER.fields
    assert fields is not None
    return {name: int(field[1]) for name, field in fields.items()}


_FIELDS = _field_offsets()
assert (_FIELDS["epoch"], _FIELDS["counters"]) == (_EPOCH, _COUNTERS)
