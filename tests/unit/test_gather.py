"""The gather kernel against its naive twin: on memory laid out by hand, that changes, or that is damaged."""

from __future__ import annotations

import math
import mmap
import multiprocessing
import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.kernels import _gather, _gather_batch, reference_query
from mstore.kernels._directory import DirectoryReader
from mstore.kernels._gather import Gatherer
from mstore.kernels._segment import Segment
from mstore.shm import layout
from tests.memory_rig import LIMIT, SAMPLES_BYTES, Memory, same_bits, stores


def aggregate(
    memory: Memory, refs: Any, start: int, end: int, average: bool, propagate: bool
) -> tuple[Any, Any, int, int]:
    """One group of the batch kernel: (values, coverage, start, step)."""
    how = _gather_batch.AVERAGE * average | _gather_batch.PROPAGATE * propagate
    found = _gather_batch.gather(
        memory.gatherer(), refs, np.array([0, len(refs)]), np.array([start]), np.array([end]),
        np.array([how], np.uint8), np.array([LIMIT]),
    )  # fmt: skip
    assert isinstance(found, tuple)
    values, coverage, ((_, t0, step, *_),) = found
    return values.view(np.float64), coverage, t0, step


def check_grid(memory: Memory, ref: int, start: int, end: int) -> tuple[Any, ...]:
    got = memory.gatherer().grid(ref, start, end, LIMIT)
    assert isinstance(got, tuple)
    want = reference_query.grid(memory.twin(), ref, start, end)
    assert same_bits(got[0], want[0])
    assert got[1:5] == want[1:5]
    return got


def test_answer_covers_the_slots_whose_nominal_times_are_in_the_half_open_range() -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=95, step_s=10)
    memory.put(slot, {0: 1.0, 1: 2.0, 3: 4.0}, size_class=0)
    values, start, step, kind, present, _ = check_grid(memory, memory.ref(slot), 100, 140)
    assert values.tolist()[:2] == [1.0, 2.0]
    assert math.isnan(values[2])
    assert (values[3], start, step, kind, present) == (4.0, 100, 10, layout.TYPE_F32, 3)
    assert check_grid(memory, memory.ref(slot), 101, 121)[1] == 110
    assert len(check_grid(memory, memory.ref(slot), 101, 110)[0]) == 0
    assert len(check_grid(memory, memory.ref(slot), 100, 100)[0]) == 0


def test_range_outside_the_data_is_all_missing_on_the_same_grid() -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=95, step_s=10)
    memory.put(slot, {0: 1.0}, size_class=0)
    values, start, _, _, present, _ = check_grid(memory, memory.ref(slot), -100_003, -99_000)
    assert (start, present, len(values)) == (-100_000, 0, 100)
    assert np.isnan(values).all()


@pytest.mark.parametrize("kind", [layout.TYPE_F32, layout.TYPE_F64, layout.TYPE_U64])
def test_every_type_crosses_chunk_borders_with_its_own_missing_value(kind: int) -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=0, step_s=60, type=kind)
    memory.put(slot, {k: float(k % 1000) for k in range(500, 1600) if k % 7})
    values, *_ = check_grid(memory, memory.ref(slot), 500 * 60, 1700 * 60)
    assert values.dtype == layout.TYPE_DTYPES[kind]
    assert len(values) == 1200


def test_aggregate_skips_missing_and_counts_coverage() -> None:
    memory = Memory()
    slots = [memory.add_series(anchor_s=95 + i, step_s=10) for i in range(3)]
    memory.put(slots[0], {0: 1.0, 1: 2.0}, size_class=0)
    memory.put(slots[1], {1: 10.0}, size_class=0)
    refs = np.array([memory.ref(slot) for slot in slots], np.uint64)
    values, coverage, start, step, *_ = aggregate(memory, refs, 100, 130, True, False)
    assert values[:2].tolist() == [1.0, 6.0]
    assert math.isnan(values[2])
    assert coverage.tolist() == [1, 2, 0]
    assert (start, step) == (100, 10)
    values, *_ = aggregate(memory, refs, 100, 130, False, True)
    assert np.isnan(values).all()


def test_coarsest_step_and_phase_of_the_first_series_make_the_grid_of_an_aggregate() -> None:
    memory = Memory()
    fine = memory.add_series(anchor_s=95, step_s=10)
    coarse = memory.add_series(anchor_s=0, step_s=60)
    memory.put(fine, {k: float(k) for k in range(100)}, size_class=1)
    memory.put(coarse, dict.fromkeys(range(16), 1000.0), size_class=0)
    refs = np.array([memory.ref(fine), memory.ref(coarse)], np.uint64)
    values, _, start, step, *_ = aggregate(memory, refs, 100, 400, False, False)
    # Nominal times of the fine series are 100, 110 ..; every sixth of them is asked of both.
    assert (start, step) == (100, 60)
    assert values.tolist() == [1000.0, 1006.0, 1012.0, 1018.0, 1024.0]


def test_older_eras_answer_by_nearest_slot_on_the_newest_grid() -> None:
    memory = Memory()
    old = memory.add_series(anchor_s=-30, step_s=60)
    memory.put(old, {k: float(k) for k in range(16)}, size_class=0)
    new = memory.next_era(old, 600, anchor_s=596, step_s=10, type=layout.TYPE_F64)
    memory.put(new, {0: 0.5, 1: 1.5}, size_class=0)
    values, start, step, kind, *_ = check_grid(memory, memory.ref(new), 571, 621)
    assert (start, step, kind) == (571, 10, layout.TYPE_F64)
    # 571 .. 591 lie in slot 10 of the old grid (570 .. 630), 601 and 611 in the new one's.
    assert values.tolist() == [10.0, 10.0, 10.0, 0.5, 1.5]
    assert check_grid(memory, memory.ref(old), 571, 621)[1:4] == (571, 10, layout.TYPE_F64)
    assert check_grid(memory, memory.ref(new), 0, 300)[1:4] == (0, 60, layout.TYPE_F32)


def test_rows_come_from_every_chunk_of_the_range() -> None:
    memory = Memory()
    slot = memory.add_series(kind=layout.KIND_STAMPED, type=0, n_columns=2, step_s=0)
    want = {}
    for n, stamps in enumerate([[1000, 2500], [2500, 900, 4000]]):
        offset, word = memory.add_chunk(slot, n, 3, count=len(stamps), capacity=170)
        words = np.frombuffer(memory.samples, "<u8", len(stamps) * 3, offset + 64).reshape(-1, 3)
        for i, stamp in enumerate(stamps):
            words[i] = (stamp, 10 * n + i, 7)
            want[stamp] = (10 * n + i, 7)
        memory.link(slot, n, word)
    got, ascending, kind, _ = memory.gatherer().rows(memory.ref(slot), 0, 4, LIMIT)
    assert not ascending
    assert kind == 0
    assert got[:, 0].tolist() == [1000, 2500, 2500, 900]
    del want[4000]
    assert reference_query.rows(memory.twin(), memory.ref(slot), 0, 4) == dict(sorted(want.items()))
    assert memory.gatherer().rows(memory.ref(slot), 0, 4, 3) == _gather.LIMIT
    assert memory.gatherer().grid(memory.ref(slot), 0, 4, 3) == _gather.OTHER_KIND


def test_reference_of_another_generation_is_gone() -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=95, step_s=10)
    memory.put(slot, {0: 1.0}, size_class=0)
    gatherer = memory.gatherer()
    assert gatherer.grid(2 << 32 | slot, 100, 200, LIMIT) == _gather.GONE
    assert gatherer.grid(1 << 32 | 99_999, 100, 200, LIMIT) == _gather.GONE
    assert gatherer.grid(memory.ref(slot), 0, 2**40, 1000) == _gather.LIMIT


def test_a_link_to_another_series_chunk_yields_no_values() -> None:
    memory = Memory()
    slots = [memory.add_series(anchor_s=95, step_s=10) for _ in range(2)]
    memory.put(slots[0], {0: 1.0}, size_class=0)
    memory.series[slots[1]]["link0"] = memory.series[slots[0]]["link0"]
    assert memory.gatherer().grid(memory.ref(slots[1]), 100, 110, LIMIT)[4] == 0


@given(word=st.integers(0, 2**64 - 1), table=st.integers(0, 2**64 - 1), seed=st.integers(0, 2**32))
def test_damaged_words_never_lead_outside_and_never_to_values(word: int, table: int, seed: int) -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=95, step_s=10)
    memory.put(slot, {0: 1.0}, size_class=0)
    memory.samples[layout.SAMPLES_DATA + 8192 :] = random.Random(seed).randbytes(4096) * (
        (SAMPLES_BYTES - layout.SAMPLES_DATA - 8192) // 4096
    )
    for field, value in (("link0", word), ("table", table)):
        kept = int(memory.series[slot][field])
        memory.series[slot][field] = value
        got = memory.gatherer().grid(memory.ref(slot), 100, 6000, LIMIT)
        # The one sample there is may show where the damage left the way to it, and nothing else ever.
        assert got == _gather.BROKEN or got[0][~np.isnan(got[0])].tolist() in ([], [1.0])
        memory.series[slot][field] = kept


def test_nothing_beyond_the_committed_size_is_touched() -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=95, step_s=10)
    memory.put(slot, {0: 1.0}, size_class=0)
    memory.header["committed_bytes"] = layout.SAMPLES_DATA + 64
    assert memory.gatherer().grid(memory.ref(slot), 100, 110, LIMIT)[4] == 0
    memory.header["committed_bytes"] = 2**63
    assert memory.gatherer().grid(memory.ref(slot), 100, 110, LIMIT)[4] == 1


@given(store=stores(), start=st.integers(-80_000, 80_000), span=st.integers(0, 30_000))
def test_gather_and_its_naive_twin_agree_bit_for_bit(
    store: tuple[Memory, list[int]], start: int, span: int
) -> None:
    memory, refs = store
    for ref in refs:
        check_grid(memory, ref, start, start + span)
    for average, propagate in ((True, False), (False, True)) if len(refs) > 1 else ():
        got = aggregate(memory, np.array(refs, np.uint64), start, start + span, average, propagate)
        want = reference_query.aggregate(memory.twin(), refs, start, start + span, average, propagate)
        assert same_bits(got[0], want[0])
        assert got[1].tolist() == want[1].tolist()
        assert got[2:4] == want[2:4]


def relink_for_ever(memory: Memory, mine: int, other: int, places: list[int], stop: mmap.mmap) -> None:
    """A writer that keeps the rules: contents before link, unlinked before reuse, every link a new stamp."""
    tables = [
        np.frombuffer(memory.samples, "<u8", 128, int(memory.series[s]["table"]) >> 8) for s in (mine, other)
    ]
    headers = [np.frombuffer(memory.samples, layout.CHUNK, 1, place)[0] for place in places]
    payloads = [np.frombuffer(memory.samples, "<f4", 512, place + 64) for place in places]
    stamp, at = 1000, 0
    while not stop[0]:
        tables[1][0] = 0
        for i, (slot, value) in enumerate(((mine, 1.0), (other, 2.0))):
            headers[at]["series"] = slot
            payloads[at][:] = value
            stamp += 1
            tables[i][0] = places[at] >> 6 | 2 << 36 | stamp << 40
            at ^= 1
        at ^= 1  # `mine` stays linked to its place until it has another one


def test_no_answer_mixes_series_while_a_chunk_is_moved_and_its_memory_reused() -> None:
    shared = mmap.mmap(-1, SAMPLES_BYTES)
    stop = mmap.mmap(-1, 4096)
    memory = Memory(shared)
    mine, other = (memory.add_series(anchor_s=0, step_s=1) for _ in range(2))
    memory.put(mine, dict.fromkeys(range(512), 1.0))
    memory.put(other, {0: 2.0})
    places = [memory.add_chunk(mine, 0, 2, capacity=512)[0] for _ in range(2)]
    gatherer = memory.gatherer()
    writer = multiprocessing.get_context("fork").Process(
        target=relink_for_ever, args=(memory, mine, other, places, stop)
    )
    writer.start()
    try:
        seen = {1.0: 0, 2.0: 0}
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            for slot, value in ((mine, 1.0), (other, 2.0)):
                got = gatherer.grid(memory.ref(slot), 0, 512, LIMIT)
                if got == _gather.BUSY:
                    continue
                found = got[0][~np.isnan(got[0])]
                assert (found == value).all(), f"series {slot} showed {set(found.tolist())}"
                seen[value] += len(found)
    finally:
        stop[0] = 1
        writer.join()
    assert seen[1.0] > 0
    assert seen[2.0] > 0


def test_read_only_mappings_are_enough(tmp_path: Any) -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=95, step_s=10)
    memory.put(slot, {0: 1.0}, size_class=0)
    segments = []
    for name, content in (("directory", memory.directory), ("samples", memory.samples)):
        path = tmp_path / name
        path.write_bytes(content)
        with path.open("rb") as file:
            segments.append(Segment(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)))
    gatherer = Gatherer(DirectoryReader(segments[0]), segments[1])
    assert gatherer.grid(memory.ref(slot), 100, 110, LIMIT)[4] == 1
    ((n, table, word, offset, count),) = gatherer.chunks(memory.ref(slot))
    view = gatherer.view(offset, count * 4)
    assert view.readonly
    assert np.frombuffer(view, "<f4")[0] == 1.0
    assert gatherer.still_linked(memory.ref(slot), n, table, word)
    assert not gatherer.still_linked(memory.ref(slot), n, table, word + (1 << 40))
    with pytest.raises(ValueError, match="outside"):
        gatherer.view(len(memory.samples), 1)
