"""Time, slots, chunks and link words; what validate() notices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.errors import InvariantBroken
from mstore.shm import chunks, layout
from tests.samples_rig import Rig, column, row, stamped


@given(st.integers(-(2**40), 2**40), st.integers(1, 100_000), st.integers(-(2**33), 2**33))
def test_a_slot_holds_the_times_around_its_nominal_time(first_s: int, step_s: int, later_s: int) -> None:
    grid = chunks.Grid.of_first_sample(first_s, step_s)
    assert grid.slot(first_s) == 0
    assert grid.nominal_s(0) == first_s
    t = first_s + later_s
    slot = grid.slot(t)
    assert grid.anchor_s + slot * step_s <= t < grid.anchor_s + (slot + 1) * step_s
    assert abs(grid.nominal_s(slot) - t) <= step_s - step_s // 2
    n, place = grid.place(t)
    assert slot == n * layout.CHUNK_SLOTS + place
    assert 0 <= place < layout.CHUNK_SLOTS
    assert grid.chunk_start_s(n) <= t < grid.chunk_end_s(n)


@given(st.integers(0, 2**36 - 1), st.integers(0, 15), st.integers(1, 2**24 - 1))
def test_a_link_word_is_taken_apart_and_put_together(place: int, size_class: int, stamp: int) -> None:
    link = chunks.Link(place * 64, size_class, stamp)
    assert chunks.Link.of(link.word) == link


def test_sizes_are_those_the_layout_promises() -> None:
    assert [chunks.grid_slots(c, layout.TYPE_F32) for c in (0, 1, 2)] == [16, 112, 512]
    assert [chunks.grid_slots(c, layout.TYPE_U64) for c in (0, 1, 3)] == [8, 56, 512]
    assert chunks.stamped_rows(0, 1) == 4
    assert [chunks.stamped_class(n, 25) for n in range(4)] == [1, 2, 3, 3]
    assert all(chunks.stamped_rows(chunks.stamped_class(0, k), k) >= 1 for k in range(1, 64))
    for log2 in chunks.TABLE_LOG2:
        assert layout.SIZE_CLASS_BYTES[chunks.table_class(log2)] == 8 << log2


def filled(rig: Rig) -> None:
    rig.add(60, anchor_s=-30, count=2)
    rig.add(0, n_columns=2)
    block = column(0, 0, 60, np.arange(1300)) + row(1, 0, [1.0])
    block += stamped(2, [(t, (t, t)) for t in range(40)])
    assert rig.kernel.apply(block).n_samples == 1341


def break_at(rig: Rig, slot: int, n: int) -> np.void:
    link = dict(chunks.linked(rig.series[slot], rig.samples))[n]
    return chunks.header(rig.samples, link)


BREAKS: dict[str, Any] = {
    "chunk of another series": lambda rig: break_at(rig, 0, 1).__setitem__("series", 1),
    "chunk of another kind, type or step": lambda rig: break_at(rig, 0, 1).__setitem__("step_s", 30),
    "two chunks of one number": lambda rig: break_at(rig, 0, 1).__setitem__("n", 2),
    "count of chunks": lambda rig: rig.series[0].__setitem__("n_chunks", 7),
    "first and last chunk": lambda rig: rig.series[0].__setitem__("last_n", 7),
    "current chunk": lambda rig: rig.series[0].__setitem__("cur_link", 77),
    "link0 beside": lambda rig: rig.series[0].__setitem__("link0", rig.series[1]["link0"]),
    "linked twice": lambda rig: rig.series[0].__setitem__("table", rig.series[2]["table"]),
    "outside the segment": lambda rig: rig.series[1].__setitem__("link0", 1 << 40 | (2**36 - 1)),
    "grid": lambda rig: break_at(rig, 0, 2).__setitem__("anchor_s", 5),
    "capacity": lambda rig: break_at(rig, 0, 2).__setitem__("capacity", 5),
    "range of stamps": lambda rig: break_at(rig, 2, 1).__setitem__("t_max_ms", 5),
    "count or sequence": lambda rig: break_at(rig, 2, 1).__setitem__("seq", 1),
    "two sizes": lambda rig: break_at(rig, 1, 0).__setitem__("size_class", 2),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_validate_notices_a_broken_rule(rule: str) -> None:
    with Rig(16, extents=8) as rig:
        filled(rig)
        committed = rig.kernel.committed_bytes
        used = chunks.validate(rig.series[:3], rig.samples, committed)
        assert {c: n for c, n in used.items() if n} == {0: 2, 1: 1, 2: 4, 4: 2}
        BREAKS[rule](rig)
        with pytest.raises(InvariantBroken):
            chunks.validate(rig.series[:3], rig.samples, committed)


def test_a_missing_value_is_told_from_a_sample() -> None:
    assert chunks.missing(np.array([1.0, np.nan], "<f4")).tolist() == [False, True]
    assert chunks.missing(np.array([0, 2**64 - 1], "<u8")).tolist() == [False, True]
