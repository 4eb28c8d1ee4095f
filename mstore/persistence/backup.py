"""A copy of a store's files that a store can serve: one snapshot, and the log behind it up to one sequence.

    source                                        TARGET.tmp                        TARGET
    snapshots/SEQ.*      -- bytes, then checked --> snapshots/SEQ.*        rename
    wal/*.wal            -- valid blocks -------->  wal/*.wal          ------------->  ...
       [..SEQ][SEQ+1 .. S][..]                      [SEQ+1 .. S][marker]

The log is copied block by block: only what is live, has a right checksum and comes behind the snapshot. A
recycled file's old blocks stay behind, and a block that is missing or damaged ends the backup: it is complete
up to S or it does not exist. The marker says that everything up to S was durable, so that damage to the copy's
last blocks is told from a torn end.

A running store writes on beside it. It must not give up segments meanwhile (Wal.hold); if it did all the same,
a block would be missed here, never a wrong one copied.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from mstore.clock import now_ns
from mstore.errors import CorruptRecord, StorageError
from mstore.limits import KIB, WAL_SEGMENT_BYTES
from mstore.persistence.blocks import (
    BLOCK_HEADER_BYTES,
    CATALOG,
    SEGMENT_HEADER_BYTES,
    encode_header,
    encode_segment_header,
)
from mstore.persistence.files import TMP_SUFFIX, Files, ReadOnly, snapshot_dir, wal_dir, wal_name
from mstore.persistence.replay import LogReader
from mstore.persistence.snapshot import check_snapshot, list_snapshots
from mstore.persistence.tally import Tally

SLICE_BYTES = 256 * KIB
PAUSE_S = 0.0005
MARK_NAME = "unfinished-backup"
"""In TARGET.tmp: whoever finds it with nobody at work knows what it is and may remove it."""
_LISTINGS_MAX = 4


@dataclass(slots=True)
class Copied:
    """What a backup holds."""

    seq: int = 0
    """Everything up to this sequence of the log is in it."""
    snapshot_seq: int = 0
    """Of the snapshot that was copied; 0 = none."""
    n_bytes: int = 0
    n_series: int = 0
    n_chunks: int = 0
    """Of the snapshot, as its `n_series`."""
    n_slots: int = 0
    """Of the snapshot's chunks, up to the last sample of each; some may have none."""
    log: Tally = field(default_factory=Tally)
    n_blocks: int = 0
    skipped: list[str] = field(default_factory=list)
    """Damaged snapshots; the one before was taken, with more of the log."""


def copy_store(
    files: Files, source: Path, target: Path, upto_seq: int | None, *, pause_s: float = PAUSE_S
) -> Copied:
    """Copy a store's files to `target`, which appears whole or not at all.

    source    a running store's DIR whose log is held, or a stopped one's with DIR/lock held
    target    must not exist, or be an empty directory
    upto_seq  a sequence that is durable: the copy ends there; None = all that a start would find
    pause_s   after each slice of 256 KiB, which is fdatasynced: keeps a running store's commits quick
    raises    StorageError, CorruptRecord when the source is damaged; nothing is left then
    """
    refuse_used(target)
    unfinished = target.with_name(target.name + TMP_SUFFIX)
    _remove_unfinished(unfinished)
    files.mkdir(unfinished)
    try:
        files.close(files.create(unfinished / MARK_NAME))
        copy = _Copy(files, source, unfinished, pause_s)
        copy.snapshot(upto_seq)
        copy.log(upto_seq)
        files.unlink(unfinished / MARK_NAME)
        files.sync_path(unfinished)
        files.rename(unfinished, target)
        files.sync_path(target.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return copy.done


def refuse_used(target: Path) -> None:
    """raises StorageError unless a backup may be made at `target`"""
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(
            f"{target} exists and is not empty: name a directory that does not exist yet",
            path=str(target),
        )
    if not target.parent.is_dir():
        raise StorageError(f"{target.parent} is no directory: make it first", path=str(target.parent))


def _remove_unfinished(path: Path) -> None:
    """What a backup that was killed has left; anything else of that name is not ours."""
    if not path.exists():
        return
    if not (path / MARK_NAME).exists():
        raise StorageError(f"{path} is in the way, and no backup made it: remove it", path=str(path))
    shutil.rmtree(path)


class _Copy:
    """One backup under way."""

    def __init__(self, files: Files, source: Path, target: Path, pause_s: float) -> None:
        self._files = files
        self._source = source
        self._target = target
        self._pause_s = pause_s
        self.done = Copied()

    # --- snapshot

    def snapshot(self, upto_seq: int | None) -> None:
        """The newest snapshot whose copy checks; the store may retire others meanwhile."""
        folder = snapshot_dir(self._target)
        self._files.mkdir(folder)
        tried: set[int] = set()
        for _ in range(_LISTINGS_MAX):
            found = [
                (seq, path)
                for seq, path in list_snapshots(self._files, snapshot_dir(self._source))
                if seq not in tried and (upto_seq is None or seq <= upto_seq)
            ]
            if not found:
                break
            seq, path = found[0]
            try:
                taken = self._open_all(seq)
            except StorageError:
                continue  # retired between the listing and here: a newer one is there
            tried.add(seq)
            try:
                n_bytes = sum(self._copy_file(fd, folder / name) for name, fd in taken.items())
            finally:
                for fd in taken.values():
                    self._files.close(fd)
            try:
                info = check_snapshot(self._files, folder / path.name, seq)
            except CorruptRecord as failure:
                self.done.skipped.append(failure.message)
                for name in taken:
                    self._files.unlink(folder / name)
                continue
            self.done.snapshot_seq = self.done.seq = seq
            self.done.n_series, self.done.n_chunks, self.done.n_slots = (
                info.n_series,
                info.n_chunks,
                info.n_slots,
            )
            self.done.n_bytes += n_bytes
            break
        self._files.sync_path(folder)

    def _open_all(self, seq: int) -> dict[str, int]:
        """Descriptors of all files of one snapshot: from here on nobody can take them away."""
        folder = snapshot_dir(self._source)
        opened: dict[str, int] = {}
        try:
            for name in self._files.list(folder):
                if name.startswith(f"{seq:016x}.") and not name.endswith(TMP_SUFFIX):
                    opened[name] = self._files.open(folder / name)
        except StorageError:
            for fd in opened.values():
                self._files.close(fd)
            raise
        return opened

    def _copy_file(self, source_fd: int, path: Path) -> int:
        """All bytes of an open file; how many."""
        fd = self._files.create(path)
        try:
            offset = 0
            while piece := self._files.pread(source_fd, SLICE_BYTES, offset):
                self._files.pwritev(fd, [piece], offset)
                offset += len(piece)
                self._files.fdatasync(fd)
                self._pause()
        finally:
            self._files.close(fd)
        # It is not read again soon: the page cache belongs to the store.
        with contextlib.suppress(OSError):
            os.posix_fadvise(source_fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return offset

    def _pause(self) -> None:
        if self._pause_s:
            time.sleep(self._pause_s)

    # --- log

    def log(self, upto_seq: int | None) -> None:
        """Every live block behind the snapshot, in segments of the copy's own."""
        folder = wal_dir(self._target)
        self._files.mkdir(folder)
        after = self.done.snapshot_seq
        reader = LogReader(ReadOnly(), self._source, after, durable_floor=max(after, upto_seq or 0))
        writer = _Segments(self._files, folder, self._pause_s)
        try:
            if upto_seq is None or upto_seq > after:
                for block in reader.blocks():
                    if reader.report.damage:
                        break
                    writer.put(block.seq, block.ring, block.start, block.stop, block.payload)
                    self.done.log.add(block.payload)
                    self.done.n_blocks += 1
                    self.done.seq = block.seq
                    if block.seq == upto_seq:
                        break
            self._refuse_damage(reader, upto_seq)
            if self.done.seq:
                writer.put(self.done.seq + 1, CATALOG, 0, 0, memoryview(b""))
        finally:
            writer.close()
        self.done.n_bytes += writer.n_bytes
        self._files.sync_path(folder)

    def _refuse_damage(self, reader: LogReader, upto_seq: int | None) -> None:
        heal = (
            "a snapshot of the running store holds everything: take one and try again, or see `mstore check`"
        )
        if reader.report.damage:
            raise CorruptRecord(
                f"no backup: the log of {self._source} is damaged: {reader.report.damage[0]}; {heal}"
            )
        if upto_seq is not None and self.done.seq < upto_seq:
            raise CorruptRecord(
                f"no backup: the log of {self._source} ends at block {self.done.seq} instead of {upto_seq}; {heal}"
            )


class _Segments:
    """Log segments of a copy: each has exactly the length of its blocks, as a start's own rewritten tail has."""

    def __init__(self, files: Files, folder: Path, pause_s: float) -> None:
        self._files = files
        self._folder = folder
        self._pause_s = pause_s
        self._fd = -1
        self._id = 0
        self._offset = 0
        self._unsynced = 0
        self.n_bytes = 0

    def put(self, seq: int, ring: int, start: int, stop: int, payload: memoryview) -> None:
        n_bytes = BLOCK_HEADER_BYTES + len(payload)
        if self._fd >= 0 and self._offset + n_bytes > WAL_SEGMENT_BYTES:
            self.close()
        if self._fd < 0:
            self._fd = self._files.create(self._folder / wal_name(seq))
            self._id, self._offset = secrets.randbits(63) | 1, SEGMENT_HEADER_BYTES
        header = encode_header(self._id, seq, ring, start, stop, seq - 1, payload)
        self._files.pwritev(self._fd, (header, payload), self._offset)
        self._offset += n_bytes
        self._unsynced += n_bytes
        if self._unsynced >= SLICE_BYTES:
            self._files.fdatasync(self._fd)
            self._unsynced = 0
            if self._pause_s:
                time.sleep(self._pause_s)

    def close(self) -> None:
        """End the segment: its header page tells its length."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            self._files.pwritev(fd, [encode_segment_header(self._id, self._offset, now_ns())], 0)
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)
        self.n_bytes += self._offset
