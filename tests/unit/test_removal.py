"""Which series may be removed, and the steps of a removal by example."""

from __future__ import annotations

import random

import numpy as np

from mstore.shm import layout
from mstore.shm.directory import KEEP_ALL_S
from mstore.workers.removal import Idle, Removal, State
from tests.directory_rig import Rig
from tests.property.test_removal_machine import World


def rows(n: int) -> np.ndarray:
    table = np.zeros(n, layout.SERIES)
    table["flags"] = layout.SERIES_LIVE
    return table


def before(second: int) -> np.ndarray:
    return np.full(4, second)


def test_a_series_is_due_once_it_was_seen_without_a_chunk_for_a_retention_period() -> None:
    idle, table = Idle(), rows(4)
    table["n_chunks"] = [0, 1, 0, 0]
    table["flags"][3] = 0
    table["prev_slot"][2] = 7
    assert idle.find(table, 0, 1000, before(900), 10) == []
    assert idle.find(table, 0, 1099, before(999), 10) == []
    assert idle.find(table, 0, 1100, before(1000), 10) == [0]
    table["n_chunks"][1] = 0
    assert idle.find(table, 0, 1200, before(1100), 10) == [0]
    assert idle.find(table, 0, 1300, before(1200), 1) == [0]
    assert idle.find(table, 0, 1300, before(1200), 10) == [0, 1]
    idle.forget([0])
    assert idle.find(table, 0, 1300, before(1200), 10) == [1]
    table["n_chunks"][1] = 1
    assert idle.find(table, 0, 1400, before(1300), 10) == [0]


def test_each_series_is_due_by_a_period_of_its_own() -> None:
    idle, table = Idle(), rows(3)
    none, some, never = 1000, 900, KEEP_ALL_S
    assert idle.find(table, 0, 1000, np.array([none, some, never]), 10) == [0]
    assert idle.find(table, 0, 1100, np.array([1100, 1000, never]), 10) == [0, 1]
    assert idle.find(table, 1, 1100, np.array([1000, never]), 10) == [1]


def test_removal_waits_for_busy_workers_and_then_for_their_rings() -> None:
    world = World(random.Random(1), 2)
    world.epoch = [1, 4]
    world.rings = [[], [(1, 1)]]
    removal = Removal(world)
    removal.begin([0, 2])
    assert world.hidden == {0, 2}
    assert removal.step() is State.EPOCHS
    world.rings[0].append((2, 1))  # found before it was hidden
    world.epoch[0] = 2
    assert removal.step() is State.DRAINING
    world.drain(1)
    assert removal.step() is State.DRAINING
    world.drain(0)
    assert removal.step() is State.IDLE
    assert (world.generation, removal.removed) == ([2, 1, 1], 1)
    assert not world.hidden


def test_what_is_given_up_is_published_again() -> None:
    world = World(random.Random(1), 1)
    world.epoch = [1]
    removal = Removal(world)
    removal.begin([0, 1])
    removal.step()
    removal.give_up()
    assert removal.state is State.IDLE
    assert not world.hidden
    assert world.generation == [1, 1, 1]


def test_a_series_being_removed_says_so_and_asking_for_it_takes_that_back() -> None:
    rig = Rig()
    key = b"m,cluster=c,hostname=h"
    ref = rig.ref(key)
    slot = ref & 0xFFFF_FFFF
    rig.writer.remove_begin(slot)
    assert rig.reader.series_table()["flags"][slot] == layout.SERIES_LIVE | layout.SERIES_REMOVING
    assert rig.reader.lookup_key(key, 0) == 0
    assert rig.ref(key) == ref
    assert rig.reader.series_table()["flags"][slot] == layout.SERIES_LIVE
    assert rig.reader.lookup_key(key, 0) == ref
    assert rig.writer.remove_finish(slot) == b""
    rig.reader.validate()
    rig.close()
