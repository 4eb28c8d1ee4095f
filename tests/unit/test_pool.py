"""One memory for directory and samples: who may take what is left of it."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from mstore.apply.pool import LEAST_BYTES, Pool
from mstore.apply.refill import Refill
from mstore.apply.store import Store
from mstore.errors import ConfigError, StoreFull
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.kernels._snapshot import ChunkCopier
from mstore.model import Reason
from mstore.shm import layout
from mstore.shm.directory import DirectoryWriter, create_directory, directory_bytes

FIXED = 1 << 20
MIB = 1 << 20
T0 = 1_700_000_000
MAX_SERIES = 100_000


class Memory:
    """A store in memfds; `system` is what the system says it has left, `taken` what was really allocated."""

    def __init__(self, system_bytes: int = 1 << 40) -> None:
        lengths = (directory_bytes(MAX_SERIES), layout.SAMPLES_DATA + 64 * MIB)
        self.fds = [os.memfd_create("pool") for _ in lengths]
        for fd, length in zip(self.fds, lengths, strict=True):
            os.ftruncate(fd, length)
        self.maps = [mmap.mmap(fd, length) for fd, length in zip(self.fds, lengths, strict=True)]
        segments = [Segment(mapped, True) for mapped in self.maps]
        create_directory(SimpleNamespace(segment=segments[0], fd=self.fds[0]), MAX_SERIES, 7)
        self.directory = DirectoryWriter(segments[0], self.fds[0])
        samples = Samples(segments[0], segments[1], self.fds[1], 0, True)
        self.store = Store(self.directory, samples)
        self.system_bytes = system_bytes
        self.log: list[bytes] = []
        self.pool = Pool(self.store, FIXED, system_free=lambda: self.system_bytes - self.taken())

    def taken(self) -> int:
        return sum(os.fstat(fd).st_blocks * 512 for fd in self.fds)

    def intern(self, first: int, n: int, t: int = T0) -> list[int]:
        """References of n new series, or ignore words."""
        self.pool.admit(self.log.append)
        paths = [("c", f"h{i}", "", "", "", "", "m") for i in range(first, first + n)]
        refs = self.directory.intern_paths(paths, np.full(n, t).astype("<i8").tobytes())[0]
        self.directory.publish()
        return [int(ref) for ref in np.frombuffer(refs, "<u8")]

    def write(self, refs: list[int], t: int, value: float = 1.0) -> None:
        """One sample each, as the persister does it; StoreFull."""
        for first in range(0, len(refs), 8192):
            self._write(refs[first : first + 8192], t, value)

    def _write(self, refs: list[int], t: int, value: float) -> None:
        head = np.zeros(1, layout.RUN)
        head["type"], head["vtype"], head["count"], head["t"] = (
            layout.REC_SCATTER,
            layout.TYPE_F32,
            len(refs),
            t,
        )
        values = np.full(len(refs) + len(refs) % 2, value, "<f4")
        words = np.array(refs, "<u8")
        block = head.tobytes() + words.tobytes() + values.tobytes()
        self.store.make_room(block, self.log.append)
        self.store.apply_block(block)

    def close(self) -> None:
        """The maps keep descriptors of their own, which go with the last object that looks at them."""
        for fd in self.fds:
            os.close(fd)
        del self.pool, self.store, self.directory, self.maps


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.close()


def refused(refs: list[int]) -> set[int]:
    return {ref >> 56 for ref in refs if ref & 0xFFFF_FFFF == layout.IGNORE_SLOT}


def fill_with_series(memory: Memory, t: int, first: int = 0) -> list[int]:
    """New series of one sample each until the first is refused."""
    made: list[int] = []
    while not refused(refs := memory.intern(first + len(made), 256, t)):
        memory.write(refs, t)
        made += refs
    assert refused(refs) == {Reason.STORE_FULL}
    return made


def test_new_series_stop_before_the_cap_and_old_ones_go_on(memory: Memory) -> None:
    memory.pool.set_cap(FIXED + 8 * MIB)
    made = fill_with_series(memory, 2**31)  # in the future: never idle, so nothing may be evicted
    assert FIXED + memory.taken() <= FIXED + 8 * MIB
    assert len(made) > 10_000
    for k in range(1, 16):  # all the rest of their first chunks
        memory.write(made, 2**31 + 60 * k)
    memory.write(made[:1000], 2**31 + 60 * 16)  # and some larger ones, out of the reserve
    assert FIXED + memory.taken() <= FIXED + 8 * MIB
    memory.store.validate()


def test_samples_may_fill_everything_but_not_pass_the_cap(memory: Memory) -> None:
    memory.pool.set_cap(FIXED + 8 * MIB)
    made = fill_with_series(memory, 2**31)
    k = 1
    with contextlib.suppress(StoreFull):
        for k in range(1, 1000):
            memory.write(made, 2**31 + 60 * k)
    assert k < 100
    assert 6 * MIB <= memory.taken() <= 8 * MIB
    memory.store.validate()


def test_new_series_make_room_by_evicting_what_is_oldest(memory: Memory) -> None:
    memory.pool.set_cap(FIXED + 8 * MIB)
    old = memory.intern(0, 200)
    for n in range(13):
        memory.write(old, T0 + n * 512 * 60)
    assert not memory.log
    refs = fill_with_series(memory, 2**31, 10_000)
    assert len(refs) > 1_500
    assert memory.log, "nothing was evicted"
    kept = [memory.store.samples.chunks_of(ref & 0xFFFF_FFFF) for ref in old]
    numbers = {tuple(chunk[0] for chunk in chunks) for chunks in kept}
    assert len({len(one) for one in numbers}) <= 2, "one series lost more than another"
    assert FIXED + memory.taken() <= FIXED + 8 * MIB


def test_refused_series_are_taken_again_once_samples_are_freed(memory: Memory) -> None:
    memory.pool.set_cap(FIXED + 8 * MIB)
    made = fill_with_series(memory, 2**31)
    for ref in made:
        memory.store.samples.free_series(ref & 0xFFFF_FFFF)
    memory.pool._refusing_until_s = 0.0
    refs = memory.intern(1_000_000, 256, 2**31)
    assert not refused(refs)


def test_a_system_without_memory_refuses_new_series_and_keeps_a_reserve_for_old_ones() -> None:
    memory = Memory(system_bytes=8 * MIB)
    memory.pool.set_cap(0)
    made = fill_with_series(memory, 2**31)
    assert 6 * MIB < memory.taken() <= 8 * MIB - 512 * 1024
    for k in range(1, 16):
        memory.write(made, 2**31 + 60 * k)
    memory.write(made[:500], 2**31 + 60 * 16)
    assert memory.taken() <= 8 * MIB
    memory.store.validate()
    memory.close()


def test_a_cap_too_small_for_anything_is_refused_by_name(memory: Memory) -> None:
    with pytest.raises(ConfigError, match="memory_cap"):
        memory.pool.set_cap(FIXED + LEAST_BYTES - 1)
    memory.pool.set_cap(FIXED + LEAST_BYTES)


def copied(memory: Memory) -> bytes:
    """Every chunk as a snapshot holds it."""
    copier = ChunkCopier(Segment(memory.maps[0]), Segment(memory.maps[1]))
    out, parts = bytearray(1 << 20), []
    while used := copier.fill(out):
        parts.append(bytes(out[:used]))
    return b"".join(parts)


def test_a_lower_cap_at_the_next_start_keeps_the_newest_chunks(memory: Memory) -> None:
    memory.pool.set_cap(FIXED + 32 * MIB)
    refs = memory.intern(0, 1000)
    for n in range(4):
        memory.write(refs, T0 + n * 512 * 60, float(n))
    definitions = b"".join(memory.directory.dump_definitions())
    entries = copied(memory)
    small = Memory()
    small.pool.set_cap(FIXED + 5 * MIB)

    def load(target: Refill) -> tuple[int, ...]:
        target.define(memoryview(definitions))
        return target.load(memoryview(entries), -(1 << 63), -(1 << 63))

    loaded, _, _, _, _, no_room, evicted = small.pool.recover(load)
    assert loaded + no_room == 4 * len(refs)
    assert evicted > 0
    assert FIXED + small.taken() <= FIXED + 5 * MIB
    newest = [small.store.samples.chunks_of(ref & 0xFFFF_FFFF) for ref in refs]
    assert sum(bool(found) and found[-1][0] == 3 for found in newest) >= 0.9 * len(refs)
    small.store.validate()
    small.close()
