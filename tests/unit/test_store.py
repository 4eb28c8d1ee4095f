"""Directory and samples behind one apply_block(): replay equals live, what was freed stays freed."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from mstore.apply.store import Store, split_records
from mstore.errors import CorruptRecord, StoreFull, UnknownMessage
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.shm import chunks, layout
from mstore.shm.directory import DirectoryWriter, create_directory, directory_bytes
from mstore.shm.protection import FOR_GOOD_S, Source, encode
from tests.samples_rig import column, row

MAX_SERIES = 2000
T0 = 1_700_000_000
SPAN = 512 * 60


class Memory:
    """Two anonymous files and a Store over them; `log` is every block in order."""

    def __init__(self, extents: int = 16) -> None:
        self.fds = [os.memfd_create(name) for name in ("directory", "samples")]
        sizes = directory_bytes(MAX_SERIES), layout.SAMPLES_DATA + extents * layout.EXTENT_BYTES
        for fd, size in zip(self.fds, sizes, strict=True):
            os.ftruncate(fd, size)
        self.maps = [mmap.mmap(fd, size) for fd, size in zip(self.fds, sizes, strict=True)]
        segments = [Segment(mapped, writable=True) for mapped in self.maps]
        create_directory(SimpleNamespace(segment=segments[0], fd=self.fds[0]), MAX_SERIES, 7)
        self.directory = DirectoryWriter(segments[0], self.fds[0])
        self.directory.set_policy(True, 60, 1, MAX_SERIES, 4 * MAX_SERIES)
        self.store = Store(self.directory, Samples(segments[0], segments[1], self.fds[1], 0, True))
        self.log: list[bytes] = []

    def intern(self, n: int, first: int = 0) -> np.ndarray:
        """References of n hosts' series, defined at T0; the definitions are logged and published."""
        keys = [f"load,cluster=c,hostname=h{first + i}".encode() for i in range(n)]
        offsets = np.cumsum([0, *map(len, keys)]).astype("<i8")
        refs, _, _, log = self.directory.intern(
            b"".join(keys), offsets.tobytes(), np.full(n, T0, "<i8").tobytes()
        )
        self.log.append(log)
        self.directory.publish()
        return np.frombuffer(refs, "<u8")

    def write(self, block: bytes) -> None:
        self.log.append(block)
        self.store.apply_block(block)

    def samples(self) -> dict[int, dict[int, float]]:
        mapped = np.frombuffer(self.maps[1], np.uint8)
        table = self.directory.series_table()
        live = np.flatnonzero(table["flags"] & layout.SERIES_LIVE).tolist()
        return {slot: chunks.read_grid(table[slot], mapped) for slot in live}


@pytest.fixture
def memories() -> Iterator[list[Memory]]:
    made = [Memory(), Memory()]
    yield made
    for memory in made:
        for fd in memory.fds:
            os.close(fd)
        vars(memory).clear()  # pytest holds the list until all fixtures are gone; a mapping holds its file


def test_replaying_the_log_gives_the_live_store_with_what_was_freed_still_gone(
    memories: list[Memory],
) -> None:
    live, replayed = memories
    refs = live.intern(20)
    generation, slot = int(refs[0]) >> 32, int(refs[0]) & 0xFFFFFFFF
    for i in range(1200):
        live.write(row(slot, T0 + 60 * i, np.full(20, i), generation=generation))
    records, n_chunks = live.store.plan_free(0, 20, T0 + SPAN)
    assert n_chunks == 20
    live.write(records)
    live.directory.remove_begin(slot + 3)
    live.log.append(live.store.remove_finish(slot + 3))
    again = live.intern(1, first=50)
    assert int(again[0]) & 0xFFFFFFFF == slot + 3
    live.write(row(slot + 3, T0, [5.0], generation=int(again[0]) >> 32))
    evicted, n_evicted = live.store.plan_evict(5000, now_s=T0 + 70_000)
    assert n_evicted >= 1
    live.write(evicted)
    for block in live.log:
        replayed.store.apply_block(block)
    assert replayed.samples() == live.samples()
    assert min(live.samples()[slot + 4]) >= 512
    for memory in memories:
        memory.store.validate()
    for block in live.log:
        replayed.store.apply_block(block)
    assert replayed.samples() == live.samples()


def test_one_block_may_hold_runs_and_definitions_in_turn(memories: list[Memory]) -> None:
    live, replayed = memories
    first, second = int(live.intern(1)[0]), int(live.intern(1, first=1)[0])
    block = live.log[0] + row(first & 0xFFFFFFFF, T0, [1.0], generation=first >> 32)
    block += live.log[1] + row(second & 0xFFFFFFFF, T0, [2.0], generation=second >> 32)
    done = replayed.store.apply_block(memoryview(block))
    assert (done.n_samples, done.n_stale) == (2, 0)
    assert done.n_definitions > 2
    assert [list(values.values()) for values in replayed.samples().values()] == [[1.0], [2.0]]


def test_a_record_of_a_newer_version_is_refused_by_number_and_name(memories: list[Memory]) -> None:
    store = memories[0].store
    for kind, name in ((layout.REC_TASK_REPORT, "TASK_REPORT"), (999, "unknown")):
        record = np.array((kind, 0, 0, 8), layout.RECORD).tobytes()
        with pytest.raises(UnknownMessage, match=rf"type {kind} \({name}\)"):
            store.apply_block(record)


@pytest.mark.parametrize("record", [(layout.REC_FREE, 0, 0, 16), (layout.REC_EVICT, 0, 0, 4), (1, 1, 0, 50)])
def test_a_malformed_record_is_corrupt_and_says_where(
    memories: list[Memory], record: tuple[int, ...]
) -> None:
    refs = memories[0].intern(1)
    good = row(int(refs[0]) & 0xFFFFFFFF, T0, [1.0], generation=int(refs[0]) >> 32)
    bad = np.array(record, layout.RECORD).tobytes() + bytes(8)
    with pytest.raises(CorruptRecord) as caught:
        memories[0].store.apply_block(good + bad)
    assert caught.value.details["offset"] == len(good)
    assert sum(map(len, memories[0].samples().values())) == 1


def fill(memory: Memory, n_chunks: int) -> tuple[int, int]:
    ref = int(memory.intern(2)[0])
    slot, generation = ref & 0xFFFFFFFF, ref >> 32
    for i in range(n_chunks):
        memory.write(column(slot, T0 + i * SPAN, 60, np.ones(512), generation=generation))
    return slot, generation


def test_make_room_logs_and_evicts_the_oldest_first(memories: list[Memory]) -> None:
    memory = memories[0]
    slot, generation = fill(memory, 1500)
    block = b"".join(
        column(slot, T0 + i * SPAN, 60, np.ones(512), generation=generation) for i in range(1500, 2100)
    )
    n_evicted = memory.store.make_room(block, memory.log.append)
    assert n_evicted > 0
    assert memory.store.samples.need(block, 0) <= memory.store.samples.free_bytes()
    evicted_last = np.frombuffer(memory.log[-1][8:], "<i8").reshape(-1, 3)[-1, 2]
    series = memory.directory.series(slot)
    assert series is not None
    assert series.first_n == evicted_last + 1
    memory.write(block)
    assert (
        memory.store.make_room(row(slot, T0 + 2099 * SPAN, [1], generation=generation), memory.log.append)
        == 0
    )
    memory.store.validate()


def test_protected_series_are_evicted_last(memories: list[Memory]) -> None:
    memory = memories[0]
    slot, generation = fill(memory, 5)
    memory.write(column(slot + 1, T0 + 9 * SPAN, 60, np.ones(1024), generation=generation))
    series = memory.directory.series(slot)
    assert series is not None
    memory.write(encode(Source.COMMAND, FOR_GOOD_S, "c", [memory.directory.path(series.level).host]))
    assert memory.directory.protected_series().tolist() == [1, 0]
    names = []
    for _ in range(3):
        records, n_chunks = memory.store.plan_evict(1, now_s=T0)
        assert n_chunks == 1
        names.append(int(np.frombuffer(records[8:12], "<u4")[0]))
        memory.write(records)
    assert names[0] == slot + 1
    assert names[-1] == slot


def test_a_logged_block_that_finds_no_room_evicts_and_reports_it(memories: list[Memory]) -> None:
    memory = memories[0]
    slot, generation = fill(memory, 1000)
    reported: list[bytes] = []
    memory.store.on_evict = reported.append
    memory.write(
        b"".join(
            column(slot, T0 + i * SPAN, 60, np.ones(512), generation=generation) for i in range(1000, 2500)
        )
    )
    assert reported
    memory.store.validate()
    series = memory.directory.series(slot)
    assert series is not None
    assert series.last_n == 2499


def test_nothing_to_evict_is_store_full(memories: list[Memory]) -> None:
    memory = memories[0]
    memory.store.samples.set_cap(layout.SAMPLES_DATA)
    ref = int(memory.intern(1)[0])
    block = row(ref & 0xFFFFFFFF, T0, [1.0], generation=ref >> 32)
    with pytest.raises(StoreFull):
        memory.store.make_room(block, memory.log.append)
    with pytest.raises(StoreFull):
        memory.store.apply_block(block)


def test_what_was_evicted_in_vain_is_counted_all_the_same(memories: list[Memory]) -> None:
    memory = memories[0]
    slot, generation = fill(memory, 4)
    memory.store.samples.set_cap(layout.SAMPLES_DATA)
    times = (T0 + (9 + i) * SPAN for i in range(300))
    block = b"".join(column(slot + 1, t, 60, np.ones(512), generation=generation) for t in times)
    with pytest.raises(StoreFull) as caught:
        memory.store.make_room(block, memory.log.append)
    assert caught.value.details["evicted"] == 4


def test_records_are_split_at_their_borders() -> None:
    records = b"".join(
        np.array((layout.REC_FREE, 0, 0, length), layout.RECORD).tobytes() + bytes(length - 8)
        for length in (8, 32, 56, 8, 200, 8)
    )
    pieces = list(split_records(records, 64))
    assert b"".join(pieces) == records
    assert [len(piece) for piece in pieces] == [40, 64, 200, 8]
    assert list(split_records(b"", 64)) == []


def test_stats_count_chunks_by_their_size(memories: list[Memory]) -> None:
    memory = memories[0]
    fill(memory, 3)
    stats = memory.store.stats()
    assert stats["chunks"] == {128: 0, 512: 0, 2112: 3, 4160: 0}
    assert stats["chunk_bytes"] == 3 * 2112 + 64


@pytest.mark.parametrize("far_chunks", [1, 40, 700, 9000])
def test_a_block_that_room_was_made_for_is_applied_whole_or_refused_whole(
    memories: list[Memory], far_chunks: int
) -> None:
    """The live store and a start from its log then hold the same: no block is in the log that memory holds a part of."""
    live, replayed = memories
    refs = live.intern(200)
    slot, generation = int(refs[0]) & 0xFFFFFFFF, int(refs[0]) >> 32
    t = 2**31  # in the future: never idle, so no newest chunk may be evicted
    live.write(row(slot, t, np.ones(200), generation=generation))
    n_whole = n_refused = 0
    for extents in range(1, 17):
        live.store.samples.set_cap(layout.SAMPLES_DATA + extents * layout.EXTENT_BYTES)
        block = row(slot, t + extents * far_chunks * SPAN, np.full(200, extents), generation=generation)
        before = live.samples()
        try:
            live.store.make_room(block, live.write)
        except StoreFull:
            n_refused += 1
            assert live.samples() == before
            continue
        live.log.append(block)
        done = live.store.apply_block(block)
        assert (done.n_samples, done.n_evicted) == (200, 0)
        n_whole += 1
    assert (n_whole > 0) == (far_chunks < 700)
    assert n_refused
    for block in live.log:
        replayed.store.apply_block(block)
    assert replayed.samples() == live.samples()


def test_a_block_cut_by_others_who_filled_dev_shm_is_whole_once_it_is_tried_again(
    memories: list[Memory],
) -> None:
    """Between the look and the apply somebody may take the last of /dev/shm. The block is in the log by then, so it is
    applied again, from its beginning, until there is room: nothing of it is acknowledged before."""
    live, replayed = memories
    refs = live.intern(200)
    slot, generation = int(refs[0]) & 0xFFFFFFFF, int(refs[0]) >> 32
    block = b"".join(
        row(slot + i, 2**31 + 60 * k, np.full(50, k), generation=generation)
        for k in (1, 20, 200)
        for i in range(0, 200, 50)
    )
    live.store.make_room(block, live.write)
    live.log.append(block)
    live.store.samples.set_cap(layout.SAMPLES_DATA + 1 * layout.EXTENT_BYTES)
    with pytest.raises(StoreFull) as caught:
        live.store.apply_block(block)
    assert 0 < caught.value.details["stopped_at"] < len(block)
    held = sum(map(len, live.samples().values()))
    assert 0 < held < 600
    live.store.samples.set_cap(0)
    live.store.make_room(block, live.write)
    live.log.append(block)
    live.store.apply_block(block)
    assert sum(map(len, live.samples().values())) == 600
    for one in live.log:
        replayed.store.apply_block(one)
    assert replayed.samples() == live.samples()
