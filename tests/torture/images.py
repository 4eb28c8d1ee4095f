"""Every prefix of a workload, several images each: recover, compare with what was promised.

    journal  ---prefix p---->  State  --power cut / kill-->  image  --recover-->  blocks  ==?  history
                                                               |
                                                               +-- journal of that recovery, prefix q --> image ...

An image is right when
  - recovery reports no damage and refuses no snapshot,
  - it finds the blocks 1 .. L of the history, byte for byte and no others, and L is at least what was ever
    published as durable by then, and at most what was ever begun,
  - the memory it makes of them, with the real kernels, equals that of a store that never stopped after block L:
    every sample and every definition, and the samples that the history's own rules say.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mstore.apply.refill import Refill
from mstore.persistence.recovery import recover
from tests.targets import Recorded
from tests.torture.disk import Disk, State
from tests.torture.machine import Machine, values_of
from tests.torture.workload import DIRECTORY, Block, History, drawn_from, payloads, record


class Violation(AssertionError):
    """What an image shows that must not be."""


@dataclass
class Promise:
    """How far the store was at some prefix of its journal."""

    life: int = -1
    durable: int = 0
    """Published: everything up to here must be found."""
    begun: int = 0
    """Nothing behind it can be found."""

    def follow(self, what: str, value: int) -> None:
        if what == "life":
            self.life = value
        elif what == "durable":
            self.durable = value
        else:
            self.begun = value


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
        self._growing: dict[int, tuple[Machine, int]] = {}

    def check(self, disk: Disk, promise: Promise, told: str) -> int:
        """Recover from `disk`; the number of blocks found. Raises Violation."""
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
        for place, state, promise in prefixes(disk, Promise(), rng):
            for which in range(1 + self.per_prefix):
                image = state if not which else state.after_power_cut(rng)
                told = f"seed {self.seed}, operation {place}, {'kill' if not which else 'power cut'}"
                key = (*vars(promise).values(), which == 0, image.fingerprint())
                if key in seen:
                    self.counts.same += 1
                    continue
                seen.add(key)
                again = Disk(image, seed=rng.randrange(1 << 30))
                n_blocks = judge.check(again, promise, told)
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
            second = Promise(promise.life, floor, n_blocks if over else promise.begun)
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
