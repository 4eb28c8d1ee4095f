"""The metric store's own cases about one series, asked of a served store in every way; each is named as the fact it pins.

Where it links chunks of two or four slots by hand, samples are written here until the store has begun another chunk.
Told elsewhere, because they say nothing about an answer, or are there already:

    buffers that are used again          unit/test_samples.py::test_freed_memory_is_used_again_by_other_sizes
    aggregations and their names         unit/test_config.py::test_errors_name_the_key_the_value_and_what_is_allowed,
                                         unit/test_config_cockpit.py::test_an_aggregation_nobody_knows_is_none_and_told
    health                               test_upstream_health.py
    scopes, incomplete statistics        test_upstream_scopes.py
    names of scopes                      unit/test_compat_names.py::test_a_level_s_name_is_type_and_id, ..._those_of_...
    rows of a checkpoint                 unit/test_compat_parquet.py::test_a_checkpoint_s_samples_are_rows_as_in_...
    a checkpoint's file, loaded          unit/test_compat_golden.py::test_a_checkpoint_in_json_says_what_its_text_says
    a checkpoint's file, archived        test_import_export.py::test_a_checkpoint_becomes_rows_of_the_archive
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mstore.frames import Series
from mstore.tables import Stats
from tests.process.test_rules_answers import Everywhere, plain
from tests.stores import served, until

BASE = int(time.time()) // 1000 * 1000 - 1_000_000
"""Times of the cases count from here: a series with a step of ten seconds does not reach back to the epoch."""
STEP_S = 10
CHUNK = 512
"""Slots of a chunk."""
CONFIG = f'retention = "0"\ndefault_step = {STEP_S}\n[metrics.total]\naggregation = "sum"\n[metrics.m]\n'


@pytest.fixture(scope="module")
def store() -> Iterator[Everywhere]:
    """One for all cases: each has a host of its own."""
    with served(CONFIG) as server, Everywhere(server) as everywhere:
        everywhere.warm()
        yield everywhere
        everywhere.let_go()


def put(store: Everywhere, host: str, samples: dict[int, Any], metric: str = "m", tags: str = "") -> int:
    """Write {time: value}, in this order; how many were stored."""
    text = "".join(
        f"{metric},cluster=c,hostname={host}{tags} value={value} {BASE + t}\n" for t, value in samples.items()
    )
    return int(store.client.write(text).written)


def counting(first: int, n: int) -> dict[int, int]:
    """n samples from a time on, 1, 2, ..."""
    return {first + STEP_S * k: k + 1 for k in range(n)}


def read(store: Everywhere, host: str, start: int, end: int, metric: str = "m") -> Series:
    found = store.query(host, metric, BASE + start, BASE + end)
    assert isinstance(found, Series)
    return found


def values(store: Everywhere, host: str, start: int, end: int, metric: str = "m") -> list[float | None]:
    return plain(read(store, host, start, end, metric).values)


def times(found: Series) -> list[int]:
    return [t - BASE for t in found.times.tolist()]


def stats(store: Everywhere, host: str, start: int, end: int) -> Stats:
    found = store.ask("stats", f"c/{host}", "m", BASE + start, BASE + end)
    assert isinstance(found, Stats)
    return found


def chunks(store: Everywhere, host: str) -> list[tuple[int, int, int]]:
    """(start, len, end) of the chunks of m, as the store dumps them."""
    found = json.loads(store.ask("debug_dump", f"c/{host}"))["data"]["m"]
    return [(one["start"] - BASE, one["len"], one["end"] - BASE) for one in found]


def test_what_was_written_is_read_at_its_times(store: Everywhere) -> None:
    assert put(store, "read", {100: 1, 110: 2, 120: 3}) == 3
    found = read(store, "read", 100, 130)
    assert (times(found), found.values.tolist()) == ([100, 110, 120], [1, 2, 3])


def test_a_chunk_begins_half_a_step_before_its_first_sample_and_ends_half_a_step_behind_its_last(
    store: Everywhere,
) -> None:
    put(store, "ends", dict.fromkeys((95, 105, 115, 125), 1))
    assert chunks(store, "ends") == [(90, 4, 130)]
    found = read(store, "ends", 0, 200)
    assert [t for t, there in zip(times(found), found.valid, strict=True) if there] == [95, 105, 115, 125]


def test_slots_that_were_passed_over_are_missing(store: Everywhere) -> None:
    put(store, "passed", {100: 1, 130: 4})
    assert values(store, "passed", 100, 140) == [1, None, None, 4]


def test_of_two_samples_in_a_slot_the_last_one_counts(store: Everywhere) -> None:
    put(store, "again", {100: 1, 110: 2})
    put(store, "again", {100: 99})
    assert values(store, "again", 100, 120) == [99, 2]
    assert chunks(store, "again") == [(95, 2, 115)]


def test_a_value_that_is_no_number_leaves_its_slot_missing(store: Everywhere) -> None:
    assert put(store, "nan", {100: 1, 110: "NaN", 120: 3}) == 2
    assert values(store, "nan", 100, 130) == [1, None, 3]


def test_a_sample_before_the_first_one_is_late_and_stored(store: Everywhere) -> None:
    """The metric store refuses it."""
    assert put(store, "past", {100: 42}) == 1
    assert put(store, "past", {50: 7}) == 1
    assert values(store, "past", 50, 110) == [7, None, None, None, None, 42]


def test_a_range_that_begins_before_the_first_sample_has_it_at_its_time(store: Everywhere) -> None:
    put(store, "before", {100: 1, 110: 2})
    found = read(store, "before", 50, 120)
    assert times(found) == list(range(50, 120, 10))
    assert plain(found.values) == [None] * 5 + [1, 2]
    request = {
        "cluster": "c",
        "from": BASE + 50,
        "to": BASE + 120,
        "queries": [{"metric": "m", "host": "before"}],
    }
    for padded, data in ((True, [None] * 5 + [1, 2]), (False, [1, 2])):
        (entry,) = store.ask("fetch", {**request, "with-padding": padded}).to_dict()["results"][0]
        assert (entry["data"], entry["from"], entry["to"]) == (
            data,
            BASE + (50 if padded else 100),
            BASE + 120,
        )


def test_what_does_not_fit_a_chunk_goes_into_the_next_and_is_read_as_one(store: Everywhere) -> None:
    put(store, "overflow", counting(100, CHUNK + 1))
    assert chunks(store, "overflow") == [
        (95, CHUNK, 95 + CHUNK * STEP_S),
        (95 + CHUNK * STEP_S, 1, 105 + CHUNK * STEP_S),
    ]
    assert values(store, "overflow", 100, 110 + CHUNK * STEP_S) == list(range(1, CHUNK + 2))
    border = 100 + CHUNK * STEP_S
    assert values(store, "overflow", border - 30, border + 10) == [CHUNK - 2, CHUNK - 1, CHUNK, CHUNK + 1]


def test_behind_a_chunks_border_each_value_is_that_of_its_own_slot(store: Everywhere) -> None:
    """The place in the second chunk is counted from its own beginning, whichever of the two was written first."""
    border = 100 + CHUNK * STEP_S
    put(store, "border", {100: 0})
    put(store, "border", {border: 10, border + 10: 20, border + 20: 30, border + 30: 40})
    put(store, "border", {border - 20: 1, border - 10: 2})
    for start, end, wanted in (
        (border - 20, border + 10, [1, 2, 10]), (border - 10, border + 30, [2, 10, 20, 30]),
        (border + 10, border + 50, [20, 30, 40, None]),
    ):  # fmt: skip
        assert values(store, "border", start, end) == wanted
        figures = stats(store, "border", start, end)
        kept = [value for value in wanted if value is not None]
        assert (figures.counts[0], figures.sums[0], figures.mins[0], figures.maxs[0]) == (
            len(kept), sum(kept), min(kept), max(kept),
        )  # fmt: skip


def test_values_of_children_are_added_slot_by_slot(store: Everywhere) -> None:
    for core, both in enumerate(((2, 1), (3, 5), (0, 0))):
        put(store, "added", {100: both[0], 110: both[1]}, "total", f",type=core,type-id={core}")
    assert values(store, "added", 100, 120, "total") == [5, 6]
    assert values(store, "added", 100, 130, "total") == [5, 6, None]


def three_chunks(store: Everywhere, host: str) -> list[int]:
    """A series with a few slots in each of three chunks; the times at which these end."""
    starts = [100 + k * CHUNK * STEP_S for k in range(3)]
    for start, n in zip(starts, (3, 2, 5), strict=True):
        put(store, host, counting(start, n))
    found = chunks(store, host)
    assert [n for _, n, _ in found] == [3, 2, 5]
    return [end for _, _, end in found]


def gone(store: Everywhere, host: str) -> None:
    """A host that is left with nothing vanishes, a little later."""
    until(lambda: host not in store.client.children("c"), f"{host} to vanish")


def test_chunks_are_told_and_counted_from_the_oldest_to_the_newest(store: Everywhere) -> None:
    ends = three_chunks(store, "count")
    assert ends == sorted(ends)
    (size,) = store.ask("sizes", "c/count")
    assert (size.chunks, size.series, size.samples) == (3, 1, 10)
    put(store, "single", counting(100, 7))
    (size,) = store.ask("sizes", "c/single")
    assert (size.chunks, size.samples) == (1, 7)


def test_a_range_takes_in_the_chunks_that_it_touches_and_no_others(store: Everywhere) -> None:
    three_chunks(store, "touched")
    second = 100 + CHUNK * STEP_S
    for start, end, n in ((0, 10**6, 10), (second, 10**6, 7), (100, second, 3), (second - 60, second, 0)):
        figures = stats(store, "touched", start, end)
        assert figures.counts.tolist() == [n], (start, end)
    # A series that is not there has no chunk, which is no error.
    absent = stats(store, "nobody", 0, 10**6)
    assert (absent.counts.tolist(), absent.why(0)) == ([0], "no such host")


def test_chunks_that_end_before_a_time_are_freed_and_the_rest_is_served(store: Everywhere) -> None:
    """A chunk ends with its last slot, whether that has a sample or not: one may still come."""
    three_chunks(store, "freed")
    second, third, end = (95 + k * CHUNK * STEP_S for k in (1, 2, 3))
    assert store.client.free("c/freed", BASE + second - 1).chunks == 0
    freed = store.client.free("c/freed", BASE + second + 20)
    assert (freed.chunks, freed.samples) == (1, 3)
    assert len(chunks(store, "freed")) == 2
    assert values(store, "freed", 100, 130) == [None] * 3
    assert values(store, "freed", second + 5, second + 25) == [1, 2]
    assert store.client.free("c/freed", BASE + end).chunks == 2
    gone(store, "freed")
    found = read(store, "freed", 100, third)
    assert (found.valid.any(), found.why) == (False, "no such host")


def test_the_oldest_chunk_is_freed_by_force_down_to_the_last_one(store: Everywhere) -> None:
    three_chunks(store, "forced")
    for left in (2, 1, 0):
        assert store.client.force_free("c/forced").chunks == 1
        assert sum(size.chunks for size in store.client.sizes("c/forced")) == left
    gone(store, "forced")
    assert not read(store, "forced", 100, 100 + 3 * CHUNK * STEP_S).valid.any()
