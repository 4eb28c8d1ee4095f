"""Power cuts and failing disks: what was published as durable is there afterwards, and nothing never
written.

`Disk` is a Files object with files in memory. It knows what a power cut may leave: of the writes since a
file's last fdatasync any subset, each torn at sectors; of the changes of names since the directory's
last fsync any subset. A failed fdatasync drops the writes it should have made durable and reports the
failure once, as Linux does.

A seed gives one history: appends, commits, failures, retirements, kills and power cuts at any operation
(also in the middle of recovery), and the next life of the same disk. MSTORE_SEED runs one seed; the seed
is in every failure message.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mstore.errors import Degraded, StorageError
from mstore.kernels.reference_wal import ReferenceCommitter
from mstore.persistence.blocks import BLOCK_HEADER_BYTES, SEGMENT_HEADER_BYTES, Payload
from mstore.persistence.files import Files, FileStatus, number_of, wal_dir
from mstore.persistence.replay import LogReader, LogReport, finish_replay
from mstore.persistence.wal import Wal

SECTOR = 64  # smaller than a real one: more ways to tear small blocks
DIRECTORY = Path("/store")
SEGMENT_BYTES = SEGMENT_HEADER_BYTES + 6 * (BLOCK_HEADER_BYTES + 64)
DIR_FD = 3
RING_DURABLE = 4096 + 2 * 128


class PowerCut(BaseException):
    """The machine is off; not an Exception, so that nothing handles it."""


@dataclass
class Inode:
    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)


class Disk(Files):
    """Files in memory, with what a power cut needs to know."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.names: dict[Path, Inode] = {}
        self.durable_names: dict[Path, Inode] = {}
        self.changes: list[tuple[Path, Inode | None, Path | None]] = []  # new name, inode, name that went
        self.fds: dict[int, Inode] = {}
        self.next_fd = 10
        self.operations_left = 1 << 60
        self.failing = 0.0
        self.full = False

    def _operation(self) -> None:
        self.operations_left -= 1
        if self.operations_left <= 0:
            raise PowerCut

    def mkdir(self, path: Path) -> None:
        pass

    def list(self, path: Path) -> list[str]:
        return sorted(name.name for name in self.names if name.parent == path)

    def create(self, path: Path, allocate_bytes: int = 0) -> int:
        self._operation()
        if self.full:
            raise StorageError("no space", errno=errno.ENOSPC)
        assert path not in self.names
        inode = Inode()
        self._resize(inode, allocate_bytes)
        self.names[path] = inode
        self.changes.append((path, inode, None))
        return self._open(inode)

    def _resize(self, inode: Inode, n_bytes: int) -> None:
        for content in (inode.cached, inode.durable):
            content.extend(bytes(n_bytes - len(content)))

    def open(self, path: Path, *, writable: bool = False) -> int:
        return self._open(self.names[path])

    def _open(self, inode: Inode) -> int:
        self.next_fd += 1
        self.fds[self.next_fd] = inode
        return self.next_fd

    def close(self, fd: int) -> None:
        self.fds.pop(fd, None)

    def size(self, fd: int) -> int:
        return len(self.fds[fd].cached)

    def pwritev(self, fd: int, buffers: Sequence[Payload], offset: int) -> None:
        content = b"".join(bytes(buffer) for buffer in buffers)
        inode = self.fds[fd]
        self._resize(inode, max(len(inode.cached), offset + len(content)))
        inode.cached[offset : offset + len(content)] = content
        for start in range(0, len(content), SECTOR):
            inode.unsynced.append((offset + start, content[start : start + SECTOR]))
        self._operation()

    def status(self, path: Path) -> FileStatus | None:
        inode = self.names.get(path)
        return None if inode is None else FileStatus((0, id(inode)), len(inode.cached), 0)

    def status_of(self, fd: int) -> FileStatus:
        return FileStatus((0, id(self.fds[fd])), len(self.fds[fd].cached), 0)

    def read(self, path: Path) -> bytes:
        return bytes(self.names[path].cached)

    def prewrite(self, fd: int, start: int, stop: int) -> None:
        self.pwritev(fd, [bytes(stop - start)], start)

    def fdatasync(self, fd: int) -> None:
        self._operation()
        inode = self.fds[fd]
        if self.rng.random() < self.failing:
            inode.unsynced.clear()
            raise StorageError("injected")
        for offset, content in inode.unsynced:
            inode.durable[offset : offset + len(content)] = content
        inode.unsynced.clear()

    def open_dir(self, path: Path) -> int:
        return DIR_FD

    def fsync(self, fd: int) -> None:
        self._operation()
        if self.rng.random() < self.failing:
            raise StorageError("injected")
        self.durable_names = dict(self.names)
        self.changes.clear()

    def rename(self, source: Path, target: Path) -> None:
        self._operation()
        inode = self.names.pop(source)
        self.names[target] = inode  # whatever had that name before has lost it
        self.changes.append((target, inode, source))

    def unlink(self, path: Path) -> None:
        self._operation()
        if self.names.pop(path, None) is not None:
            self.changes.append((path, None, None))

    def power_cut(self) -> None:
        """Keep what is durable and a random part of what is not."""
        names = dict(self.durable_names)
        keep = self.rng.random()
        for target, inode, source in self.changes:
            if self.rng.random() < keep:
                if source is not None:
                    names.pop(source, None)
                if inode is None:
                    names.pop(target, None)
                else:
                    names[target] = inode
        for found in {id(inode): inode for inode in names.values()}.values():
            for offset, content in found.unsynced:
                if self.rng.random() < keep:
                    found.durable[offset : offset + len(content)] = content
            found.unsynced.clear()
            found.cached = bytearray(found.durable)
        self.names, self.durable_names = names, dict(names)
        self.changes.clear()
        self.fds.clear()


@dataclass
class History:
    """What must hold, kept apart from the store under test."""

    seed: int
    payloads: list[bytes] = field(default_factory=list)  # of sequence 1, 2, ..
    durable: int = 0  # highest sequence ever published as durable
    snapshot: int = 0  # everything up to here is in a durable snapshot
    position: int = 0  # of ring 0


class Life:
    """One run of a store, from recovery to the next power cut."""

    def __init__(self, disk: Disk, history: History, rng: random.Random) -> None:
        self.disk, self.history, self.rng = disk, history, rng
        self.recover()
        self.control, self.ring = bytearray(8192), bytearray(8192)
        first = len(history.payloads) + 1
        self.committer = ReferenceCommitter(
            self.control, [self.ring], [-1], -1, first - 1, DIR_FD, disk.fdatasync, disk.fsync
        )
        self.wal = Wal(
            disk,
            wal_dir(DIRECTORY),
            first,
            self.committer,
            dir_fd=DIR_FD,
            segment_bytes=SEGMENT_BYTES,
            spares=rng.choice([0, 1, 2]),
            background=False,
        )

    def recover(self) -> None:
        history = self.history
        found: list[bytes] = []
        reader = LogReader(self.disk, DIRECTORY, history.snapshot)
        report = reader.replay(lambda payload: found.append(bytes(payload)))
        told = f"seed {history.seed}: {report}"
        last = report.last_seq
        assert report.damage == [], told
        assert history.durable <= last <= len(history.payloads), told
        expected = [payload for payload in history.payloads[history.snapshot : last] if payload]
        assert found == expected, told
        next_seq = finish_replay(self.disk, DIRECTORY, report)
        assert next_seq == last + 1, told
        del history.payloads[last:]
        history.durable = last  # read back and synced: promised from now on

    def step(self) -> None:
        self.look()
        action = self.rng.random()
        if action < 0.55:
            self.append()
        elif action < 0.80:
            self.committer.step()
        elif action < 0.85:
            self.wal.poll()
        elif action < 0.90:
            self.wal._retry_at = 0.0
            self.wal.poll()
        elif action < 0.94:
            self.history.snapshot = max(self.history.snapshot, self.rng.randint(0, self.wal.durable()))
            self.wal.retire(self.history.snapshot)
        elif action < 0.96:
            self.disk.full = not self.disk.full
        elif action < 0.98:
            self.disk.failing = self.rng.choice([0.0, 0.0, 0.3])
        else:
            self.attempt(b"", self.wal.mark)
        self.look()

    def append(self) -> None:
        history = self.history
        payload = self.rng.randbytes(8 * self.rng.randint(0, 12))
        stop = history.position + len(payload)

        def write() -> None:
            seq = self.wal.write(0, history.position, stop, payload)
            if self.rng.random() < 0.9:
                self.wal.note(seq, 0, stop)
            history.position = stop

        self.attempt(payload, write)

    def attempt(self, payload: bytes, write: Callable[[], object]) -> None:
        """A block may be found from the moment its write begins, so it is in the history before."""
        before = self.wal.written
        self.history.payloads.append(payload)
        try:
            write()
        finally:
            if self.wal.written == before and self.disk.operations_left > 0:
                self.history.payloads.pop()

    def look(self) -> None:
        durable = self.wal.durable()
        assert durable <= self.wal.written, f"seed {self.history.seed}"
        self.history.durable = max(self.history.durable, durable)


def run(seed: int, n_lives: int = 5) -> tuple[int, int]:
    """Returns (power cuts, blocks) of one history."""
    rng = random.Random(seed)
    disk, history = Disk(rng), History(seed)
    n_blocks = 0
    for _ in range(n_lives):
        disk.operations_left = rng.choice([rng.randint(1, 40), rng.randint(1, 200)])
        try:
            life = Life(disk, history, rng)
            while True:
                with contextlib.suppress(StorageError, Degraded):
                    life.step()
        except StorageError:
            pass  # no first segment on a full disk: the start is refused
        except PowerCut:
            pass
        n_blocks += len(history.payloads)
        if rng.random() < 0.7:
            disk.power_cut()
        else:
            disk.fds.clear()  # only the process was killed: the page cache lives
        disk.failing, disk.full = 0.0, False
    disk.operations_left = 1 << 60
    Life(disk, history, rng)
    return n_lives, n_blocks


def test_whatever_was_published_as_durable_survives_every_power_cut() -> None:
    one = os.environ.get("MSTORE_SEED")
    seeds = [int(one)] if one else range(400)
    n_cuts = n_blocks = 0
    for seed in seeds:
        cuts, blocks = run(seed)
        n_cuts, n_blocks = n_cuts + cuts, n_blocks + blocks
    print(f"{n_cuts} power cuts, {n_blocks} blocks")
    assert n_blocks > 0


def remove_behind(files: Files, seq: int) -> None:
    for name in files.list(wal_dir(DIRECTORY)):
        if (number_of(name, ".wal") or 0) > seq:
            files.unlink(wal_dir(DIRECTORY) / name)


def find_loss(seeds: range) -> bool:
    for seed in seeds:
        try:
            run(seed)
        except (AssertionError, KeyError):  # KeyError: a descriptor was used after it was closed
            return True
    return False


def test_the_search_finds_a_log_that_forgets_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    note = ReferenceCommitter.note_written

    def forgetful(self: ReferenceCommitter, fd: int, seq: int, ring: int, stop: int, new_name: bool) -> bool:
        return note(self, fd, seq, ring, stop, False)

    monkeypatch.setattr(ReferenceCommitter, "note_written", forgetful)
    assert find_loss(range(200))


def test_the_search_finds_a_commit_thread_that_skips_the_older_file(monkeypatch: pytest.MonkeyPatch) -> None:
    step = ReferenceCommitter.step

    def hasty(self: ReferenceCommitter) -> bool:
        del self._groups[:-1]
        return step(self)

    monkeypatch.setattr(ReferenceCommitter, "step", hasty)
    assert find_loss(range(200))


def test_the_search_finds_a_log_that_syncs_a_failed_file_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Wal) -> None:
        self._committer.restart(DIR_FD)
        for block in self._pending:
            self._committer.note_written(self._segments[-1].fd, block.seq, -1, 0, True)

    monkeypatch.setattr(Wal, "_move_pending", careless)
    assert find_loss(range(200))


def test_the_search_finds_recovery_that_does_not_sync_what_it_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(files: Files, directory: Path, report: LogReport) -> int:
        remove_behind(files, report.last_seq)
        return report.last_seq + 1

    monkeypatch.setitem(globals(), "finish_replay", trusting)
    assert find_loss(range(200))


def test_the_search_finds_recovery_that_syncs_the_old_file_instead_of_writing_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def syncing(files: Files, directory: Path, report: LogReport) -> int:
        remove_behind(files, report.last_seq)
        for name in files.list(wal_dir(DIRECTORY)):
            fd = files.open(wal_dir(DIRECTORY) / name)
            files.fdatasync(fd)
            files.close(fd)
        files.fsync(DIR_FD)
        return report.last_seq + 1

    monkeypatch.setitem(globals(), "finish_replay", syncing)
    assert find_loss(range(1000))


def test_the_search_finds_a_cut_that_leaves_later_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = finish_replay

    def keeping(files: Files, directory: Path, report: LogReport) -> int:
        unlink, files.unlink = files.unlink, lambda path: None  # type: ignore[method-assign]  # broken on purpose
        try:
            return finish(files, directory, report)
        finally:
            files.unlink = unlink  # type: ignore[method-assign]  # whole again

    monkeypatch.setitem(globals(), "finish_replay", keeping)
    assert find_loss(range(200))


def test_the_search_finds_a_recovery_that_unlinks_before_the_new_name_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Disk, "sync_path", lambda self, path: None)
    assert find_loss(range(1000))
