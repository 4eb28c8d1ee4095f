"""The control segment's words, the worker table and its counters."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import mstore
from mstore.errors import InvariantBroken, LimitExceeded
from mstore.kernels._segment import Segment
from mstore.limits import WORKERS_MAX
from mstore.model import N_REASONS, Reason
from mstore.shm import control, layout
from mstore.workers import family


class InMemory:
    """A control segment without shared memory."""

    def __init__(self, length: int = control.CONTROL_BYTES) -> None:
        self.memory = bytearray(length)
        self.buffer = memoryview(self.memory)
        self.segment = Segment(self.memory, True)

    def read_only(self) -> InMemory:
        other = InMemory.__new__(InMemory)
        other.memory, other.buffer = self.memory, self.buffer.toreadonly()
        other.segment = Segment(self.memory, False)
        return other


@pytest.fixture
def mapping() -> InMemory:
    return InMemory()


def test_store_words_are_read_back_by_another_mapping(mapping: InMemory) -> None:
    writer, reader = control.Control(mapping), control.Control(mapping.read_only())
    writer.state = layout.STATE_READY
    writer.config_version = 7
    writer.written = 2**63
    writer.durable = 2**63 - 1
    assert (reader.state, reader.config_version) == (layout.STATE_READY, 7)
    assert (reader.written, reader.durable) == (2**63, 2**63 - 1)


def test_store_words_lie_where_the_layout_says(mapping: InMemory) -> None:
    store = control.Control(mapping)
    store.state, store.config_version, store.flags, store.written, store.durable = 1, 2, 3, 4, 5
    words = np.frombuffer(mapping.memory, np.uint32)
    at = (
        layout.STORE_STATE,
        layout.STORE_CONFIG_VERSION,
        layout.STORE_FLAGS,
        layout.STORE_WRITTEN,
        layout.STORE_DURABLE,
    )
    assert [int(words[offset // 4]) for offset in at] == [1, 2, 3, 4, 5]
    assert np.count_nonzero(words) == 5


def test_flags_are_set_and_cleared_one_at_a_time(mapping: InMemory) -> None:
    store = control.Control(mapping)
    store.set_flag(layout.FLAG_FULL, True)
    store.set_flag(layout.FLAG_DEGRADED, True)
    store.set_flag(layout.FLAG_FULL, False)
    store.set_flag(layout.FLAG_FULL, False)
    assert store.flags == layout.FLAG_DEGRADED


def test_reader_of_a_read_only_mapping_cannot_store(mapping: InMemory) -> None:
    reader = control.Control(mapping.read_only())
    with pytest.raises(ValueError, match="read-only"):
        reader.state = 1
    with pytest.raises(ValueError, match="read-only"):
        reader.worker(0).claim(layout.WORKER_INGEST, 0, 1)
    with pytest.raises(ValueError, match="read-only"):
        reader.worker(0).counters[0] = 1
    assert reader.state == 0


def test_segment_too_short_for_all_workers_is_refused() -> None:
    with pytest.raises(InvariantBroken, match="control segment"):
        control.Control(InMemory(control.CONTROL_BYTES - 1))


def test_claimed_slot_says_who_has_it(mapping: InMemory) -> None:
    store = control.Control(mapping)
    slot = store.worker(3)
    slot.claim(layout.WORKER_QUERY, 2, 4711)
    seen = list(control.Control(mapping.read_only()).workers())
    assert [(s.number, s.kind, s.index, s.pid, s.state) for s in seen] == [
        (3, layout.WORKER_QUERY, 2, 4711, control.WORKER_STARTING)
    ]
    assert seen[0].started_ns > 0
    slot.state = control.WORKER_READY
    assert seen[0].state == control.WORKER_READY
    slot.release()
    assert list(store.workers()) == []


@pytest.mark.parametrize("number", [-1, WORKERS_MAX])
def test_worker_outside_the_table_is_refused(mapping: InMemory, number: int) -> None:
    with pytest.raises(LimitExceeded):
        control.Control(mapping).worker(number)


def test_slots_do_not_overlap_and_the_last_one_fits(mapping: InMemory) -> None:
    store = control.Control(mapping)
    for number in range(WORKERS_MAX):
        slot = store.worker(number)
        slot.claim(layout.WORKER_INGEST, number, 1000 + number)
        slot.counters[:] = number
    for number, slot in enumerate(store.workers()):
        assert (slot.index, slot.pid) == (number, 1000 + number)
        assert slot.counters.shape == (96,)
        assert set(slot.counters.tolist()) == {number}


def test_counters_add_up_and_are_told_by_name(mapping: InMemory) -> None:
    store = control.Control(mapping)
    for number in (0, 5):
        slot = store.worker(number)
        slot.claim(layout.WORKER_INGEST, number, 1)
        slot.add("bytes_in", 1000)
        slot.add("batches")
        slot.set("connections_open", 3)
        slot.add("connections_open", -1)
    assert store.worker(5).snapshot()["bytes_in"] == 1000
    assert store.worker(5).snapshot()["connections_open"] == 2
    totals = store.totals()
    assert (totals["bytes_in"], totals["batches"], totals["connections_open"]) == (2000, 2, 4)
    assert tuple(totals) == tuple(store.worker(0).snapshot()) == control.COUNTERS


def test_counts_of_a_batch_are_added_by_reason(mapping: InMemory) -> None:
    slot = control.Control(mapping).worker(0)
    slot.claim(layout.WORKER_INGEST, 0, 1)
    counts = np.zeros(N_REASONS, np.int64)
    counts[0], counts[Reason.BAD_VALUE], counts[Reason.UNKNOWN_METRIC] = 90, 7, 3
    slot.add_lines(counts)
    slot.add_lines(counts)
    found = {name: n for name, n in slot.snapshot().items() if n}
    assert found == {"written": 180, "rejected_bad_value": 14, "ignored": 6}


def test_every_reason_has_a_counter() -> None:
    for reason in Reason:
        expected = "ignored" if reason is Reason.UNKNOWN_METRIC else f"rejected_{reason.public}"
        assert control.COUNTERS[reason] == expected
    assert len(set(control.COUNTERS)) == len(control.COUNTERS) <= 96
    assert set(control.COUNTERS) >= control.GAUGES


def test_every_counter_is_counted_by_somebody() -> None:
    package = Path(mstore.__file__).parent
    folders = [package / name for name in ("workers", "ingest", "query", "apply", "persistence")]
    text = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    by_position = {*control.LINE_COUNTERS, "queries", "query_series", "query_samples", "query_us_total"}
    counted = set(re.findall(r"\.(?:add|set)\(\s*\"(\w+)\"", text))
    assert sorted(set(control.COUNTERS) - by_position - counted) == []


def test_counters_go_on_in_other_memory_and_what_is_of_the_memory_stays_behind(mapping: InMemory) -> None:
    before = control.Control(mapping)
    slot = before.worker(3)
    slot.claim(layout.WORKER_PERSISTER, 0, 100)
    for name, n in (("wal_bytes", 10), ("samples_bytes", 5), ("unprotected_seq", 7)):
        slot.set(name, n)
    counted = before.counted()
    before.count_anew()
    assert (before.totals()["wal_bytes"], before.totals()["unprotected_seq"]) == (0, 7)
    after = control.Control(InMemory())
    after.go_on_counting(counted, [(layout.WORKER_PERSISTER, 0)])
    after.worker(0).claim(layout.WORKER_PERSISTER, 0, 200)
    totals = after.totals()
    assert (totals["wal_bytes"], totals["samples_bytes"], totals["unprotected_seq"]) == (10, 0, 0)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    "numbers", [[(1, 2), (2, 2), (1, 2)], [(3, 2), (1, 1), (2, 3)], [(2, 1), (1, 3), (4, 1)]]
)
def test_no_total_falls_however_many_workers_the_next_life_has(
    numbers: list[tuple[int, int]], kept: bool
) -> None:
    now = control.Control(InMemory())
    expected = {"queries": 0, "lines": 0, "wal_bytes": 0}
    places: list[tuple[int, int]] = []
    for n_ingest, n_query in numbers:
        before, places = (
            places,
            [(control.WORKER_KINDS[kind], index) for kind, index in family.places(n_ingest, n_query)],
        )
        if before:
            counted, now = now.counted(), now if kept else control.Control(InMemory())
            now.go_on_counting(counted, places)
            assert now.worker(0).get("unprotected_seq") == (7 if kept else 0)
        for number, (kind, index) in enumerate(places):
            slot = now.worker(number)
            slot.claim(kind, index, 100 + number)
            name = {layout.WORKER_QUERY: "queries", layout.WORKER_INGEST: "lines"}.get(kind, "wal_bytes")
            assert slot.get(name) >= (1000 if (kind, index) in before else 0)
            slot.add(name, 1000)
            expected[name] += 1000
        now.worker(0).set("unprotected_seq", 7)
        totals = now.totals()
        assert {name: totals[name] for name in expected} == expected


def test_unknown_counter_is_a_programming_error(mapping: InMemory) -> None:
    slot = control.Control(mapping).worker(0)
    with pytest.raises(KeyError):
        slot.add("no_such_counter")


def test_restarted_worker_goes_on_counting_but_has_no_connections(mapping: InMemory) -> None:
    store = control.Control(mapping)
    first = store.worker(1)
    first.claim(layout.WORKER_INGEST, 1, 100)
    first.add("lines", 10)
    first.set("connections_open", 4)
    second = store.worker(1)
    second.claim(layout.WORKER_INGEST, 1, 200)
    assert second.pid == 200
    assert second.snapshot()["lines"] == 10
    assert second.snapshot()["connections_open"] == 0


def test_slot_used_by_another_kind_of_worker_starts_from_zero(mapping: InMemory) -> None:
    store = control.Control(mapping)
    store.worker(1).claim(layout.WORKER_INGEST, 1, 100)
    store.worker(1).add("lines", 10)
    store.worker(1).claim(layout.WORKER_QUERY, 1, 200)
    assert store.worker(1).snapshot()["lines"] == 0


def test_totals_keep_what_a_released_worker_counted(mapping: InMemory) -> None:
    store = control.Control(mapping)
    slot = store.worker(1)
    slot.claim(layout.WORKER_INGEST, 1, 100)
    slot.add("lines", 10)
    slot.set("connections_open", 4)
    slot.release()
    assert store.totals()["lines"] == 10
    assert store.totals()["connections_open"] == 0


def test_epoch_is_odd_while_the_worker_is_busy(mapping: InMemory) -> None:
    store = control.Control(mapping)
    slot = store.worker(2)
    slot.claim(layout.WORKER_INGEST, 0, 1)
    seen = [slot.epoch]
    for _ in range(2):
        slot.epoch_enter()
        seen.append(store.epochs()[2])
        slot.epoch_exit()
        seen.append(store.epochs()[2])
    assert seen == [0, 1, 2, 3, 4]
    assert len(store.epochs()) == WORKERS_MAX


def test_epoch_entered_twice_or_left_twice_is_caught(mapping: InMemory) -> None:
    slot = control.Control(mapping).worker(0)
    slot.claim(layout.WORKER_INGEST, 0, 1)
    with pytest.raises(InvariantBroken, match="not entered"):
        slot.epoch_exit()
    slot.epoch_enter()
    with pytest.raises(InvariantBroken, match="entered already"):
        slot.epoch_enter()


@pytest.mark.parametrize("how", ["released by the supervisor", "claimed by a successor"])
def test_epoch_of_a_worker_that_died_busy_does_not_stay_odd(mapping: InMemory, how: str) -> None:
    store = control.Control(mapping)
    dead = store.worker(0)
    dead.claim(layout.WORKER_INGEST, 0, 1)
    dead.epoch_enter()
    if how == "released by the supervisor":
        store.worker(0).release()
    else:
        store.worker(0).claim(layout.WORKER_INGEST, 0, 2)
    assert store.worker(0).epoch == 2


def test_epoch_without_a_claim_is_refused(mapping: InMemory) -> None:
    slot = control.Control(mapping).worker(0)
    with pytest.raises(AssertionError, match="claim"):
        slot.epoch_enter()


# --- the rules


def sound(mapping: InMemory) -> control.Control:
    """A store that serves: two workers, a log that is ahead of what is durable."""
    store = control.Control(mapping)
    store.state = layout.STATE_READY
    store.written, store.applied, store.durable = 10, 10, 8
    store.worker(0).claim(layout.WORKER_PERSISTER, 0, 70)
    store.worker(1).claim(layout.WORKER_INGEST, 0, 71)
    store.worker(1).state = control.WORKER_READY
    return store


def test_a_control_segment_that_keeps_all_rules_is_valid(mapping: InMemory) -> None:
    control.Control(mapping).validate()
    store = sound(mapping)
    store.validate()
    worker = store.worker(1)
    worker.claim(layout.WORKER_INGEST, 0, 72)
    worker.epoch_enter()
    worker.add("connections_open", 3)
    control.Control(mapping.read_only()).validate()
    worker.release()
    store.validate()
    store.worker(1).expect(layout.WORKER_QUERY, 3)
    store.validate()


def poke(mapping: InMemory, number: int, field: str, value: int) -> None:
    at = layout.WORKERS + number * layout.WORKER.itemsize
    np.frombuffer(mapping.memory, layout.WORKER, 1, at)[field] = value


BROKEN = {
    "state 9 is none": lambda store, _: setattr(store, "state", 9),
    "flags 0x8, known are 0x7": lambda store, _: setattr(store, "flags", 8),
    "block 11 is durable, and 10 the last one written": lambda store, _: setattr(store, "durable", 11),
    "block 11 is applied, and 10 the last one written": lambda store, _: setattr(store, "applied", 11),
    "worker slot 1: state 3 is none": lambda _, mapping: poke(mapping, 1, "state", 3),
    "worker slot 1: kind 7 is none": lambda _, mapping: poke(mapping, 1, "kind", 7),
    "worker slot 1 is taken by process 0": lambda _, mapping: poke(mapping, 1, "pid", 0),
    "worker slot 0 is taken by process 70 since 0 ns": lambda _, mapping: poke(mapping, 0, "started_ns", 0),
    "worker slots 1 and 5 are both of kind 3": lambda store, _: store.worker(5).claim(3, 0, 75),
    "worker slot 6 is free, and its epoch 3": lambda _, mapping: poke(mapping, 6, "epoch", 3),
    "worker slot 7 is free, and counts {'followers': 2}": lambda store, _: store.worker(7).set(
        "followers", 2
    ),
}


@pytest.mark.parametrize("told", BROKEN)
def test_every_broken_rule_of_the_control_segment_is_named(mapping: InMemory, told: str) -> None:
    store = sound(mapping)
    BROKEN[told](store, mapping)
    with pytest.raises(InvariantBroken, match=f"^control: {re.escape(told)}"):
        store.validate()


def test_who_takes_over_may_have_applied_more_than_its_predecessor_said_it_wrote(mapping: InMemory) -> None:
    store = sound(mapping)
    store.state, store.applied = layout.STATE_REPLAYING, 11
    store.validate()
    store.state = layout.STATE_READY
    with pytest.raises(InvariantBroken, match="block 11 is applied"):
        store.validate()
