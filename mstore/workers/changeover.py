"""A reload that gives series another type or step: first everything that is on its way to the old eras arrives.

A number of the old type may have no equal in the new one (1.5 is no u64), and an era cannot have two types. A worker
may have parsed such numbers a moment ago, in a batch that is not published yet, or in its ring. And what it has found out
of the eras that late samples belong to holds until the end of its batch. So the change goes in steps:

    hold      a flag tells workers to begin nothing new; then a full fence
    EPOCHS    every worker's epoch was even since, or has changed: what was begun before is in its ring
    DRAINING  every ring is drained past its head of that moment: the old eras hold all of it
    CHANGING  the new eras begin behind the newest sample of the old ones, in the log and then in the directory
    let go    workers go on, with the new types

A change of anything but types and steps needs none of the waits.

Senders wait for some milliseconds; nothing they sent is refused or converted. What a batch that was begun before needs
(references, room in the ring) it gets meanwhile, so every epoch ends; that of a worker somebody has stopped does not, and
nor do rings drain into a store that is full: whoever calls step() gives up then, and begins again later. Nothing here
waits: step() is called again and again until the machine is idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol


class Ground(Protocol):
    """What the machine needs of the store; the persister implements it, tests play it."""

    def hold(self) -> None:
        """Tell workers to begin nothing new, then a full fence."""

    def let_go(self) -> None:
        """Workers begin again; wakes them."""

    def epochs(self) -> Mapping[int, int]:
        """The epoch of every ingest worker."""

    def heads(self) -> Sequence[int]:
        """The published position of every ring."""

    def drained(self) -> Sequence[int]:
        """The position up to which every ring is applied."""

    def changes_grids(self) -> bool:
        """Whether following the configuration would give a series another type or step."""

    def change(self) -> None:
        """Follow the configuration, as far as the log lets it."""

    def changed(self) -> bool:
        """Whether all of change() is logged and published; tries again what was not."""


class State(Enum):
    IDLE = 0
    EPOCHS = 1
    DRAINING = 2
    CHANGING = 3


class Changeover:
    """One at a time; a configuration that comes meanwhile is the one that is followed."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.state = State.IDLE
        self._busy: dict[int, int] = {}
        self._heads: Sequence[int] = ()

    def begin(self) -> State:
        """Follow the configuration as it is now: at once, or after what step() waits for."""
        if self.state in (State.IDLE, State.CHANGING):
            if self._ground.changes_grids():
                self._ground.hold()
                self._busy = {worker: epoch for worker, epoch in self._ground.epochs().items() if epoch % 2}
                self.state = State.EPOCHS
            else:
                self._ground.change()
                self.state = State.CHANGING
        return self.step()

    @property
    def waits(self) -> bool:
        """Whether senders are held and nothing is changed yet."""
        return self.state in (State.EPOCHS, State.DRAINING)

    def give_up(self) -> None:
        """Let go without a change, if none was made yet."""
        if self.waits:
            self.state = State.IDLE
            self._ground.let_go()

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
                self._ground.change()
                self.state = State.CHANGING
        if self.state is State.CHANGING and self._ground.changed():
            self.state = State.IDLE
            self._ground.let_go()
        return self.state
