"""Whose a file is: the reference's directories, from the top, from within, and what does not belong there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mstore.compat.walk import Found, walk
from mstore.errors import InvalidRequest


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def whose(found: list[Found], root: Path) -> list[tuple[str, str, str]]:
    return [(one.cluster, one.host, os.path.relpath(one.path, root)) for one in found]


def test_files_of_a_host_come_by_time_and_the_log_last(tmp_path: Path) -> None:
    make(
        tmp_path,
        "fritz/f2/current.wal",
        "fritz/f2/2000.bin",
        "fritz/f2/300.json",
        "fritz/f2/2000.json",
        "alex/a1/5.bin",
    )
    found, skipped = walk(tmp_path)
    assert whose(found, tmp_path) == [
        ("alex", "a1", "alex/a1/5.bin"),
        ("fritz", "f2", "fritz/f2/300.json"),
        ("fritz", "f2", "fritz/f2/2000.bin"),
        ("fritz", "f2", "fritz/f2/2000.json"),
        ("fritz", "f2", "fritz/f2/current.wal"),
    ]
    assert [one.kind for one in found] == ["bin", "json", "bin", "json", "wal"]
    assert skipped == []


@pytest.mark.parametrize("part", ["", "fritz", "fritz/f2"])
def test_a_cluster_s_or_a_host_s_own_directory_may_be_given(tmp_path: Path, part: str) -> None:
    make(tmp_path, "fritz/f2/current.wal", "fritz/f2/2000.bin")
    found, skipped = walk(tmp_path / part)
    assert {(one.cluster, one.host) for one in found} == {("fritz", "f2")}
    assert len(found) == 2
    assert skipped == []


def test_one_file_may_be_given_and_its_directories_say_whose_it_is(tmp_path: Path) -> None:
    make(tmp_path, "fritz/f2/2000.bin", "fritz/f2/notes.txt", "fritz/2000.parquet")
    assert whose(walk(tmp_path / "fritz/f2/2000.bin")[0], tmp_path) == [("fritz", "f2", "fritz/f2/2000.bin")]
    assert whose(walk(tmp_path / "fritz/2000.parquet")[0], tmp_path) == [("", "", "fritz/2000.parquet")]
    assert [one.why for one in walk(tmp_path / "fritz/f2/notes.txt")[1]] == ["not a file of the reference"]


def test_files_that_lie_in_no_host_s_directory_are_nobody_s(tmp_path: Path) -> None:
    """The reference makes such ones for lines without a hostname, and then refuses to start."""
    make(
        tmp_path,
        "fritz/f2/2000.bin",
        "fritz/current.wal",
        "fritz/2000.bin",
        "current.wal",
        "fritz/f2/more/1.json",
    )
    found, skipped = walk(tmp_path)
    assert whose(found, tmp_path) == [("fritz", "f2", "fritz/f2/2000.bin")]
    assert sorted(os.path.relpath(one.path, tmp_path) for one in skipped) == [
        "current.wal", "fritz/2000.bin", "fritz/current.wal", "fritz/f2/more/1.json",
    ]  # fmt: skip
    assert all("no host's directory" in one.why and one.holds_data for one in skipped)


def test_other_files_are_skipped_with_the_reason(tmp_path: Path) -> None:
    make(
        tmp_path, "c/h/1.bin", "c/h/2.bin.tmp", "c/h/newest.json", "c/h/1e3.bin", "c/h/old.wal", "c/h/core.1234",
        "c/h/60/7.avro", "c/h/60/8.avro",
    )  # fmt: skip
    found, skipped = walk(tmp_path)
    assert [one.path.name for one in found] == ["1.bin"]
    why = {one.path.name: (one.why.split(":")[0], one.holds_data) for one in skipped}
    assert why == {
        "2.bin.tmp": ("left over from a write that was not finished", False),
        "newest.json": ("its name is no <seconds>.json, <seconds>.bin or current.wal", True),
        "1e3.bin": ("its name is no <seconds>.json, <seconds>.bin or current.wal", True),
        "old.wal": ("its name is no <seconds>.json, <seconds>.bin or current.wal", True),
        "core.1234": ("not a file of the reference", True),
        "60": ("Avro checkpoints are not read", True),
    }


def test_archives_are_found_wherever_they_lie_and_name_their_cluster_by_partition(tmp_path: Path) -> None:
    make(
        tmp_path, "fritz/2000.parquet", "cluster=a%2Fb/day=2023-11-14/part-0000000001.parquet",
        "_tables/series/cluster=fritz/day=2023-11-14/part-0000000001.parquet",
    )  # fmt: skip
    found, skipped = walk(tmp_path)
    assert [(one.cluster, one.host, one.kind) for one in found] == [
        ("", "", "parquet"),
        ("a/b", "", "parquet"),
    ]
    assert skipped == []


def test_what_cannot_be_listed_or_is_too_deep_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c/d/e/f/g/1.json")
    assert [one.why for one in walk(tmp_path)[1]] == ["too deep to be the reference's"]
    os.symlink(tmp_path / "gone", tmp_path / "1.bin")
    assert any("cannot be read" in one.why for one in walk(tmp_path)[1])


def test_names_that_are_no_text_belong_to_nobody(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"fritz", b"f\xff")
    os.makedirs(folder)
    Path(os.fsdecode(os.path.join(folder, b"1.bin"))).write_bytes(b"x")
    found, skipped = walk(tmp_path)
    assert found == []
    assert ["UTF-8" in one.why for one in skipped] == [True]


def test_what_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such file or directory"):
        walk(tmp_path / "nowhere")
