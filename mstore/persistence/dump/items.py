"""What a dump consists of: items in the order of the file, and the choice of what is shown of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that stands in a file: a header, a block, a record, a gap, or what is to be said of the whole."""

    what: str
    """file, header, block, record, chunk, ... ; gap = bytes that are nothing valid; end = the file's summary"""
    at: int
    """Offset in the file."""
    fields: dict[str, Any]
    """Names and values: numbers, texts, booleans, lists of those; numpy arrays of a run's samples."""
    depth: int = 1
    """0 the file, 1 what it consists of, 2 records in it."""
    wrong: str = ""
    """Why it is not sound; "" = every check passed."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a file is shown; all of it is read and checked."""

    types: frozenset[str] = frozenset()
    """Names of record types in lower case, such as level, row, chunk; empty = all."""
    first_seq: int = 0
    last_seq: int = (1 << 64) - 1
    """Blocks of the log outside are not shown."""
    limit: int = 0
    """Blocks and records shown of each file; 0 = all."""

    def has(self, kind: str) -> bool:
        return not self.types or kind in self.types

    def has_seq(self, seq: int) -> bool:
        return self.first_seq <= seq <= self.last_seq


@dataclass(slots=True)
class Shown:
    """What was shown of one file so far, and what was found in all of it."""

    choice: Choice
    counts: dict[str, int] = field(default_factory=dict)
    """How many of each, shown or not, in order of first sight."""
    n_shown: int = 0
    n_left_out: int = 0
    n_wrong: int = 0

    def count(self, what: str, n: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + n

    def takes(self, kind: str) -> bool:
        """Whether one more block or record of this kind is shown."""
        if not self.choice.has(kind):
            return False
        if self.choice.limit and self.n_shown >= self.choice.limit:
            self.n_left_out += 1
            return False
        self.n_shown += 1
        return True

    def end(self, size: int) -> Item:
        """The summary that ends a file."""
        fields: dict[str, Any] = dict(self.counts)
        if self.n_left_out:
            fields["not_shown"] = self.n_left_out
        wrong = f"{self.n_wrong} not sound" if self.n_wrong else ""
        return Item("end", size, fields, 0, wrong)
