"""The commit thread's kernel against its reference: the same words, whatever is written and broken."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mstore.kernels._segment import Segment
from mstore.kernels._wal import Committer
from mstore.kernels.reference_wal import ReferenceCommitter

N_RINGS = 3

# A block of a ring (-1 = catalog), maybe the first of a new file; a wait; a failing sync; a restart.
BLOCK = st.tuples(st.just("block"), st.integers(-1, N_RINGS - 1), st.integers(8, 4096), st.booleans())
OTHER = st.sampled_from(
    [("commit", 0, 0, False), ("fail", 0, 0, False), ("restart", 0, 0, False), ("abandon", 0, 0, False)]
)
HISTORY = st.lists(st.one_of(BLOCK, BLOCK, OTHER), max_size=25)


class Pair:
    """Kernel and reference, driven alike; the kernel's thread is looked at when it has nothing left to do."""

    def __init__(self, folder: Path) -> None:
        self.dir_fd = os.open(folder, os.O_RDONLY)
        self.fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        self.kernel_words = [bytearray(8192) for _ in range(N_RINGS + 1)]
        self.reference_words = [bytearray(8192) for _ in range(N_RINGS + 1)]
        self.eventfds = [[os.eventfd(0, os.EFD_NONBLOCK) for _ in range(N_RINGS + 1)] for _ in range(2)]
        segments = [Segment(words, True) for words in self.kernel_words]
        self.kernel = Committer(
            segments[0], segments[1:], self.eventfds[0][1:], self.eventfds[0][0], 0, self.dir_fd
        )
        self.fail_next = False
        self.reference = ReferenceCommitter(
            self.reference_words[0],
            self.reference_words[1:],
            self.eventfds[1][1:],
            self.eventfds[1][0],
            0,
            self.dir_fd,
            self.sync,
            lambda fd: None,
        )
        self.thread = threading.Thread(target=self.kernel.run)
        self.thread.start()
        self.seq = 0
        self.positions = [0] * N_RINGS

    def sync(self, fd: int) -> None:
        if self.fail_next:
            self.fail_next = False
            raise OSError(errno.ENOSPC, "injected")

    def block(self, ring: int, n_bytes: int, new_name: bool) -> None:
        self.seq += 1
        if ring >= 0:
            self.positions[ring] += n_bytes
        stop = self.positions[ring] if ring >= 0 else 0
        if self.fail_next:
            self.kernel.inject(0, errno.ENOSPC)
        queued = self.kernel.note_written(self.fd, self.seq, ring, stop, new_name)
        assert queued == self.reference.note_written(self.fd, self.seq, ring, stop, new_name)
        self.settle()

    def settle(self) -> None:
        self.reference.run()
        if not self.reference.failed():
            assert self.kernel.wait(self.reference.durable(), 5.0)
        deadline = time.monotonic() + 5
        while self.kernel.failed() != self.reference.failed() and time.monotonic() < deadline:
            time.sleep(0.0005)

    def restart(self) -> None:
        self.kernel.restart(self.dir_fd)
        self.reference.restart(self.dir_fd)

    def abandon(self) -> None:
        self.kernel.abandon(errno.EIO)
        self.reference.abandon(errno.EIO)

    def assert_equal(self) -> None:
        assert self.kernel_words == self.reference_words
        assert self.kernel.failed() == self.reference.failed()
        assert self.kernel.status()[:3] == self.reference.status()[:3]
        assert [woken(fd) for fd in self.eventfds[0]] == [woken(fd) for fd in self.eventfds[1]]

    def close(self) -> None:
        self.kernel.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()
        for fd in [self.fd, self.dir_fd, *self.eventfds[0], *self.eventfds[1]]:
            os.close(fd)


def woken(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=HISTORY)
def test_kernel_and_reference_publish_the_same_words(
    tmp_path: Path, history: list[tuple[str, int, int, bool]]
) -> None:
    pair = Pair(tmp_path)
    try:
        for what, ring, n_bytes, new_name in history:
            if what == "block":
                pair.block(ring, n_bytes, new_name)
            elif what == "fail":
                pair.fail_next = not pair.reference.failed()
            elif what == "restart":
                pair.restart()
            elif what == "abandon":
                pair.abandon()
            pair.assert_equal()
    finally:
        pair.close()


def test_nothing_is_published_once_abandon_has_returned(tmp_path: Path) -> None:
    """A sync that is on its way counts, if it ends before: none after."""
    control = bytearray(8192)
    committer = Committer(Segment(control, True), [], [], -1, 0, -1)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    thread = threading.Thread(target=committer.run)
    thread.start()
    for seq in range(1, 400):
        os.pwrite(fd, bytes(65536), seq * 65536 % (1 << 24))
        committer.note_written(fd, seq, -1, 0, False)
        if seq % 3 == 0:
            committer.abandon(errno.EIO)
            durable = committer.durable()
            time.sleep(0.0005)
            assert committer.durable() == durable
            assert not committer.note_written(fd, seq, -1, 0, False)
            committer.restart(-1)
    committer.stop()
    thread.join(5)
    os.close(fd)


@pytest.mark.parametrize("n_files", [2, 5])
def test_blocks_of_several_files_become_durable_in_order_of_sequence(tmp_path: Path, n_files: int) -> None:
    control, ring = bytearray(8192), bytearray(8192)
    committer = Committer(Segment(control, True), [Segment(ring, True)], [-1], -1, 0, -1)
    fds = [os.open(tmp_path / str(i), os.O_RDWR | os.O_CREAT) for i in range(n_files)]
    seq = 0
    for fd in fds:
        for _ in range(3):
            seq += 1
            assert committer.note_written(fd, seq, 0, seq * 8, False)
    assert committer.durable() == 0, "nobody runs yet"
    committer.inject(n_files - 1, errno.EIO)
    thread = threading.Thread(target=committer.run)
    thread.start()
    assert not committer.wait(seq, 5.0)
    assert committer.durable() == seq - 3, "the last file's sync failed; the others count"
    assert int.from_bytes(ring[4096 + 256 : 4096 + 264], "little") == (seq - 3) * 8
    assert committer.status()[2] == n_files, "one sync a file, whatever the number of blocks"
    committer.stop()
    thread.join(5)
    for fd in fds:
        os.close(fd)
