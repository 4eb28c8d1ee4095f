"""`mstore check`: verify every checksum of a store's files, and what a running store's memory must fulfil."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np

from mstore import paths
from mstore.attach import attach
from mstore.errors import CorruptRecord, InvariantBroken, MstoreError, StorageError, StoreLocked, Unavailable
from mstore.persistence import files
from mstore.persistence.files import Files
from mstore.persistence.replay import LogReader
from mstore.persistence.snapshot import check_snapshot, list_snapshots
from mstore.shm import chunks
from mstore.shm.segment import name_prefix, stale


def check(store_dir: Path) -> int:
    """Print what was verified and what is wrong; 0 = all is well, 1 = something is not. Changes nothing.

    A stopped store: every block of snapshots and log. A running one: the rules of directory and samples as they
    are now (its files are being written; stop it, or check a copy, to verify those).
    """
    if not store_dir.is_dir():
        raise StorageError(f"{store_dir} is no directory: nothing to check", path=str(store_dir))
    if not any(path.exists() for path in (files.wal_dir(store_dir), files.snapshot_dir(store_dir))):
        raise StorageError(
            f"{store_dir} holds neither a log nor snapshots: there is no store in it", path=str(store_dir)
        )
    try:
        lock_fd = _lock(store_dir)
    except StoreLocked:
        return _report(_check_memory(store_dir))
    try:
        return _report(_check_files(store_dir))
    finally:
        if lock_fd >= 0:
            os.close(lock_fd)


def _lock(store_dir: Path) -> int:
    """Keep a store from starting here meanwhile; -1 for a copy without a lock file. raises StoreLocked

    A reader may not be allowed to write: then a shared lock on the file as it is does.
    """
    path = files.lock_path(store_dir)
    if not path.exists():
        return -1
    if os.access(path, os.W_OK):
        return files.lock(store_dir)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}", path=str(path)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StoreLocked(f"a store runs in {store_dir}") from None
    return fd


def _report(found: tuple[list[str], list[str]]) -> int:
    sound, wrong = found
    for line in sound:
        print(line)
    for line in wrong:
        print(f"WRONG: {line}")
    print(
        "check: everything is sound"
        if not wrong
        else f"check: {len(wrong)} {'fault' if len(wrong) == 1 else 'faults'}"
    )
    return 1 if wrong else 0


class _LookOnly(Files):
    """Reads; the copies that reading a damaged log would put aside for people are not made."""

    def mkdir(self, path: Path) -> None:
        pass

    def replace(self, path: Path, content: bytes) -> None:
        pass


def _check_files(store_dir: Path) -> tuple[list[str], list[str]]:
    disk = _LookOnly()
    sound: list[str] = []
    wrong: list[str] = []
    newest = 0
    for log_seq, path in list_snapshots(disk, files.snapshot_dir(store_dir)):
        try:
            info = check_snapshot(disk, path, log_seq)
        except CorruptRecord as error:
            wrong.append(str(error))
            continue
        newest = max(newest, log_seq)
        sound.append(
            f"snapshot of block {log_seq:,}: {info.n_series:,} series, {info.n_chunks:,} chunks, {info.n_bytes:,} bytes"
        )
    try:
        report = LogReader(disk, store_dir, newest, durable_floor=newest).replay(lambda _payload: None)
    except MstoreError as error:
        return sound, [*wrong, str(error)]
    sound.append(f"log after block {newest:,}: {report.n_blocks:,} blocks, {report.n_bytes:,} bytes")
    if report.torn and report.torn.n_bytes:
        sound.append(
            f"a torn end, which the next start cuts (it was never acknowledged as durable): {report.torn}"
        )
    wrong += [f"log: {damage}" for damage in (*report.hurt, *report.damage)]
    left = stale(name_prefix(store_dir))
    if left:
        sound.append(f"{len(left)} segments of a killed run in /dev/shm, which the next start removes")
    return sound, wrong


def _check_memory(store_dir: Path) -> tuple[list[str], list[str]]:
    """Validate a running store's shared memory; a change under way can look like a fault, so look again then."""
    faults: list[str] = []
    for _ in range(5):
        faults = []
        try:
            with attach(store_dir) as reader:
                counts = reader.directory.counts()
                reader.directory.validate()
                samples = reader.samples_mapping
                seen = np.frombuffer(samples.buffer, np.uint8)
                chunks.validate(reader.directory.series_table(), seen, samples.committed_bytes)
                del seen
        except InvariantBroken as error:
            faults = [str(error)]
            continue
        except Unavailable:
            return [], [
                f"{store_dir} is locked, but no store answers there: it is starting or stopping, or hangs"
            ]
        return [
            f"running at {paths.run_dir(store_dir)}",
            f"memory: {counts['live_series']:,} series, {counts['n_levels']:,} levels, every rule holds",
            "files: checked when the store is stopped",
        ], []
    return [], faults
