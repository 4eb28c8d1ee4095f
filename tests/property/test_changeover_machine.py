"""The changeover machine in every order a random scheduler finds: workers parse, publish and die, rings are drained."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.workers.changeover import Changeover, State

OLD = 0


class World:
    """One series and some workers, each step of which may be followed by any other's.

    A record is the type it was parsed as; it is lost when it is applied after the series has got another one.
    """

    def __init__(self, rng: random.Random, n_workers: int) -> None:
        self.rng = rng
        self.type = self.wanted = OLD
        self.held = False
        self.refused = 0
        self.epoch = [0] * n_workers
        self.in_turn = [False] * n_workers
        """Whether the worker has looked at the flag since it entered its epoch."""
        self.rings: list[list[int]] = [[] for _ in range(n_workers)]
        self.unpublished: list[list[int]] = [[] for _ in range(n_workers)]
        self.applied = [0] * n_workers
        self.lost = 0

    # --- Ground

    def hold(self) -> None:
        self.held = True

    def let_go(self) -> None:
        self.held = False

    def epochs(self) -> Mapping[int, int]:
        return dict(enumerate(self.epoch))

    def heads(self) -> Sequence[int]:
        return [len(ring) for ring in self.rings]

    def drained(self) -> Sequence[int]:
        return list(self.applied)

    def changes_grids(self) -> bool:
        return self.type != self.wanted

    def change(self) -> None:
        self.refused = self.rng.choice((0, 0, 1, 3))

    def changed(self) -> bool:
        self.refused -= 1
        if self.refused < 0:
            self.type = self.wanted
        return self.refused < 0

    # --- the others

    def work(self, i: int) -> None:
        """One step of worker i: enter, look at the flag, parse, publish, or leave."""
        if self.epoch[i] % 2 == 0:
            self.epoch[i] += 1
        elif not self.in_turn[i]:
            self.in_turn[i] = not self.held
            self.epoch[i] += self.held
        elif self.rng.random() < 0.5:
            self.unpublished[i].append(self.type)
        elif self.unpublished[i]:
            self.rings[i] += self.unpublished[i]
            self.unpublished[i] = []
        else:
            self.in_turn[i] = False
            self.epoch[i] += 1

    def die(self, i: int) -> None:
        self.unpublished[i] = []
        self.in_turn[i] = False
        self.epoch[i] += self.epoch[i] % 2

    def drain(self, i: int) -> None:
        if self.applied[i] < len(self.rings[i]):
            self.lost += self.rings[i][self.applied[i]] != self.type
            self.applied[i] += 1


def play(world: World, machine: Changeover, n_steps: int) -> None:
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
        elif what < 0.78:
            world.wanted = world.rng.randrange(3)
            machine.begin()
        elif what < 0.79:
            machine.give_up()
        else:
            machine.step()


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), n_workers=st.integers(1, 3))
def test_no_record_is_applied_to_a_series_of_another_type(seed: int, n_workers: int) -> None:
    world = World(random.Random(seed), n_workers)
    machine = Changeover(world)
    play(world, machine, 500)
    assert world.lost == 0
    for _ in range(100):  # and it always ends once workers and drains go on
        for i in range(n_workers):
            world.work(i)
            world.drain(i)
        machine.step()
    for i in range(n_workers):
        world.die(i)
        while world.applied[i] < len(world.rings[i]):
            world.drain(i)
    for _ in range(4):
        machine.step()
    assert (machine.state, world.held, world.lost) == (State.IDLE, False, 0)
    machine.begin()  # whatever was given up is made good
    for _ in range(4):
        machine.step()
    assert (world.type, world.lost) == (world.wanted, 0)


class Hasty(Changeover):
    """Leaves one thing out, to see that the schedules above would tell."""

    def __init__(self, world: World, without: str) -> None:
        super().__init__(world)
        self._without = without
        if without == "hold":
            world.hold = lambda: None  # type: ignore[method-assign]
        if without == "drained":
            world.heads = lambda: [0] * len(world.epoch)  # type: ignore[method-assign]

    def step(self) -> State:
        if self._without == "epochs":
            self._busy = {}
        if self._without == "logged" and self.state is State.CHANGING:
            self._ground.let_go()
        return super().step()


@pytest.mark.parametrize("without", ["hold", "epochs", "drained", "logged"])
def test_the_schedules_find_a_step_that_is_left_out(without: str, seed: int) -> None:
    broken = 0
    for k in range(300):
        world = World(random.Random(seed + k), 2)
        play(world, Hasty(world, without), 300)
        broken += bool(world.lost)
    assert broken > 0
