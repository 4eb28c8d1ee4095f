"""What a start fills: the interface between reading files back and whoever holds what is in them.

A start fills memory (apply/refill.py); a check fills one that only counts (rehearsal.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

Progress = Callable[[str, int, int], None]
"""(what is being read, bytes done, bytes in all)"""


class Target(Protocol):
    """What is filled: an empty store."""

    def apply(self, records: memoryview) -> object:
        """The payload of one block of the log."""

    def define(self, records: memoryview) -> object:
        """Definitions, up to 4 MiB of whole records at once, parents first; then PROTECT records, in blocks of their own."""

    def foresee(self, record: memoryview) -> object:
        """A PROTECT record that the log will come to: no chunk of its hosts is too old. Before the first chunk."""

    def load(
        self, entries: memoryview, expired_s: int, older_s: int
    ) -> tuple[int, int, int, int, int, int, int]:
        """The chunks of one block, those that end before either second left out.

        returns  chunks loaded; samples in them; chunks of series that are gone; expired; older; without room; chunks
                 that had been loaded and were evicted to make room
        raises   CorruptRecord for entries that no snapshot's writer makes
        """

    def prepare(self, n_bytes: int) -> None:
        """Chunks that take so much memory are about to come, as far as there is room."""

    def finish(self) -> None:
        """No more chunks come."""

    def forget(self, cluster: int) -> None:
        """Free all chunks of a cluster's series."""

    def room(self) -> int:
        """Bytes that chunks may take; asked when the definitions are in memory."""

    def clusters_with_series(self) -> Collection[int]:
        """Level ids of the clusters that have series; asked when the definitions are in memory."""

    def name_of(self, cluster: int) -> str:
        """Of a cluster by its level id, for people; "" when nothing defines it."""

    def series_names(self, refs: Sequence[int]) -> str:
        """Of series by their references, for people; "" when none is defined."""
