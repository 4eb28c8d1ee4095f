"""A power cut or a kill after every operation of a persister's life, and again during the recovery from it.

tests/torture makes the images and judges them; here a few thousand of them, and the proof that the search would
find the mistakes that such code makes: every one is planted, and caught. `scripts/torture images` makes a million.
MSTORE_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mstore.errors import StorageError
from mstore.kernels._segment import Segment
from mstore.kernels.reference_wal import Group, ReferenceCommitter
from mstore.persistence import recovery, snapshot
from mstore.persistence.files import WAL_SUFFIX, Files, wal_dir
from mstore.persistence.replay import LogReader, LogReport
from mstore.persistence.spares import Spare, Spares
from mstore.persistence.wal import Wal
from mstore.shm.directory import DirectoryReader
from tests.torture.disk import Disk
from tests.torture.images import Counts, Images, Violation
from tests.torture.workload import DIRECTORY, Life, record

IMAGES = 10_000
SEARCH_IMAGES = 12_000


def search(first_seed: int, n_images: int, per_prefix: int = 2) -> Counts:
    counts = Counts()
    seed = first_seed
    while counts.images < n_images:
        counts.add(Images(seed, per_prefix=per_prefix).run(n_images - counts.images))
        seed += 1
    return counts


def test_every_crash_image_recovers_to_exactly_what_was_promised(seed: int) -> None:
    counts = search(seed, IMAGES)
    print(counts)
    assert counts.images >= IMAGES
    assert counts.nested > IMAGES // 20
    assert counts.rebuilt > 100


def test_a_seed_gives_the_same_workload_again() -> None:
    def shape(seed: int) -> list[Any]:
        disk, _, _ = record(seed)
        return [(kind, *map(str, rest[:2])) for kind, *rest in disk.journal]

    assert shape(7) == shape(7)
    assert shape(7) != shape(8)


def test_workloads_do_everything_that_a_persister_does() -> None:
    n_recycled = n_snapshots = n_failed = n_moved = n_dropped = n_segments = n_met = 0
    for seed in range(40):
        disk, history, reports = record(seed)
        for kind, *rest in disk.journal:
            n_recycled += kind == "rename" and str(rest[0]).endswith(WAL_SUFFIX)
            n_segments += kind == "rename" and str(rest[1]).endswith(WAL_SUFFIX)
            n_snapshots += kind == "rename" and str(rest[1]).endswith(".snapshot")
            n_failed += kind == "fail_sync"
        sent = Counter(one[:3] for batch in history.sent for one in batch)
        n_met += sum(n > 1 for n in sent.values())
        n_dropped += sum(bool(block.dropped) for life in history.lives for block in life)
        n_moved += sum(report.snapshot_seq > 0 for report in reports)
    assert min(n_recycled, n_snapshots, n_failed, n_moved, n_dropped, n_segments, n_met) > 5


Patch = Callable[[pytest.MonkeyPatch], None]


def skips_the_directory_sync(patch: pytest.MonkeyPatch) -> None:
    note = ReferenceCommitter.note_written

    def forgetful(self: ReferenceCommitter, fd: int, seq: int, ring: int, stop: int, new_name: bool) -> bool:
        return note(self, fd, seq, ring, stop, False)

    patch.setattr(ReferenceCommitter, "note_written", forgetful)


def acknowledges_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    """A group is published at once; its file is synced at the next step."""
    step = ReferenceCommitter.step
    owed: dict[ReferenceCommitter, tuple[int, bool]] = {}

    def hasty(self: ReferenceCommitter) -> bool:
        sync_file, sync_directory = self._sync_file, self._sync_directory
        before = owed.pop(self, None)
        if before:
            with contextlib.suppress(KeyError, StorageError):  # closed meanwhile: it counted as durable
                if before[1]:
                    sync_directory(self._dir_fd)
                sync_file(before[0])
        group: Group | None = self._groups[0] if self._groups and not self._error else None
        self._sync_file = self._sync_directory = lambda fd: None
        try:
            return step(self)
        finally:
            self._sync_file, self._sync_directory = sync_file, sync_directory
            if group:
                owed[self] = group.fd, group.new_name

    patch.setattr(ReferenceCommitter, "step", hasty)


def retires_before_the_rename_is_durable(patch: pytest.MonkeyPatch) -> None:
    sync_path = Disk.sync_path

    def careless(self: Disk, path: Path) -> None:
        if path.name != "snapshots":
            sync_path(self, path)

    patch.setattr(Disk, "sync_path", careless)


def takes_a_torn_end_for_damage_and_reads_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogReader, "_highest_durable", lambda self: 1 << 62)


def recycles_a_segment_too_early(patch: pytest.MonkeyPatch) -> None:
    retire = Wal.retire
    patch.setattr(Wal, "retire", lambda self, upto: retire(self, self.durable()))


def notes_the_position_after_the_copy(patch: pytest.MonkeyPatch) -> None:
    """The helper reads the memory as it was; the persister has gone on when the sequence is taken."""
    copy = Life.copy

    def late(self: Life, seq: int) -> int:
        directory = Segment(bytearray(self.machine.directory_words[:]))
        samples = Segment(bytearray(self.machine.samples_words[:]))
        patch.setattr(self, "memory", lambda: (DirectoryReader(directory), directory, samples), raising=False)
        for _ in range(3):
            self.act("drain")
        return copy(self, self.wal.written)

    patch.setattr(Life, "copy", late)


def names_a_snapshot_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    fdatasync = Disk.fdatasync

    def careless(self: Disk, fd: int) -> None:
        names = {self.state.names[path]: path for path in self.state.names}
        if not str(names.get(self._number(fd), "")).endswith(".snapshot.tmp"):
            fdatasync(self, fd)

    patch.setattr(Disk, "fdatasync", careless)


def names_a_snapshot_before_the_log_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(snapshot, "_wait_durable", lambda seq, durable: None)


def trusts_the_page_cache_at_a_start(patch: pytest.MonkeyPatch) -> None:
    """What was read is promised without being written again; what a failed sync lost is still in the cache."""
    finish = recovery.finish_replay

    def trusting(files: Files, directory: Path, report: LogReport) -> int:
        report.tail.clear()
        report.durable = report.last_seq
        return finish(files, directory, report)

    patch.setattr(recovery, "finish_replay", trusting)


def removes_segments_before_their_copy_is_durable(patch: pytest.MonkeyPatch) -> None:
    sync_path = Disk.sync_path

    def careless(self: Disk, path: Path) -> None:
        if path != wal_dir(DIRECTORY):
            sync_path(self, path)

    patch.setattr(Disk, "sync_path", careless)


def syncs_a_failed_file_again(patch: pytest.MonkeyPatch) -> None:
    def careless(self: Wal) -> None:
        self._committer.restart(self._dir_fd)
        for block in self._pending:
            self._committer.note_written(self._segments[-1].fd, block.seq, -1, 0, True)

    patch.setattr(Wal, "_move_pending", careless)


def names_a_segment_before_its_length_is_durable(patch: pytest.MonkeyPatch) -> None:
    create = Spares._create

    def careless(self: Spares, *, prewrite: bool) -> Spare:
        with patch.context() as within:
            within.setattr(Disk, "fdatasync", lambda disk, fd: None)
            return create(self, prewrite=prewrite)

    patch.setattr(Spares, "_create", careless)


def publishes_positions_of_a_ring_that_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    """The newest that is noted, with the sync of an older file."""
    step = ReferenceCommitter.step

    def hasty(self: ReferenceCommitter) -> bool:
        if self._groups:
            self._groups[0].positions = list(self._noted)
        return step(self)

    patch.setattr(ReferenceCommitter, "step", hasty)


def acknowledges_one_ring_and_writes_the_other_first(patch: pytest.MonkeyPatch) -> None:
    """Memory and log agree; but what is sent after the acknowledgement, through the other ring, comes before."""
    drain_block = Life.drain_block

    def late(self: Life, ring: int) -> None:
        if ring == 0 and self.rng.random() < 0.5:
            for batch in self.waiting[ring]:
                self.disk.mark("applied", batch.number)
        else:
            drain_block(self, ring)

    patch.setattr(Life, "drain_block", late)


MISTAKES: list[Patch] = [
    skips_the_directory_sync,
    acknowledges_before_the_sync,
    retires_before_the_rename_is_durable,
    takes_a_torn_end_for_damage_and_reads_on,
    recycles_a_segment_too_early,
    notes_the_position_after_the_copy,
    names_a_snapshot_before_it_is_durable,
    names_a_snapshot_before_the_log_is_durable,
    trusts_the_page_cache_at_a_start,
    removes_segments_before_their_copy_is_durable,
    syncs_a_failed_file_again,
    names_a_segment_before_its_length_is_durable,
    publishes_positions_of_a_ring_that_are_not_synced,
    acknowledges_one_ring_and_writes_the_other_first,
]


@pytest.mark.parametrize("plant", MISTAKES, ids=lambda plant: plant.__name__)
def test_the_search_catches_a_store_that(plant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation) as caught:
        search(0, SEARCH_IMAGES, per_prefix=1)
    print(caught.value)
