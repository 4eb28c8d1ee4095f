"""The log on a disk that refuses, one story each; tests/torture/faults.py tries every call in turn."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mstore.errors import StorageError
from mstore.kernels.reference_wal import ReferenceCommitter
from mstore.persistence.blocks import BLOCK_HEADER_BYTES, CATALOG, SEGMENT_HEADER_BYTES
from mstore.persistence.files import spare_name, wal_dir
from mstore.persistence.replay import LogReader, LogReport, finish_replay
from mstore.persistence.wal import Wal
from tests.torture.disk import Disk, Fault

DIRECTORY = Path("/store")
PAYLOAD = bytes(range(64))
BLOCK_BYTES = BLOCK_HEADER_BYTES + len(PAYLOAD)
BLOCKS_PER_SEGMENT = 3


class Log:
    """A log of small segments; `refuse` names the calls that fail, and how."""

    def __init__(
        self, disk: Disk | None = None, fault: Fault | None = None, *, n_spares: int = 0, **refuse: str
    ) -> None:
        self.disk = disk or Disk()
        self.refuse = refuse
        self.disk.fault = fault or (lambda name, _disk: self.refuse.get(name, ""))
        self.report = LogReader(self.disk, DIRECTORY, 0).replay(lambda payload: None)
        first_seq = self.report.last_seq + 1
        dir_fd = self.disk.open_dir(wal_dir(DIRECTORY))
        self.committer = ReferenceCommitter(
            bytearray(8192), [], [], -1, first_seq - 1, dir_fd, self.disk.fdatasync, self.disk.fsync
        )
        self.wal = Wal(
            self.disk, wal_dir(DIRECTORY), first_seq, self.committer, dir_fd=dir_fd, background=False,
            spares=n_spares,
            segment_bytes=SEGMENT_HEADER_BYTES + BLOCKS_PER_SEGMENT * BLOCK_BYTES,
            prepare=lambda: finish_replay(self.disk, DIRECTORY, self.report),
        )  # fmt: skip

    def append(self, n: int = 1) -> None:
        for _ in range(n):
            self.wal.append(CATALOG, 0, 0, PAYLOAD)

    def poll(self) -> bool:
        self.wal._retry_at = 0.0
        return self.wal.poll()


def after_power_cut(disk: Disk) -> LogReport:
    image = Disk(disk.state.after_power_cut(random.Random(0)))
    return LogReader(image, DIRECTORY, 0).replay(lambda payload: None)


def test_a_file_whose_first_block_was_refused_does_not_end_the_file_that_takes_its_place() -> None:
    log = Log()
    log.append(BLOCKS_PER_SEGMENT)
    writes = iter(("", "EIO"))  # the header page of the next file, then its first block
    log.disk.fault = lambda name, _disk: next(writes, "") if name == "pwritev" else ""
    with pytest.raises(StorageError):
        log.append()
    log.disk.fault = lambda name, _disk: "EIO" if name == "fdatasync" else ""
    log.committer.step()  # those before it are not durable either: all move to a file with a lower name
    log.disk.fault = None
    assert log.poll()
    log.append()
    log.committer.run()
    assert log.wal.durable() == BLOCKS_PER_SEGMENT + 1
    report = after_power_cut(log.disk)
    assert report.damage == []
    assert report.last_seq == BLOCKS_PER_SEGMENT + 1


def test_a_log_without_room_for_its_first_segment_refuses_appends_and_begins_when_there_is_some() -> None:
    log = Log(create="ENOSPC")
    for _ in range(2):
        with pytest.raises(StorageError, match="ENOSPC"):
            log.append()
    assert "ENOSPC" in log.wal.failure
    assert (log.wal.written, log.wal.segment_files()) == (0, [])
    log.refuse = {}
    log.append()
    log.committer.run()
    assert (log.wal.durable(), log.wal.failure) == (1, "")


def test_what_was_read_is_promised_only_when_there_was_room_to_write_it_again() -> None:
    before = Log()
    before.append(BLOCKS_PER_SEGMENT)  # never synced: in the page cache only
    before.disk.forget_descriptors()
    log = Log(before.disk, create="ENOSPC")
    assert log.wal.written == BLOCKS_PER_SEGMENT
    with pytest.raises(StorageError, match="ENOSPC"):
        log.append()
    log.refuse = {}
    log.append()
    log.committer.run()
    assert log.wal.durable() == BLOCKS_PER_SEGMENT + 1
    assert after_power_cut(log.disk).last_seq == BLOCKS_PER_SEGMENT + 1


def test_a_prepared_segment_gives_its_room_to_what_must_be_written_first() -> None:
    """A full disk with two spares on it: one goes for the end of the log, the other becomes the new segment."""
    before = Log()
    before.append(BLOCKS_PER_SEGMENT)
    for number in (0xAA, 0xBB):
        before.disk.create(wal_dir(DIRECTORY) / spare_name(number), before.wal._segment_bytes)
    before.disk.forget_descriptors()

    def full(name: str, disk: Disk) -> str:
        n_spares = sum(path.suffix == ".spare" for path in disk.state.names)
        return "ENOSPC" if name == "create" and n_spares > 1 else ""

    log = Log(before.disk, full, n_spares=2)
    assert log.wal.failure == ""
    log.append()
    log.committer.run()
    assert after_power_cut(log.disk).last_seq == BLOCKS_PER_SEGMENT + 1


def test_other_failures_of_the_first_segment_are_told_at_once() -> None:
    with pytest.raises(StorageError, match="EIO"):
        Log(create="EIO")
