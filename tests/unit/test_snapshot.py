"""Snapshots of stores built by hand: what is written, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mstore.errors import CorruptRecord, InvariantBroken, LayoutMismatch, StorageError
from mstore.kernels import reference_snapshot
from mstore.kernels._snapshot import ChunkCopier, series_by_cluster
from mstore.persistence import snapshot_files
from mstore.persistence.blocks import Payload
from mstore.persistence.files import (
    Files,
    chunks_name,
    definitions_name,
    generation_of,
    snapshot_dir,
    snapshot_name,
)
from mstore.persistence.loaded import Loaded
from mstore.persistence.restore import load_snapshots
from mstore.persistence.snapshot import check_snapshot, list_snapshots, write_snapshot
from mstore.persistence.snapshot_manifest import read_manifest
from mstore.shm import layout
from tests.snapshot_rig import CLUSTERS, DEFINITIONS, N_SERIES, HandMade, random_store, small_store, take
from tests.targets import Collected, each_entry


def load(directory: Path, **more: Any) -> tuple[Collected, Loaded]:
    target = Collected(CLUSTERS)
    return target, load_snapshots(Files(), directory, target, **more)


def names_of(directory: Path) -> list[str]:
    return Files().list(snapshot_dir(directory))


def test_a_snapshot_gives_back_every_definition_and_chunk(tmp_path: Path) -> None:
    made, expected = small_store()
    info = take(tmp_path, made, verify=True)
    target, loaded = load(tmp_path)
    assert target.definitions == DEFINITIONS
    assert target.chunks == expected
    assert loaded.snapshot == info == check_snapshot(Files(), info.path, 77)
    assert (info.n_series, info.n_chunks, info.log_seq, info.definition_bytes) == (6, 6, 77, 48)
    assert info.t_min == 1000 + 5 - 512 * 10
    assert info.t_max == 1000 + 5 + (2 * 512 + 510) * 10
    assert info.n_bytes == sum(path.stat().st_size for path in snapshot_dir(tmp_path).iterdir())
    assert (loaded.n_chunks, loaded.refused, loaded.before_log_seq) == (6, [], 77)


def test_every_cluster_has_a_file_named_by_numbers(tmp_path: Path) -> None:
    made, _ = small_store()
    info = take(tmp_path, made)
    manifest = read_manifest(Files(), info.path, 77)
    stem = f"{77:016x}.{manifest.id:016x}"
    assert names_of(tmp_path) == [
        f"{stem}.00000001.chunks", f"{stem}.00000002.chunks", f"{stem}.definitions", f"{77:016x}.snapshot",
    ]  # fmt: skip
    held = {cluster: part.totals for cluster, part in manifest.chunks().items()}
    assert {cluster: (one.n_series, one.n_chunks) for cluster, one in held.items()} == {1: (3, 5), 2: (3, 1)}


def test_the_copied_header_tells_kind_type_grid_and_stamps(tmp_path: Path) -> None:
    made, _ = small_store()
    take(tmp_path, made)
    target, _ = load(tmp_path)
    headers: dict[int, Any] = {slot: header for (slot, _, _), header in target.headers.items()}
    stamped, grid = headers[5], headers[2]
    assert (grid["anchor_s"], grid["step_s"], grid["count"]) == (1000, 10, 511)
    assert (stamped["kind"], stamped["n_columns"], stamped["count"]) == (2, 2, 2)
    assert (stamped["anchor_s"], stamped["t_max_ms"], stamped["seq"]) == (5000, 9000, 0)


def test_the_manifest_tells_how_much_memory_chunks_of_each_age_take(tmp_path: Path) -> None:
    made, _ = small_store()
    info = take(tmp_path, made, retention_s=256 * 120)
    manifest = read_manifest(Files(), info.path, 77)
    assert (manifest.age_s, len(manifest.memory_by_age)) == (120, 257)
    assert sum(manifest.memory_by_age) == 128 + 3 * 4160 + 4160 + 512
    assert manifest.memory_by_age[-1] == sum(manifest.memory_by_age), "all of it is decades old"
    copier = ChunkCopier(*made.segments(), now_s=20_000, age_s=1000)
    while copier.fill(bytearray(4160)):
        pass
    ages = copier.memory_by_age()
    # Grid chunks end with their last slot: 1000, 6120, 6120 (n 0) and 16360 s; the stamped one with 9 s.
    assert {age: int(n) for age, n in enumerate(ages) if n} == {
        3: 4160, 13: 128 + 4160 + 4160, 19: 4160 + 512,
    }  # fmt: skip


def test_a_snapshot_under_the_name_of_another_sequence_is_refused(tmp_path: Path) -> None:
    info = take(tmp_path, small_store()[0])
    with pytest.raises(CorruptRecord, match="as of block 78"):
        check_snapshot(Files(), info.path, 78)


def test_a_file_of_another_generation_under_a_name_of_this_one_is_refused(tmp_path: Path) -> None:
    made, _ = small_store()
    for log_seq in (10, 20):
        take(tmp_path, made, log_seq)
    older, newer = (
        read_manifest(Files(), path, seq)
        for seq, path in reversed(list_snapshots(Files(), snapshot_dir(tmp_path)))
    )
    part = newer.chunks()[1]
    newer.path_of(part).write_bytes(older.path_of(older.chunks()[1]).read_bytes())
    with pytest.raises(CorruptRecord, match="another kind or file"):
        check_snapshot(Files(), newer.path, 20)


@pytest.mark.parametrize("which", ["snapshot", "definitions", "chunks"])
def test_a_sound_file_of_a_newer_version_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_files, "VERSION", 3)
        newer = take(tmp_path / "newer", small_store()[0])
    with pytest.raises(LayoutMismatch, match="snapshot version 3"):
        check_snapshot(Files(), newer.path, 77)
    with pytest.raises(LayoutMismatch, match="snapshot version 3"):
        load(tmp_path / "newer")
    assert any(name.endswith(which) for name in names_of(tmp_path / "newer"))


def test_two_generations_are_kept_and_the_older_one_bounds_retirement(tmp_path: Path) -> None:
    made, _ = small_store()
    assert take(tmp_path, made, 10).oldest_kept_seq == 0
    assert take(tmp_path, made, 20).oldest_kept_seq == 10
    assert take(tmp_path, made, 30).oldest_kept_seq == 20
    assert [seq for seq, _ in list_snapshots(Files(), snapshot_dir(tmp_path))] == [30, 20]
    assert len(names_of(tmp_path)) == 2 * 4, "files of the removed generation are gone, too"


def test_a_generation_that_was_found_damaged_does_not_count_as_kept(tmp_path: Path) -> None:
    made, _ = small_store()
    for log_seq in (10, 20):
        take(tmp_path, made, log_seq)
    assert take(tmp_path, made, 30, unsound={20}).oldest_kept_seq == 10
    assert [seq for seq, _ in list_snapshots(Files(), snapshot_dir(tmp_path))] == [30, 10]
    assert take(tmp_path, made, 40, unsound={10, 30}).oldest_kept_seq == 0, (
        "one sound generation bounds nothing"
    )
    assert [seq for seq, _ in list_snapshots(Files(), snapshot_dir(tmp_path))] == [40, 30, 10]


def test_a_second_snapshot_of_the_same_sequence_takes_the_place_of_the_first(tmp_path: Path) -> None:
    made, expected = small_store()
    take(tmp_path, made, 10)
    first = take(tmp_path, made, 20)
    again = take(tmp_path, made, 20)
    assert again.oldest_kept_seq == 10
    assert len(names_of(tmp_path)) == 2 * 4
    assert again.created_ns > first.created_ns
    assert load(tmp_path)[0].chunks == expected


def test_a_damaged_generation_is_replaced_by_one_of_the_same_sequence(tmp_path: Path) -> None:
    """Of a store that wrote nothing since: the new one is sound, and kept."""
    made, _ = small_store()
    for log_seq in (10, 20):
        take(tmp_path, made, log_seq)
    assert take(tmp_path, made, 20, unsound={20}).oldest_kept_seq == 10
    assert [seq for seq, _ in list_snapshots(Files(), snapshot_dir(tmp_path))] == [20, 10]


@pytest.mark.parametrize("n_before", [0, 1])
def test_what_a_killed_helper_left_goes_when_two_newer_snapshots_are_there(
    tmp_path: Path, n_before: int
) -> None:
    """Parts without a manifest may be all that the last start had; what is half written goes at once."""
    made, _ = small_store()
    Files().mkdir(snapshot_dir(tmp_path))
    for _ in range(n_before):
        take(tmp_path, made, 10)
    folder = snapshot_dir(tmp_path)
    part = f"{15:016x}.{7:016x}.00000001.chunks"
    (folder / f"{15:016x}.{7:016x}.definitions.tmp").write_bytes(b"half")
    (folder / part).write_bytes(b"named, but its manifest never was")
    take(tmp_path, made, 20)
    assert [name for name in names_of(tmp_path) if name.startswith(f"{15:016x}")] == [part]
    take(tmp_path, made, 30)
    assert [seq for seq, _ in list_snapshots(Files(), folder)] == [30, 20]
    assert len(names_of(tmp_path)) == 2 * 4


def test_parts_that_another_snapshot_of_the_same_sequence_left_go_at_once(tmp_path: Path) -> None:
    made, _ = small_store()
    take(tmp_path, made, 20)
    (snapshot_dir(tmp_path) / f"{20:016x}.snapshot").unlink()
    take(tmp_path, made, 20)
    assert len(names_of(tmp_path)) == 4


def test_a_snapshot_gets_its_name_only_when_the_log_is_durable_behind_it(tmp_path: Path) -> None:
    made, _ = small_store()
    store, samples = made.segments()
    asked: list[bool] = []

    def durable() -> int:
        asked.append(any(not name.endswith(".tmp") for name in names_of(tmp_path)))
        return 4 + len(asked)

    write_snapshot(Files(), tmp_path, 5, [], store, samples, written=lambda: 9, durable=durable, pause_s=0)
    assert asked == [False] * 5
    assert (snapshot_dir(tmp_path) / snapshot_name(5)).exists()


class Failing(Files):
    """Fails the n-th operation that touches the disk; records which were done."""

    def __init__(self, fail_at: int) -> None:
        self.left = fail_at
        self.done: list[str] = []

    def _count(self, what: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise StorageError(f"injected into {what}")
        self.done.append(what)

    def create(self, path: Path, allocate_bytes: int = 0) -> int:
        self._count("create")
        return super().create(path, allocate_bytes)

    def pwritev(self, fd: int, buffers: Sequence[Payload], offset: int) -> None:
        self._count("write")
        super().pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        self._count("fdatasync")
        super().fdatasync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        super().rename(source, target)

    def sync_path(self, path: Path) -> None:
        self._count("sync_path")
        super().sync_path(path)

    def unlink(self, path: Path) -> None:
        if path.exists():
            self._count("unlink " + path.suffix)
        super().unlink(path)


def test_names_come_after_contents_and_the_manifest_comes_last(tmp_path: Path) -> None:
    made, _ = small_store()
    for log_seq in (10, 20):
        take(tmp_path, made, log_seq)
    complete = Failing(0)
    take(tmp_path, made, 30, complete)
    order = [what for what in complete.done if what not in ("write", "create")]
    parts = ["fdatasync"] * 3 + ["rename"] * 3 + ["sync_path"]
    manifest = ["fdatasync", "rename", "sync_path"]
    removal = ["unlink .snapshot", "sync_path", "unlink .chunks", "unlink .chunks", "unlink .definitions"]
    assert order == parts + manifest + removal


def test_whatever_operation_fails_the_older_snapshots_stay_and_space_is_given_back(tmp_path: Path) -> None:
    made, expected = small_store()
    take(tmp_path, made, 10)
    take(tmp_path, made, 20)
    complete = Failing(0)
    take(tmp_path, made, 30, complete)
    for fail_at in range(1, len(complete.done) + 1):
        files = Failing(fail_at)
        with pytest.raises(StorageError, match="injected"):
            take(tmp_path, made, 40, files)
        assert not any(name.endswith(".tmp") for name in names_of(tmp_path)), files.done
        generations = list_snapshots(Files(), snapshot_dir(tmp_path))
        assert len(generations) >= 2
        if 40 not in dict(generations):
            assert [name for name in names_of(tmp_path) if name.startswith(f"{40:016x}")] == [], files.done
        for log_seq, path in generations:
            check_snapshot(Files(), path, log_seq)
        target, loaded = load(tmp_path)
        assert (target.chunks, loaded.refused) == (expected, [])


def test_progress_rises_to_the_whole(tmp_path: Path) -> None:
    told: list[tuple[float, int]] = []
    info = take(tmp_path, small_store()[0], progress=lambda share, n_bytes: told.append((share, n_bytes)))
    assert told == sorted(told)
    assert told[-1] == (1.0, info.n_bytes)


def test_a_paced_snapshot_syncs_every_slice(tmp_path: Path) -> None:
    made = HandMade(samples=bytearray(layout.SAMPLES_DATA + 2_000_000))
    for slot in range(N_SERIES):
        made.add_series(slot, vtype=layout.TYPE_F64)
        made.set_links(slot, [(n, made.add_chunk(slot, n, np.arange(512.0), size_class=3)) for n in range(8)])
    files = Failing(0)
    take(tmp_path, made, 1, files, pause_s=1e-6)
    assert files.done.count("fdatasync") == 5, "two slices of chunks, and the end of each of three files"
    assert load(tmp_path)[1].n_samples == N_SERIES * 8 * 512


# --- the kernel


def test_a_link_that_leads_nowhere_is_refused_not_followed() -> None:
    made, _ = small_store()
    made.series[0:1]["link0"] = made.link(1 << 40, 2)
    copier = ChunkCopier(*made.segments())
    with pytest.raises(InvariantBroken, match="series 0"):
        copier.fill(bytearray(8192))


def test_a_link_table_that_leads_nowhere_is_refused_not_followed() -> None:
    made, _ = small_store()
    made.series[2:3]["table"] = (1 << 45) << 8 | 3
    copier = ChunkCopier(*made.segments())
    with pytest.raises(InvariantBroken, match="series 2"):
        copier.fill(bytearray(4160))


def copied(made: HandMade, size: int, *chosen: NDArray[np.uint32]) -> bytes:
    copier = ChunkCopier(*made.segments(), *chosen)
    out = bytearray(size)
    parts = []
    while used := copier.fill(out):
        parts.append(bytes(out[:used]))
    return b"".join(parts)


def test_slices_of_any_size_give_the_same_entries() -> None:
    made, _ = small_store()
    twin = reference_snapshot.copy_chunks(made.store, made.samples)
    for size in (4160, 5000, 256 * 1024):
        assert copied(made, size) == twin
    with pytest.raises(ValueError, match="4160"):
        ChunkCopier(*made.segments()).fill(bytearray(4159))


def test_the_kernel_copies_what_the_reference_copies(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for round_ in range(20):
        made = random_store(rng)
        slots, generations, clusters = series_by_cluster(made.segments()[0])
        twin = reference_snapshot.series_by_cluster(made.store)
        assert [slots.tolist(), generations.tolist(), clusters.tolist()] == list(twin), f"round {round_}"
        for cluster in (0, 1, 2):
            chosen = clusters == cluster if cluster else np.ones(len(slots), bool)
            text = copied(made, 4160, slots[chosen], generations[chosen])
            expected = reference_snapshot.copy_chunks(made.store, made.samples, slots[chosen].tolist())
            assert text == expected, f"round {round_}, cluster {cluster}"
        assert copied(made, 4160) == reference_snapshot.copy_chunks(made.store, made.samples)


def test_the_series_of_each_cluster_are_told_and_copied_apart() -> None:
    made, expected = small_store()
    found = series_by_cluster(made.segments()[0])
    twin = reference_snapshot.series_by_cluster(made.store)
    assert [column.tolist() for column in found] == [list(column) for column in twin]
    slots, generations, clusters = found
    assert dict(zip(slots.tolist(), clusters.tolist(), strict=True)) == CLUSTERS
    for cluster in (1, 2):
        chosen = clusters == cluster
        text = copied(made, 4160, slots[chosen], generations[chosen])
        assert text == reference_snapshot.copy_chunks(made.store, made.samples, slots[chosen].tolist())
        assert {key for key, _, _ in each_entry(text)} == {
            key for key in expected if CLUSTERS[key[0]] == cluster
        }


def test_a_slot_that_changed_hands_since_it_was_listed_is_left_out() -> None:
    made, _ = small_store()
    slots, generations, _ = series_by_cluster(made.segments()[0])
    made.series[2:3]["generation"] = 8
    text = copied(made, 4160, slots, generations)
    assert {key[0] for key, _, _ in each_entry(text)} == {0, 3, 5}


def test_a_series_of_a_level_that_is_not_there_is_a_broken_rule() -> None:
    made, _ = small_store()
    made.series[3:4]["level"] = 99
    with pytest.raises(InvariantBroken, match="series 3 belongs to level 99"):
        series_by_cluster(made.segments()[0])


def test_chunks_of_free_series_are_not_copied() -> None:
    made, expected = small_store()
    made.series[2:3]["flags"] = 0
    assert {key[0] for key, _, _ in each_entry(copied(made, 4160))} == {key[0] for key in expected} - {2}


def test_a_directory_shorter_than_its_header_is_refused() -> None:
    made, _ = small_store()
    store, samples = made.segments()
    short = type(store)(bytearray(layout.PAGE_BYTES))
    for call in (lambda: series_by_cluster(short), lambda: ChunkCopier(short, samples)):
        with pytest.raises(ValueError, match="shorter than its own header"):
            call()


def test_names_of_parts_tell_their_generation_and_nothing_else_does() -> None:
    assert generation_of(definitions_name(1000, 77)) == (1000, 77)
    assert generation_of(chunks_name(1000, 77, 3)) == (1000, 77)
    for name in (
        snapshot_name(1000),
        definitions_name(1000, 77) + ".tmp",
        "x" + chunks_name(1, 2, 3),
        "notes",
    ):
        assert generation_of(name) is None


def test_a_second_name_for_a_file_outlives_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"content")
    Files().link(first, second)
    Files().link(first, second)
    first.unlink()
    assert second.read_bytes() == b"content"
    with pytest.raises(StorageError, match="cannot link"):
        Files().link(first, tmp_path / "c")
