"""Damage in both kept generations: what either of them, or the log, still holds comes back; the rest is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstore.persistence import snapshot
from mstore.persistence.files import Files, snapshot_dir, wal_dir, wal_name
from mstore.persistence.loaded import Loaded
from mstore.persistence.restore import load_snapshots
from mstore.persistence.snapshot_files import BLOCK_HEADER_BYTES
from mstore.persistence.snapshot_manifest import Manifest, read_manifest
from tests.snapshot_rig import WIDE_CHUNKS, WIDE_SERIES, take, wide_store
from tests.targets import Collected, Key

OLD, NEW = 10, 20
CLUSTER = dict.fromkeys(range(WIDE_SERIES), 1)


class Store:
    """Two generations in DIR, and a log whose oldest segment begins where one says."""

    def __init__(self, directory: Path, log_from: int = OLD + 1) -> None:
        self.directory = directory
        self.expected: dict[int, dict[Key, bytes]] = {}
        for log_seq, value in ((OLD, 1.0), (NEW, 100_000.0)):
            made, self.expected[log_seq] = wide_store(value)
            take(directory, made, log_seq, pause_s=0)
        Files().mkdir(wal_dir(directory))
        (wal_dir(directory) / wal_name(log_from)).write_bytes(b"")

    def manifest(self, log_seq: int) -> Manifest:
        return read_manifest(Files(), snapshot_dir(self.directory) / f"{log_seq:016x}.snapshot", log_seq)

    def path(self, log_seq: int) -> Path:
        manifest = self.manifest(log_seq)
        return manifest.path_of(manifest.chunks()[1])

    def flip(self, path: Path, offset: int) -> None:
        image = bytearray(path.read_bytes())
        image[offset] ^= 0x10
        path.write_bytes(image)

    def load(self) -> tuple[Collected, Loaded]:
        target = Collected(CLUSTER)
        return target, load_snapshots(Files(), self.directory, target)


BLOCK = snapshot.SLICE_BYTES // (64 + 4096) * (64 + 4096) + BLOCK_HEADER_BYTES
FIRST = BLOCK_HEADER_BYTES + 16
"""Where the first block of chunks begins: behind BEGIN."""
PER_BLOCK = snapshot.SLICE_BYTES // (64 + 4096)


def in_block(k: int, entry: int = 3, byte: int = 500) -> int:
    """Offset of a byte in the values of an entry of the k-th block of chunks."""
    return FIRST + k * BLOCK + BLOCK_HEADER_BYTES + entry * (64 + 4096) + 64 + byte


def test_blocks_that_one_generation_lacks_come_from_the_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.flip(store.path(NEW), in_block(1))
    store.flip(store.path(OLD), in_block(2))
    target, loaded = store.load()
    assert target.chunks.keys() == store.expected[NEW].keys()
    order = sorted(store.expected[NEW])
    for place, key in enumerate(order):
        of = OLD if place // PER_BLOCK == 1 else NEW
        assert target.chunks[key] == store.expected[of][key], (key, of)
    assert loaded.before_log_seq == OLD, "the log makes the older generation's chunks what they should be"
    assert loaded.n_chunks == len(order)
    assert [one.n_lost for one in loaded.refused] == [0, 0]
    assert "nothing" in str(loaded.refused[0])


@pytest.mark.parametrize("byte", [500, -64])
def test_what_no_generation_holds_is_lost_and_named(tmp_path: Path, byte: int) -> None:
    """Damage to values leaves the entries' headers to tell; damage to a header, the manifest's count."""
    store = Store(tmp_path)
    store.flip(store.path(NEW), in_block(1))
    store.flip(store.path(OLD), in_block(1, entry=0, byte=byte))
    target, loaded = store.load()
    order = sorted(store.expected[NEW])
    lost = order[PER_BLOCK : 2 * PER_BLOCK]
    assert sorted(target.chunks) == [key for key in order if key not in lost]
    (told,) = [one for one in loaded.refused if one.n_lost]
    assert (told.log_seq, told.n_lost) == (OLD, len(lost))
    assert told.lost is not None
    assert told.lost.first_slot <= min(lost)[0]
    assert told.lost.last_slot >= max(lost)[0]
    assert told.lost.last_slot - told.lost.first_slot <= 5
    if byte == 500:
        assert (told.lost.n_series, told.lost.exact) == (len({key[0] for key in lost}), True)
        assert told.lost.t_min == 1000
        assert told.lost.t_max == 1000 + WIDE_CHUNKS * 512 * 10
    assert f"{len(lost)} chunks" in str(told)


def test_a_log_that_reaches_back_to_the_beginning_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, log_from=1)
    for log_seq in (OLD, NEW):
        store.flip(store.path(log_seq), in_block(1))
    _, loaded = store.load()
    assert loaded.before_log_seq == 0
    assert [one.n_lost for one in loaded.refused] == [0, 0]


def test_a_log_that_reaches_further_back_than_the_older_generation_is_replayed_from_there(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path, log_from=OLD - 4)
    for log_seq in (OLD, NEW):
        store.flip(store.path(log_seq), in_block(1))
    _, loaded = store.load()
    assert loaded.before_log_seq == OLD - 5
    assert sorted(one.n_lost for one in loaded.refused) == [0, PER_BLOCK]


def test_an_older_generation_that_the_log_does_not_reach_fills_no_hole(tmp_path: Path) -> None:
    """What was overwritten or freed in between would come back."""
    store = Store(tmp_path, log_from=NEW + 1)
    store.flip(store.path(NEW), in_block(1))
    target, loaded = store.load()
    assert target.chunks.items() <= store.expected[NEW].items()
    assert (loaded.before_log_seq, loaded.refused[0].n_lost) == (NEW, PER_BLOCK)


def test_cut_and_missing_files_leave_what_the_other_generation_has(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = store.path(NEW).read_bytes()
    store.path(NEW).write_bytes(whole[: FIRST + 2 * BLOCK + 100])
    store.flip(store.path(OLD), in_block(0))
    target, loaded = store.load()
    assert target.chunks.keys() == store.expected[NEW].keys()
    assert [one.n_lost for one in loaded.refused] == [0, 0]
    store.path(OLD).unlink()
    target, loaded = store.load()
    assert len(target.chunks) == 2 * PER_BLOCK
    assert sum(one.n_lost for one in loaded.refused) == len(store.expected[NEW]) - 2 * PER_BLOCK


def test_a_damaged_manifest_costs_nothing_that_its_files_hold(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.flip(store.path(OLD), in_block(0))
    path = snapshot_dir(tmp_path) / f"{NEW:016x}.snapshot"
    for content in (path.read_bytes()[:-8], b"", bytes(500)):
        path.write_bytes(content)
        target, loaded = store.load()
        assert target.chunks == store.expected[NEW]
        assert (loaded.before_log_seq, loaded.durable_floor) == (NEW, NEW)
        assert [Path(one.path) for one in loaded.refused] == [path]
        assert loaded.refused[0].n_lost == 0


def test_a_copy_of_a_manifest_in_the_place_of_a_file_of_chunks_holds_none_of_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = snapshot_dir(tmp_path) / f"{NEW:016x}.snapshot"
    store.flip(store.path(OLD), in_block(0))
    store.path(NEW).write_bytes(manifest.read_bytes())
    target, loaded = store.load()
    lost = store.expected[OLD].keys() - target.chunks.keys()
    assert lost
    assert sum(one.n_lost for one in loaded.refused) >= len(lost)


def test_the_loss_is_bounded_by_what_another_generations_file_does_not_hold(tmp_path: Path) -> None:
    """Its blocks are sound, and none of them is this file's."""
    store = Store(tmp_path, log_from=NEW + 1)
    store.path(NEW).write_bytes(store.path(OLD).read_bytes())
    target, loaded = store.load()
    assert target.chunks == {}
    assert sum(one.n_lost for one in loaded.refused) == len(store.expected[NEW])
