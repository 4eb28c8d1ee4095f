"""Times as people write them -> whole Unix seconds, the one unit of queries.

    1717000000            seconds, also as text, float or numpy integer
    datetime(...)         aware; naive ones are UTC. numpy.datetime64 likewise
    "2024-05-29T16:26:40Z", "2024-05-29 18:26+02:00", "2024-05-29"     ISO 8601; without an offset UTC
    "now", "-2h", "now-2h", "now+90s", "-1d12h", "-1.5h"                relative to now; s m h d w

Fractions are rounded up: an answer covers [from, to), and for a whole-second t both `t >= 10.5` and
`t >= 11` say the same, as do `t < 10.5` and `t < 11`.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

from mstore.errors import InvalidTimeRange

TimeLike: TypeAlias = "int | float | str | datetime | date | Any"
"""What a time argument may be; Any stands for numpy's scalars, which this module does not import."""

DurationLike: TypeAlias = "int | float | str"

# Years 1 to 9999 in seconds: wider makes no sense and would overflow sums of int64 further on.
SECONDS_MIN = -62_135_596_800
SECONDS_MAX = 253_402_300_799

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = r"(\d{1,12}(?:\.\d{1,9})?)\s*([smhdw])"
_DURATION = re.compile(rf"\s*(?:{_PART}\s*)+", re.ASCII)
_DURATION_PART = re.compile(_PART, re.ASCII)
_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_RELATIVE = re.compile(r"(?:now)?\s*([+-])\s*(.+)", re.ASCII | re.DOTALL)

_EXPECTED = 'Unix seconds, a datetime, ISO 8601 text, or text like "-2h" or "now"'


def to_seconds(value: TimeLike, now_s: int) -> int:
    """The whole Unix second that `value` names; relative text counts from now_s.

    raises InvalidTimeRange naming the value and what was expected
    """
    if type(value) is int:  # the common case first; bool is not int here
        return value if SECONDS_MIN <= value <= SECONDS_MAX else _checked(value, value)
    if isinstance(value, str):
        return _checked(_text_seconds(value, now_s), value)
    if isinstance(value, datetime):
        return _checked(_datetime_seconds(value), value)
    if isinstance(value, date):
        return _checked(_datetime_seconds(datetime(value.year, value.month, value.day)), value)
    return _checked(_number_seconds(value), value)


def duration_seconds(text: str) -> int | None:
    """Seconds of "90s", "2h", "1d12h", "1.5h" (rounded up), or None when it is no duration."""
    if not _DURATION.fullmatch(text):
        return None
    from decimal import Decimal

    # Decimal: 0.1 h is 360 s, and not 361 for a rounding error.
    return math.ceil(sum(Decimal(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(text)))


def to_duration_s(value: DurationLike) -> int:
    """Whole seconds, rounded up, of a number of seconds or of text such as "5m". raises InvalidTimeRange"""
    seconds: float | None = None
    if isinstance(value, str):
        seconds = duration_seconds(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    if seconds is None or not 0 <= seconds <= SECONDS_MAX:
        raise InvalidTimeRange(
            f'{value!r} is no duration: expected seconds or text such as "5m"', value=str(value)
        )
    return math.ceil(seconds)


def utc_text(seconds: int) -> str:
    """ "2024-05-29 16:26:40Z"; what is outside the years 1 to 9999 as it is: "1099511627776 s"."""
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        return f"{seconds} s"
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%SZ")


def utc_reach(first_s: int, last_s: int) -> str:
    """ "between TIME and TIME", or "at TIME" where they are one."""
    if first_s == last_s:
        return f"at {utc_text(first_s)}"
    return f"between {utc_text(first_s)} and {utc_text(last_s)}"


def _text_seconds(text: str, now_s: int) -> int:
    stripped = text.strip()
    if stripped == "now":
        return now_s
    # A bare number is a point in time; "-7200" is 1969, and not two hours ago: that needs its unit.
    if _NUMBER.fullmatch(stripped):
        from decimal import Decimal

        return math.ceil(Decimal(stripped))
    relative = _RELATIVE.fullmatch(stripped)
    if relative:
        seconds = duration_seconds(relative[2])
        if seconds is not None:
            return now_s - seconds if relative[1] == "-" else now_s + seconds
    try:
        return _datetime_seconds(datetime.fromisoformat(stripped))
    except ValueError:
        raise InvalidTimeRange(f"{text!r} is no time: expected {_EXPECTED}", value=text) from None


def _datetime_seconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # Integer arithmetic: timestamp() goes through a float.
    past = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return -(-past // timedelta(seconds=1))


def _number_seconds(value: Any) -> int:
    if type(value).__name__ in ("bool", "bool_"):  # also numpy's
        raise InvalidTimeRange(f"{value!r} is no time: expected {_EXPECTED}", value=str(value))
    if type(value).__name__ == "datetime64":
        return _datetime64_seconds(value)
    try:
        return value.__index__()  # type: ignore[no-any-return]  # numpy integers; checked by the interpreter
    except (AttributeError, TypeError):
        pass
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidTimeRange(f"{value!r} is no time: expected {_EXPECTED}", value=str(value))
    return math.ceil(number)


def _datetime64_seconds(value: Any) -> int:
    microseconds = value.astype("datetime64[us]").astype("int64")
    if str(value) == "NaT":
        raise InvalidTimeRange(f"NaT is no time: expected {_EXPECTED}", value="NaT")
    return -(-int(microseconds) // 1_000_000)


def _checked(seconds: int, value: TimeLike) -> int:
    if SECONDS_MIN <= seconds <= SECONDS_MAX:
        return seconds
    raise InvalidTimeRange(
        f"{value!r} is outside the years 1 to 9999; times of queries are Unix seconds, not ms or ns",
        value=str(value),
    )
