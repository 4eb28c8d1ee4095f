"""`mstore check`: verify every checksum of a store's files, and what a running store's memory must fulfil."""

from __future__ import annotations

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
    try:
        lock_fd = files.lock(store_dir)
    except StoreLocked:
        return _report(_check_memory(store_dir))
    try:
        return _report(_check_files(store_dir))
    finally:
        os.close(lock_fd)


def _report(found: tuple[list[str], list[str]]) -> int:
    sound, wrong = found
    for line in sound:
        print(line)
    for line in wrong:
        print(f"WRONG: {line}")
    print("check: everything is sound" if not wrong else f"check: {len(wrong)} faults")
    return 1 if wrong else 0


def _check_files(store_dir: Path) -> tuple[list[str], list[str]]:
    disk = Files()
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
            f"snapshot of block {log_seq}: {info.n_series} series, {info.n_chunks} chunks, {info.n_bytes} bytes"
        )
    try:
        report = LogReader(disk, store_dir, newest, durable_floor=newest).replay(lambda _payload: None)
    except MstoreError as error:
        return sound, [*wrong, str(error)]
    sound.append(f"log behind block {newest}: {report.n_blocks} blocks, {report.n_bytes} bytes")
    if report.torn:
        sound.append(
            f"a torn end, which the next start cuts (it was never acknowledged as durable): {report.torn}"
        )
    wrong += [f"log: {damage}" for damage in report.damage]
    left = stale(name_prefix(store_dir))
    if left:
        sound.append(f"{len(left)} segments of a killed run in /dev/shm, which the next start removes")
    return sound, wrong


def _check_memory(store_dir: Path) -> tuple[list[str], list[str]]:
    """Validate the shared memory of a running store; a change under way can look like a fault, so it is looked at again."""
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
            f"running at {paths.run_dir(store_dir)}: {counts['n_series']} series, {counts['n_levels']} levels: every rule holds"
        ], []
    return [], faults
