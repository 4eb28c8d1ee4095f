"""Loading snapshots: which generation gives the definitions, which one the chunks of each cluster.

    definitions   of the newest generation whose manifest and definitions are sound
    a cluster     its file of the newest generation; when that is damaged, of an older one, if the log still reaches
                  back to it; else the sound blocks of the newest one, and what is missing is reported

The log is then replayed from the *oldest* generation that gave anything. That is exact for those who came from a newer
one: a snapshot may always hold more than its sequence says, and replaying is idempotent. A block is verified before it
is handed on, so nothing wrong is ever loaded; when a later block of the same file is damaged, what came from the file
is forgotten again.

What lies beyond retention is left out at once. When memory has no room for all the rest, the manifest's account of
ages tells from which time on everything fits: what is older is left out, too.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from mstore.errors import CorruptRecord, StorageError
from mstore.limits import MIB
from mstore.persistence.files import (
    WAL_SUFFIX,
    Files,
    number_of,
    quarantine_dir,
    snapshot_dir,
    wal_dir,
)
from mstore.persistence.snapshot import SnapshotInfo, info_of, list_snapshots
from mstore.persistence.snapshot_files import (
    CHUNKS,
    DEFINITIONS,
    ROLE_CHUNKS,
    Block,
    Expected,
    Gap,
    Manifest,
    Part,
    Totals,
    read_blocks,
    read_manifest,
    read_sound_blocks,
)

ANY_TIME_S = -(1 << 63)
_AHEAD_BLOCKS = 8
_INLINE_BYTES = 1 * MIB
"""Files up to here are read without a thread beside."""
_ROOM_SHARE = 0.98
"""Of the room there is: extents of several sizes are never all full."""

Progress = Callable[[str, int, int], None]
"""(what is being read, bytes done, bytes in all)"""


class Target(Protocol):
    """What is filled: an empty store."""

    def apply(self, records: memoryview) -> object:
        """The payload of one block of the log."""

    def define(self, records: memoryview) -> object:
        """Definitions, up to 4 MiB of whole records at once, parents first."""

    def load(
        self, entries: memoryview, expired_s: int, older_s: int
    ) -> tuple[int, int, int, int, int, int, int]:
        """The chunks of one block, those that end before either second left out.

        returns  chunks loaded; samples in them; chunks of series that are gone; expired; older; without room; chunks
                 that had been loaded and were evicted to make room
        raises   CorruptRecord for entries that no snapshot's writer makes
        """

    def prepare(self, n_bytes: int) -> None:
        """Chunks that take so much memory are about to come, as far as there is room."""

    def finish(self) -> None:
        """No more chunks come."""

    def forget(self, cluster: int) -> None:
        """Free all chunks of a cluster's series."""

    def room(self) -> int:
        """Bytes that chunks may take; asked when the definitions are in memory."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file of a snapshot that could not be used, or not all of it."""

    path: str
    log_seq: int
    cluster: int
    """Level id; 0 = a manifest or definitions."""
    offset: int
    reason: str
    n_series: int
    n_chunks: int
    """In the whole file, as its manifest says; 0 when nobody knows."""
    t_min: int
    t_max: int
    """Seconds; t_min > t_max: nobody knows."""
    n_lost: int = 0
    """Chunks that no other file gave; what the log has of them is replayed. -1 = nobody knows how many."""
    instead: str = ""
    """What was done about it."""

    def __str__(self) -> str:
        reach = f"{self.n_series} series, {self.n_chunks} chunks" if self.cluster else ""
        if self.cluster and self.t_min <= self.t_max:
            reach += f", {self.t_min} to {self.t_max} s"
        told = f"{self.path} at {self.offset}: {self.reason}"
        return "; ".join(part for part in (told, reach and f"it held {reach}", self.instead) if part)


@dataclass(slots=True)
class Loaded:
    """What loading snapshots put into the store, and what it left out."""

    definition_bytes: int = 0
    n_chunks: int = 0
    n_samples: int = 0
    n_stale: int = 0
    """Chunks of series that were removed or replaced while the snapshot was written; the log has the rest."""
    n_expired: int = 0
    """Chunks beyond retention."""
    n_older: int = 0
    """Chunks left out because the memory is smaller than it was: the oldest."""
    n_no_room: int = 0
    """Chunks left out, or evicted again, because there was less room than counted on."""
    from_s: int = ANY_TIME_S
    """Chunks that end before were left out because of memory; ANY_TIME_S: none."""
    before_log_seq: int = 0
    """Replay from the next sequence on; 0: all of the log."""
    durable_floor: int = 0
    """The newest sequence that the name of any manifest proves durable."""
    snapshot: SnapshotInfo | None = None
    """The generation the definitions came from."""
    refused: list[Refused] = field(default_factory=list)

    def add(self, counts: tuple[int, int, int, int, int, int, int]) -> None:
        loaded, samples, stale, expired, older, no_room, evicted = counts
        self.n_chunks += loaded - evicted
        self.n_samples += samples
        self.n_stale += stale
        self.n_expired += expired
        self.n_older += older
        self.n_no_room += no_room + evicted


def load_snapshots(
    files: Files,
    directory: Path,
    target: Target,
    *,
    expired_s: int = ANY_TIME_S,
    strict: bool = False,
    progress: Progress | None = None,
) -> Loaded:
    """Fill an empty store from DIR/snapshots, as far as they are sound.

    expired_s  chunks that end before are left out
    strict     raise CorruptRecord at the first damage
    """
    restoring = _Restoring(files, directory, target, expired_s, strict, progress or (lambda *_: None))
    restoring.run()
    return restoring.loaded


class _Restoring:
    def __init__(
        self, files: Files, directory: Path, target: Target, expired_s: int, strict: bool, progress: Progress
    ) -> None:
        self._files = files
        self._directory = directory
        self._target = target
        self._expired_s = expired_s
        self._strict = strict
        self._progress = progress
        self._manifests: list[Manifest] = []
        self._bytes_all = 0
        self._bytes_done = 0
        self.loaded = Loaded()

    def run(self) -> None:
        base = self._begin()
        if base is None:
            self.loaded.refused = [
                replace(one, n_lost=-1, instead="no generation is sound: the log alone is left")
                for one in self.loaded.refused
            ]
            return
        self.loaded.snapshot = info_of(base)
        self.loaded.before_log_seq = base.log_seq
        self.loaded.from_s = self._first_second_with_room(base)
        try:
            self._target.prepare(self._memory_from(base, max(self._expired_s, self.loaded.from_s)))
            for cluster in sorted(base.chunks()):
                self._cluster(cluster, base)
        finally:
            self._target.finish()

    # --- definitions

    def _begin(self) -> Manifest | None:
        """The newest generation whose definitions are sound; they are in the store then."""
        base = None
        for log_seq, path in list_snapshots(self._files, snapshot_dir(self._directory)):
            self.loaded.durable_floor = max(self.loaded.durable_floor, log_seq)
            try:
                manifest = read_manifest(self._files, path, log_seq)
            except CorruptRecord as failure:
                self._refuse(failure, log_seq, None, 0, "a generation before it is used, and the log")
                continue
            self._manifests.append(manifest)
            if base is None and self._define(manifest):
                base = manifest
        return base

    def _define(self, manifest: Manifest) -> bool:
        """Definitions are handed on only when all of the file is sound: later ones build on earlier ones."""
        part = manifest.definitions()
        self._bytes_all = part.n_bytes + sum(held.n_bytes for held in manifest.chunks().values())
        self._bytes_done = 0
        held: list[memoryview] = []
        try:
            for block in self._blocks(manifest, part):
                if block.kind == DEFINITIONS:
                    held.append(block.payload)
        except CorruptRecord as failure:
            self._refuse(failure, manifest.log_seq, part, 0, "a generation before it is used, and the log")
            return False
        self.loaded.definition_bytes = sum(map(len, held))
        for records in held:
            self._target.define(records)
        return True

    def _first_second_with_room(self, base: Manifest) -> int:
        """Chunks that end from this second on fit the memory, all together; ANY_TIME_S: everything does."""
        room = int(self._target.room() * _ROOM_SHARE)
        taken = 0
        for age, n_bytes in enumerate(base.memory_by_age):
            end_s = base.now_s - age * base.age_s
            if end_s < self._expired_s:
                break
            taken += n_bytes
            if taken > room:
                return end_s
        return ANY_TIME_S

    def _memory_from(self, base: Manifest, from_s: int) -> int:
        """Bytes that chunks which end from then on take."""
        ends = range(base.now_s, base.now_s - base.age_s * len(base.memory_by_age), -base.age_s)
        return sum(
            n_bytes for end_s, n_bytes in zip(ends, base.memory_by_age, strict=True) if end_s >= from_s
        )

    # --- chunks

    def _cluster(self, cluster: int, base: Manifest) -> None:
        """Its newest sound file; the newest one's sound blocks when there is none."""
        candidates = [(one, part) for one in self._manifests if (part := one.chunks().get(cluster))]
        # Newer than the definitions only if nothing else is left: their log is replayed anyway.
        candidates.sort(key=lambda found: (found[0].log_seq > base.log_seq, -found[0].log_seq))
        failed: list[tuple[Manifest, Part, CorruptRecord]] = []
        for manifest, part in candidates:
            if manifest.log_seq < base.log_seq and not self._log_reaches(manifest.log_seq):
                continue
            before = replace(self.loaded)
            try:
                for block in self._blocks(manifest, part):
                    self._load(block)
            except CorruptRecord as failure:
                self._target.forget(cluster)
                self.loaded = before
                failed.append((manifest, part, failure))
                if self._strict:
                    raise
                continue
            self._replay_from(manifest)
            self._tell(failed, 0, f"its cluster comes from the generation of block {manifest.log_seq}")
            return
        manifest, part, _ = failed[0]
        self._replay_from(manifest)
        self._tell(failed, self._salvage(manifest, part), "what is sound in it was loaded")

    def _salvage(self, manifest: Manifest, part: Part) -> int:
        """Load the sound blocks of a damaged file; the number of chunks that are lost."""
        found = 0
        gaps: list[Gap] = []
        path = manifest.path_of(part)
        for block in read_sound_blocks(self._files, path, manifest.expect(part), gaps):
            if block.kind == CHUNKS:
                found += block.n_entries
                self._load(block)
        return part.totals.n_chunks - found

    def _replay_from(self, manifest: Manifest) -> None:
        self.loaded.before_log_seq = min(self.loaded.before_log_seq, manifest.log_seq)

    def _log_reaches(self, log_seq: int) -> bool:
        """Whether the log holds everything behind `log_seq`, as far as the names of its segments tell."""
        names = self._files.list(wal_dir(self._directory))
        firsts = [number for name in names if (number := number_of(name, WAL_SUFFIX)) is not None]
        return bool(firsts) and min(firsts) <= log_seq + 1

    def _load(self, block: Block) -> None:
        if block.kind == CHUNKS:
            self.loaded.add(self._target.load(block.payload, self._expired_s, self.loaded.from_s))

    def _blocks(self, manifest: Manifest, part: Part) -> Iterator[Block]:
        """The blocks of a file, read ahead and verified by a thread beside; progress is told."""
        what = "chunks" if part.role == ROLE_CHUNKS else "definitions"
        path, expected = manifest.path_of(part), manifest.expect(part)
        before = self._bytes_done
        with contextlib.closing(_ahead(self._files, path, expected)) as blocks:
            for block in blocks:
                yield block
                self._bytes_done = before + block.end
                self._progress(what, min(self._bytes_done, self._bytes_all), self._bytes_all)

    # --- what could not be used

    def _tell(self, failed: list[tuple[Manifest, Part, CorruptRecord]], n_lost: int, instead: str) -> None:
        for place, (manifest, part, failure) in enumerate(failed):
            self._refuse(failure, manifest.log_seq, part, 0 if place else n_lost, instead)

    def _refuse(
        self, failure: CorruptRecord, log_seq: int, part: Part | None, n_lost: int, instead: str
    ) -> None:
        if self._strict or "path" not in failure.details:
            raise failure
        path = Path(failure.details["path"])
        self._keep_copy(path)
        held = part.totals if part else Totals()
        self.loaded.refused.append(
            Refused(
                str(path), log_seq, part.cluster if part else 0, failure.details["offset"],
                failure.details["reason"], held.n_series, held.n_chunks, held.t_min, held.t_max, n_lost, instead,
            )
        )  # fmt: skip

    def _keep_copy(self, path: Path) -> None:
        """A second name in DIR/quarantine, for people: the first one goes when newer generations are there."""
        folder = quarantine_dir(self._directory)
        with contextlib.suppress(StorageError):
            self._files.mkdir(folder)
            self._files.link(path, folder / path.name)


def _ahead(files: Files, path: Path, expected: Expected) -> Generator[Block, None, None]:
    """read_blocks() with reading and checksums some blocks ahead of whoever takes them, on another core."""
    if expected.n_bytes <= _INLINE_BYTES:
        yield from read_blocks(files, path, expected)
        return
    waiting: queue.Queue[Block | BaseException | None] = queue.Queue(_AHEAD_BLOCKS)
    stopped = threading.Event()

    def put(item: Block | BaseException | None) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return True
        return False

    def read() -> None:
        try:
            for block in read_blocks(files, path, expected):
                if not put(block):
                    return
            put(None)
        except BaseException as failure:
            put(failure)

    thread = threading.Thread(target=read, name="mstore-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
