"""Snapshots and log together: what a start finds, with a dict as the store."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mstore.errors import CorruptRecord
from mstore.kernels._segment import Segment
from mstore.persistence import recovery
from mstore.persistence.blocks import BLOCK_HEADER_BYTES, CATALOG, SEGMENT_HEADER_BYTES
from mstore.persistence.files import (
    Files,
    quarantine_dir,
    snapshot_dir,
    snapshot_name,
    wal_dir,
    wal_name,
)
from mstore.persistence.recovery import Newest, Report, recover, resume, written_bytes_behind
from mstore.persistence.replay import LogReader
from mstore.persistence.snapshot import write_snapshot
from mstore.persistence.snapshot_manifest import read_manifest
from mstore.persistence.wal import Wal
from mstore.shm import layout
from tests.targets import Counts

SEGMENT_BYTES = SEGMENT_HEADER_BYTES + 8 * (BLOCK_HEADER_BYTES + 16)


def record(key: int, value: int) -> bytes:
    """A definition record whose meaning is `store[key] = value`."""
    return struct.pack("<HBBIII", 16, 0, 0, 16, key, value)


@dataclass
class DictStore:
    """Applies records to a dict, and counts blocks."""

    content: dict[int, int] = field(default_factory=dict)
    n_blocks: int = 0

    def apply(self, payload: memoryview) -> None:
        self.n_blocks += 1
        self.define(payload)

    def define(self, payload: memoryview) -> None:
        for offset in range(0, len(payload), 16):
            kind, _, _, length, key, value = struct.unpack_from("<HBBIII", payload, offset)
            if kind != 16:
                raise CorruptRecord(f"record type {kind} is unknown")
            assert length == 16
            self.content[key] = value

    def load(self, entries: memoryview, expired_s: int, older_s: int) -> Counts:
        raise AssertionError("there are no chunks")

    def forget(self, cluster: int) -> None:
        raise AssertionError("there are no chunks")

    def prepare(self, n_bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def room(self) -> int:
        return 0

    def clusters_with_series(self) -> set[int]:
        return set()

    def series_names(self, refs: Sequence[int]) -> str:
        return ""

    def name_of(self, cluster: int) -> str:
        return f"cluster-{cluster}"


def empty_segments() -> tuple[Segment, Segment]:
    store = bytearray(2 * layout.PAGE_BYTES + layout.SERIES.itemsize)
    return Segment(store), Segment(bytearray(layout.SAMPLES_DATA))


class Run:
    """One life of a store in DIR, from recovery on."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.files, self.store = directory, Files(), DictStore()
        self.report = start(directory, self.store)
        folder = wal_dir(directory)
        dir_fd = self.files.open_dir(folder)
        committer = self.files.committer(
            Segment(bytearray(8192), True), [], [], -1, self.report.next_seq - 1, dir_fd
        )
        self.wal = Wal(
            self.files, folder, self.report.next_seq, committer, dir_fd=dir_fd, segment_bytes=SEGMENT_BYTES
        )

    def put(self, key: int, value: int) -> None:
        self.wal.append(CATALOG, 0, 0, record(key, value))
        self.store.content[key] = value
        assert self.wal.flush(5)

    def stop_without_marker(self) -> None:
        """As if killed: no block names the last ones as durable."""
        self.wal.mark = lambda: False  # type: ignore[method-assign]  # of this object only
        assert self.wal.close()

    def snapshot(self) -> int:
        definitions = [b"".join(record(key, value) for key, value in self.store.content.items())]
        info = write_snapshot(
            self.files,
            self.directory,
            self.wal.written,
            definitions,
            *empty_segments(),
            written=lambda: self.wal.written,
            durable=self.wal.durable,
            pause_s=0,
        )
        self.wal.retire(info.oldest_kept_seq)
        self.wal._spares.settle()
        return info.log_seq


def start(directory: Path, store: DictStore, strict: bool = False) -> Report:
    return recover(Files(), directory, store, strict=strict)


def test_progress_counts_what_is_written_and_not_the_room_of_a_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    for key in range(27):
        run.put(key, key)
    assert run.wal.close()
    files = Files()
    sizes = [path.stat().st_size for path in sorted(wal_dir(tmp_path).glob("*.wal"))]
    blocks = [BLOCK_HEADER_BYTES + len(block.payload) for block in LogReader(files, tmp_path, 0).blocks()]
    assert written_bytes_behind(files, tmp_path, 0) == sum(blocks) < sum(sizes)
    assert written_bytes_behind(files, tmp_path, 10) == sum(blocks[10:])
    told: list[tuple[str, int, int]] = []
    recover(files, tmp_path, DictStore(), progress=lambda *one: told.append(one))
    what, done, of = told[-1]
    assert (what, of - done, of) == ("log", BLOCK_HEADER_BYTES, sum(blocks)), (
        "the last block holds nothing to apply"
    )
    monkeypatch.setattr(recovery, "_FOLLOWED_MAX", 2)
    room = (path.stat().st_size - SEGMENT_HEADER_BYTES for path in wal_dir(tmp_path).glob("*.wal"))
    assert sum(blocks) < written_bytes_behind(files, tmp_path, 0) <= sum(room), (
        "too many to be followed: full"
    )


def test_an_empty_directory_is_an_empty_store(tmp_path: Path) -> None:
    store = DictStore()
    report = start(tmp_path, store)
    assert (store.content, report.next_seq, report.damaged, report.snapshot_seq) == ({}, 1, False, 0)
    assert "0 log blocks" in report.summary()


def test_many_lives_with_snapshots_and_retirement_lose_nothing(tmp_path: Path) -> None:
    expected: dict[int, int] = {}
    for life in range(4):
        run = Run(tmp_path)
        assert run.store.content == expected
        assert not run.report.damaged
        for key in range(30):
            run.put(key % 7 + life, 100 * life + key)
            expected[key % 7 + life] = 100 * life + key
            if key in (12, 25):
                run.snapshot()
        assert run.wal.close()
    final = Run(tmp_path)
    assert final.store.content == expected
    assert final.report.snapshot_seq > 0
    assert final.store.n_blocks < 30, "only what came after the snapshot is replayed"
    assert final.wal.close()


def test_a_damaged_newest_snapshot_costs_time_not_data(tmp_path: Path) -> None:
    run = Run(tmp_path)
    seqs = []
    for key in range(60):
        run.put(key, key)
        if key in (20, 40):
            seqs.append(run.snapshot())
    assert run.wal.close()
    path = next(snapshot_dir(tmp_path).glob(f"{seqs[1]:016x}.*.definitions"))
    image = bytearray(path.read_bytes())
    image[len(image) // 2] ^= 4
    path.write_bytes(image)
    store = DictStore()
    report = start(tmp_path, store)
    assert store.content == {key: key for key in range(60)}
    assert report.snapshot_seq == seqs[0]
    assert [found.path for found in report.snapshots_refused] == [str(path)]
    assert report.damaged
    assert report.log.damage == []
    with pytest.raises(CorruptRecord, match="checksum"):
        start(tmp_path, DictStore(), strict=True)


def test_when_all_snapshots_are_damaged_the_lost_sequences_are_named_and_never_used_again(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    for key in range(60):
        run.put(key, key)
        if key in (20, 40, 59):
            last = run.snapshot()
    assert run.wal.close()
    for path in snapshot_dir(tmp_path).iterdir():
        path.write_bytes(b"gone")
    store = DictStore()
    report = start(tmp_path, store)
    assert len(report.snapshots_refused) == 4, "two manifests and what they named"
    lost = [(found.first_seq, found.last_seq) for found in report.log.damage]
    assert lost[0][0] == 1
    assert set(store.content) == {key for key in range(60) if key + 1 > lost[0][1]}
    assert report.next_seq > last
    assert any("lost" in text for text in report.faults())
    assert "lost" not in report.summary(), "said once"


def test_a_log_that_is_gone_behind_a_refused_snapshot_is_damage_up_to_its_name(tmp_path: Path) -> None:
    folder = snapshot_dir(tmp_path)
    Files().mkdir(folder)
    (folder / snapshot_name(500)).write_bytes(b"nothing")
    report = start(tmp_path, DictStore())
    assert [(found.first_seq, found.last_seq) for found in report.log.damage] == [(1, 500)]
    assert report.next_seq == 501


def test_records_the_store_refuses_stop_the_start_and_are_not_skipped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.wal.append(CATALOG, 0, 0, struct.pack("<HBBIII", 99, 0, 0, 16, 1, 1))
    assert run.wal.close()
    with pytest.raises(CorruptRecord, match="type 99"):
        start(tmp_path, DictStore())


def test_half_written_snapshots_are_removed_and_named(tmp_path: Path) -> None:
    folder = snapshot_dir(tmp_path)
    Files().mkdir(folder)
    (folder / (snapshot_name(9) + ".tmp")).write_bytes(b"half")
    report = start(tmp_path, DictStore())
    assert report.removed == [snapshot_name(9) + ".tmp"]
    assert list(folder.iterdir()) == []


def test_a_warm_start_applies_only_what_memory_does_not_hold(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for key in range(30):
        run.put(key, key)
    assert run.wal.close()
    store = DictStore({key: key for key in range(20)})
    report = resume(Files(), tmp_path, 20, 10, apply=store.apply)
    assert store.content == {key: key for key in range(30)}
    assert store.n_blocks == 10
    assert report.next_seq == 32, "30 records and the marker of the clean stop"


def test_damage_to_blocks_that_nobody_needs_hides_none_behind_them(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for key in range(6):
        run.put(key, key)
    assert run.wal.close()
    path = wal_dir(tmp_path) / wal_name(1)
    whole = path.read_bytes()
    size = BLOCK_HEADER_BYTES + 16
    for offset in range(SEGMENT_HEADER_BYTES + 2 * size, SEGMENT_HEADER_BYTES + 4 * size):
        for bit in (1, 0x80):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ bit]) + whole[offset + 1 :])
            store = DictStore({key: key for key in range(4)})
            report = resume(Files(), tmp_path, 4, 4, apply=store.apply)
            assert store.content == {key: key for key in range(6)}, f"byte {offset}, bit {bit}"
            assert report.next_seq == 8
    path.write_bytes(whole)


def test_a_warm_start_knows_when_the_next_snapshot_is_due(tmp_path: Path) -> None:
    """Else a store that is always killed and adopted would never take one, and its log would grow for ever."""
    run = Run(tmp_path)
    for key in range(12):  # more than one segment
        run.put(key, key)
    assert resume(Files(), tmp_path, 12, 12, apply=run.store.apply).newest == Newest(0, 0, SEGMENT_BYTES, ())
    assert run.wal.close()
    first = Run(tmp_path)
    first.snapshot()
    for key in range(20):
        first.put(key, key)
    second = first.snapshot()
    first.put(1, 2)
    assert first.wal.close()
    path = snapshot_dir(tmp_path) / snapshot_name(second)
    created_ns = read_manifest(Files(), path, second).created_ns
    newest = resume(Files(), tmp_path, second, second, apply=first.store.apply).newest
    assert newest == Newest(second, created_ns, 0, ())
    quarantine_dir(tmp_path).mkdir()
    (quarantine_dir(tmp_path) / path.name).hardlink_to(path)
    assert resume(Files(), tmp_path, second, second, apply=first.store.apply).newest.unsound == (second,)


def test_blocks_not_known_durable_are_written_again_before_anything_is_promised(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for key in range(5):
        run.wal.append(CATALOG, 0, 0, record(key, key))
    assert run.wal.flush(5)
    run.stop_without_marker()
    store = DictStore()
    report = start(tmp_path, store)
    assert store.content == {key: key for key in range(5)}
    assert report.log.tail
    first = report.log.tail[0].seq
    assert first == report.log.durable + 1
    again = DictStore()
    second = start(tmp_path, again)
    assert again.content == store.content
    assert second.next_seq == report.next_seq == 6
