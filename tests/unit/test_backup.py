"""Copies of small stores: complete up to one block, or not there at all."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from mstore.archive.begun import note_begun, refuse_if_gone
from mstore.errors import CorruptRecord, StorageError
from mstore.kernels._segment import Segment
from mstore.persistence.backup import MARK_NAME, copy_store
from mstore.persistence.blocks import CATALOG
from mstore.persistence.files import Files, snapshot_dir, wal_dir
from mstore.persistence.snapshot import list_snapshots
from mstore.persistence.wal import Wal
from mstore.workers.backup import backup
from mstore.workers.check import SOUND, check
from tests.files_rig import Memory, StoreFiles, build


@pytest.fixture
def store(tmp_path: Path, seed: int) -> StoreFiles:
    return build(tmp_path / "store", random.Random(seed), n_blocks=30)


def held(directory: Path, store: StoreFiles) -> dict[tuple[str, str, int], float]:
    memory = Memory()
    report = memory.recover(directory)
    assert not report.damaged, report.summary()
    return memory.values(store.known)


def everything(store: StoreFiles, upto_seq: int = 1 << 62) -> dict[tuple[str, str, int], float]:
    return {(s.cluster, s.name, s.tick): s.value for s in store.known if s.seq <= upto_seq}


def test_a_stopped_stores_copy_holds_every_sample_and_checks(store: StoreFiles, tmp_path: Path) -> None:
    made = backup(store.directory, tmp_path / "copy")
    assert not made.running
    assert made.seq >= max(sample.seq for sample in store.known)
    assert check(tmp_path / "copy").status == SOUND
    assert held(tmp_path / "copy", store) == everything(store)


def test_where_archives_were_begun_stays_behind_and_disturbs_no_check(
    store: StoreFiles, tmp_path: Path
) -> None:
    note_begun(Files(), store.directory, tmp_path / "archive")
    assert check(store.directory).status == SOUND
    backup(store.directory, tmp_path / "copy")
    assert check(tmp_path / "copy").status == SOUND
    refuse_if_gone(Files(), tmp_path / "copy", tmp_path / "archive")


def test_a_copy_up_to_a_block_ends_there(store: StoreFiles, tmp_path: Path) -> None:
    newest = list_snapshots(Files(), snapshot_dir(store.directory))[0][0]
    seq = newest + 9
    copied = copy_store(Files(), store.directory, tmp_path / "copy", seq)
    assert (copied.seq, copied.snapshot_seq) == (seq, newest)
    assert held(tmp_path / "copy", store) == everything(store, seq)


def test_damage_to_the_last_block_of_a_copy_is_told_from_a_torn_end(
    store: StoreFiles, tmp_path: Path
) -> None:
    copied = copy_store(Files(), store.directory, tmp_path / "copy", None)
    segment = max(wal_dir(tmp_path / "copy").iterdir())
    text = bytearray(segment.read_bytes())
    text[-64 - 1] ^= 1  # the byte before the marker: of the last block that holds something
    segment.write_bytes(text)
    found = check(tmp_path / "copy")
    assert found.survey.lost_blocks == [(copied.seq, copied.seq)]


def test_a_damaged_newest_snapshot_is_skipped_and_more_of_the_log_is_copied(
    store: StoreFiles, tmp_path: Path
) -> None:
    (newest, _), (older, _) = list_snapshots(Files(), snapshot_dir(store.directory))
    victim = max(snapshot_dir(store.directory).glob(f"{newest:016x}.*.chunks"))
    text = bytearray(victim.read_bytes())
    text[len(text) // 2] ^= 1
    victim.write_bytes(text)
    made = backup(store.directory, tmp_path / "copy")
    assert made.snapshot_seq == older
    assert any(victim.name in text for text in made.warnings)
    assert held(tmp_path / "copy", store) == everything(store)
    assert not list(snapshot_dir(tmp_path / "copy").glob(f"{newest:016x}.*"))


def test_a_log_that_is_damaged_makes_no_backup(store: StoreFiles, tmp_path: Path) -> None:
    first = slice(4096 + 64, 4096 + 128)  # payload of a segment's first block; a marker has none
    segments = sorted(wal_dir(store.directory).glob("*.wal"), reverse=True)
    segment = next(path for path in segments if any(path.read_bytes()[first]))
    text = bytearray(segment.read_bytes())
    text[first.start + 16] ^= 1
    segment.write_bytes(text)
    with pytest.raises(CorruptRecord, match="is damaged"):
        backup(store.directory, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_log_that_ends_too_early_makes_no_backup(store: StoreFiles, tmp_path: Path) -> None:
    with pytest.raises(CorruptRecord, match="no backup"):
        copy_store(Files(), store.directory, tmp_path / "copy", 10_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


class FullDisk(Files):
    """Refuses the n-th write."""

    def __init__(self, n: int) -> None:
        self.left = n

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise StorageError("cannot write: No space left on device", errno=errno.ENOSPC)
        super().pwritev(fd, buffers, offset)


def test_a_full_disk_leaves_nothing_whenever_it_happens(store: StoreFiles, tmp_path: Path) -> None:
    n_writes = 0
    while True:
        try:
            copy_store(FullDisk(n_writes), store.directory, tmp_path / "copy", None, pause_s=0.0)
        except StorageError:
            assert sorted(path.name for path in tmp_path.iterdir()) == ["store"], n_writes
            n_writes += 1
            continue
        break
    assert n_writes > 10
    assert held(tmp_path / "copy", store) == everything(store)


def test_what_a_killed_backup_left_is_replaced_and_nothing_else_is(store: StoreFiles, tmp_path: Path) -> None:
    left = tmp_path / "copy.tmp"
    (left / "wal").mkdir(parents=True)
    (left / "wal" / "0000000000000001.wal").write_bytes(b"half")
    with pytest.raises(StorageError, match="in the way"):
        backup(store.directory, tmp_path / "copy")
    (left / MARK_NAME).touch()
    backup(store.directory, tmp_path / "copy")
    assert not left.exists()
    assert held(tmp_path / "copy", store) == everything(store)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("file", "not empty"),
        ("full", "not empty"),
        ("inside", "inside the store"),
        ("inside by a link", "inside the store"),
        ("nowhere", "make it first"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_anything_is_read(
    store: StoreFiles, tmp_path: Path, kind: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = {
        "file": tmp_path / "file",
        "full": tmp_path,
        "inside": store.directory / "copy",
        "inside by a link": tmp_path / "link" / "copy",
        "nowhere": tmp_path / "not" / "there",
    }
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(store.directory)
    monkeypatch.delattr("mstore.persistence.backup.copy_store")
    with pytest.raises(StorageError, match=why):
        backup(store.directory, targets[kind])
    assert not (store.directory / "copy.tmp").exists()


def test_an_empty_directory_may_be_the_target(store: StoreFiles, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    backup(store.directory, tmp_path / "copy")
    assert held(tmp_path / "copy", store) == everything(store)


def test_a_log_that_is_held_gives_up_nothing_until_it_is_released(tmp_path: Path) -> None:
    files = Files()
    files.mkdir(wal_dir(tmp_path))
    dir_fd = files.open_dir(wal_dir(tmp_path))
    committer = files.committer(Segment(bytearray(8192), True), [], [], -1, 0, dir_fd)
    wal = Wal(files, wal_dir(tmp_path), 1, committer, dir_fd=dir_fd, segment_bytes=4096 + 512, spares=0)
    for _ in range(20):
        wal.append(CATALOG, 0, 0, bytes(200))
    assert wal.flush(10)
    one, other = wal.hold(), wal.hold()
    names = sorted(os.listdir(wal_dir(tmp_path)))
    assert wal.retire(15) == 0
    assert wal.release(one) == 0
    assert sorted(os.listdir(wal_dir(tmp_path))) == names
    assert wal.release(other) > 5
    assert wal.release(other) == 0
    assert wal.close()
    assert len([name for name in os.listdir(wal_dir(tmp_path)) if name.endswith(".wal")]) < len(names) - 5
