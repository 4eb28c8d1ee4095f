"""What the benchmarks say of their own runs is right: the parts that need no store."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bench_follow import Following, account, cases, check, waits_ms, writes_of
from benchmarks.follower import Received
from benchmarks.load import HWTHREADS, Load
from mstore.client.following import FollowBatch

T0 = 1_725_620_400


def batch(values: list[float], missed: int = 0) -> FollowBatch:
    n = len(values)
    words = np.array(values, np.float32).astype(np.float64).view(np.uint64)
    index, types = np.zeros(n, np.uint32), np.ones(n, np.uint8)
    return FollowBatch([], index, np.zeros(n, np.int64), types, words, missed=missed)


# --- followers


def test_a_follower_counts_what_came_and_what_it_was_told_to_have_missed() -> None:
    received = Received()
    for one in (batch([10.01, 99.99]), batch([], missed=5), batch([12.34])):
        received.take(one)
    assert (received.seen, received.missed, received.hundredths) == (3, 5, 1001 + 9999 + 1234)
    received.take(batch([], missed=-1))
    received.take(batch([], missed=7))
    assert received.missed == -1, "once nobody knows, nobody knows"
    assert "nobody knows" in account([received, Received(seen=1)])


def test_samples_that_neither_came_nor_were_told_to_be_missed_are_an_error() -> None:
    written = np.array([[1000, 2000], [3000, 4000]])
    check(Received(seen=4, hundredths=10_000), written, "all")
    check(Received(seen=3, missed=1, hundredths=6000), written, "all")
    check(Received(seen=1, missed=-1), written, "all")
    with pytest.raises(AssertionError, match="3 samples came, 0 were told to be missed, 4 were written"):
        check(Received(seen=3, hundredths=6000), written, "all")
    with pytest.raises(AssertionError, match="not what was written"):
        check(Received(seen=4, hundredths=10_001), written, "all")


def test_followers_of_four_hosts_follow_different_ones_and_one_follows_everything() -> None:
    load = Load(T0, 1, 1, hosts=8)
    asked = cases(8)
    assert [len(one) for one in asked.values()] == [0, 1, 1, 4]
    four = np.concatenate([one.series(load) for one in asked["4 of a host each"]])
    assert len(np.unique(four)) == 4 * HWTHREADS
    assert [one.selector for one in asked["4 of a host each"]] == [f"alex/f{k:04d}" for k in (0, 2, 4, 6)]
    assert asked["1 of everything"] == [Following("alex", tuple(range(8)), everything=True)]
    assert len(asked["1 of everything"][0].series(load)) == load.n_series


def test_the_writes_of_a_tick_are_its_lines_and_a_wait_is_counted_from_the_write_of_its_host() -> None:
    load = Load(T0, 2, 1, hosts=30)
    ticks = writes_of(load)
    assert [len(writes) for writes in ticks] == [2, 2]
    assert b"".join(ticks[1]) == load.tick(1)
    began = {(0, T0): 10.0, (1, T0): 11.0, (0, T0 + 60): 20.0, (1, T0 + 60): 21.0}
    came = [("f0024", T0, 10.5), ("f0025", T0, 11.25), ("f0025", T0 + 60, 21.125)]
    assert waits_ms([Received(arrivals=came[:1]), Received(arrivals=came[1:])], began).tolist() == [
        500,
        250,
        125,
    ]
