"""Framed sessions against a model: what each request stores and counts, whatever waits and whoever else writes.

Each connection has hosts of its own, so the order of its samples is the order of its requests; series are removed
between requests, the ring is small, and requests of several connections are carried out interleaved.
"""

from __future__ import annotations

import random
from collections import Counter
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore import clock
from mstore.ingest.effects import Effect
from mstore.ingest.framed import FramedSession
from mstore.ipc import messages as m
from tests.ingest_rig import NOW_S, IngestRig, Steps, Stored, line

METRICS = {"load": (m.TYPE_F32, "<f4"), "flops": (m.TYPE_F64, "<f8"), "ops": (m.TYPE_U64, "<u8")}
TIMES = [
    NOW_S,
    NOW_S - 60,
    NOW_S - 3600,
    NOW_S + 3600,
    NOW_S + 3601,
    NOW_S - 48 * 3600,
    NOW_S - 48 * 3600 - 1,
    0,
    -1,
]
MISSING = {"<f4": [np.nan, np.inf, -np.inf], "<f8": [np.nan, np.inf], "<u8": [2**64 - 1]}


def why_not(t: int) -> str:
    """The reason a time is refused, "" if it is not."""
    if t < 0:
        return "bad_timestamp"
    if t < NOW_S - 48 * 3600:
        return "too_late"
    return "too_far_ahead" if t > NOW_S + 3600 else ""


class Peer:
    """One connection, and what should come of its requests."""

    def __init__(self, rig: IngestRig, number: int, rng: random.Random) -> None:
        self.rng = rng
        self.number = number
        self.replies: list[m.Message] = []
        self.expected: list[m.Message] = []
        self.stored: list[Stored] = []
        self.session = FramedSession(
            rig.engine, lambda _id, _level, reply: self.replies.append(reply), lambda hello: m.Done({})
        )
        self.paths = [
            [
                "c",
                f"p{number}h{rng.randrange(4)}",
                metric,
                *rng.choice([("", ""), ("core", "1"), ("node", "")]),
                "",
                "",
            ]
            for metric in METRICS
            for _ in range(rng.randrange(1, 12))
        ]
        rig.run(self.session.handle(1, m.Hello(1, "ingest", cluster="c")))
        rig.run(self.session.handle(2, m.Open(self.paths)))
        self.handles = np.frombuffer(self.replies.pop().handles, "<u4")
        assert self.handles.tolist() == list(range(len(self.paths)))
        self.replies.clear()

    def name(self, i: int) -> str:
        _, host, metric, kind, number, *_ = self.paths[i]
        below = f"/{kind}{number}" if kind == "core" else ""
        return f"c/{host}{below}:{metric}"

    def request(self) -> m.Message:
        return self.lines() if self.rng.random() < 0.2 else self.columns()

    def lines(self) -> m.Message:
        of_hosts = [k for k, path in enumerate(self.paths) if path[2] == "load" and not path[3]]
        if not of_hosts:
            return self.columns()
        i = self.rng.choice(of_hosts)
        values = [self.rng.randrange(1000) for _ in range(self.rng.randrange(1, 5))]
        self.stored += [Stored(self.name(i), NOW_S, float(value)) for value in values]
        self.expected.append(m.Written(len(values), 0, 0, {}, True))
        return m.Lines(b"".join(line("load", self.paths[i][1], value) for value in values))

    def columns(self) -> m.Message:
        rng = self.rng
        metric = rng.choice(list(METRICS))
        vtype, dtype = METRICS[metric]
        mine = [i for i, path in enumerate(self.paths) if path[2] == metric]
        chosen = rng.choices(mine, k=rng.randrange(0, 2 * len(mine)))
        if rng.random() < 0.5:
            chosen = sorted(set(chosen))
        if rng.random() < 0.3:
            times = [NOW_S - 600 + rng.choice([60, 60, 60, 61]) * k for k in range(rng.randrange(16, 40))]
        else:
            times = rng.choices(TIMES, k=rng.randrange(0, 6))
        holes = rng.choice([0.0, 0.2, 1.0])
        rows = [
            [rng.choice(MISSING[dtype]) if rng.random() < holes else rng.randrange(1 << 20) for _ in chosen]
            for _ in times
        ]
        matrix = np.array(rows, dtype).reshape(len(times), len(chosen))
        self.expect(chosen, times, matrix, dtype)
        handles = self.handles[chosen] if chosen else np.zeros(0, "<u4")
        return m.Columns(handles.tobytes(), np.array(times, "<i8").tobytes(), matrix.tobytes(), vtype)

    def expect(self, chosen: list[int], times: list[int], matrix: np.ndarray, dtype: str) -> None:
        reasons: Counter[str] = Counter()
        n_written = 0
        kept = [(t, row) for t, row in zip(times, matrix, strict=True) if not why_not(t)]
        for t in times:
            if reason := why_not(t):
                reasons[reason] += len(chosen)
        for t, row in kept:
            for i, value in zip(chosen, row, strict=True):
                missing = value == 2**64 - 1 if dtype == "<u8" else not np.isfinite(value)
                if missing:
                    reasons["bad_value"] += 1
                else:
                    n_written += 1
                    self.stored.append(Stored(self.name(i), t, value.item()))
        counted = {reason: n for reason, n in reasons.items() if n}
        self.expected.append(m.Written(n_written, sum(counted.values()), 0, counted, True))


def interleave(rig: IngestRig, rng: random.Random, peers: list[Peer], n_requests: int) -> None:
    """Let the peers send requests, each waiting for its own; their effects are answered in any order."""
    left = dict.fromkeys(peers, n_requests)
    waiting: dict[Peer, tuple[Steps, Effect]] = {}
    while left:
        peer = rng.choice(list(left))
        try:
            if peer in waiting:
                steps, effect = waiting.pop(peer)
                effect = steps.send(rig.answer(effect))
            else:
                steps = peer.session.handle(3 + n_requests - left[peer], peer.request())
                effect = next(steps)
            waiting[peer] = steps, effect
        except StopIteration:
            left[peer] -= 1
            if not left[peer]:
                del left[peer]


def remove_some(rig: IngestRig, rng: random.Random) -> None:
    """Retention found some series empty. It waits for the workers: nothing is in their hands or in the ring."""
    rig.finish()
    writer = rig.directory.writer
    for slot in range(writer.counts()["n_series"]):
        if writer.series(slot) is not None and rng.random() < 0.3:
            rig.directory.remove(slot)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32), n_peers=st.integers(1, 4), ring_bytes=st.sampled_from([1024, 4096, 1 << 20]),
    n_rounds=st.integers(1, 4),
)  # fmt: skip
def test_every_request_stores_and_counts_what_the_model_says(
    seed: int, n_peers: int, ring_bytes: int, n_rounds: int
) -> None:
    rng = random.Random(seed)
    rig = IngestRig(ring_bytes=ring_bytes)
    try:
        with mock.patch.object(clock, "now_s", return_value=NOW_S):
            peers = [Peer(rig, number, rng) for number in range(n_peers)]
            for _ in range(n_rounds):
                interleave(rig, rng, peers, 5)
                remove_some(rig, rng)
            stored = rig.finish()
        for peer in peers:
            assert peer.replies == peer.expected
            mine = [one for one in stored if one.name.startswith(f"c/p{peer.number}h")]
            assert Counter(mine) == Counter(peer.stored)
            # The last value of a slot is the last one sent for it.
            assert {(one.name, one.t): one.value for one in mine} == {
                (one.name, one.t): one.value for one in peer.stored
            }
        assert len(stored) == sum(len(peer.stored) for peer in peers) == rig.counter("written")
        rejected = sum(
            rig.counter(f"rejected_{name}")
            for name in ("bad_value", "too_late", "too_far_ahead", "bad_timestamp")
        )
        assert rejected == sum(one.rejected for peer in peers for one in peer.expected)
    finally:
        rig.close()
