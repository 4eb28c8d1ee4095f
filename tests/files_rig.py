"""The files of a small store whose every sample is known, with the block it came in; and reading them back."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mstore.apply.refill import Refill
from mstore.apply.store import Store
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.persistence.blocks import CATALOG
from mstore.persistence.files import Files, wal_dir
from mstore.persistence.recovery import Report, recover
from mstore.persistence.snapshot import write_snapshot
from mstore.persistence.wal import Wal
from mstore.query.reader import Reader
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader, DirectoryWriter, create_directory, directory_bytes

MAX_SERIES = 256
SAMPLES_BYTES = layout.SAMPLES_DATA + 16 * layout.EXTENT_BYTES
SEGMENT_BYTES = 8192
STEP_S = 10
START_S = 1_700_000_000
SERIES_PER_CLUSTER = 6


class Sample(NamedTuple):
    cluster: str
    name: str
    tick: int
    value: float
    seq: int
    """Of its block in the log."""


@dataclass
class _Memory:
    segment: Segment
    fd: int = -1


class Memory:
    """An empty store in private memory."""

    def __init__(self) -> None:
        directory = _Memory(Segment(bytearray(directory_bytes(MAX_SERIES)), True))
        create_directory(directory, MAX_SERIES, 99)
        words = bytearray(SAMPLES_BYTES)
        np.frombuffer(words, layout.SEGMENT_HEADER, count=1)["committed_bytes"] = SAMPLES_BYTES
        self.directory, self.samples = directory.segment, Segment(words, True)
        self.store = Store(
            DirectoryWriter(self.directory), Samples(self.directory, self.samples, -1, 0, True)
        )
        self.store.directory.set_policy(True, STEP_S, 1, MAX_SERIES, 4 * MAX_SERIES)

    def recover(self, store_dir: Path) -> Report:
        report = recover(Files(), store_dir, Refill(self.store))
        self.store.directory.publish()
        return report

    def values(self, known: list[Sample]) -> dict[tuple[str, str, int], float]:
        """What is there of every known series: (cluster, name, tick) -> value, missing slots left out."""
        reader = Reader(self.directory, self.samples)
        found = {}
        last = max(sample.tick for sample in known) + 2
        for cluster, name in sorted({(sample.cluster, sample.name) for sample in known}):
            try:
                series = reader.query(cluster, "h", name, START_S, START_S + last * STEP_S)
            except LookupError:
                continue
            for place, value in enumerate(series.values.tolist()):
                if value == value:
                    found[cluster, name, (series.start - START_S) // STEP_S + place] = value
        return found


@dataclass
class StoreFiles:
    """What `build` made."""

    directory: Path
    known: list[Sample] = field(default_factory=list)
    definitions: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    """Sequence of a block with definitions -> the series in it."""


def build(directory: Path, rng: random.Random, *, n_blocks: int = 60) -> StoreFiles:
    """A store of two clusters, cleanly closed: two snapshots, several segments, series that appear on the way."""
    made = StoreFiles(directory)
    files = Files()
    files.mkdir(wal_dir(directory))
    memory = Memory()
    dir_fd = files.open_dir(wal_dir(directory))
    committer = files.committer(Segment(bytearray(8192), True), [], [], -1, 0, dir_fd)
    wal = Wal(files, wal_dir(directory), 1, committer, dir_fd=dir_fd, segment_bytes=SEGMENT_BYTES, spares=1)
    refs: dict[tuple[str, str], int] = {}
    snapshots = {n_blocks // 3, 2 * n_blocks // 3}
    for tick in range(n_blocks):
        for cluster in ("a", "b"):
            _grow(made, memory, wal, refs, cluster, rng if tick else None)
            chosen = [key for key in refs if key[0] == cluster]
            values = [float(np.float32(rng.random())) for _ in chosen]
            payload = _scatter([refs[key] for key in chosen], values, START_S + tick * STEP_S)
            seq = wal.write(CATALOG, 0, 0, payload)
            memory.store.apply_block(payload)
            wal.note(seq, CATALOG, 0)
            made.known += [Sample(*key, tick, v, seq) for key, v in zip(chosen, values, strict=True)]
        if tick in snapshots:
            assert wal.flush(10)
            info = write_snapshot(
                files, directory, wal.written, DirectoryReader(memory.directory).dump_definitions(),
                memory.directory, memory.samples, written=lambda: wal.written, durable=wal.durable, pause_s=0.0,
            )  # fmt: skip
            wal.retire(info.oldest_kept_seq)
    assert wal.close()
    return made


def _grow(
    made: StoreFiles,
    memory: Memory,
    wal: Wal,
    refs: dict[tuple[str, str], int],
    cluster: str,
    rng: random.Random | None,
) -> None:
    """The first series of a cluster, or now and then one more."""
    n_held = sum(key[0] == cluster for key in refs)
    if rng is not None and (n_held >= 3 * SERIES_PER_CLUSTER or rng.random() > 0.15):
        return
    names = [f"m{n_held + i}" for i in range(1 if rng else SERIES_PER_CLUSTER)]
    keys = [f"{name},cluster={cluster},hostname=h".encode() for name in names]
    offsets = np.cumsum([0] + [len(key) for key in keys]).astype(np.int64).tobytes()
    times = np.full(len(keys), START_S, np.int64).tobytes()
    found, _, _, log = memory.store.directory.intern(b"".join(keys), offsets, times, b"")
    made.definitions[wal.append(CATALOG, 0, 0, log)] = [(cluster, name) for name in names]
    memory.store.directory.publish()
    refs.update(
        {(cluster, name): int(ref) for name, ref in zip(names, np.frombuffer(found, np.uint64), strict=True)}
    )


def _scatter(refs: list[int], values: list[float], t_s: int) -> bytes:
    head = np.zeros(1, layout.RUN)
    head["type"], head["vtype"], head["count"], head["t"] = (
        layout.REC_SCATTER,
        layout.TYPE_F32,
        len(refs),
        t_s,
    )
    pairs = np.array([[ref & 0xFFFF_FFFF, ref >> 32] for ref in refs], np.uint32)
    record = head.tobytes() + pairs.tobytes() + np.array(values, np.float32).tobytes()
    return record + bytes(-len(record) % 8)
