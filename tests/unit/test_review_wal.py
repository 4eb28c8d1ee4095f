"""A file of the log that cannot be written is left; the blocks go to another one."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from mstore.errors import StorageError
from mstore.kernels._ring import load_u64
from mstore.kernels._segment import Segment
from mstore.kernels._wal import Committer
from mstore.persistence.blocks import CATALOG
from mstore.persistence.files import Files, wal_dir
from mstore.persistence.recovery import recover
from mstore.persistence.wal import Wal
from mstore.shm import layout
from tests.stores import until
from tests.targets import LogOnly


class BadSectors(Files):
    """A disk on which one file cannot be written any more."""

    bad = -1
    """Its inode: descriptors are used again."""

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        if os.fstat(fd).st_ino == self.bad:
            raise StorageError("cannot write: I/O error", errno=errno.EIO)
        super().pwritev(fd, buffers, offset)


@pytest.mark.parametrize("n_before", [0, 3])
def test_a_segment_with_bad_sectors_is_left_for_another(tmp_path: Path, n_before: int) -> None:
    files = BadSectors()
    wal_dir(tmp_path).mkdir()
    dir_fd = files.open_dir(wal_dir(tmp_path))
    committer = files.committer(Segment(bytearray(8192), True), [], [], -1, 0, dir_fd)
    wal = Wal(files, wal_dir(tmp_path), 1, committer, dir_fd=dir_fd, segment_bytes=1 << 20, spares=1)
    payloads = [bytes([number]) * 64 for number in range(1, 7)]
    for payload in payloads[:n_before]:
        wal.append(CATALOG, 0, 0, payload)
    files.bad = os.fstat(wal._segments[-1].fd).st_ino
    with pytest.raises(StorageError):
        wal.append(CATALOG, 0, 0, payloads[n_before])
    for payload in payloads[n_before:]:
        wal.append(CATALOG, 0, 0, payload)
    assert wal.flush(10)
    assert wal.durable() == len(payloads)
    files.bad = -1
    assert wal.close()
    found: list[bytes] = []
    report = recover(Files(), tmp_path, LogOnly(lambda payload: found.append(bytes(payload))))
    assert found == payloads
    assert not report.damaged
    assert report.log.torn is None


@pytest.mark.parametrize("fails", [False, True])
def test_a_block_whose_application_logged_an_eviction_is_acknowledged_all_the_same(
    tmp_path: Path, fails: bool
) -> None:
    files = Files()
    wal_dir(tmp_path).mkdir()
    dir_fd = files.open_dir(wal_dir(tmp_path))
    ring = Segment(bytearray(8192), True)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    committer = Committer(Segment(bytearray(8192), True), [ring], [bell], -1, 0, dir_fd)
    wal = Wal(files, wal_dir(tmp_path), 1, committer, dir_fd=dir_fd, segment_bytes=1 << 20, spares=1)
    try:
        seq = wal.write(0, 0, 64, bytes(64))
        if fails:
            committer.inject(0, errno.EIO, 1)
        wal.append(CATALOG, 0, 0, bytes(8))  # logged while block `seq` was applied
        assert load_u64(ring, layout.RING_DURABLE) == 0, "not before it is applied"
        wal.note(seq, 0, 64)
        assert wal.flush(10)
        until(lambda: load_u64(ring, layout.RING_DURABLE) == 64, "the position")
    finally:
        assert wal.close()
        os.close(bell)
