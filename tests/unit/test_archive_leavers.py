"""Early leavers: whole blocks or none, bounded, cut at a start, archived once."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mstore.archive import leavers
from mstore.archive.leavers import EarlyLeavers, LeaversFile
from mstore.archive.overlay import build
from mstore.archive.reading import ArchiveFiles
from mstore.archive.rows import copied
from mstore.archive.scope import Scope
from mstore.persistence.files import Files
from tests import archive_rig
from tests.archive_rig import Filled
from tests.query_rig import T0, Store, one

FAR_S = 1 << 40


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-{os.getpid()}-{archive_rig.name()}")
    yield made
    made.close()


def leave(filled: Filled, file: LeaversFile, seq: int, flags: int = 0) -> None:
    """All chunks of all series go, by way of the file."""
    from mstore.archive.index import Index

    early = EarlyLeavers(Files(), [])
    payload: list[Any] = []
    n = 0
    for level in filled.memory.clusters().values():
        index = Index(filled.memory, level, early)
        lives = [index.life(place) for place in range(len(index))]
        for head, values in copied(filled.memory, lives):
            payload += leavers.entry(head.copy(), bytes(values))
            n += 1
    assert file.put(leavers.CHUNKS, payload, n, seq, (T0, T0 + archive_rig.SPAN_S), flags)
    for slot in range(filled.store.writer.counts()["n_series"]):
        filled.store.samples.free_series(slot)


def rows(root: Path) -> list[dict[str, Any]]:
    return [
        row
        for path in sorted(root.glob("cluster=*/*/*.parquet"))
        for row in pq.ParquetFile(path).read().to_pylist()
    ]


def columns(root: Path) -> dict[str, tuple[list[bool], bytes | list[str]]]:
    """Of all samples, in the order of the files: which are null, and the others by their bits."""
    paths = sorted(root.glob("cluster=*/*/*.parquet"))
    table = pa.concat_tables([pq.ParquetFile(path).read() for path in paths]).combine_chunks()
    found = {}
    for name in table.column_names:
        column = table[name]
        present = column.drop_null()
        texts = pa.types.is_string(column.type)
        found[name] = (
            column.is_null().to_pylist(),
            present.to_pylist() if texts else present.to_numpy().tobytes(),
        )
    return found


def test_what_left_early_is_archived_as_if_it_were_in_memory(store: Store, tmp_path: Path, seed: int) -> None:
    filled = archive_rig.fill(store, tmp_path / "b", np.random.default_rng(seed))
    Filled(store, tmp_path / "a").archive(FAR_S)
    file = LeaversFile(Files(), tmp_path / "store", 1 << 30)
    leave(filled, file, 7)
    paths = file.close()
    result = filled.archive(T0, leavers=tuple(paths))
    assert (result.leavers_done, result.n_lost) == (True, 0)
    assert columns(tmp_path / "b") == columns(tmp_path / "a")
    assert filled.archive(T0, leavers=tuple(paths)).n_rows == 0, "once is enough"


def test_what_left_while_a_pass_archived_it_is_not_archived_twice(store: Store, tmp_path: Path) -> None:
    store.put(store.open("load", t=T0), T0, [float(i) for i in range(100)])
    filled = Filled(store, tmp_path / "a")
    filled.archive(T0 + 50 * 60)
    file = LeaversFile(Files(), tmp_path / "store", 1 << 30)
    leave(filled, file, 7, leavers.DURING)
    filled.archive(FAR_S, leavers=tuple(file.close()))
    assert [row["value"] for row in rows(tmp_path / "a")] == list(range(100))


def test_a_late_sample_is_archived_again_and_the_last_part_holds(store: Store, tmp_path: Path) -> None:
    ref = store.open("load", t=T0)
    store.put(ref, T0, [float(i) for i in range(10)])
    filled = Filled(store, tmp_path / "a")
    filled.archive(FAR_S)
    store.put(ref, T0 + 120, [77.0])
    file = LeaversFile(Files(), tmp_path / "store", 1 << 30)
    mark = np.array([(ref & 0xFFFF_FFFF, ref >> 32, (T0 + 125) * 1000)], leavers.MARK)
    file.put(leavers.MARKS, [mark.tobytes()], 1, 8, (T0, T0))
    assert filled.archive(FAR_S, leavers=tuple(file.close())).n_rows == 1
    filled.free(FAR_S)
    for slot in range(store.writer.counts()["n_series"]):
        store.samples.free_series(slot)
    scope = Scope("fritz", {"f1"}, {"load"}, T0, T0 + 600)
    answer = one(
        build(ArchiveFiles(tmp_path / "a"), filled.memory, [scope]).reader.query(
            "fritz", "f1", "load", T0, T0 + 600
        )
    )
    assert answer.values.tolist() == [0, 1, 77, 3, 4, 5, 6, 7, 8, 9]


def test_what_is_on_its_way_is_answered_too(store: Store, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    filled = archive_rig.fill(store, tmp_path / "a", rng)
    requests = archive_rig.questions(rng, 30)
    before = [archive_rig.plain(archive_rig.asked(filled.reader(), each)) for each in requests]
    filled.archive(T0 + 86_400)
    file = LeaversFile(Files(), tmp_path / "store", 1 << 30)
    leave(filled, file, 7)
    overlay = build(
        ArchiveFiles(tmp_path / "a"),
        filled.memory,
        archive_rig.scopes_of(requests),
        store_dir=tmp_path / "store",
    )
    assert [archive_rig.plain(archive_rig.asked(overlay.reader, each)) for each in requests] == before
    file.close()


def test_a_file_that_is_cut_anywhere_gives_its_whole_blocks(tmp_path: Path) -> None:
    file = LeaversFile(Files(), tmp_path, 1 << 20)
    for seq in range(1, 4):
        file.put(leavers.MARKS, [np.zeros(seq, leavers.MARK).tobytes()], seq, seq, (0, 1))
    (path,) = file.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        found = [block.seq for block, _ in leavers.blocks(Files(), path)]
        assert found == [seq for seq in (1, 2, 3) if cut >= 48 * seq + 16 * seq * (seq + 1) // 2]


def test_a_start_cuts_what_belongs_to_blocks_of_the_log_that_are_lost(tmp_path: Path) -> None:
    file = LeaversFile(Files(), tmp_path, 1 << 20)
    for seq in (5, 6, 7):
        file.put(leavers.MARKS, [np.zeros(1, leavers.MARK).tobytes()], 1, seq, (0, 1))
    (path,) = file.close()
    leavers.cut_behind(Files(), tmp_path, 6)
    assert [block.seq for block, _ in leavers.blocks(Files(), path)] == [5, 6]
    leavers.cut_behind(Files(), tmp_path, 4)
    assert not path.exists()


def test_the_files_together_stay_within_their_bytes(tmp_path: Path) -> None:
    file = LeaversFile(Files(), tmp_path, 200)
    mark = [np.zeros(4, leavers.MARK).tobytes()]
    assert file.put(leavers.MARKS, mark, 4, 1, (0, 1))
    file.close()
    assert not file.put(leavers.MARKS, [bytes(160)], 10, 2, (0, 1))
    assert LeaversFile(Files(), tmp_path, 200).n_bytes == file.n_bytes == 48 + 64


def test_a_start_cuts_what_the_log_does_not_reach_and_goes_on_counting_from_there(tmp_path: Path) -> None:
    file = LeaversFile(Files(), tmp_path, 1 << 20)
    for seq in (4, 5, 6):
        assert file.put(leavers.MARKS, [bytes(16 * seq)], seq, seq, (T0, T0))
    file.close()
    again = LeaversFile(Files(), tmp_path, 1 << 20)
    again.cut_behind(5)
    (path,) = again.close()
    assert [block.seq for block, _ in leavers.blocks(Files(), path)] == [4, 5]
    assert again.n_bytes == path.stat().st_size


class Counting(Files):
    """How much is read."""

    n_read = 0

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        self.n_read += n_bytes
        return super().pread(fd, n_bytes, offset)


def test_what_waits_is_told_by_headers_alone(tmp_path: Path) -> None:
    file = LeaversFile(Files(), tmp_path, 1 << 20)
    for seq in range(1, 4):
        assert file.put(leavers.CHUNKS, [bytes(10_000)], 1, seq, (T0 + seq, T0 + 60))
    assert file.put(leavers.MARKS, [bytes(16)], 1, 4, (0, 1))
    file.close()
    files = Counting()
    assert leavers.spans(files, tmp_path) == [(T0 + seq, T0 + 60) for seq in range(1, 4)]
    assert files.n_read == 4 * leavers.BLOCK.itemsize


def test_of_large_files_one_block_at_a_time_is_in_memory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = Filled(store, tmp_path / "archive")
    series = store.open("load", "f1")
    file = LeaversFile(Files(), tmp_path, 1 << 30)
    for seq in range(1, 6):
        store.put(series, T0 + seq * 600 * 60, [1.0] * 600)
        leave(filled, file, seq)
    read, held, most = leavers.blocks, weakref.WeakSet[Any](), 0

    def watched(files: Files, path: Path) -> Iterator[Any]:
        nonlocal most
        for block, payload in read(files, path):
            held.add(payload)
            most = max(most, len(held))
            yield block, payload

    monkeypatch.setattr(leavers, "blocks", watched)
    early = EarlyLeavers(Files(), file.close())
    ((*kept,),) = early.chunks.values()
    assert len(kept) >= 5
    assert most <= 2, "the one that is looked at and the next"


def test_a_pass_takes_so_many_files_that_their_names_fit_an_argument(tmp_path: Path) -> None:
    file = LeaversFile(Files(), tmp_path, 1 << 20)
    paths: list[Path] = []
    for seq in range(1, leavers.FILES_PER_PASS + 11):
        assert file.put(leavers.MARKS, [bytes(16)], 1, seq, (T0, T0))
        paths = file.close()
    assert len(paths) == leavers.FILES_PER_PASS
    file.remove(paths)
    assert len(file.close()) == 10
