"""A writer killed at any instruction: its memory is refused, or adopted and brought to exactly what the log says.

A child process applies blocks to shared memory and is killed at a random moment. This process takes the memory over as a
new persister does, applies again from the last block that was whole, and compares with a store that was never killed.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mstore.apply.store import Store
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.model import MetricSpec
from mstore.shm import chunks, layout
from mstore.shm.directory import DirectoryReader, DirectoryWriter, create_directory, directory_bytes
from tests.samples_rig import column, scatter, stamped

MAX_SERIES = 400
EXTENTS = 40
STEP_S = 10
START_S = 1_700_000_000
N_KILLS = int(os.environ.get("MSTORE_KILLS", "60"))
PROGRESS_BYTES = mmap.PAGESIZE
Content = dict[tuple[int, int], dict[int, Any]]


@dataclass
class Memory:
    """Directory and samples that a killed child leaves behind, and how far it came."""

    directory: mmap.mmap
    samples: mmap.mmap
    progress: mmap.mmap

    @classmethod
    def make(cls) -> Memory:
        directory = mmap.mmap(-1, directory_bytes(MAX_SERIES))
        samples = mmap.mmap(-1, layout.SAMPLES_DATA + EXTENTS * layout.EXTENT_BYTES)
        np.frombuffer(samples, layout.SEGMENT_HEADER, count=1)["committed_bytes"] = len(samples)
        memory = cls(directory, samples, mmap.mmap(-1, PROGRESS_BYTES))
        create_directory(_Unbacked(Segment(directory, True)), MAX_SERIES, 99)
        return memory

    def store(self, *, fresh: bool) -> Store:
        directory, samples = Segment(self.directory, True), Segment(self.samples, True)
        store = Store(DirectoryWriter(directory), Samples(directory, samples, -1, 0, fresh))
        store.directory.set_policy(True, STEP_S, 1, MAX_SERIES, 4 * MAX_SERIES)
        return store

    @property
    def applied(self) -> int:
        """Blocks that were applied whole."""
        return int.from_bytes(self.progress[:8], "little")

    @applied.setter
    def applied(self, value: int) -> None:
        self.progress[:8] = value.to_bytes(8, "little")

    def in_the_middle(self) -> bool:
        return bool(DirectoryReader(Segment(self.directory)).counts()["critical"] & 1)


@dataclass
class _Unbacked:
    """Private memory needs no allocation."""

    segment: Segment
    fd: int = -1


def content(store: Store) -> Content:
    """(slot, generation) -> slot number or stamp -> value bits, of every live series."""
    samples = np.frombuffer(store.samples.view(), np.uint8)
    found: Content = {}
    for slot, series in enumerate(store.directory.series_table()):
        if not series["flags"] & layout.SERIES_LIVE:
            continue
        key = slot, int(series["generation"])
        if series["kind"] == layout.KIND_GRID:
            found[key] = {n: value.tobytes() for n, value in chunks.read_grid(series, samples).items()}
        else:
            found[key] = {int(row[0]): row[1:].tobytes() for row in chunks.read_rows(series, samples)}
    return found


def history(rng: np.random.Generator, n_blocks: int) -> list[bytes]:
    """Blocks of a log: series come and end, samples in and out of order, rows again, chunks freed, series removed."""
    memory = Memory.make()
    store = memory.store(fresh=True)
    blocks: list[bytes] = []
    _take(store, blocks, store.directory.define_metric("c", MetricSpec("rows", step_s=0, type="f64")))
    refs: list[int] = []
    row_refs: list[int] = []
    for k in range(n_blocks):
        t_s = START_S + k * 37 * STEP_S
        if k % 6 == 0 and len(refs) < 150:
            made, log = _intern(store, [f"m{i},cluster=c,hostname=h{k}" for i in range(9)], t_s)
            refs += made
            _take(store, blocks, log)
            made, log = _intern(store, [f"rows,cluster=c,hostname=h{k}_{i}" for i in range(3)], t_s)
            row_refs += made
            _take(store, blocks, log)
        samples = b""
        for ref in row_refs:
            stamps = (t_s * 1000 + rng.integers(-400_000, 400_000, 60) // 100 * 100).tolist()
            rows = [(stamp, [float(rng.normal())]) for stamp in stamps]
            samples += stamped(ref & 0xFFFF_FFFF, rows, generation=ref >> 32)
        for ref in rng.choice(refs, 12):
            slot, generation = int(ref) & 0xFFFF_FFFF, int(ref) >> 32
            t = t_s - int(rng.integers(0, 2)) * int(rng.integers(0, 40_000)) * STEP_S
            values = rng.normal(size=int(rng.integers(1, 700))).astype(np.float32)
            samples += column(slot, t, STEP_S, values, generation=generation)
        pairs = [(int(ref) & 0xFFFF_FFFF, int(ref) >> 32) for ref in refs]
        samples += scatter(pairs, t_s, rng.normal(size=len(pairs)).astype(np.float32))
        _take(store, blocks, samples)
        if k % 5 == 4:
            _take(store, blocks, store.plan_free(0, MAX_SERIES, t_s - 9000 * STEP_S)[0])
        if k % 7 == 6:
            _take(store, blocks, store.plan_evict(300_000, now_s=t_s)[0])
    return [block for block in blocks if block]


def _take(store: Store, blocks: list[bytes], records: bytes) -> None:
    store.directory.publish()
    blocks.append(records)
    store.apply_block(records)


def _intern(store: Store, names: list[str], t_s: int) -> tuple[list[int], bytes]:
    keys = [name.encode() for name in names]
    offsets = np.cumsum([0] + [len(key) for key in keys]).astype(np.int64).tobytes()
    times = np.full(len(keys), t_s, np.int64).tobytes()
    refs, _, _, log = store.directory.intern(b"".join(keys), offsets, times, b"")
    return [int(ref) for ref in np.frombuffer(refs, np.uint64)], log


def killed(memory: Memory, blocks: list[bytes], after_s: float) -> None:
    """A child applies the blocks and dies after so long, wherever it is by then."""
    pid = os.fork()
    if pid == 0:
        try:
            store = memory.store(fresh=True)
            for number, block in enumerate(blocks):
                store.apply_block(block)
                memory.applied = number + 1
            signal.pause()
        finally:
            os._exit(1)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_memory_of_a_writer_killed_at_any_instruction_is_refused_or_adopted_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = history(rng, 40)
    whole = Memory.make()
    never_killed = whole.store(fresh=True)
    began = time.perf_counter()
    for block in blocks:
        never_killed.apply_block(block)
    took_s = time.perf_counter() - began
    expected = content(never_killed)
    adopted = refused = cut_short = 0
    for _ in range(N_KILLS):
        memory = Memory.make()
        killed(memory, blocks, float(rng.uniform(0, 1.6 * took_s)) + 0.001)
        if memory.in_the_middle():
            refused += 1
            with pytest.raises(RuntimeError, match="in the middle"):
                memory.store(fresh=False)
            continue
        store = memory.store(fresh=False)
        store.directory.show_removing()
        store.validate()
        adopted += 1
        cut_short += memory.applied < len(blocks)
        for block in blocks[memory.applied :]:
            store.apply_block(block)
        store.validate()
        assert content(store) == expected, f"after block {memory.applied} of {len(blocks)}"
    print(f"{adopted} adopted, {cut_short} of them cut short; {refused} refused")
    assert cut_short > N_KILLS // 5
