"""What bounds a question, and work done in slices: no sockets, a clock of the test's own."""

from __future__ import annotations

import pytest

from mstore import clock, limits
from mstore.errors import Cancelled, LimitExceeded, Timeout
from mstore.query.budget import Budget, Slices, Work, finished


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """now[0] is the monotonic time, in seconds."""
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: now[0])
    return now


def pieces(now: list[float], n: int, seconds: float, done: list[int]) -> Work[str]:
    """n pieces of so many seconds each; done counts them."""
    for i in range(n):
        now[0] += seconds
        done.append(i)
        yield
    return "answer"


def test_work_that_nobody_interrupts_is_finished_at_once(now: list[float]) -> None:
    done: list[int] = []
    assert finished(pieces(now, 7, 1.0, done)) == "answer"
    assert done == list(range(7))


def test_a_slice_ends_with_the_piece_that_uses_up_its_time(now: list[float]) -> None:
    done: list[int] = []
    slices = Slices(pieces(now, 7, 0.25, done), Budget())
    ends = []
    while not slices.run(0.6):
        ends.append(len(done))
    assert ends == [3, 6]
    assert (slices.answer, len(done)) == ("answer", 7)


def test_a_piece_is_done_in_every_slice_however_short_it_is(now: list[float]) -> None:
    done: list[int] = []
    slices = Slices(pieces(now, 3, 5.0, done), Budget())
    assert [slices.run(0.0) for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("cancelled", [False, True])
def test_work_ends_when_it_is_cancelled_or_its_time_is_up(now: list[float], cancelled: bool) -> None:
    done: list[int] = []
    budget = Budget(due_s=102.5)
    slices = Slices(pieces(now, 100, 1.0, done), budget)
    assert not slices.run(1.5)
    if cancelled:
        budget.cancel()
    with pytest.raises(Cancelled if cancelled else Timeout):
        slices.run(10.0)
    assert len(done) == (2 if cancelled else 3)
    assert list(slices._work) == [], "the work has ended"


def test_an_answer_that_comes_too_late_is_none(now: list[float]) -> None:
    done: list[int] = []
    slices = Slices(pieces(now, 1, 5.0, done), Budget(due_s=101.0))
    with pytest.raises(Timeout):
        slices.run(10.0)
    assert slices.answer is None


def test_work_that_fails_has_ended(now: list[float]) -> None:
    def failing() -> Work[None]:
        yield
        raise ValueError("a bug")

    slices = Slices(failing(), Budget())
    with pytest.raises(ValueError, match="a bug"):
        slices.run(1.0)


@pytest.mark.parametrize(
    ("what", "limit"),
    [("series", "QUERY_SERIES_MAX"), ("samples", "QUERY_SAMPLES_MAX"), ("n_bytes", "ANSWER_BYTES_MAX")],
)
def test_what_would_exceed_a_bound_is_refused_before_it_is_read(
    what: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, limit, 1000)
    budget = Budget()
    budget.spend(**{what: 600})
    budget.spend(**{what: 400})
    assert getattr(budget, what) == 1000
    with pytest.raises(LimitExceeded, match=r"1,001 .* at most 1,000") as raised:
        budget.spend(**{what: 1})
    assert raised.value.details == {what.removeprefix("n_"): 1001, "limit": 1000}
