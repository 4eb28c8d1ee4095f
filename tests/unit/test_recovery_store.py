"""The whole way with the real store: through the log, snapshots while it is written, and back again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mstore.apply.refill import Refill
from mstore.apply.store import Store
from mstore.kernels import reference_snapshot
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.persistence.blocks import CATALOG
from mstore.persistence.files import Files, snapshot_dir, wal_dir
from mstore.persistence.recovery import Report, recover
from mstore.persistence.snapshot import Progress, SnapshotInfo, list_snapshots, write_snapshot
from mstore.persistence.wal import Wal
from mstore.shm import layout
from mstore.shm.directory import (
    DUMP_BYTES,
    DirectoryReader,
    DirectoryWriter,
    create_directory,
    directory_bytes,
)

MAX_SERIES = 512
SAMPLES_BYTES = layout.SAMPLES_DATA + 48 * layout.EXTENT_BYTES
STEP_S = 10
START_S = 1_700_000_000


@dataclass
class Memory:
    """A segment in private memory, all of it committed."""

    segment: Segment
    fd: int = -1


class Machine:
    """Directory and samples in memory, and their log in DIR."""

    def __init__(self, directory: Path, retention_s: int = 0, segment_bytes: int = 1 << 20) -> None:
        self.dir = directory
        self.retention_s = retention_s
        self.files = Files()
        self.directory_words = bytearray(directory_bytes(MAX_SERIES))
        self.samples_words = bytearray(SAMPLES_BYTES)
        np.frombuffer(self.samples_words, layout.SEGMENT_HEADER, count=1)["committed_bytes"] = SAMPLES_BYTES
        memory = Memory(Segment(self.directory_words, True))
        create_directory(memory, MAX_SERIES, 12345)
        samples = Segment(self.samples_words, True)
        self.store = Store(DirectoryWriter(memory.segment), Samples(memory.segment, samples, -1, 0, True))
        self.store.directory.set_policy(True, STEP_S, 1, MAX_SERIES, 4 * MAX_SERIES)
        self.report = self.recover()
        dir_fd = self.files.open_dir(wal_dir(directory))
        committer = self.files.committer(
            Segment(bytearray(8192), True), [], [], -1, self.report.next_seq - 1, dir_fd
        )
        self.wal = Wal(
            self.files,
            wal_dir(directory),
            self.report.next_seq,
            committer,
            dir_fd=dir_fd,
            segment_bytes=segment_bytes,
            spares=1,
        )

    def recover(self) -> Report:
        report = recover(self.files, self.dir, Refill(self.store), retention_s=self.retention_s)
        self.store.directory.publish()
        return report

    def log(self, records: bytes) -> None:
        if records:
            seq = self.wal.write(CATALOG, 0, 0, records)
            self.store.apply_block(records)
            self.wal.note(seq, CATALOG, 0)

    def intern(self, names: list[str], t_s: int, cluster: str = "c") -> list[int]:
        keys = [f"{name},cluster={cluster},hostname=h".encode() for name in names]
        offsets = np.cumsum([0] + [len(key) for key in keys]).astype(np.int64).tobytes()
        times = np.full(len(keys), t_s, np.int64).tobytes()
        refs, _, _, log = self.store.directory.intern(b"".join(keys), offsets, times, b"")
        if log:
            self.wal.append(CATALOG, 0, 0, log)
        self.store.directory.publish()
        return [int(ref) for ref in np.frombuffer(refs, np.uint64)]

    def remove(self, slot: int) -> None:
        """Take a series out, as the persister does when nobody uses it any more."""
        self.store.directory.remove_begin(slot)
        records = self.store.remove_finish(slot)
        self.wal.append(CATALOG, 0, 0, records)
        self.store.directory.publish()

    def entries(self) -> dict[tuple[int, int, int], bytes]:
        """What a snapshot of the memory at rest would hold, by (slot, generation, n)."""
        text = reference_snapshot.copy_chunks(self.directory_words, self.samples_words)
        found, offset = {}, 0
        while offset < len(text):
            header = np.frombuffer(text, layout.CHUNK, count=1, offset=offset)[0]
            size = 64 + (int(header["reserved"]) + 7) // 8 * 8
            key = int(header["series"]), int(header["generation"]), int(header["n"])
            found[key] = text[offset : offset + size]
            offset += size
        return found

    def snapshot(
        self,
        log_seq: int,
        unsound: Collection[int] = (),
        progress: Progress | None = None,
        block_bytes: int = DUMP_BYTES,
    ) -> SnapshotInfo:
        reader = DirectoryReader(Segment(self.directory_words))
        return write_snapshot(
            self.files,
            self.dir,
            log_seq,
            reader.dump_definitions(block_bytes),
            Segment(self.directory_words),
            Segment(self.samples_words),
            written=lambda: self.wal.written,
            durable=self.wal.durable,
            pause_s=0.0002,
            verify=True,
            unsound=unsound,
            progress=progress,
        )


def scatter(refs: list[int], values: NDArray[np.float64], t_s: int) -> bytes:
    head = np.zeros(1, layout.RUN)
    head["type"], head["vtype"], head["count"], head["t"] = (
        layout.REC_SCATTER,
        layout.TYPE_F32,
        len(refs),
        t_s,
    )
    pairs = np.array([[ref & 0xFFFF_FFFF, ref >> 32] for ref in refs], np.uint32)
    body = values.astype(np.float32).tobytes()
    return head.tobytes() + pairs.tobytes() + body + bytes(-len(body) % 8)


def write_history(
    machine: Machine, rng: np.random.Generator, n_steps: int, between: Callable[[int], None]
) -> None:
    """Series come, samples arrive in order and late, old chunks are freed."""
    refs: list[int] = []
    for k in range(n_steps):
        t_s = START_S + k * STEP_S
        if k % 16 == 0 and len(refs) < 300:
            refs += machine.intern([f"m{len(refs) + i}" for i in range(12)], t_s)
        chosen = [ref for ref in refs if rng.random() < 0.8]
        machine.log(scatter(chosen, rng.normal(size=len(chosen)), t_s))
        if k % 50 == 7:
            machine.log(scatter(chosen, rng.normal(size=len(chosen)), t_s - 200 * STEP_S))
        if k % 400 == 399:
            records, _ = machine.store.plan_free(0, MAX_SERIES, t_s - 600 * STEP_S)
            machine.log(records)
        between(k)


def test_a_store_comes_back_from_its_log_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    write_history(machine, np.random.default_rng(3), 700, lambda k: None)
    assert machine.wal.close()
    expected = machine.entries()
    assert len(expected) > 300
    again = Machine(tmp_path)
    assert again.entries() == expected
    assert again.report.log.damage == []
    again.store.validate()
    assert again.wal.close()


@pytest.mark.parametrize("n_snapshots", [1, 4])
def test_a_store_comes_back_from_snapshots_taken_while_it_was_written(
    tmp_path: Path, n_snapshots: int
) -> None:
    seed = int(os.environ.get("MSTORE_SEED", "5"))
    machine = Machine(tmp_path)
    failures: list[BaseException] = []
    running: list[threading.Thread] = []

    def take(log_seq: int) -> None:
        try:
            machine.snapshot(log_seq)
        except BaseException as failure:
            failures.append(failure)

    def between(k: int) -> None:
        if k % 250 == 120 and k // 250 < n_snapshots:
            for thread in running:
                thread.join()
            running[:] = [threading.Thread(target=take, args=(machine.wal.written,))]
            running[0].start()

    write_history(machine, np.random.default_rng(seed), 1100, between)
    for thread in running:
        thread.join()
    assert failures == [], f"seed {seed}"
    assert machine.wal.close()
    expected = machine.entries()
    again = Machine(tmp_path)
    assert again.report.snapshot is not None, f"seed {seed}"
    assert again.report.loaded.n_chunks > 0
    assert again.entries() == expected, f"seed {seed}"
    again.store.validate()
    assert len(list_snapshots(Files(), snapshot_dir(tmp_path))) == min(2, n_snapshots)
    assert again.wal.close()
