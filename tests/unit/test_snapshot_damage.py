"""Every byte of a small snapshot flipped, every truncation, every missing file: detected, reported, nothing wrong loaded."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from mstore.errors import CorruptRecord, StorageError
from mstore.persistence import read_ahead
from mstore.persistence.files import (
    Files,
    chunks_name,
    quarantine_dir,
    snapshot_dir,
    snapshot_name,
    wal_dir,
    wal_name,
)
from mstore.persistence.loaded import Loaded
from mstore.persistence.restore import load_snapshots
from mstore.persistence.snapshot import check_snapshot, list_snapshots
from mstore.persistence.snapshot_manifest import read_manifest
from tests.snapshot_rig import CLUSTERS, DEFINITIONS, HandMade, take, wide_store
from tests.targets import Collected, Key

OLD, NEW = 10, 20
Harm = Callable[[bytes], Iterator[bytes]]


class Images(Files):
    """Files whose bytes are given; opening one is finding it."""

    def __init__(self, contents: dict[Path, bytes]) -> None:
        self.contents = contents
        self._opened: list[bytes] = []

    def mkdir(self, path: Path) -> None:
        pass

    def link(self, source: Path, target: Path) -> None:
        pass

    def list(self, path: Path) -> list[str]:
        return sorted(name.name for name in self.contents if name.parent == path)

    def open(self, path: Path, *, writable: bool = False) -> int:
        self._opened.append(self.contents[path])
        return len(self._opened) - 1

    def close(self, fd: int) -> None:
        pass

    def size(self, fd: int) -> int:
        return len(self._opened[fd])

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        return self._opened[fd][offset : offset + n_bytes]


@dataclass
class Written:
    """Two generations of one small store whose values changed in between."""

    directory: Path
    contents: dict[Path, bytes]
    expected: dict[int, dict[Key, bytes]]
    """By log sequence, what a sound generation gives."""

    def files_of(self, log_seq: int) -> list[Path]:
        return [path for path in self.contents if path.name.startswith(f"{log_seq:016x}.")]

    def with_log(self) -> dict[Path, bytes]:
        """A log that reaches back to the beginning."""
        return {**self.contents, wal_dir(self.directory) / wal_name(1): b""}

    def only(self, log_seq: int) -> dict[Path, bytes]:
        return {path: self.contents[path] for path in self.files_of(log_seq)}


def tiny(value: float) -> HandMade:
    """Two series in cluster 1, one in cluster 2; chunks of the smallest size."""
    made = HandMade()
    for slot, level in ((0, 1), (2, 1), (5, 2)):
        made.add_series(slot, level=level)
        values = np.full(16, np.nan, np.float32)
        values[:4] = value + slot
        made.set_links(slot, [(0, made.add_chunk(slot, 0, values, size_class=0, count=16))])
    return made


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    directory = tmp_path_factory.mktemp("snapshot")
    expected = {}
    for log_seq, value in ((OLD, 1.0), (NEW, 100.0)):
        take(directory, tiny(value), log_seq)
        expected[log_seq] = {
            (slot, 1, 0): np.full(4, value + slot, np.float32).tobytes() for slot in (0, 2, 5)
        }
    contents = {path: path.read_bytes() for path in snapshot_dir(directory).iterdir()}
    found = Written(directory, contents, expected)
    assert sum(len(contents[path]) for path in found.files_of(NEW)) < 4000
    return found


def cluster_of(path: Path) -> int:
    """Whose chunks a file holds; 0 of the manifest and the definitions."""
    return int(path.name.split(".")[2], 16) if path.suffix == ".chunks" else 0


def load(written: Written, contents: dict[Path, bytes]) -> tuple[Collected, Loaded]:
    target = Collected(CLUSTERS)
    return target, load_snapshots(Images(contents), written.directory, target)


def flips(content: bytes) -> Iterator[bytes]:
    for offset in range(len(content)):
        for mask in (0x01, 0xFF):
            image = bytearray(content)
            image[offset] ^= mask
            yield bytes(image)


def truncations(content: bytes) -> Iterator[bytes]:
    return (content[:length] for length in range(len(content)))


def test_without_damage_the_newest_generation_is_loaded(written: Written) -> None:
    target, loaded = load(written, written.with_log())
    assert target.chunks == written.expected[NEW]
    assert (loaded.before_log_seq, loaded.refused) == (NEW, [])


@pytest.mark.parametrize("harm", [flips, truncations])
def test_every_damage_of_the_newest_generation_is_found_and_the_older_one_takes_its_place(
    written: Written, harm: Harm
) -> None:
    for path in written.files_of(NEW):
        cluster, is_manifest = cluster_of(path), path.suffix == ".snapshot"
        expected = {
            key: written.expected[OLD if cluster in (0, CLUSTERS[key[0]]) and not is_manifest else NEW][key]
            for key in written.expected[NEW]
        }
        for image in harm(written.contents[path]):
            target, loaded = load(written, {**written.with_log(), path: image})
            assert [(one.path, one.log_seq, one.cluster) for one in loaded.refused] == [
                (str(path), NEW, cluster)
            ]
            assert target.chunks == expected
            assert target.definitions == DEFINITIONS
            assert (loaded.before_log_seq, loaded.durable_floor) == (NEW if is_manifest else OLD, NEW)
            assert loaded.n_chunks == 3


@pytest.mark.parametrize("harm", [flips, truncations])
def test_no_damage_of_the_only_generation_brings_in_a_wrong_value_and_the_loss_is_counted(
    written: Written, harm: Harm
) -> None:
    for path in written.files_of(NEW):
        cluster = cluster_of(path)
        for image in harm(written.contents[path]):
            target, loaded = load(written, {**written.only(NEW), path: image})
            assert len(loaded.refused) == 1
            assert target.chunks.items() <= written.expected[NEW].items()
            if cluster:
                assert len(target.chunks) + loaded.refused[0].n_lost == 3
                assert loaded.before_log_seq == NEW
                others = {key for key in written.expected[NEW] if CLUSTERS[key[0]] != cluster}
                assert others <= target.chunks.keys(), "the other cluster is whole"
            elif path.suffix == ".snapshot":
                assert (target.definitions, target.chunks) == (DEFINITIONS, written.expected[NEW])
            elif target.definitions:  # the sound one of the two blocks
                assert set(target.definitions) <= set(DEFINITIONS)
                assert (loaded.in_pieces, loaded.before_log_seq) == (True, NEW)
            else:
                assert (target.chunks, loaded.before_log_seq) == ({}, 0)
                assert loaded.refused[0].n_lost == -1


def test_every_file_that_is_missing_is_found(written: Written) -> None:
    for path in written.files_of(NEW):
        contents = written.with_log()
        del contents[path]
        target, loaded = load(written, contents)
        assert len(target.chunks) == 3
        if path.suffix == ".snapshot":
            assert (loaded.before_log_seq, loaded.refused) == (OLD, []), "without a manifest it never was"
        else:
            assert (loaded.before_log_seq, loaded.refused[0].reason) == (OLD, "there is no such file")


@pytest.mark.parametrize("harm", [flips, truncations])
def test_check_finds_every_damage(written: Written, harm: Harm) -> None:
    for path in written.files_of(NEW):
        for image in harm(written.contents[path]):
            files = Images({**written.contents, path: image})
            (seq, manifest), *_ = list_snapshots(files, snapshot_dir(written.directory))
            with pytest.raises(CorruptRecord):
                check_snapshot(files, manifest, seq)


def test_bytes_behind_the_end_are_found(written: Written) -> None:
    for path in written.files_of(NEW):
        files = Images({**written.contents, path: written.contents[path] + bytes(8)})
        (seq, manifest), *_ = list_snapshots(files, snapshot_dir(written.directory))
        with pytest.raises(CorruptRecord):
            check_snapshot(files, manifest, seq)


def test_an_older_file_is_not_taken_when_the_log_does_not_reach_back_to_it(written: Written) -> None:
    path = next(path for path in written.files_of(NEW) if path.name.endswith("00000002.chunks"))
    image = bytearray(written.contents[path])
    image[len(image) // 2] ^= 1
    for first_seq, from_seq in ((OLD + 1, OLD), (OLD + 2, OLD + 1)):
        contents = {
            **written.contents,
            path: bytes(image),
            wal_dir(written.directory) / wal_name(first_seq): b"",
        }
        target, loaded = load(written, contents)
        assert loaded.before_log_seq == from_seq
        assert loaded.refused[0].n_lost == (0 if from_seq == OLD else 1)
        assert ((5, 1, 0) in target.chunks) == (from_seq == OLD)


def test_strict_refuses_the_first_damage(written: Written) -> None:
    for path in written.files_of(NEW):
        files = Images({**written.with_log(), path: written.contents[path][:-1]})
        with pytest.raises(CorruptRecord):
            load_snapshots(files, written.directory, Collected(CLUSTERS), strict=True)


# --- files that somebody exchanged or removed


def behind(written: Written, contents: dict[Path, bytes], log_from: int) -> dict[Path, bytes]:
    return {**contents, wal_dir(written.directory) / wal_name(log_from): b""}


def exchanged(contents: dict[Path, bytes], one: Path, other: Path) -> dict[Path, bytes]:
    return {**contents, one: contents[other], other: contents[one]}


def test_files_in_each_others_places_are_told_and_read_where_they_lie(written: Written) -> None:
    """The log does not reach back to the older generation: nothing else could take their place."""
    for pair in combinations(sorted(written.contents), 2):
        contents = behind(written, exchanged(written.contents, *pair), NEW + 1)
        target, loaded = load(written, contents)
        assert target.chunks == written.expected[NEW], pair
        assert target.definitions == DEFINITIONS
        assert {one.path for one in loaded.refused} == set(map(str, pair))
        assert [one.n_lost for one in loaded.refused] == [0, 0]


def test_two_exchanges_at_once_cost_nothing_either(written: Written, seed: int) -> None:
    rng = random.Random(seed)
    pairs = list(combinations(sorted(written.contents), 2))
    for _ in range(300):
        first, second = rng.sample(pairs, 2)
        contents = exchanged(exchanged(written.contents, *first), *second)
        target, loaded = load(written, behind(written, contents, NEW + 1))
        assert target.chunks == written.expected[NEW], (first, second)
        moved = {str(path) for path, content in contents.items() if content != written.contents[path]}
        assert {one.path for one in loaded.refused} == moved


def test_check_finds_every_exchange_of_a_generations_file(written: Written) -> None:
    mine = written.files_of(NEW)
    for pair in combinations(sorted(written.contents), 2):
        if not set(pair) & set(mine):
            continue
        files = Images(exchanged(written.contents, *pair))
        (seq, manifest), *_ = list_snapshots(files, snapshot_dir(written.directory))
        with pytest.raises(CorruptRecord):
            check_snapshot(files, manifest, seq)


def without(contents: dict[Path, bytes], suffix: str) -> dict[Path, bytes]:
    return {path: content for path, content in contents.items() if path.suffix != suffix}


def hurt_definitions(written: Written, log_seq: int) -> tuple[Path, bytes]:
    """(path, content with one bit of END flipped): all blocks of definitions are sound"""
    path = next(path for path in written.files_of(log_seq) if path.suffix == ".definitions")
    return path, written.contents[path][:-1] + b"\x01"


def chunks_path(written: Written, log_seq: int, cluster: int) -> Path:
    return next(path for path in written.files_of(log_seq) if path.name.endswith(f"{cluster:08x}.chunks"))


def test_generations_whose_manifests_were_removed_are_used_where_nothing_else_is_left(
    written: Written,
) -> None:
    contents = without(written.contents, ".snapshot")
    target, loaded = load(written, behind(written, contents, OLD + 1))
    assert (target.definitions, target.chunks) == (DEFINITIONS, written.expected[NEW])
    assert (loaded.before_log_seq, loaded.durable_floor) == (NEW, NEW)
    assert {one.log_seq for one in loaded.refused} == {OLD, NEW}
    assert {(one.reason, one.n_lost) for one in loaded.refused} == {("there is no such file", 0)}
    hurt = chunks_path(written, NEW, 2)
    contents[hurt] = contents[hurt][:-1]
    target, loaded = load(written, behind(written, contents, OLD + 1))
    assert target.chunks[5, 1, 0] == written.expected[OLD][5, 1, 0], (
        "of the older one, which has no manifest either"
    )
    assert loaded.before_log_seq == OLD


def test_files_without_a_manifest_are_read_in_pieces_when_no_definitions_are_whole(written: Written) -> None:
    """How many files there were nobody can tell: what is lost is not known."""
    contents = without(written.contents, ".snapshot") | dict(
        hurt_definitions(written, log_seq) for log_seq in (OLD, NEW)
    )
    target, loaded = load(written, behind(written, contents, NEW + 1))
    assert target.chunks == written.expected[NEW]
    assert loaded.in_pieces
    assert [one.n_lost for one in loaded.refused] == [-1, -1], (
        "the manifest and the definitions of the newest"
    )


def test_a_file_that_is_missing_beside_a_missing_manifest_is_told_as_lost(written: Written) -> None:
    contents = without(written.contents, ".snapshot")
    hurt = chunks_path(written, NEW, 2)
    for content in (None, b"", contents[hurt][:100]):
        found = {path: text for path, text in contents.items() if path != hurt}
        if content is not None:
            found[hurt] = content
        target, loaded = load(written, behind(written, found, NEW + 1))
        assert target.chunks.items() == {
            (key, value) for key, value in written.expected[NEW].items() if CLUSTERS[key[0]] == 1
        }
        assert [(one.cluster, one.n_lost) for one in loaded.refused] == [(0, 0), (2, -1)]


def test_nothing_but_files_of_chunks_without_a_manifest_is_a_loss_that_is_told(written: Written) -> None:
    contents = without(without(written.contents, ".snapshot"), ".definitions")
    target, loaded = load(written, behind(written, contents, NEW + 1))
    assert (target.chunks, loaded.before_log_seq, loaded.durable_floor) == ({}, 0, NEW)
    assert [one.n_lost for one in loaded.refused] == [-1]


def test_an_older_generation_without_a_manifest_does_not_replace_what_is_damaged_in_a_newer_one(
    written: Written,
) -> None:
    """It is what is left of one that was removed: the log need not reach back to it, and what it holds may be gone."""
    old_manifest = snapshot_dir(written.directory) / snapshot_name(OLD)
    for log_from in (OLD + 1, NEW + 1):
        contents = behind(written, written.contents, log_from)
        del contents[old_manifest]
        target, loaded = load(written, contents | dict([hurt_definitions(written, NEW)]))
        assert loaded.snapshot is not None
        assert (loaded.snapshot.log_seq, loaded.in_pieces) == (NEW, True)
        assert target.chunks == written.expected[NEW]
        target, loaded = load(written, {**contents, chunks_path(written, NEW, 2): b""})
        assert target.chunks.keys() == {key for key in written.expected[NEW] if CLUSTERS[key[0]] == 1}
        assert [(one.log_seq, one.cluster, one.n_lost) for one in loaded.refused] == [(NEW, 2, 1)]


def test_of_generations_without_a_manifest_one_that_the_log_does_not_reach_is_not_used(
    written: Written,
) -> None:
    contents = behind(written, without(written.contents, ".snapshot"), NEW + 1)
    target, loaded = load(written, contents | dict([hurt_definitions(written, NEW)]))
    assert loaded.snapshot is not None
    assert (loaded.snapshot.log_seq, loaded.before_log_seq) == (NEW, NEW)
    assert target.chunks == written.expected[NEW]
    assert {one.log_seq for one in loaded.refused} == {NEW}


def test_of_two_copies_the_sound_one_is_read(written: Written) -> None:
    """Also when the damaged one stands under the right name and begins as it should."""
    home, other = chunks_path(written, NEW, 2), chunks_path(written, OLD, 2)
    whole = written.contents[home]
    hurt = bytearray(whole)
    hurt[-200] ^= 1
    for contents in ({home: bytes(hurt), other: whole}, {home: whole, other: bytes(hurt)}):
        target, loaded = load(written, behind(written, {**written.contents, **contents}, NEW + 1))
        assert target.chunks == written.expected[NEW]
        assert [one.n_lost for one in loaded.refused] == [0] * len(loaded.refused)


class OneUnreadable(Images):
    """Reading one file fails: the disk."""

    def __init__(self, contents: dict[Path, bytes], path: Path) -> None:
        super().__init__(contents)
        self._path = path

    def open(self, path: Path, *, writable: bool = False) -> int:
        if path == self._path:
            raise StorageError(f"{path}: Input/output error")
        return super().open(path, writable=writable)


def test_a_file_that_is_not_needed_and_cannot_be_read_stops_no_start(written: Written) -> None:
    stray = snapshot_dir(written.directory) / chunks_name(5, 7, 1)
    for path in (*(one for one in written.files_of(OLD) if one.suffix != ".snapshot"), stray):
        files = OneUnreadable({**written.with_log(), stray: b""}, path)
        target = Collected(CLUSTERS)
        loaded = load_snapshots(files, written.directory, target)
        assert (target.chunks, loaded.refused) == (written.expected[NEW], [])
    with pytest.raises(StorageError):
        load_snapshots(
            OneUnreadable(written.with_log(), chunks_path(written, NEW, 1)),
            written.directory,
            Collected(CLUSTERS),
        )


def test_a_sound_file_under_anothers_name_is_not_kept_as_damage(written: Written, tmp_path: Path) -> None:
    """A damaged one is, also when another copy takes its place."""
    files = Files()
    pair = chunks_path(written, NEW, 1), chunks_path(written, NEW, 2)
    contents = exchanged(written.contents, *pair)
    files.mkdir(snapshot_dir(tmp_path))
    for path, content in contents.items():
        (snapshot_dir(tmp_path) / path.name).write_bytes(content)
    target = Collected(CLUSTERS)
    assert len(load_snapshots(files, tmp_path, target).refused) == 2
    assert target.chunks == written.expected[NEW]
    assert files.list(quarantine_dir(tmp_path)) == []
    for path, content in ((pair[0], written.contents[pair[0]][:-1]), (pair[1], written.contents[pair[0]])):
        (snapshot_dir(tmp_path) / path.name).write_bytes(content)
    load_snapshots(files, tmp_path, Collected(CLUSTERS))
    assert pair[0].name in files.list(quarantine_dir(tmp_path))


# --- larger files: blocks that are sound are saved from those that are not


def big(directory: Path) -> tuple[Path, dict[Key, bytes]]:
    """One cluster with four blocks of chunks, read by the thread beside; (its file, what it holds)"""
    made, expected = wide_store(0.0)
    info = take(directory, made, NEW, pause_s=0)
    manifest = read_manifest(Files(), info.path, NEW)
    return manifest.path_of(manifest.chunks()[1]), expected


@pytest.fixture(params=["inline", "ahead", "ahead, one by one", "ahead, by twos"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are read as they are taken, or by a thread ahead that hands them over all at once, or some at a time."""
    handful_bytes = {"ahead, one by one": 1, "ahead, by twos": 300_000}
    if request.param != "inline":
        monkeypatch.setattr(read_ahead, "_INLINE_BYTES", 0)
    if request.param in handful_bytes:
        monkeypatch.setattr(read_ahead, "_HANDFUL_BYTES", handful_bytes[request.param])


@pytest.mark.usefixtures("reading")
def test_the_sound_blocks_of_a_damaged_file_are_loaded_when_nothing_else_is_left(tmp_path: Path) -> None:
    path, expected = big(tmp_path)
    whole = path.read_bytes()
    for offset in (300_000, 20, 560_000, len(whole) - 30, len(whole) - 200_000):
        image = bytearray(whole)
        image[offset] ^= 0x10
        path.write_bytes(image)
        target = Collected(dict.fromkeys(range(15), 1))
        loaded = load_snapshots(Files(), tmp_path, target)
        (refused,) = loaded.refused
        assert target.forgotten == [1], "what came from the damaged file before it was found out"
        assert target.chunks.items() <= expected.items()
        assert len(target.chunks) + refused.n_lost == len(expected) == refused.n_chunks
        n_lost_max = 64 if 40 < offset < len(whole) - 200 else 0
        assert refused.n_lost <= n_lost_max
        assert (quarantine_dir(tmp_path) / path.name).read_bytes()[offset] == image[offset]
        assert "15 series of cluster-1, 240 chunks" in str(refused)


def test_a_cut_file_gives_what_stands_before_the_cut(tmp_path: Path) -> None:
    path, expected = big(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    target = Collected(dict.fromkeys(range(15), 1))
    loaded = load_snapshots(Files(), tmp_path, target)
    assert 63 <= len(target.chunks) < len(expected)
    assert len(target.chunks) + loaded.refused[0].n_lost == len(expected)


@pytest.mark.usefixtures("reading")
def test_a_file_of_several_blocks_gives_all_chunks_and_tells_its_progress(tmp_path: Path) -> None:
    _, expected = big(tmp_path)
    told: list[tuple[str, int, int]] = []
    target = Collected()
    loaded = load_snapshots(
        Files(), tmp_path, target, progress=lambda what, done, whole: told.append((what, done, whole))
    )
    assert (target.chunks, loaded.n_chunks) == (expected, len(expected))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][0] == "chunks"
    assert told[-1][1] == told[-1][2]


def test_who_stops_in_the_middle_leaves_no_thread_that_reads_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_INLINE_BYTES": 0, "_HANDFUL_BYTES": 1, "_AHEAD_HANDFULS": 1}.items():
        monkeypatch.setattr(read_ahead, name, value)
    big(tmp_path)
    (seq, path), *_ = list_snapshots(Files(), snapshot_dir(tmp_path))
    manifest = read_manifest(Files(), path, seq)
    part = manifest.chunks()[1]
    blocks = read_ahead.read_ahead(Files(), manifest.path_of(part), manifest.expect(part))
    assert next(blocks).index == 0
    assert [one.name for one in threading.enumerate()].count("mstore-read-ahead") == 1
    blocks.close()
    assert "mstore-read-ahead" not in [one.name for one in threading.enumerate()]


def test_room_for_a_part_leaves_out_the_oldest(tmp_path: Path) -> None:
    big(tmp_path)
    (seq, path), *_ = list_snapshots(Files(), snapshot_dir(tmp_path))
    manifest = read_manifest(Files(), path, seq)
    target = Collected()
    target.room_bytes = sum(manifest.memory_by_age) // 2
    loaded = load_snapshots(Files(), tmp_path, target)
    assert loaded.from_s == manifest.now_s - 256 * manifest.age_s, "all of it is of the oldest age"
    target.room_bytes = 2 * sum(manifest.memory_by_age)
    assert load_snapshots(Files(), tmp_path, target).from_s == -(1 << 63)
