"""The known name that somebody may have meant: for the "did you mean" of every error line."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

LOOKED_AT_MAX = 200_000
"""Names that are looked at at all: some 50 ms. A hint is a courtesy, nobody waits for it."""
COMPARED_MAX = 2_000
"""Names that are compared letter by letter, some 20 us each."""


def nearest(wrong: str, known: Iterable[str]) -> str:
    """The name most like `wrong`, another one than itself; "" when none is like it. Takes 0.1 s at most.

    Of more than COMPARED_MAX names only those are compared that share the first half with it, or the second.
    """
    import difflib  # most commands end without a hint

    names = list(islice(known, LOOKED_AT_MAX))
    if len(names) > COMPARED_MAX:
        half = max(1, len(wrong) // 2)
        head, tail, length = wrong[:half], wrong[-half:], len(wrong)
        alike = (one for one in names if one.startswith(head) or one.endswith(tail))
        near = sorted(islice(alike, LOOKED_AT_MAX), key=lambda one: abs(len(one) - length))
        names = near[:COMPARED_MAX]
    close = difflib.get_close_matches(wrong, (one for one in names if one != wrong), 1)
    return close[0] if close else ""
