"""The manifest: what it must be, how it is made again, and what is deleted by its bytes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mstore.archive import names
from mstore.archive.bounds import keep_within
from mstore.archive.manifest import Manifest, Part, joined, parse, read_manifest, write_manifest
from mstore.archive.overlay import build
from mstore.archive.reading import ArchiveFiles
from mstore.archive.scope import Scope
from mstore.errors import ArchiveError
from mstore.persistence.files import Files
from tests import archive_rig
from tests.archive_rig import Filled
from tests.query_rig import T0, Store, one

FAR_S = 1 << 40
MADE = Manifest(
    "fritz",
    3,
    {"load": 17},
    [Part(1, 20_000, 5, 100, 1, 9), Part(2, 20_001, 7, 100, 8, 20)],
    4,
    [(5, 6)],
    ["x"],
)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-{os.getpid()}-{archive_rig.name()}")
    yield made
    made.close()


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(Files(), tmp_path, MADE)
    assert read_manifest(Files(), tmp_path, "fritz") == MADE
    assert read_manifest(Files(), tmp_path, "alex") is None


def test_a_manifest_that_is_damaged_anywhere_is_refused() -> None:
    text = MADE.to_json()
    assert parse(text, Path("m")) == MADE
    for at in range(0, len(text), 7):
        broken = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        with contextlib.suppress(ArchiveError):
            assert parse(broken, Path("m")) == MADE  # white space
    for cut in (0, 1, len(text) // 2, len(text) - 1):
        with pytest.raises(ArchiveError):
            parse(text[:cut], Path("m"))


def test_a_manifest_of_another_version_is_refused_by_number() -> None:
    content = json.loads(MADE.to_json())
    content["version"] = 2
    with pytest.raises(ArchiveError, match="checksum"):
        parse(json.dumps(content).encode(), Path("m"))


def test_parts_that_reach_into_a_range_come_oldest_first() -> None:
    assert [part.number for part in MADE.overlapping(9, 10)] == [1, 2]
    assert [part.number for part in MADE.overlapping(10, 100)] == [2]
    assert MADE.overlapping(21, 100) == MADE.overlapping(0, 1) == []


def test_spans_are_joined_where_they_meet() -> None:
    assert joined([(5, 9), (1, 2), (3, 4), (20, 30), (25, 26), (7, 6)]) == [(1, 9), (20, 30)]
    assert joined([]) == []


def _three_days(store: Store, root: Path) -> Filled:
    ref = store.open("load", t=T0)
    store.put(ref, T0, [float(i) for i in range(4000)])
    filled = Filled(store, root)
    filled.archive(T0 + 100_000)
    filled.archive(FAR_S)
    return filled


@pytest.mark.parametrize("how", ["lost", "damaged", "older"])
def test_a_manifest_that_is_not_to_be_had_is_made_again_from_the_files(
    store: Store, tmp_path: Path, how: str
) -> None:
    filled = _three_days(store, tmp_path)
    path = names.manifest_path(tmp_path, "fritz")
    whole = read_manifest(Files(), tmp_path, "fritz")
    assert whole is not None
    if how == "lost":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        write_manifest(Files(), tmp_path, Manifest("fritz"))
    filled.archive(FAR_S)
    again = read_manifest(Files(), tmp_path, "fritz")
    assert again is not None
    assert (again.next_part, again.archived_to) == (whole.next_part, whole.archived_to)
    assert sorted(again.parts, key=repr) == sorted(whole.parts, key=repr)


def test_files_of_a_pass_that_was_not_complete_are_no_part_of_a_manifest_made_again(
    store: Store, tmp_path: Path
) -> None:
    filled = _three_days(store, tmp_path)
    last = max(tmp_path.glob("cluster=fritz/*/part-0000000002.parquet"), key=str)
    last.unlink()
    names.manifest_path(tmp_path, "fritz").unlink()
    assert filled.archive(FAR_S).n_rows > 0
    paths = sorted(tmp_path.glob("cluster=fritz/*/*.parquet"))
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in paths) == 4000


def test_the_oldest_days_are_deleted_until_the_archive_is_small_enough(store: Store, tmp_path: Path) -> None:
    filled = _three_days(store, tmp_path)
    whole = read_manifest(Files(), tmp_path, "fritz")
    assert whole is not None
    days = sorted({part.day for part in whole.parts})
    assert len(days) >= 3
    keep = sum(part.n_bytes for part in whole.parts if part.day != days[0])
    assert keep_within(Files(), tmp_path, keep) == 1
    left = read_manifest(Files(), tmp_path, "fritz")
    assert left is not None
    assert sorted({part.day for part in left.parts}) == days[1:]
    assert not names.day_dir(tmp_path, "fritz", days[0]).exists()
    assert keep_within(Files(), tmp_path, 1) == len(days) - 2, "the newest day stays"
    filled.archive(FAR_S)
    assert [path.name for path in (tmp_path / "cluster=fritz").iterdir()] == [
        f"day={names.day_text(days[-1])}"
    ]


def test_files_that_a_deletion_left_are_removed_by_the_next_pass(store: Store, tmp_path: Path) -> None:
    filled = _three_days(store, tmp_path)
    manifest = read_manifest(Files(), tmp_path, "fritz")
    assert manifest is not None
    first = min(part.day for part in manifest.parts)
    manifest.parts = [part for part in manifest.parts if part.day != first]
    manifest.first_day = first + 1
    write_manifest(Files(), tmp_path, manifest)  # and then the machine stopped
    filled.archive(FAR_S)
    assert not names.day_dir(tmp_path, "fritz", first).exists()


def test_a_file_that_is_damaged_is_named_and_the_others_are_read(store: Store, tmp_path: Path) -> None:
    _three_days(store, tmp_path)
    damaged = sorted(tmp_path.glob("cluster=fritz/*/*.parquet"))[1]
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    scope = Scope("fritz", {"f1"}, {"load"}, T0, T0 + 4000 * 60)
    overlay = build(ArchiveFiles(tmp_path), None, [scope])
    assert len(overlay.problems) == 1
    assert str(damaged) in overlay.problems[0]
    answer = one(overlay.reader.query("fritz", "f1", "load", T0, T0 + 4000 * 60))
    assert 0 < answer.valid.sum() < 4000


def test_bytes_flipped_in_a_file_are_never_answered_as_values(
    store: Store, tmp_path: Path, seed: int
) -> None:
    import numpy as np

    rng = np.random.default_rng(seed)
    _three_days(store, tmp_path)
    path = sorted(tmp_path.glob("cluster=fritz/*/*.parquet"))[1]
    sound = path.read_bytes()
    scope = Scope("fritz", {"f1"}, {"load"}, T0, T0 + 4000 * 60)
    for _ in range(40):
        broken = bytearray(sound)
        broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        overlay = build(ArchiveFiles(tmp_path), None, [scope])
        answer = one(overlay.reader.query("fritz", "f1", "load", T0, T0 + 4000 * 60))
        wrong = answer.valid & (answer.values != np.arange(4000, dtype=np.float32))
        assert not wrong.any()
        assert answer.valid.all() or overlay.problems
