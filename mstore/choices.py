"""The words a question for samples may use, in the order in which they are offered."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, Final

from mstore.errors import InvalidRequest

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
    factor = math.nan
    if not isinstance(scale_by, str | bytes | bytearray):  # which float() would read
        with suppress(TypeError, ValueError, OverflowError):
            factor = float(scale_by)
    if not math.isfinite(factor):
        raise InvalidRequest(f"scale_by={scale_by!r}: expected a finite number")
    return factor
