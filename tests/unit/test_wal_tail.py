"""The end of the log, read while it is written: every block once, in order, or a plain word that one is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mstore.persistence.files import wal_dir
from mstore.persistence.tail import LogTail, Lost
from tests.unit.test_wal import SEGMENT_BYTES, Store, payload


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path)
    yield found
    found.close()


@pytest.fixture
def tail(store: Store) -> Iterator[LogTail]:
    found = LogTail(wal_dir(store.directory), 1)
    yield found
    found.close()


def append(store: Store, first: int, stop: int, n_bytes: int = 1000) -> None:
    for seq in range(first, stop):
        assert store.wal.append(0, 0, seq * n_bytes, payload(seq, n_bytes)) == seq


def read(tail: LogTail, upto_seq: int) -> list[tuple[int, bytes]]:
    return [(block.seq, bytes(block.payload)) for block in tail.read(upto_seq)]


def test_blocks_are_read_as_they_come_also_across_segments(store: Store, tail: LogTail) -> None:
    for first in range(1, 61, 3):
        append(store, first, first + 3)
        assert read(tail, first + 2) == [(seq, payload(seq, 1000)) for seq in range(first, first + 3)]
    assert len([name for name in os.listdir(wal_dir(store.directory)) if name.endswith(".wal")]) > 3
    assert read(tail, 60) == []


def test_no_block_beyond_what_is_said_to_be_applied_is_read(store: Store, tail: LogTail) -> None:
    append(store, 1, 10)
    assert [seq for seq, _ in read(tail, 4)] == [1, 2, 3, 4]
    assert [seq for seq, _ in read(tail, 9)] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("next_seq", [1, 2, 12, 14, 29, 41])
def test_a_tail_may_begin_at_any_block_also_at_one_not_yet_written(store: Store, next_seq: int) -> None:
    append(store, 1, 41)
    tail = LogTail(wal_dir(store.directory), next_seq)
    append(store, 41, 44)
    assert [seq for seq, _ in read(tail, 43)] == list(range(next_seq, 44))
    tail.close()


def test_a_block_that_was_retired_before_it_was_read_is_lost_and_the_next_can_be_asked_for(
    store: Store, tail: LogTail
) -> None:
    append(store, 1, 41)
    assert store.wal.flush(5)
    assert store.wal.retire(30) == 2
    store.wal._spares.settle()
    append(store, 41, 64)  # the files are used again, with other blocks
    with pytest.raises(Lost, match="block 1 "):
        read(tail, 63)
    tail.skip(31)
    assert read(tail, 63) == [(seq, payload(seq, 1000)) for seq in range(31, 64)]


def test_a_tail_that_stands_in_a_file_that_is_used_again_reads_none_of_its_new_blocks(
    store: Store, tail: LogTail
) -> None:
    append(store, 1, 41)
    assert store.wal.flush(5)
    assert len(read(tail, 5)) == 5
    store.wal.retire(30)
    store.wal._spares.settle()
    append(store, 41, 64)
    found: list[tuple[int, bytes]] = []
    with pytest.raises(Lost):
        found.extend((block.seq, bytes(block.payload)) for block in tail.read(63))
    assert found == [(seq, payload(seq, 1000)) for seq in range(6, 6 + len(found))], "only the old ones"
    assert 6 + len(found) < 31


def test_after_a_failed_fsync_the_blocks_in_the_new_file_are_read_on(store: Store, tail: LogTail) -> None:
    append(store, 1, 5, 64)
    assert store.wal.flush(5)
    assert [seq for seq, _ in read(tail, 4)] == [1, 2, 3, 4]
    store.committer.inject(0, errno.EIO)
    append(store, 5, 8, 64)
    assert store.wal.flush(5)
    append(store, 8, 11, 64)
    assert store.wal.n_moves == 1
    assert read(tail, 10) == [(seq, payload(seq, 64)) for seq in range(5, 11)]


@pytest.mark.parametrize("place", range(0, 64 + 200, 8))
def test_a_block_with_a_damaged_byte_is_lost_and_never_wrong(store: Store, tail: LogTail, place: int) -> None:
    append(store, 1, 3, 200)
    assert store.wal.flush(5)
    path = next(wal_dir(store.directory).glob("*.wal"))
    with path.open("r+b") as file:
        file.seek(4096 + 264 + place)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x40]))
    with pytest.raises(Lost, match="block 2 "):
        read(tail, 2)


def test_a_log_that_is_gone_or_cut_short_is_lost(store: Store, tail: LogTail) -> None:
    append(store, 1, 10)
    assert len(read(tail, 3)) == 3
    path = next(wal_dir(store.directory).glob("*.wal"))
    os.truncate(path, 4096 + 4 * 1064 + 10)
    with pytest.raises(Lost, match="block 5 "):
        read(tail, 9)
    path.unlink()
    with pytest.raises(Lost, match="block 5 "):
        read(tail, 9)
    assert SEGMENT_BYTES > 9 * 1064, "all of it was one file"
