"""One subscription without sockets: what matches is announced once, what comes is taken once, gaps are told."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from mstore.errors import LimitExceeded
from mstore.kernels._gather import Gatherer
from mstore.query import following as module
from mstore.query.following import Following, Missed, Runs
from mstore.shm import layout
from tests.query_rig import T0, Store

ROOM = 1 << 20
NEVER = 2**63 - 1


class Followed:
    """A store, the log that it was filled by, and a subscription to every series of the metrics chosen."""

    def __init__(self) -> None:
        self.store = Store(f"mstore-test-following-{os.getpid()}")
        self.metrics = ["load"]
        self.blocks: list[bytes] = []
        self.missed = Missed()
        self.gatherer = Gatherer(self.store.reader.directory, self.store.samples_map.segment)
        self.following = Following(self.store.reader.directory, self.select)

    def select(self) -> NDArray[np.uint64]:
        directory = self.store.reader.directory
        cluster = directory.find_path("fritz")
        found = (
            [directory.find_metric(cluster, name.encode()) for name in self.metrics] if cluster >= 0 else []
        )
        parts = [self.gatherer.collect([cluster], metric) for metric in found if metric >= 0]
        return np.concatenate(
            [np.zeros(0, np.uint64), *(part for part in parts if not isinstance(part, int))]
        )

    def put(self, ref: int, t: int, values: list[float], step: int = 60) -> bytes:
        info = self.store.writer.series(ref & 0xFFFF_FFFF)
        assert info is not None
        raw = struct.pack("<q", step) + np.array(values, layout.TYPE_DTYPES[info.type]).tobytes()
        head = np.array(
            [(layout.REC_COLUMN, info.type, 0, len(values), ref & 0xFFFF_FFFF, ref >> 32, t)], layout.RUN
        ).tobytes()
        record = head + raw + bytes(-len(raw) % 8)
        self.store.samples.apply(record)
        self.blocks.append(record)
        return record

    def take(self, record: bytes, room: int = ROOM) -> list[tuple[int, int, float]]:
        runs, _ = self.following.take(memoryview(record), room, self.missed)
        return plain(runs)

    def announced(self) -> list[tuple[int, str, str, str]]:
        found = self.following.announced(1000)
        return [(one.index, one.path[1], one.path[2], one.path[3] + one.path[4]) for one in found]


def plain(runs: Runs) -> list[tuple[int, int, float]]:
    values = runs.words.view(np.float64)
    return list(zip(runs.index.tolist(), (runs.stamps_ms // 1000).tolist(), values.tolist(), strict=True))


@pytest.fixture
def followed() -> Iterator[Followed]:
    found = Followed()
    yield found
    store = found.store
    del found.following, found.gatherer, found
    store.close()


def test_each_series_is_announced_once_with_its_path_step_and_unit(followed: Followed) -> None:
    followed.store.open("load", "f1")
    followed.store.open("load", "f2", "hwthread", "3")
    followed.store.open("flops", "f1")
    followed.following.refresh()
    found = followed.following.announced(10)
    assert [one.path for one in found] == [
        ("fritz", "f1", "load", "", "", "", ""),
        ("fritz", "f2", "load", "hwthread", "3", "", ""),
    ]
    assert [(one.index, one.step_s, one.unit) for one in found] == [(0, 60, "procs"), (1, 60, "procs")]
    followed.following.refresh()
    assert followed.following.announced(10) == []


def test_samples_of_the_series_that_match_are_taken_and_no_others(followed: Followed) -> None:
    load, flops = followed.store.open("load"), followed.store.open("flops")
    followed.following.refresh()
    payload = (
        followed.put(load, T0, [1.0, 2.0])
        + followed.put(flops, T0, [7.0])
        + followed.put(load, T0 + 120, [3.0])
    )
    assert followed.take(payload) == [(0, T0, 1.0), (0, T0 + 60, 2.0), (0, T0 + 120, 3.0)]
    assert not followed.missed


def test_times_are_those_that_a_query_answers_also_of_samples_beside_the_grid(followed: Followed) -> None:
    load = followed.store.open("load")
    followed.following.refresh()
    followed.take(followed.put(load, T0, [0.0]))
    assert followed.take(followed.put(load, T0 + 65, [1.0])) == [(0, T0 + 60, 1.0)]
    assert followed.take(followed.put(load, T0 - 61, [2.0])) == [(0, T0 - 60, 2.0)]
    answer = followed.store.reader.query("fritz", "f1", "load", T0 - 60, T0 + 120)
    assert not isinstance(answer, list)
    assert answer.times.tolist() == [T0 - 60, T0, T0 + 60]


def test_a_series_that_is_new_is_taken_once_the_log_has_told_of_it(followed: Followed) -> None:
    followed.following.refresh()
    load = followed.store.open("load", "f9")
    record = followed.put(load, T0, [5.0])
    assert followed.take(record) == []
    definition = struct.pack("<HBBI", layout.REC_SERIES, 0, 0, 64) + bytes(56)
    _, defines = followed.following.take(memoryview(definition), ROOM, followed.missed)
    assert defines
    followed.following.refresh()
    assert followed.announced() == [(0, "f9", "load", "")]
    assert followed.take(record) == [(0, T0, 5.0)]


@pytest.mark.parametrize("refreshed", [True, False])
def test_a_new_era_keeps_the_index_and_late_samples_go_to_the_grid_of_their_era(
    followed: Followed, refreshed: bool
) -> None:
    first = followed.store.open("load")
    if refreshed:
        followed.following.refresh()
    second, _ = followed.store.writer.begin_era(
        first & 0xFFFF_FFFF, T0 + 600 - 10, 20, T0 + 600 - 10, layout.TYPE_F32
    )
    followed.store.writer.publish()
    followed.following.refresh()
    assert followed.announced() == [(0, "f1", "load", "")]
    assert followed.take(followed.put(second, T0 + 605, [1.0])) == [(0, T0 + 600, 1.0)]
    assert followed.take(followed.put(second, T0 + 65, [2.0])) == [(0, T0 + 60, 2.0)], "the grid of 60 s"
    assert followed.take(followed.put(first, T0 + 641, [3.0])) == [(0, T0 + 640, 3.0)], "the grid of 20 s"
    answer = followed.store.reader.query("fritz", "f1", "load", T0 + 600, T0 + 660)
    assert not isinstance(answer, list)
    assert answer.times[answer.valid].tolist() == [T0 + 600, T0 + 640]


def test_what_finds_no_room_is_counted_with_its_earliest_time(followed: Followed) -> None:
    load = followed.store.open("load")
    followed.following.refresh()
    assert followed.take(followed.put(load, T0, [1.0, 2.0, 3.0]), room=24) == [(0, T0, 1.0)]
    assert followed.take(followed.put(load, T0 - 600, [4.0]), room=0) == []
    assert (followed.missed.n_samples, followed.missed.since_ms) == (3, (T0 - 600) * 1000)


def test_once_nobody_can_say_how_many_were_missed_nobody_says_so() -> None:
    missed = Missed()
    missed.add(3, 5000)
    missed.add(-1, 9000)
    missed.add(2, 4000)
    assert (missed.n_samples, missed.since_ms) == (-1, 4000)
    assert missed
    assert not Missed()


def test_rows_of_stamped_series_keep_their_stamps_and_exact_columns(followed: Followed) -> None:
    followed.metrics = ["scrape"]
    ref = followed.store.open("scrape")
    followed.following.refresh()
    assert followed.following.announced(1)[0].columns == ("reads:u64", "seconds:f64")
    raw = struct.pack("<qQd", T0 * 1000 + 7, 2**63 + 1, 0.25)
    head = np.array([(layout.REC_STAMPED, 2, 0, 1, ref & 0xFFFF_FFFF, ref >> 32, 0)], layout.RUN).tobytes()
    runs, _ = followed.following.take(memoryview(head + raw), ROOM, followed.missed)
    assert (runs.stamps_ms.tolist(), runs.types.tolist()) == ([T0 * 1000 + 7], [0])
    assert struct.unpack("<Qd", runs.words.tobytes()) == (2**63 + 1, 0.25)


def test_what_memory_holds_is_given_in_the_same_form(followed: Followed) -> None:
    followed.metrics = ["load", "ops", "beat"]
    load, ops, beat = (followed.store.open(name) for name in ("load", "ops", "beat"))
    followed.put(load, T0, [1.5, float("nan"), 2.5])
    followed.put(ops, T0, [2**60 + 1], step=10)
    followed.store.rows(beat, [(T0 * 1000 + 3, 9)], "Q")
    followed.following.refresh()
    paths = {one.index: one.path[2] for one in followed.following.announced(10)}
    found = {
        paths[int(runs.index[0])]: runs
        for runs in followed.following.stored(followed.gatherer, T0, T0 + 3600)
    }
    assert plain(found["load"])[0][1:] == (T0, 1.5)
    assert plain(found["load"])[1][1:] == (T0 + 120, 2.5)
    assert (found["ops"].words.tolist(), found["ops"].types.tolist()) == ([2**60 + 1], [layout.TYPE_U64])
    assert (found["beat"].stamps_ms.tolist(), found["beat"].words.tolist()) == ([T0 * 1000 + 3], [9])
    assert list(followed.following.stored(followed.gatherer, T0 + 3600, T0 + 7200)) == []


def test_more_series_than_may_be_followed_are_refused(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.store.open("load", "f1")
    followed.store.open("load", "f2")
    monkeypatch.setattr(module, "FOLLOW_SERIES_MAX", 1)
    with pytest.raises(LimitExceeded, match="2 series match"):
        followed.following.refresh()
