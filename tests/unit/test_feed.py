"""The feed of a query worker without processes: who is told what, and when the directory is looked at again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mstore.errors import LimitExceeded
from mstore.ipc import messages as m
from mstore.kernels._gather import Gatherer
from mstore.limits import FOLLOW_QUEUE_BYTES
from mstore.persistence.files import wal_dir
from mstore.query.following import Announced, Following, Missed, Runs
from mstore.shm.control import Control, WorkerSlot
from mstore.workers import feed as module
from mstore.workers.feed import Feed
from tests.unit.test_wal import Store, payload

SAMPLE_BYTES = 21
DEFINES = 250
"""A block whose first byte is this one defines something."""


class FakeFollowing:
    """Each block is as many samples as its first byte says."""

    def __init__(self) -> None:
        self.fresh: list[Announced] = []
        self.n_series = 0
        self.refreshed = 0
        self.refusal: Exception | None = None

    def refresh(self) -> None:
        self.refreshed += 1
        if self.refusal is not None:
            raise self.refusal

    @property
    def unannounced(self) -> bool:
        return bool(self.fresh)

    def announced(self, limit: int) -> list[Announced]:
        found, self.fresh = self.fresh[:limit], self.fresh[limit:]
        return found

    def take(self, block: memoryview, room_bytes: int, missed: Missed) -> tuple[Runs, bool]:
        n = block[0]
        kept = min(n, room_bytes // SAMPLE_BYTES)
        if n > kept:
            missed.add(n - kept, 1000)
        runs = Runs(
            np.zeros(kept, np.uint32),
            np.zeros(kept, np.int64),
            np.ones(kept, np.uint8),
            np.zeros(kept, np.uint64),
        )
        return runs, n == DEFINES

    def stored(self, _: Gatherer, since_s: int, until_s: int) -> Iterator[Runs]:
        for _i in range(3):
            yield Runs(
                np.ones(2, np.uint32),
                np.full(2, since_s, np.int64),
                np.ones(2, np.uint8),
                np.zeros(2, np.uint64),
            )


class Rig:
    """A feed over a real log."""

    def __init__(self, directory: Path) -> None:
        self.log = Store(directory)
        self.control = SimpleNamespace(applied=0)
        self.counters: dict[str, int] = {}
        slot = SimpleNamespace(set=self.counters.__setitem__)
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.feed = Feed(
            wal_dir(directory), cast(Control, self.control), cast(WorkerSlot, slot), self.wake_fd
        )
        self.sent: list[m.Message] = []
        self.waiting_bytes = 0
        self.following = FakeFollowing()

    def subscribe(self, since_s: int | None = None) -> Any:
        return self.feed.subscribe(
            cast(Following, self.following),
            cast(Gatherer, None),
            self.sent.append,
            lambda: self.waiting_bytes,
            since_s,
        )[0]

    def write(self, *firsts: int) -> None:
        """One block each, applied; its first byte is given."""
        for first in firsts:
            self.control.applied = self.log.wal.append(0, 0, 8, bytes([first]) + payload(1, 999))
        os.eventfd_write(self.wake_fd, 1)

    def n_samples(self) -> int:
        return sum(len(one.types) for one in self.sent if isinstance(one, m.FollowedSamples))

    def all_read(self) -> bool:
        tail = self.feed._tail
        return tail is not None and tail.next_seq > self.control.applied

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    def close(self) -> None:
        self.feed.close()
        os.close(self.wake_fd)
        self.log.close()


def play(directory: Path, scene: Callable[[Rig], Any]) -> None:
    async def run() -> None:
        rig = Rig(directory)
        try:
            await scene(rig)
        finally:
            rig.close()

    asyncio.run(run())


def test_blocks_applied_before_the_subscription_are_not_fed_and_all_later_ones_are(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        rig.write(5, 6)
        rig.subscribe()
        rig.write(*range(1, 60))  # more than one segment, and more than one turn
        await rig.until(lambda: rig.n_samples() >= sum(range(1, 60)))
        assert rig.n_samples() == sum(range(1, 60))

    play(tmp_path, scene)


def test_the_persister_is_told_how_many_follow_and_nothing_is_read_when_none_do(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        first, second = rig.subscribe(), rig.subscribe()
        assert rig.counters["followers"] == 2
        rig.feed.remove(first)
        rig.feed.remove(second)
        assert rig.counters["followers"] == 0
        rig.write(5)
        await asyncio.sleep(0.02)
        assert rig.sent == []
        assert os.eventfd_read(rig.wake_fd) == 1, "nobody listens"

    play(tmp_path, scene)


def test_a_subscription_that_cannot_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        rig.following.refusal = LimitExceeded("too many")
        with pytest.raises(LimitExceeded):
            rig.subscribe()
        assert rig.counters["followers"] == 0

    play(tmp_path, scene)


def test_after_a_definition_series_are_looked_up_before_later_blocks_but_not_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFRESH_S_MIN", 0.05)

    async def scene(rig: Rig) -> None:
        rig.subscribe()
        rig.write(1, DEFINES, 2)
        await rig.until(lambda: rig.n_samples() == 253)
        assert rig.following.refreshed == 2, "once to begin, once for the block"
        for _ in range(10):
            rig.write(DEFINES)
            await asyncio.sleep(0.002)
        await rig.until(lambda: rig.n_samples() == 253 + 10 * DEFINES)
        assert 3 <= rig.following.refreshed <= 9, "what one look has seen needs no other"

    play(tmp_path, scene)


def test_a_selection_that_grows_beyond_its_limit_ends_with_the_reason_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    async def scene(rig: Rig) -> None:
        rig.subscribe()
        grown = rig.following
        rig.following = FakeFollowing()
        others: list[m.Message] = []
        rig.feed.subscribe(
            cast(Following, rig.following), cast(Gatherer, None), others.append, lambda: 0, None
        )
        grown.refusal = LimitExceeded("too many series")
        rig.write(DEFINES, 3)
        await rig.until(lambda: sum(len(o.types) for o in others if isinstance(o, m.FollowedSamples)) == 253)
        (last,) = [one for one in rig.sent if isinstance(one, m.Error)]
        assert last.code == LimitExceeded.code
        assert rig.counters["followers"] == 1

    play(tmp_path, scene)


def test_blocks_that_went_before_they_were_read_are_told_as_a_gap_of_unknown_size(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        rig.subscribe()
        for first in range(1, 61):
            rig.control.applied = rig.log.wal.append(0, 0, 8, bytes([first]) + payload(1, 999))
        assert rig.log.wal.flush(5)
        assert rig.log.wal.retire(50) > 1
        rig.log.wal._spares.settle()
        os.eventfd_write(rig.wake_fd, 1)
        await rig.until(lambda: any(isinstance(one, m.FollowMissed) for one in rig.sent))
        (gap,) = [one for one in rig.sent if isinstance(one, m.FollowMissed)]
        assert gap.n_samples == -1
        before = rig.n_samples()
        rig.write(7)
        await rig.until(lambda: rig.n_samples() == before + 7)

    play(tmp_path, scene)


def test_order_is_new_series_then_what_was_stored_then_what_came_then_what_was_missed(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        rig.following.fresh = [Announced(0, ("c", "h", "m", "", "", "", ""), 60, "W", ())]
        rig.waiting_bytes = 1 << 20  # the client takes nothing yet
        rig.subscribe(since_s=5)
        n_blocks = FOLLOW_QUEUE_BYTES // SAMPLE_BYTES // 200 + 50
        for _ in range(n_blocks // 100 + 1):
            rig.write(*[200] * 100)
            await asyncio.sleep(0.005)
        await rig.until(rig.all_read)
        assert rig.sent == []
        rig.waiting_bytes = 0
        rig.feed.resume()
        await rig.until(lambda: any(isinstance(one, m.FollowMissed) for one in rig.sent))
        kinds = [type(one).__name__ + str(getattr(one, "stored", "")) for one in rig.sent]
        assert list(dict.fromkeys(kinds)) == [
            "Followed",
            "FollowedSamples1",
            "FollowedSamples0",
            "FollowMissed",
        ]
        gap = rig.sent[-1]
        assert isinstance(gap, m.FollowMissed)
        came = rig.n_samples() - 6
        assert came * SAMPLE_BYTES <= FOLLOW_QUEUE_BYTES
        assert came + gap.n_samples == 200 * 100 * (n_blocks // 100 + 1)

    play(tmp_path, scene)
