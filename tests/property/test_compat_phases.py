"""Checkpoints as the reference cuts them, and their samples' own times found again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mstore.compat.contents import Points, Stretch
from mstore.compat.phases import Phases


def cut(first_s: int, step_s: int, n: int, start: int, end: int) -> Stretch | None:
    """What the reference writes for [start, end) of a series whose sample k, of value k, is at first_s + k * step_s."""
    begin = first_s - step_s // 2
    t = max(start, begin + step_s // 2)
    values = []
    at = t
    while at < end and (at - begin) // step_s < n:
        values.append(float((at - begin) // step_s))
        at += step_s
    return Stretch((), "m", t, step_s, np.array(values, np.float32)) if values else None


def found(phases: Phases, first_s: int, step_s: int, n: int, cuts: list[int]) -> dict[int, int]:
    """Value -> time at which it is placed."""
    placed = {}
    for start, end in pairwise(cuts):
        stretch = cut(first_s, step_s, n, start, end)
        if stretch is not None:
            at = phases.start_of(stretch, start)
            placed |= {int(value): at + k * step_s for k, value in enumerate(stretch.values.tolist())}
    return placed


CUTS = st.lists(st.integers(0, 5000), min_size=2, max_size=6, unique=True).map(sorted)


@given(st.integers(0, 4000), st.integers(1, 90), st.integers(1, 80), CUTS)
def test_a_series_that_began_in_a_window_has_its_own_times_in_all_that_follow(
    first_s: int, step_s: int, n: int, cuts: list[int]
) -> None:
    cuts = [first_s - 1, *(one for one in cuts if one > first_s)]
    placed = found(Phases(), first_s, step_s, n, cuts)
    assert placed == {k: first_s + k * step_s for k in placed}
    if len(cuts) > 1:
        assert 0 in placed


@given(st.integers(0, 4000), st.integers(1, 90), st.integers(1, 80), CUTS, st.integers(0, 10**6))
def test_the_log_says_where_the_samples_of_a_checkpoint_lay(
    first_s: int, step_s: int, n: int, cuts: list[int], logged: int
) -> None:
    phases = Phases()
    later = np.array([first_s + step_s * logged], np.int64)
    phases.learn([Points((), "m", later, np.ones(1, np.float32))])
    placed = found(phases, first_s, step_s, n, cuts)
    assert placed == {k: first_s + k * step_s for k in placed}


@given(st.integers(0, 4000), st.integers(1, 90), st.integers(1, 80), CUTS)
def test_without_either_the_times_of_the_file_are_half_a_step_off_at_most(
    first_s: int, step_s: int, n: int, cuts: list[int]
) -> None:
    placed = found(Phases(), first_s, step_s, n, cuts)
    assert all(abs(t - first_s - k * step_s) <= (step_s + 1) // 2 for k, t in placed.items())


def test_a_window_that_the_series_was_not_cut_in_is_taken_as_it_is() -> None:
    phases = Phases()
    phases.learn([Points((), "m", np.array([30]), np.ones(1)), Points((), "m", np.array([45]), np.ones(1))])
    other = Stretch(("socket0",), "m", 600, 60, np.ones(1))
    assert phases.start_of(other, 600) == 600
    assert phases.start_of(Stretch((), "m", 600, 60, np.ones(1)), 600) == 630
    assert phases.start_of(Stretch((), "m", 617, 60, np.ones(1)), 600) == 617
    assert phases.start_of(Stretch((), "m", 1200, 60, np.ones(1)), 1200) == 1217
