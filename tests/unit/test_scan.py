"""The scanning kernels against their naive twins: figures, newest samples, runs beyond a level, all samples."""

from __future__ import annotations

import mmap
import multiprocessing
import random
import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.kernels import _gather, _scan, reference_query, reference_scan
from mstore.shm import layout
from tests.memory_rig import SAMPLES_BYTES, Memory, stores

NO_TIME = reference_scan.NO_TIME


def refs_of(memory: Memory, slots: list[int]) -> Any:
    return np.array([memory.ref(slot) for slot in slots], np.uint64)


def as_float(word: int) -> float:
    found: float = struct.unpack("<d", struct.pack("<Q", word))[0]
    return found


def check_scan(memory: Memory, refs: list[int], start: int, end: int) -> None:
    found = _scan.scan(memory.gatherer(), np.array(refs, np.uint64), start, end)
    assert not isinstance(found, int)
    counts, sums, words, times, whole = found
    for i, ref in enumerate(refs):
        n, total, want_words, want_times, want_whole = reference_scan.scan(memory.twin(), ref, start, end)
        assert (int(counts[i]), float(sums[i]), bool(whole[i])) == (n, total, want_whole)
        if n:
            assert words[i].tolist() == list(want_words)
            assert times[i].tolist() == list(want_times)


def check_newest(memory: Memory, refs: list[int], start: int, end: int) -> None:
    found = _scan.newest(memory.gatherer(), np.array(refs, np.uint64), start, end)
    assert not isinstance(found, int)
    for i, ref in enumerate(refs):
        word, t, whole = reference_scan.newest(memory.twin(), ref, start, end)
        assert (int(found[1][i]), bool(found[2][i])) == (t, whole)
        assert t == NO_TIME or int(found[0][i]) == word


def check_runs(
    memory: Memory, refs: list[int], start: int, end: int, level: float, below: bool, gap_s: int
) -> None:
    found = _scan.runs(memory.gatherer(), np.array(refs, np.uint64), start, end, level, below, gap_s)
    assert not isinstance(found, int)
    for i, ref in enumerate(refs):
        since, peak = reference_scan.run(memory.twin(), ref, start, end, level, below, gap_s)
        assert (int(found[3][i]), float(found[4][i])) == (since, peak)
        assert int(found[1][i]) == reference_scan.newest(memory.twin(), ref, start, end)[1]


RANGES = (st.integers(-80_000, 80_000), st.integers(0, 60_000))


@settings(max_examples=60, deadline=None)
@given(stores(), *RANGES)
def test_figures_of_a_series_and_their_naive_twin_agree_bit_for_bit(
    store: tuple[Memory, list[int]], start: int, span: int
) -> None:
    memory, refs = store
    check_scan(memory, refs, start, start + span)
    check_newest(memory, refs, start, start + span)


@settings(max_examples=60, deadline=None)
@given(
    store=stores(), start=RANGES[0], span=RANGES[1], below=st.booleans(),
    level=st.one_of(st.integers(0, 2**24), st.floats(-1e9, 1e9)), gap_s=st.sampled_from([0, 30, 300, 10**6]),
)  # fmt: skip
def test_a_run_beyond_a_level_and_its_naive_twin_agree(
    store: tuple[Memory, list[int]], start: int, span: int, level: float, below: bool, gap_s: int
) -> None:
    memory, refs = store
    check_runs(memory, refs, start, start + span, float(level), below, gap_s)


@settings(max_examples=40, deadline=None)
@given(stores(), *RANGES)
def test_samples_of_several_series_are_all_there_are(
    store: tuple[Memory, list[int]], start: int, span: int
) -> None:
    memory, refs = store
    want = sorted(
        float(one.value)
        for ref in refs
        for one in reference_scan.samples(memory.twin(), ref, start, start + span)[0]
    )
    into = np.empty(len(want), np.uint64)
    gatherer = memory.gatherer()
    assert _scan.values(gatherer, np.array(refs, np.uint64), start, start + span, into) == (len(want),)
    assert sorted(into.view(np.float64).tolist()) == want
    if want:
        short = into[:-1]
        assert _scan.values(gatherer, np.array(refs, np.uint64), start, start + span, short) == _gather.LIMIT


@pytest.mark.parametrize("kind", [layout.TYPE_F32, layout.TYPE_F64, layout.TYPE_U64])
@pytest.mark.parametrize("seed", range(2))
def test_many_series_of_full_chunks_are_scanned_as_if_each_were_alone(kind: int, seed: int) -> None:
    """More than a block of them, sums that depend on the order of adding, ranges that begin and end inside chunks."""
    rng = random.Random(seed)
    memory = Memory()
    slots = []
    for _ in range(70):
        slot = memory.add_series(anchor_s=rng.randrange(-40, 40), step_s=10, type=kind)
        keys = [k for k in range(rng.randrange(-600, 500), 700) if rng.random() < 0.95]
        memory.put(slot, {k: rng.choice([rng.random() * 1e6, 0.1, 3.0]) for k in keys})
        slots.append(slot)
        if memory.free > SAMPLES_BYTES - 20_000:
            break
    refs = [memory.ref(slot) for slot in slots]
    for start, end in ((-10_000, 10_000), (-2570, 5123), (17, 17), (0, 10)):
        check_scan(memory, refs, start, end)
        check_newest(memory, refs, start, end)


def test_numbers_of_64_bits_stay_exact() -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=-5, step_s=10, type=layout.TYPE_U64, last_t=30)
    memory.put(slot, {})
    offset, word = memory.add_chunk(slot, 0, 3, capacity=512)
    array = np.frombuffer(memory.samples, "<u8", 512, offset + 64)
    array[:] = layout.U64_MISSING
    array[:4] = [2**63, 2**53 + 1, 2**64 - 2, 2**53 + 3]
    memory.link(slot, 0, word)
    refs = refs_of(memory, [slot])
    counts, _, words, times, whole = _scan.scan(memory.gatherer(), refs, 0, 40)  # type: ignore[misc]  # no status
    assert (counts.tolist(), whole.tolist(), times.tolist()) == ([4], [1], [[0, 30]])
    assert words.tolist() == [[2**53 + 1, 2**64 - 2, 2**63, 2**53 + 3]]
    for level, below, since in [
        (2.0**53 + 2, False, 20), (2.0**53 + 4, False, NO_TIME), (2.0**53 + 2, True, NO_TIME),
        (2.0**53 + 4, True, 30), (1e30, True, 0), (-1.0, False, 0), (-1.0, True, NO_TIME), (0.5, False, 0),
    ]:  # fmt: skip
        found = _scan.runs(memory.gatherer(), refs, 0, 40, level, below, 100)
        assert not isinstance(found, int)
        assert (found[0].tolist(), found[3].tolist()) == ([2**53 + 3], [since]), (level, below)


def test_a_hole_is_passed_over_unless_it_is_too_long() -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=-5, step_s=10, last_t=130)
    memory.put(slot, {0: 9.0, 1: 1.0, 2: 5.0, 3: 7.0, 5: 6.0, 13: 8.0}, size_class=0)
    for gap_s, since, peak in ((100, 20, 8.0), (80, 20, 8.0), (79, 130, 8.0)):
        found = _scan.runs(memory.gatherer(), refs_of(memory, [slot]), 0, 1000, 4.0, False, gap_s)
        assert not isinstance(found, int)
        assert (found[3].tolist(), found[4].tolist()) == ([since], [peak])


def test_a_newest_time_whose_sample_is_gone_hides_none_before_it() -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=-5, step_s=10, last_t=10_000)
    memory.put(slot, {3: 4.0})
    check_newest(memory, [memory.ref(slot)], 0, 20_000)
    words, times, _ = _scan.newest(memory.gatherer(), refs_of(memory, [slot]), 0, 20_000)  # type: ignore[misc]
    assert (as_float(int(words[0])), times.tolist()) == (4.0, [30])


def test_a_series_that_is_gone_or_has_rows_is_told_by_a_status() -> None:
    memory = Memory()
    rows = memory.add_series(kind=layout.KIND_STAMPED, type=0, n_columns=2, step_s=0)
    gatherer = memory.gatherer()
    into = np.empty(4, np.uint64)
    for refs, status in (([1 << 32 | 400], _gather.GONE), ([memory.ref(rows)], _gather.OTHER_KIND)):
        chosen = np.array(refs, np.uint64)
        assert _scan.scan(gatherer, chosen, 0, 10) == status
        assert _scan.newest(gatherer, chosen, 0, 10) == status
        assert _scan.runs(gatherer, chosen, 0, 10, 1.0, False, 10) == status
        assert _scan.values(gatherer, chosen, 0, 10, into) == status


def test_no_series_are_no_answers() -> None:
    gatherer, none = Memory().gatherer(), np.zeros(0, np.uint64)
    counts, _, words, times, _ = _scan.scan(gatherer, none, 0, 10)  # type: ignore[misc]
    assert (counts.shape, words.shape, times.shape) == ((0,), (0, 4), (0, 2))
    assert _scan.values(gatherer, none, 0, 10, none) == (0,)


def refill_for_ever(memory: Memory, slots: list[int], places: list[int], stop: mmap.mmap) -> None:
    """Two series take turns at the memory of one chunk; a spare keeps each linked to something of its own."""
    tables = [
        np.frombuffer(memory.samples, "<u8", 128, int(memory.series[slot]["table"]) >> 8) for slot in slots
    ]
    stamp, free = 10_000, places[2]
    held = places[:2]
    turn = 0
    while not stop[0]:
        header = np.frombuffer(memory.samples, layout.CHUNK, 1, free)[0]
        header["series"] = slots[turn]
        np.frombuffer(memory.samples, "<f4", 512, free + 64)[:] = turn + 1
        stamp += 1
        tables[turn][0] = free >> 6 | 2 << 36 | stamp << 40
        free, held[turn] = held[turn], free
        turn ^= 1


def test_no_figure_comes_from_another_series_while_memory_is_reused() -> None:
    shared, stop = mmap.mmap(-1, SAMPLES_BYTES), mmap.mmap(-1, 4096)
    memory = Memory(shared)
    slots = [memory.add_series(anchor_s=0, step_s=1, last_t=511) for _ in range(2)]
    for number, slot in enumerate(slots, 1):
        memory.put(slot, dict.fromkeys(range(512), float(number)))
    places = [memory.add_chunk(slots[0], 0, 2, capacity=512)[0] for _ in range(3)]
    writer = multiprocessing.get_context("fork").Process(
        target=refill_for_ever, args=(memory, slots, places, stop)
    )
    writer.start()
    gatherer, refs = memory.gatherer(), refs_of(memory, slots)
    seen = 0
    try:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            found = _scan.scan(gatherer, refs, 0, 512)
            latest = _scan.newest(gatherer, refs, 0, 512)
            if isinstance(found, int) or isinstance(latest, int):
                assert found == _gather.BUSY or latest == _gather.BUSY
                continue
            assert found[0].tolist() == [512, 512]
            assert found[1].tolist() == [512.0, 1024.0]
            assert latest[0].view(np.float64).tolist() == [1.0, 2.0]
            seen += 1
    finally:
        stop[0] = 1
        writer.join(20)
    assert seen > 0


def test_lanes_are_those_of_the_kernel() -> None:
    assert reference_scan.LANES == _scan.LANES
    assert layout.CHUNK_SLOTS % _scan.LANES == 0


def test_the_twin_knows_the_samples_of_grid() -> None:
    """What is scanned is what an answer shows: the samples of every slot's own time."""
    memory = Memory()
    old = memory.add_series(anchor_s=-30, step_s=60)
    memory.put(old, {k: float(k) for k in range(16)}, size_class=0)
    new = memory.next_era(old, 600, anchor_s=570, step_s=60)
    memory.put(new, {0: 100.0, 1: 101.0}, size_class=0)
    values, start, step, _, n = reference_query.grid(memory.twin(), memory.ref(new), 0, 2000)
    shown = [(start + i * step, value) for i, value in enumerate(values.tolist()) if value == value]
    found, _ = reference_scan.samples(memory.twin(), memory.ref(new), 0, 2000)
    assert [(one.t, one.value) for one in found] == shown
    assert len(found) == n
