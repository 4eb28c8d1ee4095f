"""Where an era with another step begins: behind every stored sample, on the old phase, not before the era before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mstore.shm import layout
from mstore.shm.directory import SeriesInfo
from mstore.workers.definitions import next_grid

NO_SAMPLE = -(1 << 63)
STEPS = st.integers(1, 7 * 86400)


def series(anchor_s: int, step_s: int, last_t: int, era_start: int = NO_SAMPLE) -> SeriesInfo:
    return SeriesInfo(
        1, 1, layout.KIND_GRID, layout.TYPE_F32, 1, anchor_s, step_s, 2, 0, 0, 0, era_start, last_t, 0, 0, 0, False,
    )  # fmt: skip


@given(anchor=st.integers(0, 2 * 10**9), old=STEPS, new=STEPS, slot=st.integers(-2000, 2000))
def test_an_era_takes_no_slot_with_a_sample_and_begins_on_the_old_phase(
    anchor: int, old: int, new: int, slot: int
) -> None:
    last_t = anchor + old // 2 + slot * old
    found, start = next_grid(series(anchor, old, last_t), new)
    end_of_last_slot = anchor + (slot + 1) * old
    nominal = found + new // 2
    assert start >= end_of_last_slot
    assert found <= start <= nominal
    assert (nominal - last_t - old) % new == 0
    # Nothing of the new step is lost in front of the era but what still belongs to the old grid's next slot.
    assert start - end_of_last_slot <= new // 2


@given(anchor=st.integers(0, 2 * 10**9), old=STEPS, new=STEPS, ahead=st.integers(0, 10**6))
def test_an_era_without_samples_is_continued_from_its_own_start(
    anchor: int, old: int, new: int, ahead: int
) -> None:
    first = series(anchor, old, NO_SAMPLE)
    assert next_grid(first, new) == (anchor + old // 2 - new // 2,) * 2
    era_start = anchor + min(ahead, old // 2)
    found, start = next_grid(series(anchor, old, NO_SAMPLE, era_start), new)
    assert era_start <= start
    assert found <= start <= found + new // 2
