"""The words a question for samples may use, in the order in which they are offered."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from operator import index
from typing import Any, Final, TypeVar

from mstore import limits
from mstore.errors import InvalidRequest, LimitExceeded

T = TypeVar("T")

ALGORITHMS: Final = ("average", "lttb", "simple", "min", "max", "last")
"""algo: what a coarser step makes of a run of slots. lttb picks slots, and answers with their times."""
FUNCTIONS: Final = ("", "rate", "increase", "delta", "moving_average", "centred_moving_average")
"""function: what becomes of every single series before several become one. "" = it stays as it is."""
FILLS: Final = ("none", "previous", "linear")
"""fill: what stands in slots without a sample."""
MISSING: Final = ("skip", "propagate")
"""missing: what an aggregate makes of a slot that some of its series miss."""
FIRSTS: Final = ("anchored", "zero", "prometheus")
"""first: what a counter's growth is counted from."""


def refuse_unless(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """InvalidRequest for a word that is not allowed, with those that are."""
    if value not in allowed:
        words = ", ".join(f'"{word}"' for word in allowed)
        raise InvalidRequest(f"{name}={value!r}: expected one of {words}")


def finite_factor(scale_by: Any) -> float:
    """scale_by as a plain float. raises InvalidRequest for what is no finite number"""
    return finite("scale_by", scale_by)


def finite(name: str, value: Any) -> float:
    """A number as a plain float. raises InvalidRequest for what is no finite number"""
    number = math.nan
    if not isinstance(value, str | bytes | bytearray):  # which float() would read
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise InvalidRequest(f"{name}={reprlib.repr(value)}: expected a finite number")
    return number


def percentiles(percents: Sequence[Any]) -> list[float]:
    """As plain floats. raises InvalidRequest for what is no number from 0 to 100, or too many"""
    found = [finite("percentiles", one) for one in islice(percents, limits.PERCENTILES_MAX + 1)]
    if len(found) > limits.PERCENTILES_MAX or not all(0.0 <= one <= 100.0 for one in found):
        raise InvalidRequest(
            f"percentiles={reprlib.repr(percents)}: expected at most {limits.PERCENTILES_MAX} numbers from 0 to 100"
        )
    return found


def ranks(k: Any) -> int:
    """How many of a ranking are asked for. raises InvalidRequest for what is no whole number of 1 or more"""
    with suppress(TypeError):
        if 1 <= (n := index(k)) <= limits.QUERY_SERIES_MAX:
            return n
    raise InvalidRequest(f"k={k!r}: expected 1 to {limits.QUERY_SERIES_MAX}")


def questions(given: Iterable[T]) -> list[T]:
    """Many questions, as a list. raises LimitExceeded for too many, of which no more are taken than it needs to know"""
    found = list(islice(given, limits.QUERY_MANY_MAX + 1))
    if len(found) > limits.QUERY_MANY_MAX:
        raise LimitExceeded(
            f"more than {limits.QUERY_MANY_MAX} questions at once: ask for less at a time, or select series of one"
            " metric by a selector",
            limit=limits.QUERY_MANY_MAX,
        )
    return found


def names(name: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
    """A list of names, None = all. raises InvalidRequest for a single text, which would be taken letter by letter"""
    if isinstance(given, str):
        raise InvalidRequest(f"{name}={given!r}: expected a list of names")
    return None if given is None else tuple(given)
