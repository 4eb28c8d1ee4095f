"""Archive and memory together: a small store of its own, in private memory, that any query can be asked of.

    archive   parts, oldest first --+
    leaving   chunks on their way --+--> directory: the same levels, metrics, series and grids
    memory    chunks as they are  --+    samples: per slot what the last part says, over that what memory says

A Reader over it answers by the code that answers from shared memory, so a range that was archived in part has the same
slots, times, sums and reasons as before. The order of the series is kept, too: sums of floats depend on it. What makes
it is bounded by the samples of the scope; it goes with the answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.archive import definitions
from mstore.archive.leavers import EarlyLeavers, leavers_files
from mstore.archive.lives import FIRST, Life, Memory
from mstore.archive.reading import ArchiveFiles, Samples
from mstore.archive.rows import copied
from mstore.archive.scope import Scope
from mstore.config import Config
from mstore.errors import ArchiveError, LimitExceeded, StorageError
from mstore.kernels._restore import load_chunks
from mstore.kernels._samples import Samples as SamplesWriter
from mstore.limits import ARCHIVE_SAMPLES_MAX, RUN_VALUES_MAX
from mstore.persistence.files import ReadOnly
from mstore.persistence.rehearsal import PrivateMemory
from mstore.query.gather import DTYPES
from mstore.query.reader import Reader
from mstore.shm import chunks, layout
from mstore.shm.directory import DirectoryWriter, MetricInfo, create_directory, directory_bytes

_SERIES_MIN = 1024
_STEP_S = 3600
"""Of metrics that only the archive knows: about their longest."""
_SPARE_EXTENTS = 2 * len(layout.SIZE_CLASS_BYTES)

Level = tuple[tuple[str, str], ...]
"""(type, id) of each level from the cluster down."""


@dataclass(slots=True)
class Overlay:
    """What a question is asked of."""

    reader: Reader
    problems: list[str]
    """What of the archive could not be read, a sentence each; the answers lack it."""


@dataclass(slots=True)
class _Held:
    """One life on its way to its place."""

    life: Life
    slot: int = -1
    start: int = FIRST
    before: int | None = None
    after: int | None = None
    rows: list[tuple[Samples, NDArray[np.intp]]] = field(default_factory=list)
    """From the archive, oldest part first."""
    left: list[tuple[str, int, NDArray[Any]]] = field(default_factory=list)
    """On the way to the archive: file, chunk number, slots or rows."""
    chunks: list[tuple[int, NDArray[Any]]] = field(default_factory=list)
    """From memory: chunk number, slots; stamped: number, rows."""

    def first_s(self) -> int:
        """About where its samples begin."""
        found = [int(samples.key_ms[rows[0]]) // 1000 for samples, rows in self.rows]
        found += [self.life.nominal_s(n * layout.CHUNK_SLOTS) for n, _ in self.chunks if self.life.step_s]
        return min(found, default=self.life.anchor_s)


def build(
    archive: ArchiveFiles,
    memory: Memory | None,
    scopes: Sequence[Scope],
    *,
    store_dir: Path | None = None,
    now_s: Callable[[], int] = clock.now_s,
    config: Callable[[], Config] = Config,
    limit: int = ARCHIVE_SAMPLES_MAX,
) -> Overlay:
    """A store of everything that the scopes ask for.

    memory     None: there is only the archive
    config     as a Reader has it
    store_dir  of the store whose early leavers count, too; None: there are none
    raises     LimitExceeded for more samples than `limit`
    """
    whole = _Building(archive, memory, limit)
    # In the order in which samples go: what leaves one place while it is read is found in the next.
    for scope in scopes:
        whole.add_memory(scope)
    if store_dir is not None:
        whole.add_early(store_dir)
    for scope in scopes:
        whole.add_archive(scope)
    directory, samples = whole.made()
    reader = Reader(directory.segment, samples.segment, now_s=now_s, config=config)
    return Overlay(reader, whole.problems)


class _Building:
    """Collects lives and samples of all scopes, then makes directory and samples of them."""

    def __init__(self, archive: ArchiveFiles, memory: Memory | None, limit: int) -> None:
        self._archive = archive
        self._memory = memory
        self._limit = limit
        self._left = limit
        self.problems: list[str] = []
        self._levels: dict[Level, None] = {}
        self._metrics: dict[tuple[str, str], MetricInfo] = {}
        self._defined_once: dict[tuple[str, str], MetricInfo] = {}
        """By the newest part; for metrics that memory does not know any more."""
        self._held: dict[Life, _Held] = {}
        self._done: set[tuple[str, str]] = set()
        """(cluster, file of early leavers) whose rows are in the archive."""

    # --- what there is

    def add_memory(self, scope: Scope) -> None:
        memory = self._memory
        if memory is None or (cluster := memory.clusters().get(scope.cluster)) is None:
            return
        self._levels[(("", scope.cluster),)] = None
        wanted = {}
        for index in range(memory.directory.counts()["n_metrics"]):
            info = memory.directory.metric(index)
            if info.cluster == cluster and (scope.metrics is None or info.name in scope.metrics):
                wanted[index] = info.name
                self._metrics[scope.cluster, info.name] = info
        lives = list(self._live(memory, scope, cluster, wanted))
        for life in lives:
            self._held.setdefault(life, _Held(life))
        start, end = _widened(scope, lives)
        in_range = [life for life in lives if life.kind == layout.KIND_STAMPED or life.step_s]
        by_slot = {life.ref & 0xFFFF_FFFF: life for life in in_range}
        for head, payload in copied(memory, in_range):
            life = by_slot[int(head["series"])]
            if _reaches(life, head, start, end):
                self._held[life].chunks.append((int(head["n"]), _copy(life, payload)))
                self._count(int(head["count"]))

    def _live(self, memory: Memory, scope: Scope, cluster: int, wanted: dict[int, str]) -> Iterator[Life]:
        """Lives of all hosts of a scope; their levels are noted on the way, also those without series."""
        directory = memory.directory
        for host in directory.children(cluster):
            name = directory.level(host).name
            if scope.hosts is not None and name not in scope.hosts:
                continue
            below: list[tuple[int, Level]] = [(host, (("", scope.cluster), ("", name)))]
            while below:
                level, path = below.pop()
                self._levels[path] = None
                for slot in directory.level_series(level, True):
                    info = directory.series(slot)
                    if info is not None and info.level == level and info.metric in wanted:
                        yield Life(
                            directory.path(level, wanted[info.metric]), info.ref, info.kind, info.type,
                            info.n_columns, info.anchor_s, info.step_s, info.era_start,
                        )  # fmt: skip
                for child in directory.children(level):
                    found = directory.level(child)
                    below.append((child, (*path, (found.type, found.type_id))))

    def add_early(self, store_dir: Path) -> None:
        """Chunks on their way to the archive. Those of series that memory does not know are found once they are there."""
        files = ReadOnly()
        for path in leavers_files(files, store_dir):
            try:
                early = EarlyLeavers(files, [path])
                for life, held in self._held.items():
                    for kept in early.chunks.get(life.ref, ()):
                        held.left.append((path.name, int(kept.head["n"]), _copy(life, early.payload(kept))))
                        self._count(int(kept.head["count"]))
            except StorageError as error:
                if path.exists():  # else it is in the archive by now
                    self.problems.append(error.message)

    def add_archive(self, scope: Scope) -> None:
        try:
            manifest = self._archive.manifest(scope.cluster)
        except (ArchiveError, StorageError) as error:
            self.problems.append(error.message)
            return
        if manifest is not None:
            self._done.update((scope.cluster, name) for name in manifest.leavers)
        # Of series that memory does not know a slot beyond the range may be in the part of the day before.
        known = (info.step_s for (cluster, _), info in self._metrics.items() if cluster == scope.cluster)
        around_s = scope.steps * max(known, default=_STEP_S)
        parts = (
            manifest.overlapping(scope.start - around_s, scope.end + around_s) if manifest is not None else []
        )
        for part in parts:
            try:
                lives = self._archive.lives(scope, part)
                start, end = _widened(scope, lives)
                for info in self._archive.metrics(scope.cluster, part):
                    if scope.metrics is None or info.name in scope.metrics:
                        self._defined_once[scope.cluster, info.name] = info
                held = [self._known(life) for life in lives]
                wide = replace(scope, start=start, end=end)
                pieces = list(self._archive.samples(wide, part, lives, self._left))
            except ArchiveError as error:
                if not self._archive.has_deleted(scope.cluster, part):
                    self.problems.append(error.message)
                continue
            for samples in pieces:
                self._count(len(samples.life))
                for place, rows in _by_life(samples.life):
                    held[place].rows.append((samples, rows))

    def _known(self, life: Life) -> _Held:
        path = life.path
        whole = (("", path.cluster), *path.levels())
        for depth in range(1, len(whole) + 1):
            self._levels.setdefault(whole[:depth], None)
        return self._held.setdefault(life, _Held(life))

    def _count(self, n: int) -> None:
        self._left -= n
        if self._left < 0:
            raise LimitExceeded(
                f"the question reads more than {self._limit} samples of memory and archive together: ask for a"
                " shorter range, or for fewer hosts or metrics at a time",
                limit=self._limit,
            )

    # --- what becomes of it

    def made(self) -> tuple[PrivateMemory, PrivateMemory]:
        """(directory, samples)"""
        for held in self._held.values():
            waiting = [
                (n, kept) for name, n, kept in held.left if (held.life.path.cluster, name) not in self._done
            ]
            held.chunks = [*waiting, *held.chunks]
        chains = self._chained()
        in_order = sorted(
            (held for chain in chains for held in chain),
            key=lambda held: (held.life.ref & 0xFFFF_FFFF, held.life.ref >> 32, held.start),
        )
        for slot, held in enumerate(in_order):
            held.slot = slot
        for chain in chains:
            for held, later in pairwise(chain):
                held.after, later.before = later.slot, held.slot
        directory = self._directory(in_order)
        entries = [_entries(held) for held in in_order if held.life.kind == layout.KIND_GRID]
        samples = PrivateMemory(_samples_bytes(in_order, entries))
        np.frombuffer(samples.buffer, layout.SEGMENT_HEADER, 1)["committed_bytes"] = samples.segment.length
        writer = SamplesWriter(directory.segment, samples.segment, -1, 0, True)
        for entry in entries:
            if len(entry):
                load_chunks(writer, entry.tobytes())
        for held in in_order:
            if held.life.kind == layout.KIND_STAMPED:
                for record in _stamped_records(held):
                    writer.apply(record)
        return directory, samples

    def _chained(self) -> list[list[_Held]]:
        """The lives of each path in order of time, of the newest one's kind only, each with its start."""
        by_path: dict[Any, list[_Held]] = defaultdict(list)
        for held in self._held.values():
            by_path[held.life.path].append(held)
        chains = []
        for lives in by_path.values():
            lives.sort(key=lambda held: (_start_s(held), held.life.ref >> 32))
            chain = [held for held in lives if held.life.kind == lives[-1].life.kind]
            for held in chain[1:]:
                held.start = held.life.start
                if held.start == FIRST:  # the series before was removed, and the path used again
                    held.start = _start_s(held) * (1000 if held.life.kind == layout.KIND_STAMPED else 1)
            chains.append(chain)
        return chains

    def _directory(self, in_order: list[_Held]) -> PrivateMemory:
        max_series = max(_SERIES_MIN, len(in_order), len(self._levels))
        memory = PrivateMemory(directory_bytes(max_series))
        create_directory(memory, max_series, 1)
        writer = DirectoryWriter(memory.segment)
        numbers: dict[Level, int] = {(): 0}
        records = []
        for level in sorted(self._levels, key=len):
            numbers[level] = len(numbers)
            records.append(definitions.level_record(numbers[level], numbers[level[:-1]], *level[-1]))
        defined = {**self._defined_once, **self._metrics}
        metrics = {key: index for index, key in enumerate(defined)}
        for key, info in defined.items():
            records.append(definitions.metric_record(metrics[key], numbers[(("", key[0]),)], info))
        for held in in_order:
            path = held.life.path
            below = numbers[(("", path.cluster), *path.levels())]
            metric = metrics[path.cluster, path.metric]
            records.append(definitions.series_record(held.slot, below, metric, held.life, held.start, held.before,
                                                     held.after))  # fmt: skip
        writer.apply_definition(b"".join(records))
        writer.publish()
        return memory


def _start_s(held: _Held) -> int:
    """Where a life begins, seconds; of the first of its path where its samples do."""
    if held.life.start == FIRST:
        return held.first_s() - held.life.step_s // 2
    return held.life.start // 1000 if held.life.kind == layout.KIND_STAMPED else held.life.start


def _widened(scope: Scope, lives: Sequence[Life]) -> tuple[int, int]:
    """The range with the slots around it that the scope asks for."""
    slack = scope.steps * max((life.step_s for life in lives), default=0)
    return scope.start - slack, scope.end + slack


def _reaches(life: Life, head: np.void, start: int, end: int) -> bool:
    if life.kind == layout.KIND_STAMPED:
        return int(head["anchor_s"]) < end * 1000 and int(head["t_max_ms"]) >= start * 1000
    first = life.nominal_s(int(head["n"]) * layout.CHUNK_SLOTS)
    return first < end and first + layout.CHUNK_SLOTS * life.step_s > start


def _copy(life: Life, payload: memoryview) -> NDArray[Any]:
    if life.kind == layout.KIND_STAMPED:
        return np.frombuffer(payload, np.uint64).reshape(-1, 1 + life.n_columns).copy()
    return np.frombuffer(payload, DTYPES[life.type]).copy()


def _by_life(life: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """(place, its rows in order) of each life that has rows."""
    order = np.argsort(life, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(life[order])) + 1):
        if len(rows):
            yield int(life[rows[0]]), rows


# --- grids


def _entries(held: _Held) -> NDArray[np.void]:
    """The chunks of a grid series as a snapshot has them, whole: what memory holds over what the archive holds."""
    life = held.life
    dtype = DTYPES[life.type]
    slots, values = _archived(held, dtype)
    numbers = np.unique(
        np.concatenate([slots // layout.CHUNK_SLOTS, np.array([n for n, _ in held.chunks], np.int64)])
    )
    _refuse_too_long(life, numbers)
    missing = layout.U64_MISSING if life.type == layout.TYPE_U64 else np.nan
    block = np.full((len(numbers), layout.CHUNK_SLOTS), missing, dtype)
    block[np.searchsorted(numbers, slots // layout.CHUNK_SLOTS), slots % layout.CHUNK_SLOTS] = values
    for n, kept in held.chunks:
        row = block[np.searchsorted(numbers, n), : len(kept)]
        present = ~chunks.missing(kept)
        row[present] = kept[present]
    found = np.zeros(
        len(numbers), np.dtype([("head", layout.CHUNK), ("values", dtype, (layout.CHUNK_SLOTS,))])
    )
    head = found["head"]
    head["series"], head["generation"], head["n"] = held.slot, 1, numbers
    head["anchor_s"], head["step_s"], head["kind"], head["type"] = (
        life.anchor_s,
        life.step_s,
        life.kind,
        life.type,
    )
    head["n_columns"], head["count"] = life.n_columns, layout.CHUNK_SLOTS
    head["reserved"] = layout.CHUNK_SLOTS * dtype.itemsize
    found["values"] = block
    return found


def _archived(held: _Held, dtype: np.dtype[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """(slots, values) of a grid series in the archive, those of later parts later: of one slot the last one holds."""
    life = held.life
    if not held.rows:
        return np.empty(0, np.int64), np.empty(0, dtype)
    times = np.concatenate([samples.key_ms[rows] for samples, rows in held.rows]) // 1000
    if dtype == np.float32:
        values: NDArray[Any] = np.concatenate([samples.value[rows] for samples, rows in held.rows])
    else:
        values = np.concatenate([samples.word[rows] for samples, rows in held.rows]).view(dtype)
    return (times - life.anchor_s) // life.step_s, values


def _refuse_too_long(life: Life, numbers: NDArray[np.int64]) -> None:
    if len(numbers) and numbers[-1] - numbers[0] >= chunks.CHUNKS_SPANNED_MAX:
        raise LimitExceeded(
            f"{life.path.metric} of {life.path.host}: a question spans at most"
            f" {chunks.CHUNKS_SPANNED_MAX * layout.CHUNK_SLOTS} slots of {life.step_s} s: ask for a shorter range"
        )


def _samples_bytes(held: list[_Held], entries: list[NDArray[np.void]]) -> int:
    """Enough for all chunks and link tables; what is not used takes no memory."""
    n_bytes = 0
    for entry in entries:
        span = int(entry["head"]["n"][-1] - entry["head"]["n"][0]) + 1 if len(entry) else 0
        n_bytes += len(entry) * layout.SIZE_CLASS_BYTES[layout.CLASS_FULL_8] + 64 * span + 512
    for one in held:
        if one.life.kind == layout.KIND_STAMPED:
            n_rows = sum(len(rows) for _, rows in one.rows) + sum(len(rows) for _, rows in one.chunks)
            n_bytes += 2 * layout.SIZE_CLASS_BYTES[layout.CLASS_FULL_8] * (1 + n_rows // 4)
    n_extents = n_bytes * 9 // 8 // layout.EXTENT_BYTES + _SPARE_EXTENTS
    return layout.SAMPLES_DATA + n_extents * layout.EXTENT_BYTES


# --- rows


def _stamped_records(held: _Held) -> Iterator[bytes]:
    """STAMPED records of a series: of one stamp the archive's last part holds, and memory over it."""
    life = held.life
    found = [_stamped(samples, rows, life.n_columns) for samples, rows in held.rows]
    found += [rows for _, rows in held.chunks]
    if not found:
        return
    rows = np.concatenate(found)
    order = np.argsort(rows[:, 0].view(np.int64), kind="stable")
    rows = rows[order]
    last = np.ones(len(rows), np.bool_)
    last[:-1] = rows[1:, 0] != rows[:-1, 0]
    rows = rows[last]
    for first in range(0, len(rows), RUN_VALUES_MAX // 64):
        piece = np.ascontiguousarray(rows[first : first + RUN_VALUES_MAX // 64])
        head = np.array((layout.REC_STAMPED, life.n_columns, 0, len(piece), held.slot, 1, 0), layout.RUN)
        yield head.tobytes() + piece.tobytes()


def _stamped(samples: Samples, rows: NDArray[np.intp], n_columns: int) -> NDArray[np.uint64]:
    """Cells of one part -> rows, uint64[m, 1 + n_columns]."""
    stamps, place = np.unique(samples.key_ms[rows], return_inverse=True)
    found = np.full((len(stamps), 1 + n_columns), layout.U64_MISSING, np.uint64)
    found[:, 0] = stamps.view(np.uint64)
    found[place, 1 + samples.column[rows]] = samples.word[rows]
    return found
