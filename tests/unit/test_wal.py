"""The log on a real file system: blocks, rotation, retirement, failures, clean stop."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mstore.errors import Degraded, StorageError
from mstore.kernels import _wal
from mstore.kernels._segment import Segment
from mstore.persistence.blocks import BLOCK_HEADER_BYTES, CATALOG, SEGMENT_HEADER_BYTES, Payload
from mstore.persistence.files import Files, is_no_space, wal_dir
from mstore.persistence.replay import LogReader, LogReport, finish_replay
from mstore.persistence.wal import Wal

DURABLE = 4096 + 2 * 128
STORE_DURABLE = 4096 + 3 * 128
SEGMENT_BYTES = 16 * 1024


class Store:
    """A log with the shared words it publishes."""

    def __init__(
        self, directory: Path, n_rings: int = 2, first_seq: int = 1, files: Files | None = None
    ) -> None:
        self.directory = directory
        self.files = files or Files()
        self.files.mkdir(wal_dir(directory))
        self.control = bytearray(8192)
        self.rings = [bytearray(8192) for _ in range(n_rings)]
        self.eventfds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(n_rings)]
        self.notify = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        dir_fd = self.files.open_dir(wal_dir(directory))
        self.committer = _wal.Committer(
            Segment(self.control, True),
            [Segment(ring, True) for ring in self.rings],
            self.eventfds,
            self.notify,
            first_seq - 1,
            dir_fd,
        )
        self.wal = Wal(
            self.files,
            wal_dir(directory),
            first_seq,
            self.committer,
            dir_fd=dir_fd,
            segment_bytes=SEGMENT_BYTES,
        )

    def word(self, segment: bytearray, offset: int) -> int:
        return int.from_bytes(segment[offset : offset + 8], "little")

    def close(self) -> bool:
        clean = self.wal.close()
        for fd in [*self.eventfds, self.notify]:
            os.close(fd)
        return clean


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path)
    yield found
    if found.notify >= 0:
        found.close()
        found.notify = -1


def read(directory: Path, after: int = 0, strict: bool = True) -> tuple[list[bytes], LogReport]:
    payloads: list[bytes] = []
    reader = LogReader(Files(), directory, after, strict=strict)
    report = reader.replay(lambda payload: payloads.append(bytes(payload)))
    return payloads, report


def payload(number: int, n_bytes: int = 64) -> bytes:
    return bytes((number + i) % 251 + 1 for i in range(n_bytes))


def test_blocks_come_back_in_order_with_their_ring_positions(store: Store, tmp_path: Path) -> None:
    assert [store.wal.append(0, 0, 64, payload(1)), store.wal.append(1, 0, 8, payload(2, 8))] == [1, 2]
    assert store.wal.append(CATALOG, 0, 0, payload(3)) == 3
    assert store.wal.flush(5)
    payloads, report = read(tmp_path)
    assert payloads == [payload(1), payload(2, 8), payload(3)]
    assert report.positions == {0: 64, 1: 8}
    assert (report.n_blocks, report.last_seq, report.torn, report.damage) == (3, 3, None, [])


def test_durable_words_are_stored_and_the_right_workers_woken(store: Store) -> None:
    store.wal.append(1, 0, 64, payload(1))
    assert store.wal.flush(5)
    assert store.word(store.rings[1], DURABLE) == 64
    assert store.word(store.rings[0], DURABLE) == 0
    assert store.word(store.control, STORE_DURABLE) == 1
    assert store.word(store.control, DURABLE) == 1, "the written word"
    assert select.select(store.eventfds, [], [], 1)[0] == [store.eventfds[1]]


def test_a_full_segment_is_followed_by_one_named_by_its_first_sequence(store: Store, tmp_path: Path) -> None:
    n_blocks = 40
    for seq in range(1, n_blocks + 1):
        store.wal.append(0, 0, seq * 1000, payload(seq, 1000))
    assert store.wal.flush(5)
    per_segment = (SEGMENT_BYTES - SEGMENT_HEADER_BYTES) // (BLOCK_HEADER_BYTES + 1000)
    names = sorted(name for name in os.listdir(wal_dir(tmp_path)) if name.endswith(".wal"))
    assert names == [f"{first:016x}.wal" for first in range(1, n_blocks + 1, per_segment)]
    assert read(tmp_path)[0] == [payload(seq, 1000) for seq in range(1, n_blocks + 1)]


def test_retired_segments_are_recycled_and_their_old_blocks_never_read(store: Store, tmp_path: Path) -> None:
    for seq in range(1, 41):
        store.wal.append(0, 0, seq, payload(seq, 1000))
    assert store.wal.flush(5)
    assert store.wal.retire(30) == 2
    store.wal._spares.settle()
    assert store.wal._spares.n_ready() == 2
    for seq in range(41, 64):
        store.wal.append(0, 0, seq, payload(seq, 1000))
    assert store.wal.flush(5)
    payloads, report = read(tmp_path, after=30)
    assert payloads == [payload(seq, 1000) for seq in range(31, 64)]
    assert (report.damage, report.torn, report.hurt) == ([], None, [])


def test_a_position_is_published_only_after_note_though_its_block_is_durable(store: Store) -> None:
    store.wal.write(0, 0, 64, payload(1))
    store.wal.append(1, 0, 8, payload(2, 8))
    assert store.wal.flush(5)
    assert store.wal.durable() == 2
    assert (store.word(store.rings[0], DURABLE), store.word(store.rings[1], DURABLE)) == (0, 8)


def test_a_block_never_noted_is_durable_before_a_later_segment_is(store: Store, tmp_path: Path) -> None:
    store.committer.inject(2, errno.EIO)
    for seq in range(1, 30):
        store.wal.write(0, 0, 8 * seq, payload(seq, 1000))
        if seq % 3 == 0:
            store.wal.note(seq, 0, 8 * seq)
    assert store.wal.flush(5)
    assert store.word(store.rings[0], DURABLE) == 27 * 8, "block 28 and 29 were written, not noted"
    assert read(tmp_path)[0] == [payload(seq, 1000) for seq in range(1, 30)]


def test_the_newest_segment_and_what_is_not_durable_are_never_retired(store: Store) -> None:
    for seq in range(1, 5):
        store.wal.append(0, 0, seq, payload(seq, 1000))
    assert store.wal.flush(5)
    assert store.wal.retire(1 << 40) == 0


def test_a_clean_stop_names_the_last_block_as_durable(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.wal.append(0, 0, 64, payload(1))
    assert store.close()
    payloads, report = read(tmp_path)
    assert payloads == [payload(1)]
    assert (report.n_blocks, report.last_seq) == (2, 2), "the payload's block and the marker"


def test_the_log_of_the_next_run_continues_the_numbers(tmp_path: Path) -> None:
    for run in range(3):
        _, report = read(tmp_path)
        store = Store(tmp_path, first_seq=finish_replay(Files(), tmp_path, report))
        store.wal.append(0, 0, 8 * run, payload(run, 8))
        assert store.close()
    payloads, report = read(tmp_path)
    assert payloads == [payload(run, 8) for run in range(3)]
    assert report.last_seq == 6


@pytest.mark.parametrize("after", [0, 1, 3])
def test_after_a_failed_fsync_every_undurable_block_is_moved_and_acknowledged(
    store: Store, tmp_path: Path, after: int
) -> None:
    store.committer.inject(after, errno.EIO)
    for seq in range(1, 41):
        store.wal.append(seq % 2, 0, seq * 8, payload(seq, 1000))
        if seq % 7 == 0:
            time.sleep(0.002)
    assert store.wal.flush(5)
    assert store.committer.status()[0] == errno.EIO
    assert store.wal.n_moves == 1
    assert store.wal.failure == ""
    assert os.eventfd_read(store.notify) == 1
    assert store.word(store.rings[0], DURABLE) == 40 * 8
    payloads, report = read(tmp_path)
    assert payloads == [payload(seq, 1000) for seq in range(1, 41)]
    assert report.damage == []


def test_a_segment_whose_sync_failed_loses_its_name_when_nothing_in_it_was_durable(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.wal._spares.settle()
    store.committer.inject(0, errno.EIO)
    before = store.wal._segments[-1].segment_id
    store.wal.append(0, 0, 8, payload(1))
    assert store.wal.flush(5)
    assert store.wal._segments[-1].segment_id != before
    assert [segment.first_seq for segment in store.wal._segments] == [1]
    assert store.close()
    assert read(tmp_path)[0] == [payload(1)]


def append_for(store: Store, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        store.wal.append(0, 8, 16, payload(2))
        time.sleep(0.001)


def test_while_the_disk_stays_broken_nothing_is_acknowledged_and_append_says_degraded(
    store: Store, tmp_path: Path
) -> None:
    store.committer.inject(0, errno.EIO, times=3)
    store.wal.append(0, 0, 8, payload(1))
    with pytest.raises(Degraded, match="fdatasync"):
        append_for(store, 5.0)
    assert store.word(store.control, STORE_DURABLE) == 0
    assert store.wal.flush(5)
    payloads, report = read(tmp_path)
    assert payloads[0] == payload(1)
    assert set(payloads[1:]) == {payload(2)}
    assert report.damage == []


class FullDisk(Files):
    """Refuses new files, or writes after 30 bytes, while told to."""

    refuse_create = refuse_write = False

    def create(self, path: Path, allocate_bytes: int = 0) -> int:
        if self.refuse_create:
            raise StorageError("cannot allocate: No space left on device", errno=errno.ENOSPC)
        return super().create(path, allocate_bytes)

    def pwritev(self, fd: int, buffers: Sequence[Payload], offset: int) -> None:
        if self.refuse_write:
            super().pwritev(fd, [bytes(buffers[0])[:30]], offset)
            raise StorageError("cannot write: No space left on device", errno=errno.ENOSPC)
        super().pwritev(fd, buffers, offset)


def test_append_on_a_full_disk_changes_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    files = FullDisk()
    store = Store(tmp_path, files=files)
    store.wal.append(0, 0, 8, payload(1, 1000))
    files.refuse_write = True
    for _ in range(3):
        with pytest.raises(StorageError) as caught:
            store.wal.append(0, 8, 16, payload(2, 1000))
        assert is_no_space(caught.value)
        assert store.wal.written == 1
    files.refuse_write = False
    assert store.wal.append(0, 8, 16, payload(3, 800)) == 2
    assert store.close()
    assert read(tmp_path)[0] == [payload(1, 1000), payload(3, 800)]


def test_rotation_on_a_full_disk_changes_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    files = FullDisk()
    store = Store(tmp_path, files=files)
    store.wal._spares.settle()
    files.refuse_create = True
    written = []
    for seq in range(1, 100):
        if store.wal._offset + BLOCK_HEADER_BYTES + 1000 > SEGMENT_BYTES and not store.wal._spares.n_ready():
            break
        store.wal.append(0, 0, seq, payload(seq, 1000))
        written.append(payload(seq, 1000))
    for _ in range(2):
        with pytest.raises(StorageError):
            store.wal.append(0, 0, 999, payload(99, 1000))
    assert store.wal.written == len(written) < 99
    files.refuse_create = False
    store.wal.append(0, 0, 999, payload(99, 1000))
    assert store.close()
    assert read(tmp_path)[0] == [*written, payload(99, 1000)]


def test_payloads_that_are_no_whole_records_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="7 bytes"):
        store.wal.append(0, 0, 7, b"1234567")
    with pytest.raises(ValueError, match="at most"):
        store.wal.append(0, 0, 0, bytes(SEGMENT_BYTES))
    doubles = memoryview(bytes(64)).cast("d")
    with pytest.raises(ValueError, match="view of bytes"):
        store.wal.append(0, 0, 0, doubles)  # type: ignore[arg-type]  # what is refused at run time
    assert store.wal.written == 0


def test_the_commit_thread_runs_while_python_holds_the_gil(store: Store) -> None:
    store.wal.append(0, 0, 8, payload(1))
    words = np.frombuffer(store.control, dtype=np.uint64)
    old = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        end = time.perf_counter() + 5
        while words[STORE_DURABLE // 8] != 1 and time.perf_counter() < end:
            pass
    finally:
        sys.setswitchinterval(old)
    assert words[STORE_DURABLE // 8] == 1


def test_no_thread_is_left_after_close(tmp_path: Path) -> None:
    before = threading.active_count()
    store = Store(tmp_path)
    assert threading.active_count() == before + 2
    assert store.close()
    assert threading.active_count() == before


def test_no_descriptor_is_left_after_close(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = Store(tmp_path)
    for seq in range(1, 60):
        store.wal.append(0, 0, seq, payload(seq, 1000))
    store.wal.flush(5)
    store.wal.retire(50)
    assert store.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_spare_segments_of_the_last_run_are_used_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.wal._spares.settle()
    assert store.close()
    spares = [name for name in os.listdir(wal_dir(tmp_path)) if name.endswith(".spare")]
    assert len(spares) == 2
    store = Store(tmp_path, first_seq=finish_replay(Files(), tmp_path, read(tmp_path)[1]))
    store.wal._spares.settle()
    assert len([name for name in os.listdir(wal_dir(tmp_path)) if name.endswith(".spare")]) == 2
    assert store.close()


def test_prewriting_a_bad_descriptor_reports_the_errno(tmp_path: Path) -> None:
    assert _wal.prewrite(9999, 0, 4096) == errno.EBADF
    with pytest.raises(StorageError, match="pre-write"):
        Files().prewrite(9999, 0, 4096)


def test_a_descriptor_that_cannot_be_synced_stops_acknowledging() -> None:
    control = bytearray(8192)
    committer = _wal.Committer(Segment(control, True), [], [], -1, 0, -1)
    thread = threading.Thread(target=committer.run)
    thread.start()
    reading, writing = os.pipe()
    assert committer.note_written(writing, 1, -1, 0, False)
    assert not committer.wait(1, 2.0)
    assert committer.failed() == errno.EINVAL
    assert not committer.note_written(writing, 2, -1, 0, False)
    assert committer.durable() == 0
    committer.stop()
    thread.join(5)
    assert not thread.is_alive()
    os.close(reading)
    os.close(writing)


WRITER = """
import sys
from pathlib import Path
from mstore.kernels._segment import Segment
from mstore.persistence.files import Files, wal_dir
from mstore.persistence.wal import Wal

directory, files = Path(sys.argv[1]), Files()
folder = wal_dir(directory)
dir_fd = files.open_dir(folder)
committer = files.committer(Segment(bytearray(8192), True), [], [], -1, 0, dir_fd)
wal = Wal(files, folder, 1, committer, dir_fd=dir_fd, segment_bytes=64 * 1024)
while True:
    seq = wal.append(0xFFFFFFFF, 0, 0, (wal.next_seq).to_bytes(8, "little") * 100)
    if wal.durable() > 20 and seq % 7 == 0:
        print(wal.durable(), flush=True)
"""


def test_what_a_killed_process_had_published_as_durable_is_found_again(tmp_path: Path) -> None:
    Files().mkdir(wal_dir(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(30):
        line = child.stdout.readline()
    child.kill()
    rest = child.stdout.read().split("\n")
    child.wait(10)
    child.stdout.close()
    published = int([number for number in [line.strip(), *rest[:-1]] if number][-1])
    payloads, report = read(tmp_path)
    assert published > 20
    assert report.last_seq >= published
    assert payloads == [seq.to_bytes(8, "little") * 100 for seq in range(1, report.last_seq + 1)]
    assert report.damage == []
