"""Writing and checking snapshots: all definitions and chunks as of one log sequence; persistence/snapshot_files.py has
the files, docs/format/snapshot.md draws them.

A snapshot is fuzzy and exact: the store goes on while it is written, so it may hold samples from behind its sequence,
but replaying the log from the next sequence on gives the store as it was, because replaying is idempotent.

    1. *.tmp: definitions, then the chunks of one cluster after the other; each file fdatasynced
    2. wait until the log is durable up to everything they may hold: a snapshot never knows more than the log
    3. rename them, fsync of the directory
    4. the manifest: *.tmp, fdatasync, rename, fsync of the directory. Now there is a new generation
    5. remove manifests beyond the kept ones, fsync of the directory, then their files, and all that are older

A death at any point leaves the older generations whole, and names that the next start or a later snapshot removes.
Only after step 4 may the log be retired, up to the *older* of the kept generations.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mstore import faults
from mstore.clock import monotonic_s, now_ns
from mstore.errors import CorruptRecord, LayoutMismatch, StorageError
from mstore.kernels._segment import Segment
from mstore.kernels._snapshot import ChunkCopier, series_by_cluster
from mstore.persistence.files import (
    SNAPSHOT_SUFFIX,
    TMP_SUFFIX,
    Files,
    generation_of,
    number_of,
    snapshot_dir,
    snapshot_name,
)
from mstore.persistence.snapshot_files import (
    CHUNKS,
    DEFINITIONS,
    ROLE_CHUNKS,
    ROLE_DEFINITIONS,
    ROLE_MANIFEST,
    SLICE_BYTES,
    BlockWriter,
    Expected,
    Part,
    Totals,
    part_name,
    read_blocks,
    total,
)
from mstore.persistence.snapshot_manifest import Manifest, read_manifest, write_manifest

KEEP = 2
PAUSE_S = 0.0005
DURABLE_S_MAX = 30.0
_AGE_STEPS = 256
_AGE_S_MIN = 60
_RETENTION_S_DEFAULT = 48 * 3600

Progress = Callable[[float, int], None]
"""(share done, 0 to 1; bytes written)"""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a generation holds."""

    path: Path
    """Of its manifest."""
    log_seq: int
    """Replay from the next sequence on."""
    created_ns: int
    n_bytes: int
    """Of all its files."""
    n_clusters: int
    n_series: int
    n_chunks: int
    n_slots: int
    definition_bytes: int
    t_min: int
    """Seconds of the oldest slot; > t_max without chunks."""
    t_max: int
    oldest_kept_seq: int = 0
    """Of the oldest of KEEP sound generations on disk, 0 while there are fewer: retire the log up to here."""


def write_snapshot(
    files: Files,
    directory: Path,
    log_seq: int,
    definitions: Iterable[bytes],
    store: Segment,
    samples: Segment,
    *,
    written: Callable[[], int],
    durable: Callable[[], int],
    pause_s: float = PAUSE_S,
    verify: bool = False,
    retention_s: int = 0,
    unsound: Collection[int] = (),
    progress: Progress | None = None,
) -> SnapshotInfo:
    """Write a generation into DIR/snapshots, then remove those beyond KEEP.

    log_seq           everything up to here is applied to memory; the caller saw that before calling
    definitions       blocks of whole log records, parents first: DirectoryReader.dump_definitions(), then PROTECT records
    store, samples    the directory's and the samples' segment; read-only is enough
    written, durable  the control segment's words: last sequence written, last one durable
    pause_s           after each slice, which is fdatasynced; 0 = as fast as possible, with one fdatasync a file
    verify            read everything back and check it before it gets its names
    retention_s       of the store, which the manifest's account of ages is made for; 0 = none
    unsound           sequences of generations that were found damaged: they do not count as kept
    raises            StorageError; the older generations are as they were, and what was made is removed again
    """
    folder = snapshot_dir(directory)
    files.mkdir(folder)
    remove_unfinished(files, folder)
    age_s = max(_AGE_S_MIN, (retention_s or _RETENTION_S_DEFAULT) // _AGE_STEPS)
    writing = _Writing(files, folder, log_seq, pause_s, age_s, progress)
    try:
        writing.definitions(definitions)
        writing.chunks(store, samples)
        if verify:
            writing.verify()
        faults.hit("snapshot.copied")
        _wait_durable(written(), durable)
        writing.name_parts()
        manifest = writing.finish()
    except StorageError:
        # The disk may be full because of us: give its space back at once.
        with contextlib.suppress(StorageError):
            remove_unfinished(files, folder)
            writing.unname_parts()
        raise
    others = [one for one in unsound if one != log_seq]  # a generation of the same sequence is replaced
    return replace(info_of(manifest), oldest_kept_seq=_remove_old(files, folder, log_seq, others))


class _Writing:
    """One generation on its way; every file is a *.tmp until all are complete."""

    def __init__(
        self, files: Files, folder: Path, log_seq: int, pause_s: float, age_s: int, progress: Progress | None
    ) -> None:
        self._files = files
        self._folder = folder
        self._pause_s = pause_s
        self._progress = progress or (lambda _share, _n_bytes: None)
        self._id = secrets.randbits(63) | 1
        self._log_seq = log_seq
        self._created_ns = now_ns()
        self._age_s = age_s
        self._parts: list[Part] = []
        self._ages: NDArray[np.uint64] = np.zeros(_AGE_STEPS + 1, np.uint64)
        self._n_bytes = 0
        self._bound = False

    @contextlib.contextmanager
    def _file(self, path: Path, expected: Expected) -> Iterator[BlockWriter]:
        tmp = path.with_name(path.name + TMP_SUFFIX)
        self._files.unlink(tmp)
        writer = BlockWriter(self._files, tmp, expected, self._created_ns, self._pause_s)
        try:
            writer.begin()
            yield writer
        finally:
            writer.close()

    def _part(self, role: int, cluster: int) -> tuple[Path, Expected]:
        name = part_name(self._log_seq, self._id, role, cluster)
        return self._folder / name, Expected(self._log_seq, role, cluster, self._id)

    def definitions(self, blocks: Iterable[bytes]) -> None:
        n_bytes = 0
        with self._file(*self._part(ROLE_DEFINITIONS, 0)) as writer:
            for records in blocks:
                writer.block(DEFINITIONS, records)
                n_bytes += len(records)
                self._progress(0.0, writer.offset)
            self._add(writer.finish(Totals(definition_bytes=n_bytes)))

    def chunks(self, store: Segment, samples: Segment) -> None:
        """A file for each cluster that has series, in order of the clusters' ids."""
        slots, generations, clusters = series_by_cluster(store)
        scratch = memoryview(bytearray(SLICE_BYTES))
        now_s, n_done = self._created_ns // 10**9, 0
        for cluster in np.unique(clusters).tolist():
            chosen = clusters == cluster
            copier = ChunkCopier(store, samples, slots[chosen], generations[chosen], now_s, self._age_s)
            with self._file(*self._part(ROLE_CHUNKS, cluster)) as writer:
                before = 0
                while used := copier.fill(scratch):
                    writer.block(CHUNKS, scratch[:used], copier.n_chunks - before)
                    before = copier.n_chunks
                    self._progress((n_done + copier.n_looked) / len(slots), self._n_bytes + writer.offset)
                span = copier.t_min, copier.t_max
                held = Totals(copier.n_series, copier.n_chunks, copier.n_slots, 0, *span)
                self._add(writer.finish(held))
            n_done += copier.n_looked
            self._ages += copier.memory_by_age()

    def _add(self, part: Part) -> None:
        self._parts.append(part)
        self._n_bytes += part.n_bytes

    def _manifest(self) -> Manifest:
        path = self._folder / snapshot_name(self._log_seq)
        ages = tuple(self._ages.tolist())
        now_s = self._created_ns // 10**9
        return Manifest(
            path, self._log_seq, self._id, self._created_ns, 0, tuple(self._parts), now_s, self._age_s, ages
        )

    def verify(self) -> None:
        manifest = self._manifest()
        for part in manifest.parts:
            path = manifest.path_of(part)
            _check_part(self._files, path.with_name(path.name + TMP_SUFFIX), manifest.expect(part))

    def name_parts(self) -> None:
        manifest = self._manifest()
        for part in manifest.parts:
            path = manifest.path_of(part)
            self._files.rename(path.with_name(path.name + TMP_SUFFIX), path)
        self._files.sync_path(self._folder)

    def unname_parts(self) -> None:
        """Remove what name_parts() named, unless a manifest names it by now, durably or not."""
        manifest = self._manifest()
        for part in () if self._bound else manifest.parts:
            self._files.unlink(manifest.path_of(part))

    def finish(self) -> Manifest:
        manifest = self._manifest()
        with self._file(manifest.path, Expected(self._log_seq, ROLE_MANIFEST, 0, self._id)) as writer:
            n_bytes = write_manifest(writer, manifest)
        self._files.rename(manifest.path.with_name(manifest.path.name + TMP_SUFFIX), manifest.path)
        self._bound = True
        self._files.sync_path(self._folder)
        self._progress(1.0, self._n_bytes + n_bytes)
        return replace(manifest, n_bytes=n_bytes)


def _wait_durable(seq: int, durable: Callable[[], int]) -> None:
    """Until the log is durable up to `seq`: a snapshot may hold what was written while it was copied."""
    deadline = monotonic_s() + DURABLE_S_MAX
    while durable() < seq:
        if monotonic_s() > deadline:
            raise StorageError(
                f"no snapshot: the log is not durable up to block {seq} after {DURABLE_S_MAX:g} s"
            )
        time.sleep(0.001)


def remove_unfinished(files: Files, folder: Path) -> None:
    """Remove what a snapshot that failed, or whose helper was killed, has left. Only one is written at a time."""
    for name in files.list(folder):
        if name.endswith(TMP_SUFFIX):
            files.unlink(folder / name)


def _remove_old(files: Files, folder: Path, log_seq: int, unsound: Collection[int]) -> int:
    """Remove all but the newest KEEP sound generations, once there are so many; the sequence of the oldest kept.

    Parts without a manifest stay as long: they may be all that the last start had.
    """
    generations = list_snapshots(files, folder)
    sound = [seq for seq, _ in generations if seq not in unsound]
    if len(sound) < KEEP:
        _remove_parts(files, folder, [one for one in generations if one[0] == log_seq], set())
        return 0
    kept = sound[:KEEP]
    gone = {seq: path for seq, path in generations if seq not in kept}
    for path in gone.values():
        files.unlink(path)
    if gone:
        files.sync_path(folder)  # else a manifest could outlive the files it names
    named = (generation_of(name) for name in files.list(folder))
    gone_seqs = {*gone, *(found[0] for found in named if found and found[0] < kept[-1])}
    _remove_parts(files, folder, [(seq, path) for seq, path in generations if seq in kept], gone_seqs)
    return kept[-1]


def _remove_parts(files: Files, folder: Path, kept: list[tuple[int, Path]], gone: set[int]) -> None:
    """Remove the parts of the sequences `gone`, and those of `kept` ones that have another id than a readable manifest."""
    ids: dict[int, int] = {}
    for log_seq, path in kept:
        with contextlib.suppress(CorruptRecord, LayoutMismatch):
            ids[log_seq] = read_manifest(files, path, log_seq).id
    for name in files.list(folder):
        if (found := generation_of(name)) is not None:
            seq, generation_id = found
            if seq in gone or ids.get(seq, generation_id) != generation_id:
                files.unlink(folder / name)


def list_snapshots(files: Files, folder: Path) -> list[tuple[int, Path]]:
    """(log sequence, path of the manifest) of all generations in a folder, newest first; nothing is read."""
    numbers = ((number_of(name, SNAPSHOT_SUFFIX), folder / name) for name in files.list(folder))
    return sorted(((number, path) for number, path in numbers if number is not None), reverse=True)


def check_snapshot(files: Files, path: Path, log_seq: int) -> SnapshotInfo:
    """Read all files of a generation and check every rule; what they hold.

    path    of the manifest
    raises  CorruptRecord with path and offset; LayoutMismatch for a sound file of a newer version
    """
    manifest = read_manifest(files, path, log_seq)
    for part in manifest.parts:
        _check_part(files, manifest.path_of(part), manifest.expect(part))
    return info_of(manifest)


def _check_part(files: Files, path: Path, expected: Expected) -> None:
    for _ in read_blocks(files, path, expected):
        pass


def info_of(manifest: Manifest) -> SnapshotInfo:
    """What a manifest says, without a look at the files that it names."""
    held = total(part.totals for part in manifest.parts)
    return SnapshotInfo(
        manifest.path, manifest.log_seq, manifest.created_ns,
        manifest.n_bytes + sum(part.n_bytes for part in manifest.parts), len(manifest.chunks()),
        held.n_series, held.n_chunks, held.n_slots, held.definition_bytes, held.t_min, held.t_max,
    )  # fmt: skip
