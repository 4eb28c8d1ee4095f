"""Every prefix of a workload, several images each: recover, compare with what was promised.

    journal  ---prefix p---->  State  --power cut / kill-->  image  --recover-->  blocks  ==?  history
                                                               |
                                                               +-- journal of that recovery, prefix q --> image ...

An image is right when
  - recovery reports no damage and refuses no snapshot,
  - it finds the blocks 1 .. L of the history, byte for byte and no others, and L is at least what was ever
    published as durable by then, and at most what was ever begun,
  - of each sample that was acknowledged as durable by then (after a kill: acknowledged at all) the blocks found make
    the value that was sent, or one that was not acknowledged before it was sent; whichever rings they came through,
  - the memory it makes of them, with the real kernels, equals that of a store that never stopped after block L:
    every sample and every definition, and the samples that the history's own rules say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mstore.apply.refill import Refill
from mstore.persistence.recovery import recover
from mstore.shm import layout
from tests.targets import Recorded
from tests.torture.disk import Disk, State
from tests.torture.machine import Machine, Values, values_of
from tests.torture.workload import DIRECTORY, Block, Cell, History, drawn_from, payloads, record


class Violation(AssertionError):
    """What an image shows that must not be."""


class Writes:
    """What senders know: which batches were sent, applied and durable by now, and in which order."""

    def __init__(self, sent: Sequence[Sequence[tuple[int, int, int, float]]] = ()) -> None:
        self._sent = sent
        self.n_events = 0
        self.sent_at: dict[int, int] = {}
        self.applied_at: dict[int, int] = {}
        self.durable: set[int] = set()
        self.failing = False
        """A sync of the log has failed, and what is not durable is not in a new file yet: only memory is sure to have it."""
        self._forgotten: set[int] = set()
        self._of: dict[Cell, list[tuple[int, float]]] = {}
        """Batches, and the values they set, of each cell; oldest first."""

    def follow(self, what: str, number: int) -> None:
        self.n_events += 1
        if what == "sent":
            self.sent_at[number] = self.n_events
            for *cell, value in self._sent[number]:
                self._of.setdefault(tuple(cell), []).append((number, value))  # type: ignore[arg-type]
        elif what == "applied":
            self.applied_at.setdefault(number, self.n_events)
        elif what == "failing":
            self.failing = bool(number)
        elif what == "life":
            if self.failing:
                self._forgotten |= self.applied_at.keys() - self.durable
            self.failing = False
        else:
            self.durable.add(number)

    def broken(self, values: Values, dropped: Callable[[Cell], bool], *, killed: bool) -> str:
        """Which promise the samples that were found break, or "".

        killed  the page cache is there: what was written and applied is as well as durable
        """
        promised = set(self.durable)
        if killed and not self.failing:
            promised |= self.applied_at.keys() - self._forgotten
        for cell, writes in self._of.items():
            needed = [number for number, _ in writes if number in promised]
            if not needed:
                continue
            last_sent_at = max(self.sent_at[number] for number in needed)
            found = values.get(cell)
            if found is None:
                if not dropped(cell):
                    return f"no sample of {cell}, acknowledged were batches {needed}"
                continue
            late_enough = {
                value for number, value in writes if self.applied_at.get(number, last_sent_at) >= last_sent_at
            }
            if found not in late_enough:
                return f"{cell} has a sample that was overwritten: {found}, sent were {writes}, acknowledged {needed}"
        return ""


@dataclass
class Promise:
    """How far the store was at some prefix of its journal."""

    life: int = -1
    durable: int = 0
    """Published: everything up to here must be found."""
    begun: int = 0
    """Nothing behind it can be found."""
    writes: Writes = field(default_factory=Writes, repr=False)

    def follow(self, what: str, value: int) -> None:
        if what not in ("durable", "begun"):
            self.writes.follow(what, value)
        if what == "life":
            self.life = value
        elif what == "durable":
            self.durable = value
        elif what == "begun":
            self.begun = value

    def place(self) -> tuple[int, ...]:
        return self.life, self.durable, self.begun, self.writes.n_events


@dataclass
class Counts:
    images: int = 0
    """All different within their workload."""
    same: int = 0
    """Made, and equal to one seen at the same promise: not recovered again."""
    nested: int = 0
    """Of `images`: those of a crash during the recovery from a crash."""
    workloads: int = 0
    operations: int = 0
    rebuilt: int = 0
    """Stores built with the real kernels, to compare them."""

    def add(self, other: Counts) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Judge:
    """Compares what a recovery hands on with one workload's history."""

    def __init__(self, seed: int, history: History) -> None:
        self.seed = seed
        self.history = history
        self.counts = Counts(workloads=1)
        self._right: set[tuple[int, int, int]] = set()
        self._whole: dict[tuple[int, int], Any] = {}
        self._ruled: dict[tuple[int, int], Values] = {}
        self._growing: dict[int, tuple[Machine, int]] = {}

    def check(self, disk: Disk, promise: Promise, told: str, *, killed: bool = False) -> int:
        """Recover from `disk`; the number of blocks found. Raises Violation.

        killed  by SIGKILL, and nothing that was written is lost
        """
        handed: list[tuple[Any, ...]] = []
        found: list[bytes] = []
        try:
            report = recover(disk, DIRECTORY, Recorded(handed, found))
        except Exception as failure:
            raise Violation(f"{told}: recovery raised {failure!r}") from failure
        n_blocks = report.next_seq - 1
        told = f"{told}: {promise}, found {n_blocks}: {report.summary()}"
        if report.damaged:
            raise Violation(f"{told}: a crash is no damage")
        if not promise.durable <= n_blocks <= promise.begun:
            raise Violation(f"{told}: blocks are lost, or none such were written")
        blocks = self.history.lives[promise.life][:n_blocks] if promise.life >= 0 else []
        if found != payloads(blocks[report.snapshot_seq :]):
            raise Violation(f"{told}: the log's blocks are not those that were written")
        if promise.life >= 0:
            values, dropped = self._by_the_rules(promise.life, n_blocks)
            if broken := promise.writes.broken(values, dropped, killed=killed):
                raise Violation(f"{told}: {broken}")
        if report.snapshot_seq:
            self._compare(handed, found, blocks, promise.life, told)
        return n_blocks

    def _compare(
        self, handed: list[tuple[Any, ...]], found: list[bytes], blocks: list[Block], life: int, told: str
    ) -> None:
        """The snapshot with the log behind it makes the store that the whole log makes."""
        key = hash(tuple(handed)), hash(tuple(found)), len(blocks)
        if key in self._right:
            return
        machine = Machine()
        target = Refill(machine.store)
        for what, *arguments in handed:
            getattr(target, what)(*arguments)
        for payload in found:
            machine.store.apply_block(payload)
        machine.store.directory.publish()
        machine.store.validate()
        self.counts.rebuilt += 1
        if machine.everything() != self._expected(life, blocks):
            raise Violation(f"{told}: snapshot and log make another store than the log")
        self._right.add(key)

    def _by_the_rules(self, life: int, n_blocks: int) -> tuple[Values, Callable[[Cell], bool]]:
        """What the first blocks of a life make, and whether one of them drops a cell."""
        place = life, n_blocks
        if place not in self._ruled:
            self._ruled[place] = self.history.values(life, n_blocks)
        blocks = self.history.lives[life][:n_blocks]

        def dropped(cell: Cell) -> bool:
            slot, generation, at = cell
            return any(
                (slot, generation) == drop[:2] and drop[2] <= at // layout.CHUNK_SLOTS <= drop[3]
                for block in blocks
                for drop in block.dropped
            )

        return self._ruled[place], dropped

    def check_memory(self) -> None:
        """The lives' memory, samples applied one by one, is what replaying their blocks makes."""
        for life, memory in self.history.memory:
            if memory != self._expected(life, self.history.lives[life]):
                raise Violation(f"seed {self.seed}: live memory of life {life} is not its log replayed")

    def _expected(self, life: int, blocks: list[Block]) -> Any:
        place = life, len(blocks)
        if place not in self._whole:
            machine, done = self._growing.pop(life, (None, 0))
            if machine is None or done > len(blocks):
                machine, done = Machine(), 0
            for payload in payloads(blocks[done:]):
                machine.store.apply_block(payload)
            machine.store.directory.publish()
            self._growing[life] = machine, len(blocks)
            whole = machine.everything()
            if values_of(whole[0]) != self.history.values(life, len(blocks)):
                raise Violation(f"seed {self.seed}: after block {len(blocks)} the samples break the rules")
            self._whole[place] = whole
        return self._whole[place]


@dataclass
class Images:
    """All images of one workload.

    per_prefix   power cuts tried at every prefix, beside one kill
    nested       share of images whose own recovery is recorded and cut at every prefix
    """

    seed: int
    per_prefix: int = 2
    nested: float = 0.1
    counts: Counts = field(default_factory=Counts)

    def run(self, at_most: int = 1 << 60) -> Counts:
        with drawn_from(random.Random(f"ids of images {self.seed}")):
            return self._run(at_most)

    def _run(self, at_most: int) -> Counts:
        disk, history, _ = record(self.seed)
        judge = Judge(self.seed, history)
        self.counts = judge.counts
        self.counts.operations += len(disk.journal)
        judge.check_memory()
        rng = random.Random(f"images {self.seed}")
        seen: set[tuple[Any, ...]] = set()
        for place, state, promise in prefixes(disk, Promise(writes=Writes(history.sent)), rng):
            for which in range(1 + self.per_prefix):
                image = state if not which else state.after_power_cut(rng)
                told = f"seed {self.seed}, operation {place}, {'kill' if not which else 'power cut'}"
                key = (*promise.place(), which == 0, image.fingerprint())
                if key in seen:
                    self.counts.same += 1
                    continue
                seen.add(key)
                again = Disk(image, seed=rng.randrange(1 << 30))
                n_blocks = judge.check(again, promise, told, killed=not which)
                self.counts.images += 1
                if rng.random() < self.nested:
                    self._nest(judge, again, promise, n_blocks, rng, told)
                if self.counts.images >= at_most:
                    return self.counts
        return self.counts

    def _nest(
        self, judge: Judge, disk: Disk, promise: Promise, n_blocks: int, rng: random.Random, told: str
    ) -> None:
        """Cut the power again at every operation of the recovery, and once it is over."""
        seen: set[int] = set()
        for place, state, _ in prefixes(disk, Promise(), rng):
            over = place == len(disk.journal)
            floor = n_blocks if over else promise.durable
            second = Promise(promise.life, floor, n_blocks if over else promise.begun, promise.writes)
            image = state.after_power_cut(rng)
            if (key := image.fingerprint()) in seen:
                self.counts.same += 1
                continue
            seen.add(key)
            judge.check(Disk(image), second, f"{told}, then operation {place} of its recovery")
            self.counts.images += 1
            self.counts.nested += 1


def prefixes(disk: Disk, promise: Promise, rng: random.Random) -> Iterator[tuple[int, State, Promise]]:
    """(operations done, state after them, what was promised by then), from none of them to all."""
    state = disk.base.copy()
    yield 0, state, promise
    for place, operation in enumerate(disk.journal, start=1):
        if operation[0] == "mark":
            promise.follow(*operation[1:])
        state.apply(operation, rng)
        if operation[0] != "mark" or place == len(disk.journal):
            yield place, state, promise
