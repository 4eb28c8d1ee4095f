"""Loading snapshots: which generation gives the definitions, which one the chunks of each cluster.

    definitions   of the newest generation whose file of them is sound; when none is, the sound blocks of all
    a cluster     its file of the newest generation; when that is damaged, of an older one, if the log still reaches
                  back to it; when none is sound, the sound blocks of all, the newest first (snapshot_salvage.py)

A damaged manifest takes nothing along: its files vouch for themselves. Files whose manifest is gone are used only where
no manifest at all can be read and the log has a hole, or does not reach back to block 1: else they may be what is left
of a generation that was removed.

The log is then replayed from the *oldest* generation that gave anything, and when something is missing after all, from
where the log begins. That is exact for those who came from a newer one: a snapshot may always hold more than its
sequence says, and replaying is idempotent. A block is verified before it is handed on, so nothing wrong is ever loaded;
when a later block of the same file is damaged, what came from the file is forgotten again.

What lies beyond retention is left out at once. When memory has no room for all the rest, the manifest's account of
ages tells from which time on everything fits: what is older is left out, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from mstore.errors import CorruptRecord, StorageError
from mstore.persistence.blocks import CATALOG
from mstore.persistence.files import (
    WAL_SUFFIX,
    Files,
    number_of,
    quarantine_dir,
    snapshot_dir,
    wal_dir,
)
from mstore.persistence.loaded import ANY_TIME_S, Loaded, Refused
from mstore.persistence.read_ahead import read_ahead
from mstore.persistence.replay import LogReader
from mstore.persistence.snapshot import info_of, list_snapshots
from mstore.persistence.snapshot_definitions import define_pieces, sound_pieces
from mstore.persistence.snapshot_files import (
    CHUNKS,
    DEFINITIONS,
    ROLE_CHUNKS,
    Block,
    Part,
    Totals,
    corrupt,
)
from mstore.persistence.snapshot_manifest import Manifest, read_manifest
from mstore.persistence.snapshot_rebuilt import (
    manifest_elsewhere,
    manifests_of_parts,
    misplaced,
    missing_part,
    with_places,
    without_manifest,
)
from mstore.persistence.snapshot_salvage import Lost, Salvage
from mstore.persistence.target import Progress, Target
from mstore.shm.protection import holds_protection

_WITHOUT_MANIFEST = "its files are used without it, as far as they are sound"
_ROOM_SHARE = 0.98
"""Of the room there is: extents of several sizes are never all full."""


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
        self._from_seq: int | None = None
        self._lying = misplaced(files, snapshot_dir(directory))
        self.loaded = Loaded()

    def run(self) -> None:
        self._fill()
        self.loaded.before_log_seq = self._from_seq or 0

    def _fill(self) -> None:
        base = self._begin()
        if base is None:
            self.loaded.refused = [
                replace(one, n_lost=-1, instead="no generation is sound: the log alone is left")
                for one in self.loaded.refused
            ]
            return
        self.loaded.snapshot = info_of(base)
        self.loaded.from_s = self._first_second_with_room(base)
        self._foresee(base)
        try:
            self._target.prepare(self._memory_from(base, max(self._expired_s, self.loaded.from_s)))
            for cluster in self._clusters(base):
                self._cluster(cluster, base)
        finally:
            self._target.finish()
        if self.loaded.in_pieces:
            self._tell_of_pieces(base)

    # --- definitions

    def _begin(self) -> Manifest | None:
        """The newest generation whose definitions are sound; they are in the store then."""
        self._manifests = self._generations()
        base = next((one for one in self._manifests if self._define(one)), None)
        if base is None:
            return self._define_in_pieces()
        self._replay_from(base.log_seq)
        return base

    def _generations(self) -> list[Manifest]:
        """Those that a start may use, newest first."""
        found: list[Manifest] = []
        for log_seq, path in list_snapshots(self._files, snapshot_dir(self._directory)):
            self.loaded.durable_floor = max(self.loaded.durable_floor, log_seq)
            found += self._read(path, log_seq)
        if not any(one.n_bytes for one in found):  # no manifest can be read
            found += self._without_manifest(found)
        return sorted(found, key=lambda one: one.log_seq, reverse=True)

    def _without_manifest(self, found: list[Manifest]) -> list[Manifest]:
        """Generations whose manifest is gone; none where the log holds everything: they may have been removed."""
        others = without_manifest(self._files, snapshot_dir(self._directory), found, self._lying)
        # A part has its name only when the log is durable up to it, as if the manifest were there.
        floor = max([self.loaded.durable_floor, *(one.log_seq for one in others)])
        if not others or self._log_is_whole(floor):
            return []
        self.loaded.durable_floor = floor
        newest = max(one.log_seq for one in (*found, *others))
        used = [one for one in others if one.log_seq == newest or self._log_reaches(one.log_seq)]
        for path, log_seq in dict.fromkeys((one.path, one.log_seq) for one in used):
            self._refuse(corrupt(path, 0, "there is no such file"), log_seq, None, None, _WITHOUT_MANIFEST)
        return [with_places(one, self._lying) for one in used]

    def _read(self, path: Path, log_seq: int) -> list[Manifest]:
        """The manifest at `path`, or what can be known without it."""
        try:
            return [self._placed(read_manifest(self._files, path, log_seq))]
        except CorruptRecord as failure:
            if manifest := manifest_elsewhere(self._files, path, log_seq, self._lying):
                self._misplaced(failure, log_seq, None, "it lies under another's name, and is read there")
                return [self._placed(manifest)]
            self._refuse(failure, log_seq, None, None, _WITHOUT_MANIFEST)
            found = manifests_of_parts(self._files, path, log_seq, self._lying)
        return [self._placed(one) for one in found]

    def _placed(self, manifest: Manifest) -> Manifest:
        """It knows where its files lie; those that stand under another's name are told."""
        manifest = with_places(manifest, self._lying)
        for part in manifest.parts:
            if (path := manifest.path_of(part)) != manifest.name_of(part):
                failure = corrupt(
                    manifest.name_of(part), 0, "another file of a snapshot stands here, or none"
                )
                instead = f"it lies under the name {path.name}, and is read there"
                self._misplaced(failure, manifest.log_seq, part, instead)
        return manifest

    def _misplaced(self, failure: CorruptRecord, log_seq: int, part: Part | None, instead: str) -> None:
        """A file lies elsewhere; what stands under its name may be a sound file, of another name: no damage."""
        damaged = Path(failure.details["path"]) not in self._lying.values()
        self._refuse(failure, log_seq, part, None, instead, copy=damaged)

    def _define_in_pieces(self) -> Manifest | None:
        """No generation's definitions are whole: the sound blocks of all that the log reaches; the newest of them."""
        reached = [one for one in self._manifests if self._log_reaches(one.log_seq)] or self._manifests[:1]
        pieces = sound_pieces(self._files, reached)
        if not pieces:
            return None
        self.loaded.in_pieces = True
        self.loaded.definition_bytes = define_pieces(self._target.define, pieces)
        self._replay_from(min(one.log_seq for one in reached))
        self._replay_from_the_beginning()
        return reached[0]

    def _clusters(self, base: Manifest) -> list[int]:
        """Those that the base names; when it has no manifest that can be read, all that have series or any file."""
        if base.n_bytes and not self.loaded.in_pieces:
            return sorted(base.chunks())
        others = () if base.n_bytes else chain.from_iterable(one.chunks() for one in self._manifests)
        return sorted({*self._target.clusters_with_series(), *base.chunks(), *others})

    def _define(self, manifest: Manifest) -> bool:
        """Definitions are handed on only when all of the file is sound: later ones build on earlier ones."""
        if not manifest.parts_of_definitions():
            return False
        part = manifest.definitions()
        self._bytes_all = part.n_bytes + sum(held.n_bytes for held in manifest.chunks().values())
        self._bytes_done = 0
        held: list[memoryview] = []
        try:
            for block in self._blocks(manifest, part):
                if block.kind == DEFINITIONS:
                    held.append(block.payload)
        except CorruptRecord as failure:
            self._refuse(failure, manifest.log_seq, part, None, "a generation before it is used, and the log")
            return False
        self.loaded.definition_bytes = sum(map(len, held))
        for records in held:
            self._target.define(records)
        self._progress("definitions", min(self._bytes_done, self._bytes_all), self._bytes_all)
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

    def _foresee(self, base: Manifest) -> None:
        """Who is protected behind the snapshot: it decides which of its chunks are too old to be loaded."""
        if self._expired_s == ANY_TIME_S == self.loaded.from_s:
            return
        for block in LogReader(self._files, self._directory, base.log_seq).blocks():
            if block.ring == CATALOG:
                for record in holds_protection(block.payload):
                    self._target.foresee(record)

    # --- chunks

    def _cluster(self, cluster: int, base: Manifest) -> None:
        """Its newest sound file; the newest one's sound blocks when there is none."""
        candidates = [(one, part) for one in self._manifests if (part := one.chunks().get(cluster))]
        if cluster not in base.chunks() and not base.n_bytes:
            candidates.append((base, missing_part(cluster)))
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
            self._replay_from(manifest.log_seq)
            self._tell(failed, None, f"its cluster comes from the generation of block {manifest.log_seq}")
            return
        if failed:
            self._salvage(failed)

    def _salvage(self, failed: list[tuple[Manifest, Part, CorruptRecord]]) -> None:
        """Load the sound blocks of several damaged files of a cluster, and let the log add what it can."""
        salvage = Salvage(self._files, self._load_entries)
        for manifest, part, _ in failed:
            salvage.take(manifest, part)
            self._replay_from(manifest.log_seq)
        lost = salvage.lost()
        if lost is not None and self._replay_from_the_beginning():
            lost = None
        several = f" of the generations of blocks {', '.join(str(one.log_seq) for one, _, _ in failed)}"
        self._tell(failed, lost, f"what is sound was loaded{several if len(failed) > 1 else ''}")

    def _replay_from(self, log_seq: int) -> None:
        self._from_seq = log_seq if self._from_seq is None else min(self._from_seq, log_seq)

    def _replay_from_the_beginning(self) -> bool:
        """Something is missing: replay all there is of the log; whether that is all there ever was."""
        first = self._first_of_log()
        if first is not None:
            self._replay_from(first - 1)
        return first == 1

    def _first_of_log(self) -> int | None:
        """Where the log begins, as far as the names of its segments tell."""
        names = self._files.list(wal_dir(self._directory))
        return min(
            (number for name in names if (number := number_of(name, WAL_SUFFIX)) is not None), default=None
        )

    def _log_is_whole(self, durable_floor: int) -> bool:
        """Whether every block from the first one on can be read. All of the log is read for it."""
        if self._first_of_log() != 1:
            return False
        try:
            for _ in LogReader(
                self._files, self._directory, 0, durable_floor=durable_floor, strict=True
            ).blocks():
                pass
        except CorruptRecord:
            return False
        return True

    def _log_reaches(self, log_seq: int) -> bool:
        """Whether the log holds everything behind `log_seq`."""
        first = self._first_of_log()
        return first is not None and first <= log_seq + 1

    def _load(self, block: Block) -> None:
        if block.kind == CHUNKS:
            self._load_entries(block.payload)

    def _load_entries(self, entries: memoryview) -> None:
        self.loaded.add(self._target.load(entries, self._expired_s, self.loaded.from_s))

    def _blocks(self, manifest: Manifest, part: Part) -> Iterator[Block]:
        """The blocks of a file, read ahead and verified by a thread beside; progress is told."""
        what = "chunks" if part.role == ROLE_CHUNKS else "definitions"
        path, expected = manifest.path_of(part), manifest.expect(part)
        before = self._bytes_done
        with contextlib.closing(read_ahead(self._files, path, expected)) as blocks:
            for block in blocks:
                yield block
                self._bytes_done = before + block.end
                self._progress(what, min(self._bytes_done, self._bytes_all), self._bytes_all)

    # --- what could not be used

    def _tell(
        self, failed: list[tuple[Manifest, Part, CorruptRecord]], lost: Lost | None, instead: str
    ) -> None:
        """The oldest of them is the one whose loss counts: the log is replayed from there."""
        oldest = min(one.log_seq for one, _, _ in failed) if failed else 0
        for manifest, part, failure in failed:
            self._refuse(
                failure, manifest.log_seq, part, lost if manifest.log_seq == oldest else None, instead
            )

    def _tell_of_pieces(self, base: Manifest) -> None:
        """Chunks without a series are what the missing definitions cost; which files there were, a manifest says."""
        n_lost = self.loaded.n_stale if base.n_bytes else -1
        instead = "the sound blocks of all generations were put together"
        self.loaded.refused = [
            one if one.cluster else replace(one, n_lost=n_lost, instead=instead)
            for one in self.loaded.refused
        ]

    def _refuse(
        self, failure: CorruptRecord, log_seq: int, part: Part | None, lost: Lost | None, instead: str,
        *, copy: bool = True,
    ) -> None:  # fmt: skip
        if self._strict or "path" not in failure.details:
            raise failure
        path = Path(failure.details["path"])
        if copy:
            self._keep_copy(path)
        held, cluster = part.totals if part else Totals(), part.cluster if part else 0
        self.loaded.refused.append(
            Refused(
                str(path), log_seq, cluster, failure.details["offset"], failure.details["reason"],
                held.n_series, held.n_chunks, held.t_min, held.t_max, lost.n_chunks if lost else 0, instead,
                self._target.name_of(cluster) if cluster else "", lost,
                self._target.series_names(lost.refs) if lost else "",
            )
        )  # fmt: skip

    def _keep_copy(self, path: Path) -> None:
        """A second name in DIR/quarantine, for people: the first one goes when newer generations are there."""
        folder = quarantine_dir(self._directory)
        with contextlib.suppress(StorageError):
            self._files.mkdir(folder)
            self._files.link(path, folder / path.name)
