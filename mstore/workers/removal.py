"""Taking series out that nobody uses any more, while workers may be looking them up.

A series is removed when it has had no chunk for a retention period. A worker may hold its reference all the same:
found a moment ago, in a run that is not published yet, or in its ring. So removal goes in steps, and what is used on the
way stays (tests/models/test_removal_model.py is the proof):

    hide      its keys lead nowhere, handles see its flag, and the directory counts a lapse, so that they look: whoever
              wants it from now on asks the persister, which publishes it again; then a full fence
    EPOCHS    every ingest worker's epoch was even since, or has changed: nobody holds a reference found before
    DRAINING  every ring is drained past its head of that moment: nothing found before is on its way
    look      a series that has a sample, or was asked for, stays; else REMOVE is logged and its slot is reused
              with the next generation

Nothing here waits: step() is called again and again until the machine is idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mstore.shm import layout


class Ground(Protocol):
    """What the machine needs of the store; the persister implements it, tests play it."""

    def hide(self, slots: Sequence[int]) -> None:
        """Unpublish the keys of these series and flag them, then a full fence."""

    def epochs(self) -> Mapping[int, int]:
        """The epoch of every ingest worker."""

    def heads(self) -> Sequence[int]:
        """The published position of every ring."""

    def drained(self) -> Sequence[int]:
        """The position up to which every ring is applied."""

    def used(self, slot: int) -> bool:
        """Whether a hidden series got a sample."""

    def show(self, slots: Sequence[int]) -> None:
        """Publish these series again; those that are no longer hidden stay as they are."""

    def remove(self, slots: Sequence[int]) -> int:
        """Take out those of the series that are still hidden, and log it; their number."""


class State(Enum):
    IDLE = 0
    EPOCHS = 1
    DRAINING = 2


class Removal:
    """One removal at a time, of as many series as are given to begin()."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.state = State.IDLE
        self.slots: tuple[int, ...] = ()
        self._busy: dict[int, int] = {}
        self._heads: Sequence[int] = ()
        self.removed = 0
        """Series removed so far."""

    def begin(self, slots: Sequence[int]) -> None:
        assert self.state is State.IDLE, "one at a time"
        self.slots = tuple(slots)
        self._ground.hide(self.slots)
        self._busy = {worker: epoch for worker, epoch in self._ground.epochs().items() if epoch % 2}
        self.state = State.EPOCHS

    def step(self) -> State:
        """Go as far as it goes now; IDLE once it is done."""
        if self.state is State.EPOCHS:
            now = self._ground.epochs()
            self._busy = {worker: epoch for worker, epoch in self._busy.items() if now.get(worker) == epoch}
            if not self._busy:
                self._heads = tuple(self._ground.heads())
                self.state = State.DRAINING
        if self.state is State.DRAINING:
            drained = self._ground.drained()
            if all(done >= head for done, head in zip(drained, self._heads, strict=True)):
                self._look()
        return self.state

    def _look(self) -> None:
        used = [slot for slot in self.slots if self._ground.used(slot)]
        self._ground.show(used)
        self.removed += self._ground.remove([slot for slot in self.slots if slot not in set(used)])
        self.slots, self.state = (), State.IDLE

    def give_up(self) -> None:
        """Publish everything again: a worker that is busy for ever, or a store that stops."""
        if self.state is not State.IDLE:
            self._ground.show(self.slots)
            self.slots, self.state = (), State.IDLE


class Idle:
    """Since when each slot has been without a chunk, as far as this process has seen."""

    def __init__(self) -> None:
        self._since: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def find(
        self, table: NDArray[np.void], start: int, now_s: int, before_s: NDArray[np.int64], limit: int
    ) -> list[int]:
        """Look at some rows of the series table: the slots that have been without a chunk since before_s or longer.

        table     layout.SERIES rows of the whole store; of a chain of eras only the oldest may go
        before_s  int64[n], seconds, for each of the rows from start on
        """
        stop = min(start + len(before_s), len(table))
        if stop > len(self._since):
            self._since = np.concatenate([self._since, np.zeros(stop - len(self._since), dtype=np.int64)])
        rows, since = table[start:stop], self._since[start:stop]
        lives = rows["flags"] & (layout.SERIES_LIVE | layout.SERIES_REMOVING) == layout.SERIES_LIVE
        empty = lives & (rows["n_chunks"] == 0) & (rows["prev_slot"] == 0)
        since[~empty] = 0
        since[empty & (since == 0)] = now_s
        due = np.flatnonzero(empty & (since <= before_s[: stop - start]))[:limit]
        return [start + int(slot) for slot in due]

    def forget(self, slots: Sequence[int]) -> None:
        """These begin anew: removed, or used after all."""
        self._since[list(slots)] = 0
