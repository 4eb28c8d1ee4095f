"""The slowest queries of the last hour: bounded, and never kept out by one that is too old."""

from __future__ import annotations

import random

from mstore.workers.slowest import Slowest

SECOND_NS = 1_000_000_000


def test_the_shortcut_keeps_what_looking_at_every_query_would_keep(seed: int) -> None:
    rng = random.Random(seed)
    slowest = Slowest(n_kept=5, window_s=100)
    kept: list[tuple[int, int]] = []
    now_ns = n_looked_at = 0
    for _ in range(3000):
        now_ns += rng.randrange(2 * SECOND_NS)
        us = rng.randrange(1_000_000_000)
        in_window = [one for one in kept if one[1] > now_ns - 100 * SECOND_NS]
        kept = sorted([*in_window, (us, now_ns)], reverse=True)[:5]
        if us > slowest.floor_us or now_ns >= slowest.oldest_ns:
            n_looked_at += 1
            slowest.note(us, now_ns, {})
        assert [(query.us, query.at_ns) for query in slowest.found(now_ns)] == kept
    assert n_looked_at < 1000


def test_an_old_slow_query_does_not_keep_newer_ones_out() -> None:
    slowest = Slowest(n_kept=2, window_s=10)
    slowest.note(1_000_000, 0, {"n": 1})
    slowest.note(900_000, 1 * SECOND_NS, {"n": 2})
    assert slowest.floor_us == 900_000
    slowest.note(5, 11 * SECOND_NS, {"n": 3})
    assert [query.what["n"] for query in slowest.found(11 * SECOND_NS)] == [3]


def test_most_queries_cost_a_comparison() -> None:
    slowest = Slowest(n_kept=3, window_s=3600)
    for us in (30, 20, 10):
        slowest.note(us, us, {})
    assert (slowest.floor_us, slowest.oldest_ns) == (10, 10 + 3600 * SECOND_NS)
