"""A segment has its whole length, and its header page, before it gets its name: a shorter file was cut by somebody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mstore.errors import CorruptRecord
from mstore.persistence.blocks import BLOCK_HEADER_BYTES, CATALOG, SEGMENT_HEADER_BYTES
from mstore.persistence.files import Files, wal_dir, wal_name
from mstore.persistence.replay import LogReader, LogReport, finish_replay
from tests.unit.test_wal_damage import SEGMENT_BYTES, open_wal, payload

BLOCK_BYTES = BLOCK_HEADER_BYTES + 40
PER_SEGMENT = (SEGMENT_BYTES - SEGMENT_HEADER_BYTES) // BLOCK_BYTES


def unmarked_log(directory: Path, n_blocks: int) -> None:
    """Blocks that are durable and that no other block names so: one group of commits, then a kill."""
    wal = open_wal(directory, background=False)
    for seq in range(1, n_blocks + 1):
        wal.append(CATALOG, 0, 0, payload(seq))
    wal._segments.close()
    os.close(wal._dir_fd)


def read(directory: Path, **options: bool) -> tuple[list[bytes], LogReport]:
    found: list[bytes] = []
    report = LogReader(Files(), directory, 0, **options).replay(lambda text: found.append(bytes(text)))
    return found, report


def cut(directory: Path, first_seq: int, length: int) -> Path:
    path = wal_dir(directory) / wal_name(first_seq)
    os.truncate(path, length)
    return path


@pytest.mark.parametrize(
    "length", [0, 100, SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES + 2 * BLOCK_BYTES, SEGMENT_BYTES - 8]
)
def test_a_newest_segment_that_was_cut_is_damage_and_no_torn_end(tmp_path: Path, length: int) -> None:
    unmarked_log(tmp_path, 3)
    path = cut(tmp_path, 1, length)
    n_left = min(3, max(0, (length - SEGMENT_HEADER_BYTES) // BLOCK_BYTES))
    found, report = read(tmp_path)
    assert found == [payload(seq) for seq in range(1, n_left + 1)]
    assert report.torn is None
    (damage,) = report.damage
    assert (damage.path, damage.first_seq, damage.and_more) == (str(path), n_left + 1, True)
    assert f"{length} bytes" in str(damage)
    assert f"block {n_left + 1} and what may have followed it" in str(damage)
    with pytest.raises(CorruptRecord, match="cut"):
        read(tmp_path, strict=True)


def test_a_segment_cut_in_the_middle_of_the_log_costs_its_blocks_and_none_behind_them(tmp_path: Path) -> None:
    unmarked_log(tmp_path, PER_SEGMENT + 2)
    cut(tmp_path, 1, SEGMENT_HEADER_BYTES + BLOCK_BYTES + 7)
    for _ in range(3):  # what a start does about it changes nothing for the next
        found, report = read(tmp_path)
        assert found == [payload(seq) for seq in (1, PER_SEGMENT + 1, PER_SEGMENT + 2)]
        assert report.torn is None
        assert [(one.first_seq, one.last_seq, one.and_more) for one in report.damage] == [
            (2, PER_SEGMENT, False)
        ]
        assert finish_replay(Files(), tmp_path, report) == PER_SEGMENT + 3


def test_a_cut_segment_that_a_later_one_without_blocks_follows_lost_what_lies_between(tmp_path: Path) -> None:
    unmarked_log(tmp_path, PER_SEGMENT + 1)
    later = wal_dir(tmp_path) / wal_name(PER_SEGMENT + 1)
    later.write_bytes(later.read_bytes()[:SEGMENT_HEADER_BYTES] + bytes(SEGMENT_BYTES - SEGMENT_HEADER_BYTES))
    cut(tmp_path, 1, SEGMENT_HEADER_BYTES + BLOCK_BYTES)
    found, report = read(tmp_path)
    assert found == [payload(1)]
    assert [(one.first_seq, one.last_seq) for one in report.damage] == [(2, PER_SEGMENT)]
    assert report.torn is None


def test_a_segment_that_lost_only_its_unused_end_loses_no_block(tmp_path: Path) -> None:
    unmarked_log(tmp_path, PER_SEGMENT + 1)
    cut(tmp_path, 1, SEGMENT_HEADER_BYTES + PER_SEGMENT * BLOCK_BYTES)
    found, report = read(tmp_path)
    assert len(found) == PER_SEGMENT + 1
    assert (report.damage, report.torn) == ([], None)
    assert len(report.hurt) == 1


def test_a_segment_has_its_length_and_header_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fdatasync, rename = Files.fdatasync, Files.rename

    def noted(self: Files, fd: int) -> None:
        fdatasync(self, fd)
        if os.fstat(fd).st_size == SEGMENT_BYTES:
            synced.add(os.fstat(fd).st_ino)

    def watched(self: Files, source: Path, target: Path) -> None:
        assert source.stat().st_ino in synced
        rename(self, source, target)

    monkeypatch.setattr(Files, "fdatasync", noted)
    monkeypatch.setattr(Files, "rename", watched)
    wal = open_wal(tmp_path)
    for seq in range(1, 3 * PER_SEGMENT):
        wal.append(CATALOG, 0, 0, payload(seq))
    assert wal.close()
    assert synced
