"""Up to when everything that was accepted is in memory: what a pass of the archive may count on.

A sample is accepted by an ingest worker at one moment, by the clock of that moment, and applied later. Once every
worker has left the batch that it was in then, and every ring is drained past where its head was afterwards, nothing
that was accepted before can still come. Nobody waits for it: it is looked at now and then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mstore import clock
from mstore.shm import layout

if TYPE_CHECKING:
    from mstore.workers.persister import Persister


class Settled:
    """`at_s`: what was accepted before this second is in memory, or never will be."""

    def __init__(self, persister: Persister) -> None:
        self._persister = persister
        self.at_s = 0
        self._noted_s = 0
        """The second that is waited for; 0 = none yet."""
        self._epochs: dict[int, int] | None = None
        """Of the workers that were in a batch at that second; None: heads are waited for."""
        self._heads: list[int] = []

    def look(self) -> None:
        """Go on as far as things have gone."""
        if not self._noted_s:
            self._note()
        if self._epochs is not None:
            now = self._busy()
            if any(now.get(index) == epoch for index, epoch in self._epochs.items()):
                return
            self._epochs = None
            self._heads = [ring.head() for ring in self._persister.rings]
        drained = [ring.drained() for ring in self._persister.rings]
        if all(at >= head for at, head in zip(drained, self._heads, strict=True)):
            self.at_s = self._noted_s
            self._note()

    def _note(self) -> None:
        self._noted_s, self._epochs = clock.now_s(), self._busy()

    def _busy(self) -> dict[int, int]:
        """Epochs of the ingest workers that have a batch in hand."""
        workers = self._persister.control.workers()
        found = {slot.index: slot.epoch for slot in workers if slot.kind == layout.WORKER_INGEST}
        return {index: epoch for index, epoch in found.items() if epoch & 1}
