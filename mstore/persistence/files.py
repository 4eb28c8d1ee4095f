"""Every name below DIR, and every file operation whose order matters.

    DIR/lock                              held (flock) by every process of a run
    DIR/run/                              sockets, instance.json
    DIR/run/recovery.json                 what the last start found, for `info`
    DIR/run/archive.json                  where the store's archive is, for whoever reads it
    DIR/run/export.json                   what the last export of [export] wrote
    DIR/run/stop.json                     why the last stop wrote no snapshot; the next start tells and removes it
    DIR/wal/0000000000000001.wal          log segment; the name is the sequence of its first block, in hex
    DIR/wal/9f3c6a0e51d2b748.spare        a segment made ahead, not in use; never read by recovery
    DIR/snapshots/00000000000003e8.snapshot   a generation's manifest; the name is the log sequence it holds
    DIR/snapshots/00000000000003e8.ID.definitions        ... its definitions; ID is the generation's, in hex
    DIR/snapshots/00000000000003e8.ID.00000001.chunks    ... the chunks of the cluster whose level id is 1
    DIR/snapshots/*.tmp                   being written; removed at the next start
    DIR/archives.json                     where archives were begun (archive/begun.py)
    DIR/leaving/9f3c6a0e51d2b748.leavers  chunks that left memory before they were archived (archive/leavers.py)
    DIR/quarantine/                       copies of damaged bytes, for people

All reads, writes, syncs, renames and removals of the log, the snapshots and small state files go through one
`Files` object, so that tests can fail the n-th of them or build the disk image that a power cut would leave.

A name becomes durable by fsync of its directory, contents by fdatasync of the file; none implies the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from mstore import faults
from mstore.errors import StorageError
from mstore.kernels import _wal
from mstore.kernels._segment import Segment

TMP_SUFFIX = ".tmp"
WAL_SUFFIX = ".wal"
SPARE_SUFFIX = ".spare"
SNAPSHOT_SUFFIX = ".snapshot"
LEAVERS_SUFFIX = ".leavers"

_PART_NAME = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{16})\.(?:definitions|[0-9a-f]{8}\.chunks)")

NUMBER_MAX = (1 << 63) - 1
"""Of sequences and ids: a name beyond is nobody's, and a store that believed it could write no next block."""

DIRECTORY_MODE = 0o750
FILE_MODE = 0o640


def lock_path(directory: Path) -> Path:
    return directory / "lock"


def run_dir(directory: Path) -> Path:
    return directory / "run"


def recovery_note_path(directory: Path) -> Path:
    return run_dir(directory) / "recovery.json"


def archive_note_path(directory: Path) -> Path:
    return run_dir(directory) / "archive.json"


def archives_begun_path(directory: Path) -> Path:
    return directory / "archives.json"


def stop_note_path(directory: Path) -> Path:
    return run_dir(directory) / "stop.json"


def refused_memory_path(directory: Path) -> Path:
    return run_dir(directory) / "refused.json"


def export_note_path(directory: Path) -> Path:
    return run_dir(directory) / "export.json"


def wal_dir(directory: Path) -> Path:
    return directory / "wal"


def snapshot_dir(directory: Path) -> Path:
    return directory / "snapshots"


def leaving_dir(directory: Path) -> Path:
    return directory / "leaving"


def leaving_name(file_id: int) -> str:
    return f"{file_id:016x}{LEAVERS_SUFFIX}"


def quarantine_dir(directory: Path) -> Path:
    return directory / "quarantine"


def wal_name(first_seq: int) -> str:
    return f"{first_seq:016x}{WAL_SUFFIX}"


def spare_name(segment_id: int) -> str:
    return f"{segment_id:016x}{SPARE_SUFFIX}"


def snapshot_name(log_seq: int) -> str:
    return f"{log_seq:016x}{SNAPSHOT_SUFFIX}"


def definitions_name(log_seq: int, generation_id: int) -> str:
    return f"{log_seq:016x}.{generation_id:016x}.definitions"


def chunks_name(log_seq: int, generation_id: int, cluster: int) -> str:
    """Of the chunks of a cluster, by its level id: never by its name, which comes from outside."""
    return f"{log_seq:016x}.{generation_id:016x}.{cluster:08x}.chunks"


def generation_of(name: str) -> tuple[int, int] | None:
    """(log sequence, generation id) of a part of a snapshot by its file name; None for any other name."""
    found = _PART_NAME.fullmatch(name)
    if not found or int(found[1], 16) > NUMBER_MAX:
        return None
    return int(found[1], 16), int(found[2], 16)


def number_of(name: str, suffix: str) -> int | None:
    """The number in a file name with this suffix; None for any other name (such files are left alone)."""
    stem = name.removesuffix(suffix)
    if stem == name or len(stem) != 16 or any(mark not in "0123456789abcdef" for mark in stem):
        return None
    number = int(stem, 16)
    return number if number <= NUMBER_MAX else None


class FileStatus(NamedTuple):
    """What one stat tells: two that are equal are the same file, unchanged."""

    inode: tuple[int, int]
    """(st_dev, st_ino)"""
    n_bytes: int
    changed_ns: int
    """When its contents changed last."""


class CommitterLike(Protocol):
    """What the log needs of a commit thread; kernels/_wal.Committer is the real one."""

    def run(self) -> None: ...
    def wrote(self, seq: int) -> None: ...
    def note_written(self, fd: int, seq: int, ring: int, stop: int, new_name: bool) -> bool: ...
    def wait(self, seq: int, timeout_s: float) -> bool: ...
    def durable(self) -> int: ...
    def failed(self) -> int: ...
    def abandon(self, error: int) -> None: ...
    def restart(self, dir_fd: int) -> None: ...
    def stop(self) -> None: ...
    def status(self) -> tuple[int, int, int, int]: ...


class Files:
    """The operating system's files; every failure is a StorageError that names path and operation."""

    def mkdir(self, path: Path) -> None:
        """Make a directory and those above it; the new names are durable when this returns."""
        if path.is_dir():
            return
        self.mkdir(path.parent)
        with storage_errors("make directory", path):
            path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        self.sync_path(path.parent)

    def list(self, path: Path) -> list[str]:
        """Names in a directory, sorted; empty when there is no such directory."""
        with storage_errors("list", path):
            try:
                return sorted(os.listdir(path))
            except FileNotFoundError:
                return []

    def create(self, path: Path, allocate_bytes: int = 0) -> int:
        """A new file, open for reading and writing; its space is allocated now: a full disk shows here."""
        faults.hit("files.create")
        with storage_errors("create", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            if allocate_bytes:
                with storage_errors(f"allocate {allocate_bytes} bytes for", path):
                    os.posix_fallocate(fd, 0, allocate_bytes)
        except StorageError:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        return fd

    def open(self, path: Path, *, writable: bool = False) -> int:
        with storage_errors("open", path):
            return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            os.close(fd)

    def size(self, fd: int) -> int:
        with storage_errors("stat", f"file {fd}"):
            return os.fstat(fd).st_size

    def status(self, path: Path) -> FileStatus | None:
        """Of what a path names now; None when there is nothing."""
        with storage_errors("look at", path):
            try:
                return _status(os.stat(path))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def status_of(self, fd: int) -> FileStatus:
        """Of an open file."""
        with storage_errors("look at", f"file {fd}"):
            return _status(os.fstat(fd))

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        """Write all of `buffers` at `offset`, or raise; bytes written before an error are not taken back."""
        with storage_errors("write", f"file {fd}"):
            wanted = sum(map(len, buffers))
            done = os.pwritev(fd, buffers, offset)
            if done == wanted:
                return
            rest = b"".join(buffers)[done:]
            while rest:
                step = os.pwrite(fd, rest, offset + done)
                if step == 0:
                    raise OSError(errno.EIO, "wrote nothing")
                done += step
                rest = rest[step:]

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        """Up to n_bytes from offset; shorter only at the end of the file."""
        with storage_errors("read", f"file {fd}"):
            parts = []
            while n_bytes:
                part = os.pread(fd, n_bytes, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                n_bytes -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def read(self, path: Path) -> bytes:
        """A whole file; the kernel is told to read ahead."""
        fd = self.open(path)
        try:
            with contextlib.suppress(OSError):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL | os.POSIX_FADV_WILLNEED)
            return self.pread(fd, self.size(fd), 0)
        finally:
            self.close(fd)

    def prewrite(self, fd: int, start: int, stop: int) -> None:
        """Write real zeros to [start, stop) and fdatasync, in small paced steps and without the GIL."""
        error = _wal.prewrite(fd, start, stop)
        if error:
            raise StorageError(f"cannot pre-write file {fd}: {os.strerror(error)}", errno=error)

    def fdatasync(self, fd: int) -> None:
        faults.hit("files.fdatasync")
        with storage_errors("fdatasync", f"file {fd}"):
            os.fdatasync(fd)

    def open_dir(self, path: Path) -> int:
        with storage_errors("open directory", path):
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def fsync(self, fd: int) -> None:
        """fsync of a directory opened by open_dir: its names are durable."""
        faults.hit("files.fsync")
        with storage_errors("fsync", f"file {fd}"):
            os.fsync(fd)

    def sync_path(self, path: Path) -> None:
        fd = self.open_dir(path)
        try:
            self.fsync(fd)
        finally:
            self.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        faults.hit("files.rename")
        with storage_errors("rename", source):
            os.rename(source, target)
        faults.hit("files.renamed")

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file; nothing happens when `target` exists."""
        with storage_errors("link", source), contextlib.suppress(FileExistsError):
            os.link(source, target)

    def truncate(self, path: Path, n_bytes: int) -> None:
        """Cut a file to its first n_bytes."""
        with storage_errors("truncate", path):
            os.truncate(path, n_bytes)

    def unlink(self, path: Path) -> None:
        """Remove a name; a name that is gone already is no error."""
        faults.hit("files.unlink")
        with storage_errors("remove", path), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def replace(self, path: Path, content: bytes) -> None:
        """`path` holds either what it held or all of `content`, durably, whatever happens in between."""
        tmp = path.with_name(path.name + TMP_SUFFIX)
        self.unlink(tmp)
        fd = self.create(tmp)
        try:
            self.pwritev(fd, [content], 0)
            self.fdatasync(fd)
        except StorageError:
            with contextlib.suppress(StorageError):
                self.unlink(tmp)  # what a full disk has left belongs to others
            raise
        finally:
            self.close(fd)
        self.rename(tmp, path)
        self.sync_path(path.parent)

    def committer(
        self,
        control: Segment,
        rings: Sequence[Segment],
        eventfds: Sequence[int],
        notify_fd: int,
        durable: int,
        dir_fd: int,
    ) -> CommitterLike:
        """The commit thread's object; simulated disks give one whose syncs are theirs."""
        return _wal.Committer(control, list(rings), list(eventfds), notify_fd, durable, dir_fd)


class ReadOnly(Files):
    """Files that are only looked at: what reading damaged ones would write, copy or remove stays as it is."""

    def mkdir(self, path: Path) -> None:
        pass

    def create(self, path: Path, allocate_bytes: int = 0) -> int:
        raise StorageError(f"{path} is not made: these files are only looked at", path=str(path))

    def link(self, source: Path, target: Path) -> None:
        pass

    def replace(self, path: Path, content: bytes) -> None:
        pass

    def rename(self, source: Path, target: Path) -> None:
        pass

    def truncate(self, path: Path, n_bytes: int) -> None:
        pass

    def unlink(self, path: Path) -> None:
        pass

    def sync_path(self, path: Path) -> None:
        pass


def _status(found: os.stat_result) -> FileStatus:
    return FileStatus((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)


def remove_leftovers(files: Files, directory: Path) -> list[str]:
    """Remove half-written files of an earlier run (*.tmp); returns their names.

    Only called with DIR/lock held. Spare segments are not leftovers: the log takes them over.
    """
    removed = []
    for folder in (directory, wal_dir(directory), snapshot_dir(directory)):
        for name in files.list(folder):
            if name.endswith(TMP_SUFFIX):
                files.unlink(folder / name)
                removed.append(name)
    return removed


def is_no_space(failure: StorageError) -> bool:
    """Whether a StorageError means that the disk, or a quota, is full: waiting for space may help."""
    return failure.details.get("errno") in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def storage_errors(verb: str, subject: object) -> Iterator[None]:
    """An OSError inside becomes a StorageError that says what could not be done to what."""
    try:
        yield
    except StorageError:
        raise
    except OSError as failure:
        reason = failure.strerror or str(failure)
        code = failure.errno or 0
        raise StorageError(f"cannot {verb} {subject}: {reason}", path=str(subject), errno=code) from failure
