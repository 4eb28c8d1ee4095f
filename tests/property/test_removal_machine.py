"""The removal machine in every order a random scheduler finds: workers look up, publish and die, rings are drained."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.workers.removal import Removal, State

N_SERIES = 3


class World:
    """A store of a few series and workers, each step of which may be followed by any other's.

    A reference is (slot, generation). Keys lead to a reference or, hidden, to nothing: then the worker asks.
    """

    def __init__(self, rng: random.Random, n_workers: int) -> None:
        self.rng = rng
        self.generation = [1] * N_SERIES
        self.hidden: set[int] = set()
        self.samples = [0] * N_SERIES
        self.epoch = [0] * n_workers
        self.rings: list[list[tuple[int, int]]] = [[] for _ in range(n_workers)]
        self.unpublished: list[list[tuple[int, int]]] = [[] for _ in range(n_workers)]
        self.applied = [0] * n_workers
        self.removed = 0
        self.stale = 0
        self.lost = 0

    # --- Ground

    def hide(self, slots: Sequence[int]) -> None:
        self.hidden.update(slots)
        for slot in slots:
            self.samples[slot] = 0

    def epochs(self) -> Mapping[int, int]:
        return dict(enumerate(self.epoch))

    def heads(self) -> Sequence[int]:
        return [len(ring) for ring in self.rings]

    def drained(self) -> Sequence[int]:
        return list(self.applied)

    def used(self, slot: int) -> bool:
        return self.samples[slot] > 0

    def show(self, slots: Sequence[int]) -> None:
        self.hidden.difference_update(slots)

    def remove(self, slots: Sequence[int]) -> int:
        gone = [slot for slot in slots if slot in self.hidden]
        for slot in gone:
            self.lost += self.samples[slot]
            self.samples[slot] = 0
            self.generation[slot] += 1
            self.hidden.discard(slot)
            self.removed += 1
        return len(gone)

    # --- the others

    def work(self, i: int) -> None:
        """One step of worker i: enter, look up and append, publish, or leave."""
        if self.epoch[i] % 2 == 0:
            self.epoch[i] += 1
        elif self.rng.random() < 0.5:
            slot = self.rng.randrange(N_SERIES)
            self.hidden.discard(slot)  # a hidden key is asked for, and the asking cancels the removal
            self.unpublished[i].append((slot, self.generation[slot]))
        elif self.unpublished[i]:
            self.rings[i] += self.unpublished[i]
            self.unpublished[i] = []
        else:
            self.epoch[i] += 1

    def die(self, i: int) -> None:
        self.unpublished[i] = []
        self.epoch[i] += self.epoch[i] % 2

    def drain(self, i: int) -> None:
        if self.applied[i] < len(self.rings[i]):
            slot, generation = self.rings[i][self.applied[i]]
            self.applied[i] += 1
            if self.generation[slot] == generation:
                self.samples[slot] += 1
            else:
                self.stale += 1


def play(world: World, removal: Removal, n_steps: int) -> None:
    workers = range(len(world.epoch))
    for _ in range(n_steps):
        what = world.rng.random()
        i = world.rng.choice(workers)
        if what < 0.45:
            world.work(i)
        elif what < 0.47:
            world.die(i)
        elif what < 0.75:
            world.drain(i)
        elif removal.state is State.IDLE:
            removal.begin(world.rng.sample(range(N_SERIES), world.rng.randrange(1, N_SERIES + 1)))
        else:
            removal.step()


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), n_workers=st.integers(1, 3))
def test_no_accepted_sample_is_dropped_or_removed_with_its_series(seed: int, n_workers: int) -> None:
    world = World(random.Random(seed), n_workers)
    removal = Removal(world)
    play(world, removal, 400)
    assert (world.stale, world.lost) == (0, 0)
    assert removal.removed == world.removed
    for i in range(n_workers):  # and it always ends once workers and drains go on
        world.die(i)
        while world.applied[i] < len(world.rings[i]):
            world.drain(i)
    removal.step()
    assert removal.step() is State.IDLE


class Hasty(Removal):
    """Leaves one wait out, to see that the schedules above would tell."""

    def __init__(self, world: World, without: State) -> None:
        super().__init__(world)
        self._without = without

    def step(self) -> State:
        if self._without is State.EPOCHS:
            self._busy = {}
        else:
            self._heads = (0,) * len(self._ground.heads())
            if self.state is State.DRAINING:
                self._look()
                return self.state
        return super().step()


@pytest.mark.parametrize("without", [State.EPOCHS, State.DRAINING])
def test_the_schedules_find_a_wait_that_is_left_out(without: State, seed: int) -> None:
    broken = 0
    for k in range(300):
        world = World(random.Random(seed + k), 2)
        removal = Hasty(world, without)
        if without is State.DRAINING:
            world.heads = lambda: [0, 0]  # type: ignore[method-assign]  # the fault: nothing needs draining
        play(world, removal, 300)
        broken += bool(world.stale or world.lost)
    assert broken > 0
