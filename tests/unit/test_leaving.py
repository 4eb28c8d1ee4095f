"""Who keeps samples elsewhere holds retention back, metric by metric, and is told of all that goes before it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mstore import clock
from mstore.apply.store import ranges_in
from mstore.errors import StorageError
from mstore.shm.directory import KEEP_ALL_S
from mstore.workers.leaving import Leaving, Why
from tests.unit.test_recovery_store import STEP_S, Machine, scatter
from tests.unit.test_review_recovery import Rig, machine, refuse_once

SPAN_S = 512 * STEP_S


class Keeper(Leaving):
    """Holds back what `held` says, by metric; notes what it is told, and whether it was still there."""

    def __init__(self, store: Machine) -> None:
        self._store = store
        self.held: dict[int, int] = {}
        self.told: list[tuple[Why, list[tuple[int, int, int]]]] = []

    def may_free(self, metric: int, before_s: int) -> int:
        return min(before_s, self.held.get(metric, before_s))

    def leaves(self, why: Why, ranges: NDArray[np.void]) -> None:
        there = self._store.entries()
        for one in ranges:
            assert (one["slot"], one["generation"], one["first"]) in there
        self.told.append((why, [(int(one["slot"]), int(one["first"]), int(one["last"])) for one in ranges]))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Machine]:
    made = machine(tmp_path)
    yield made
    made.wal.close()


def filled(store: Machine) -> tuple[Rig, Keeper, list[int]]:
    """Two metrics, three chunks of each, all of them years old."""
    rig = Rig(store)
    start_s = clock.now_s() - 10**7
    refs = store.intern(["first", "second"], start_s)
    for n in range(3):
        store.log(scatter(refs, np.array([1.0, 2.0]), start_s + n * SPAN_S))
    keeper = rig.housekeeping.freeing.leaving = Keeper(store)
    return rig, keeper, [ref & 0xFFFF_FFFF for ref in refs]


def one_pass(rig: Rig) -> None:
    done = rig.slot.words.get("retention_passes", 0)

    async def run() -> None:
        rig.housekeeping.retention._begin()
        while rig.slot.words.get("retention_passes", 0) == done:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_what_is_held_back_stays_until_it_is_let_go_and_the_rest_goes_at_once(store: Machine) -> None:
    rig, keeper, slots = filled(store)
    metrics = rig.directory.series_table()["metric"][slots].tolist()
    anchor_s = int(rig.directory.series_table()["anchor_s"][slots[0]])
    keeper.held = {metrics[0]: anchor_s + SPAN_S}
    one_pass(rig)
    assert sorted(n for slot, _, n in store.entries() if slot == slots[0]) == [1, 2]
    assert not [slot for slot, _, _ in store.entries() if slot == slots[1]]
    assert keeper.told == [(Why.RETENTION, [(slots[0], 0, 0), (slots[1], 0, 2)])]
    keeper.held = {metrics[0]: KEEP_ALL_S}
    one_pass(rig)
    assert len(store.entries()) == 2
    keeper.held = {}
    one_pass(rig)
    assert not store.entries()
    assert keeper.told[1:] == [(Why.RETENTION, [(slots[0], 1, 2)])]


def test_who_answers_with_a_later_time_frees_nothing_that_retention_keeps(store: Machine) -> None:
    rig, keeper, _ = filled(store)
    rig.config.retention_s = 10**8
    keeper.may_free = lambda metric, before_s: clock.now_s()  # type: ignore[method-assign]  # one that is wrong
    one_pass(rig)
    assert len(store.entries()) == 6


def test_what_the_cap_takes_is_told_before_it_is_logged(
    store: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, keeper, slots = filled(store)
    records, n_chunks = rig.store.plan_evict(1, now_s=clock.now_s())
    assert n_chunks == 1
    with pytest.MonkeyPatch.context() as patch:
        refuse_once(patch, rig.wal)
        with pytest.raises(StorageError):
            rig.housekeeping.freeing.evicted(records)
    rig.housekeeping.freeing.evicted(records)
    assert keeper.told == 2 * [(Why.CAP, [(slots[0], 0, 0)])]
    assert len(store.entries()) == 6, "it is the caller who applies what is logged now"


def test_ranges_are_read_back_from_any_number_of_records(store: Machine) -> None:
    rig, _, _ = filled(store)
    records, n_chunks = rig.store.plan_free(0, 10, clock.now_s())
    ranges = ranges_in(records + records)
    assert (n_chunks, len(ranges)) == (6, 4)
    assert ranges[:2].tolist() == ranges[2:].tolist()
    assert len(ranges_in(b"")) == 0
