"""Time arguments: every spelling, and what is refused."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.errors import InvalidTimeRange
from mstore.times import SECONDS_MAX, SECONDS_MIN, duration_seconds, to_seconds, utc_reach, utc_text

NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (-5, -5),
        (10.0, 10),
        (10.5, 11),
        (np.int64(7), 7),
        (np.float32(7.5), 8),
        ("1700000000", NOW),
        ("-7200", -7200),
        ("10.25", 11),
        ("now", NOW),
        (" now ", NOW),
        ("-2h", NOW - 7200),
        ("now-2h", NOW - 7200),
        ("now - 1d 12h", NOW - 129_600),
        ("now+90s", NOW + 90),
        ("-0.1h", NOW - 360),
        ("-1w", NOW - 604_800),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14 23:13:20+01:00", NOW),
        ("2023-11-14T22:13:20", NOW),
        ("2023-11-14", NOW - 22 * 3600 - 13 * 60 - 20),
        (date(2023, 11, 14), NOW - 22 * 3600 - 13 * 60 - 20),
        (datetime(2023, 11, 14, 22, 13, 20), NOW),
        (datetime(2023, 11, 14, 22, 13, 20, 1), NOW + 1),
        (datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))), NOW),
        (np.datetime64("2023-11-14T22:13:20"), NOW),
        (np.datetime64("2023-11-14T22:13:20.000001"), NOW + 1),
    ],
)
def test_every_spelling_of_a_time_is_its_second(value: object, seconds: int) -> None:
    assert to_seconds(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "", "2h", "yesterday", "-2y", "now-", "- -2h", "--2h", "1e9", "0x10", "١٢", None, True,
        np.bool_(True), float("nan"), float("inf"), [], b"now", np.datetime64("NaT", "s"),
        1_700_000_000_000, "1700000000000", "-99999999999999w", object(),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidTimeRange):
        to_seconds(value, NOW)


@given(st.integers(SECONDS_MIN, SECONDS_MAX))
def test_seconds_datetimes_and_iso_text_agree(seconds: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert to_seconds(seconds, 0) == to_seconds(moment, 0) == to_seconds(moment.isoformat(), 0) == seconds


@given(st.text(max_size=20))
def test_any_text_is_a_time_or_a_typed_error(text: str) -> None:
    seconds = NOW
    with contextlib.suppress(InvalidTimeRange):
        seconds = to_seconds(text, NOW)
    assert SECONDS_MIN <= seconds <= SECONDS_MAX


def test_durations_add_their_parts() -> None:
    assert duration_seconds("1h30m") == 5400
    assert duration_seconds("1.5h") == 5400
    assert duration_seconds("0.5s") == 1
    assert duration_seconds("h") is None
    assert duration_seconds("10") is None


def test_times_are_told_in_utc_and_what_no_calendar_has_as_seconds() -> None:
    assert utc_text(1_700_000_220) == "2023-11-14 22:17:00Z"
    assert utc_text(1 << 40) == f"{1 << 40} s"
    assert utc_reach(0, 0) == "at 1970-01-01 00:00:00Z"
    assert utc_reach(0, 86_400) == "between 1970-01-01 00:00:00Z and 1970-01-02 00:00:00Z"
