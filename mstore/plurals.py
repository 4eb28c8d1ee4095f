"""Numbers of things as people read them."""

from __future__ import annotations


def count(n: int, noun: str) -> str:
    """1 series, 2 hosts, 1,234 lines, 3 copies, 4 keys."""
    if n == 1 or noun == "series":
        return f"{n:,} {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{n:,} {noun[:-1]}ies"
    return f"{n:,} {noun}s"
