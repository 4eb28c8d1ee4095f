"""The known name that somebody may have meant: for the "did you mean" of every error line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from heapq import nsmallest
from itertools import islice

LOOKED_AT_MAX = 200_000
"""Names that are looked at at all: some 50 ms. A hint is a courtesy, nobody waits for it."""
COMPARED_MAX = 2_000
"""Names that are compared letter by letter, some 20 us each."""
_ALIKE_MIN = 0.6
"""What of two names must be the same that one may have been meant by the other."""
_DIGITS_MAX = 18
"""Of names with more of them the number says nothing."""


def nearest(wrong: str, known: Iterable[str]) -> str:
    """The name most like `wrong`, another one than itself; "" when none is like it. Takes 0.2 s at most.

    Of names that are equally like it, as numbered hosts often are, one of its length, then the one with the nearest number.
    Of more than COMPARED_MAX names only those are compared that share the first half with it, or the second.
    """
    import difflib  # most commands end without a hint

    names = list(islice(known, LOOKED_AT_MAX))
    if len(names) > COMPARED_MAX:
        half = max(1, len(wrong) // 2)
        head, tail = wrong[:half], wrong[-half:]
        near = (one for one in names if one.startswith(head) or one.endswith(tail))
        names = nsmallest(COMPARED_MAX, near, key=lambda one: _farness(one, wrong))
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(wrong)
    best, found = _ALIKE_MIN, ""
    for one in names:
        if one == wrong:
            continue
        matcher.set_seq1(one)
        if matcher.real_quick_ratio() < best or matcher.quick_ratio() < best:
            continue
        alike = matcher.ratio()
        if alike > best or (alike == best and (not found or _farness(one, wrong) < _farness(found, wrong))):
            best, found = alike, one
    return found


def _farness(name: str, wrong: str) -> tuple[int, int, str]:
    """How far a name is from another in length, and in the number that its digits make; then the name, for an order."""
    return abs(len(name) - len(wrong)), abs(_number(name) - _number(wrong)), name


def _number(name: str) -> int:
    return int("0" + "".join(re.findall("[0-9]", name))[:_DIGITS_MAX])
