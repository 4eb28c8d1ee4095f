"""What a persister does in its life, in its order, on a recorded disk: the source of all crash images.

    persister, one thread                                     helper, between any two of its file operations
      send      samples into one of two rings
    drain     a block of each ring: write, apply, note        the persister and the commit thread go on
      intern    definitions logged, then published
      evict     EVICT logged and noted, then applied            a snapshot: copy, fdatasync, wait, rename, fsync,
      free      FREE written, applied, noted                    then remove old ones, then the log is retired
      remove    REMOVE logged behind the freeing
      commit    one step of the commit thread

One seed, one workload: several lives of one store, ended by a kill or by a clean stop, with failing syncs and
full disks in between. The journal of the disk then holds everything from which crash images are made; the
history holds what every block said, kept apart from the store under test.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from mstore.apply.refill import Refill
from mstore.errors import Degraded, StorageError
from mstore.kernels._expiry import RANGE
from mstore.kernels._segment import Segment
from mstore.kernels.reference_wal import RING_DURABLE, ReferenceCommitter
from mstore.persistence import snapshot
from mstore.persistence.blocks import BLOCK_HEADER_BYTES, CATALOG, SEGMENT_HEADER_BYTES, Payload
from mstore.persistence.files import wal_dir
from mstore.persistence.recovery import Report, recover
from mstore.persistence.wal import Wal
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader
from tests.torture.disk import Disk
from tests.torture.machine import MAX_SERIES, STEP_S, Machine, Values, scatter

DIRECTORY = Path("/store")
SEGMENT_BYTES = SEGMENT_HEADER_BYTES + 6 * (BLOCK_HEADER_BYTES + 200)
START_S = 1_700_000_000
SLICE_BYTES = 8192
N_RINGS = 2

Cell = tuple[int, int, int]
"""(slot, generation, slot of the grid): where one sample goes, from whichever ring."""


@dataclass(slots=True)
class Block:
    """One block as its writer meant it, and what it does to the samples."""

    payload: bytes
    set: list[tuple[int, int, int, float]] = field(default_factory=list)
    """(slot, generation, slot of the grid, value)"""
    dropped: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(slot, generation, first chunk, last chunk)"""


@dataclass(slots=True)
class Batch:
    """What one sender sent at once, and waits for: it lies in a ring up to `stop`."""

    number: int
    stop: int
    payload: bytes
    set: list[tuple[int, int, int, float]]


@dataclass
class History:
    """What must hold, life by life."""

    sent: list[list[tuple[int, int, int, float]]] = field(default_factory=list)
    """By number of a batch: what it sets, as in Block. The journal's marks say when it was sent, when it was applied
    and written (acknowledged as `memory`), and when it was durable (acknowledged as `durable`)."""

    lives: list[list[Block]] = field(default_factory=list)
    """Blocks of sequence 1, 2, .. as the life of that number knew them; the last one grows."""
    memory: list[tuple[int, Any]] = field(default_factory=list)
    """(life, what its memory held in the end)"""

    def values(self, life: int, n_blocks: int) -> Values:
        """Samples after the first n blocks, by nothing but the rules."""
        found: Values = {}
        for block in self.lives[life][:n_blocks]:
            for slot, generation, place, value in block.set:
                found[slot, generation, place] = value
            for slot, generation, first, last in block.dropped:
                for key in [key for key in found if key[:2] == (slot, generation)]:
                    if first <= key[2] // layout.CHUNK_SLOTS <= last:
                        del found[key]
        return found


class Life:
    """From recovery to the end; the disk may refuse anything in between."""

    def __init__(self, disk: Disk, history: History, rng: random.Random, n_spares: int | None = None) -> None:
        self.disk, self.history, self.rng = disk, history, rng
        self.machine = Machine()
        store = self.machine.store
        self.report = recover(disk, DIRECTORY, Refill(store))
        store.directory.publish()
        self.control, self.rings = bytearray(8192), [bytearray(8192) for _ in range(N_RINGS)]
        dir_fd = disk.open_dir(wal_dir(DIRECTORY))
        self.committer = ReferenceCommitter(
            self.control,
            self.rings,
            [-1] * N_RINGS,
            -1,
            self.report.next_seq - 1,
            dir_fd,
            disk.fdatasync,
            disk.fsync,
        )
        self.wal = Wal(
            disk,
            wal_dir(DIRECTORY),
            self.report.next_seq,
            self.committer,
            dir_fd=dir_fd,
            segment_bytes=SEGMENT_BYTES,
            spares=rng.choice((0, 1, 2)) if n_spares is None else n_spares,
            prepare=self.report.finish,
            background=False,
        )
        before = history.lives[-1] if history.lives else []
        self.blocks = before[: self.report.next_seq - 1]
        history.lives.append(self.blocks)
        disk.mark("life", len(history.lives) - 1)
        self.heads = [0] * N_RINGS
        self.waiting: list[deque[Batch]] = [deque() for _ in range(N_RINGS)]
        """Sent, not drained; oldest first, as in the ring."""
        self.written: list[deque[Batch]] = [deque() for _ in range(N_RINGS)]
        """Drained, not durable yet."""
        self.failing = 0
        self.times_s: deque[int] = deque(maxlen=3)
        """Of the last batches: others send to the same slots."""
        self.unlogged: deque[Block] = deque()
        self.names = 0
        self.refs = [series.ref for slot in range(MAX_SERIES) if (series := self._series(slot)) is not None]
        self.told = self.report.next_seq - 1
        self.tick = rng.randrange(100)
        self.snapshot_seq = self.report.snapshot_seq
        self.copying = False
        self.look()

    def _series(self, slot: int):  # type: ignore[no-untyped-def]
        return self.machine.reader().series(slot) if slot < self._n_series() else None

    def _n_series(self) -> int:
        return self.machine.reader().counts()["n_series"]

    def _anchor(self, ref: int) -> int:
        series = self._series(ref & 0xFFFF_FFFF)
        assert series is not None
        return int(series.anchor_s)

    # --- the persister's order

    def look(self) -> None:
        """What is published as durable now is promised from here on."""
        durable = self.wal.durable()
        assert durable <= self.wal.written
        if durable > self.told:
            self.told = durable
            self.disk.mark("durable", durable)
        if self.failing != (failing := int(self.committer.failed() != 0)):
            self.failing = failing
            self.disk.mark("failing", failing)
        for ring, written in zip(self.rings, self.written, strict=True):
            position = int.from_bytes(ring[RING_DURABLE : RING_DURABLE + 8], "little")
            while written and written[0].stop <= position:
                self.disk.mark("acknowledged", written.popleft().number)

    def write(self, ring: int, start: int, stop: int, block: Block) -> int:
        """A block may be found from the moment its write begins, so it is in the history before."""
        before = self.wal.written
        self.blocks.append(block)
        self.disk.mark("begun", len(self.blocks))
        try:
            return self.wal.write(ring, start, stop, block.payload)
        finally:
            if self.wal.written == before:
                self.blocks.pop()

    def log_the_unlogged(self) -> None:
        while self.unlogged:
            seq = self.write(CATALOG, 0, 0, self.unlogged[0])
            self.unlogged.popleft()
            self.wal.note(seq, CATALOG, 0)
        self.machine.store.directory.publish()

    def append_catalog(self, block: Block) -> None:
        self.unlogged.append(block)
        self.log_the_unlogged()

    def log_first(self, block: Block) -> None:
        self.log_the_unlogged()
        self.wal.note(self.write(CATALOG, 0, 0, block), CATALOG, 0)

    def send(self) -> None:
        """Samples of some series at one time into one ring: often the slots that were sent before, by the other one."""
        published = [ref for ref in self.refs if self._series(ref & 0xFFFF_FFFF) is not None]
        chosen = [ref for ref in published if self.rng.random() < 0.5] or published[:1]
        if not chosen:
            return
        if self.times_s and self.rng.random() < 0.5:
            t_s = self.rng.choice(self.times_s)
        else:
            self.tick += self.rng.choice((1, 1, 1, 200))
            late = self.rng.random() < 0.2
            t_s = START_S + (self.tick - (self.rng.randrange(800) if late else 0)) * STEP_S
        self.times_s.append(t_s)
        values = [float(np.float32(self.rng.random())) for _ in chosen]
        cells = [
            (ref & 0xFFFF_FFFF, ref >> 32, (t_s - self._anchor(ref)) // STEP_S, value)
            for ref, value in zip(chosen, values, strict=True)
        ]
        payload = scatter(chosen, values, t_s)
        ring = self.rng.randrange(N_RINGS)
        self.heads[ring] += len(payload)
        self.waiting[ring].append(Batch(len(self.history.sent), self.heads[ring], payload, cells))
        self.history.sent.append(cells)
        self.disk.mark("sent", len(self.history.sent) - 1)

    def drain(self) -> None:
        """At most one block of each ring in turn."""
        for ring in range(N_RINGS):
            if self.waiting[ring]:
                self.drain_block(ring)

    def drain_block(self, ring: int) -> None:
        """What lies in the ring, or the first of it."""
        self.log_the_unlogged()
        waiting = self.waiting[ring]
        n = self.rng.choice((1, len(waiting)))
        batches = [waiting[i] for i in range(n)]
        payload = b"".join(batch.payload for batch in batches)
        stop = batches[-1].stop
        block = Block(payload, [one for batch in batches for one in batch.set])
        seq = self.write(ring, stop - len(payload), stop, block)
        self.machine.store.apply_block(payload)
        for batch in batches:
            waiting.popleft()
            self.written[ring].append(batch)
            self.disk.mark("applied", batch.number)
        self.wal.note(seq, ring, stop)

    def intern(self) -> None:
        if len(self.refs) >= 12:
            return
        t_s = START_S + self.tick * STEP_S
        names = [f"m{len(self.history.lives)}x{self.names + i}" for i in range(self.rng.randint(1, 3))]
        self.names += len(names)
        made, records = self.machine.intern(names, t_s)
        self.refs += made
        self.append_catalog(Block(records))

    def evict(self) -> None:
        records, n_chunks = self.machine.store.plan_evict(1 << 13, now_s=1 << 40)
        if n_chunks:
            self.log_first(Block(records, dropped=_ranges(records)))
            self.machine.store.apply_block(records)

    def free(self) -> None:
        before_s = START_S + (self.tick - 600) * STEP_S
        records, n_chunks = self.machine.store.plan_free(0, self._n_series(), before_s)
        if n_chunks:
            self.log_the_unlogged()
            seq = self.write(CATALOG, 0, 0, Block(records, dropped=_ranges(records)))
            self.machine.store.apply_block(records)
            self.wal.note(seq, CATALOG, 0)

    def remove(self) -> None:
        self.log_the_unlogged()
        if len(self.refs) < 4:
            return
        while any(self.waiting):  # nothing on its way names it
            self.drain()
        ref = self.refs.pop(self.rng.randrange(len(self.refs)))
        store = self.machine.store
        store.directory.remove_begin(ref & 0xFFFF_FFFF)
        records = store.remove_finish(ref & 0xFFFF_FFFF)
        everything = (ref & 0xFFFF_FFFF, ref >> 32, -(1 << 40), 1 << 40)
        self.append_catalog(Block(records, dropped=[everything]))

    def commit(self) -> None:
        self.committer.step()
        self.look()

    def mark(self) -> None:
        self.log_the_unlogged()
        before = self.wal.written
        self.blocks.append(Block(b""))
        self.disk.mark("begun", len(self.blocks))
        try:
            self.wal.mark()
        finally:
            if self.wal.written == before:
                self.blocks.pop()

    def poll(self) -> None:
        self.wal._retry_at = 0.0
        self.wal.poll()

    # --- the helper

    def take_snapshot(self) -> None:
        """While it copies, the persister goes on between any two of its file operations."""
        if self.copying or self.wal.written <= self.snapshot_seq:
            return
        self.copying = True
        try:
            self.log_the_unlogged()
            seq = self.wal.written
            oldest_kept_seq = self.copy(seq)
            self.snapshot_seq = seq
            self.wal.retire(oldest_kept_seq)
        finally:
            self.copying = False

    def memory(self) -> tuple[DirectoryReader, Segment, Segment]:
        """What the helper reads."""
        return self.machine.reader(), self.machine.directory_segment, self.machine.samples_segment

    def copy(self, seq: int) -> int:
        reader, directory, samples = self.memory()
        self.disk.between = self.go_on
        try:
            info = snapshot.write_snapshot(
                self.disk,
                DIRECTORY,
                seq,
                reader.dump_definitions(),
                directory,
                samples,
                written=lambda: self.wal.written,
                durable=self.durable_soon,
                pause_s=0.0,
            )
        finally:
            self.disk.between = None
        return info.oldest_kept_seq

    def durable_soon(self) -> int:
        """The helper waits; persister and commit thread get their time."""
        between, self.disk.between = self.disk.between, None
        self.commit()
        self.poll()
        self.disk.between = between
        return self.wal.durable()

    def go_on(self) -> None:
        if self.rng.random() < 0.4:
            self.act(
                self.rng.choice(("send", "drain", "drain", "commit", "commit", "intern", "free", "evict"))
            )

    # --- everything together

    def act(self, what: str) -> None:
        self.wal._retry_at = 0.0  # no waiting between two attempts: the clock has no part in this
        with contextlib.suppress(StorageError, Degraded):
            getattr(self, what)()
        self.look()

    def step(self) -> None:
        actions = {
            "send": 40, "drain": 30, "commit": 30, "intern": 8, "take_snapshot": 6, "free": 4, "evict": 3, "remove": 4,
            "mark": 4, "poll": 4, "trouble": 6,
        }  # fmt: skip
        self.act(self.rng.choices(list(actions), list(actions.values()))[0])

    def trouble(self) -> None:
        """For a few calls some operation fails."""
        operation, what = self.rng.choice(
            (
                *[("fdatasync", "EIO")] * 4, ("fsync", "EIO"), ("create", "ENOSPC"), ("pwritev", "short"),
                ("pwritev", "EIO"), ("prewrite", "EDQUOT"), ("rename", "EIO"), ("unlink", "EIO"),
            )
        )  # fmt: skip
        left = [self.rng.randint(1, 4)]

        def fault(name: str, _disk: Disk) -> str:
            if name != operation or not left[0]:
                return ""
            left[0] -= 1
            return what

        self.disk.fault = fault

    def end(self, *, clean: bool) -> None:
        self.disk.fault = None
        self.poll()
        if clean:
            self.act("take_snapshot")
            self.blocks.append(Block(b""))  # close() marks what is durable, unless the log says so already
            self.disk.mark("begun", len(self.blocks))
            before = self.wal.written
            assert self.wal.close()
            if self.wal.written == before:
                self.blocks.pop()
            self.look()
        if not self.unlogged:
            self.history.memory.append((len(self.history.lives) - 1, self.machine.everything()))
        self.disk.forget_descriptors()


def _ranges(records: bytes) -> list[tuple[int, int, int, int]]:
    body = records[layout.RECORD.itemsize :]
    return [tuple(int(word) for word in one) for one in np.frombuffer(body, RANGE)]  # type: ignore[misc]


def record(seed: int, n_lives: int = 3, n_steps: int = 40) -> tuple[Disk, History, list[Report]]:
    """Run one workload to its end; its disk with the journal, and what must hold."""
    rng = random.Random(seed)
    disk, history, reports = Disk(seed=seed), History(), []
    with drawn_from(random.Random(f"ids {seed}")):
        for _ in range(n_lives):
            life = Life(disk, history, rng)
            reports.append(life.report)
            for _ in range(rng.randint(n_steps // 2, n_steps * 3 // 2)):
                life.step()
            life.end(clean=rng.random() < 0.5)
    return disk, history, reports


@contextlib.contextmanager
def drawn_from(rng: random.Random) -> Iterator[None]:
    """Nothing but the seed decides: neither the clock nor chance.

    Ids of segments and snapshots come from it (their names decide what a directory lists first), a helper's
    patience is counted in looks, and its slices are small, so that the persister goes on between them.
    """
    with (
        mock.patch("secrets.randbits", rng.getrandbits),
        mock.patch.object(snapshot, "monotonic_s", itertools.count().__next__),
        mock.patch.object(snapshot, "SLICE_BYTES", SLICE_BYTES),
    ):
        yield


def payloads(blocks: Iterable[Block]) -> list[Payload]:
    return [block.payload for block in blocks if block.payload]
