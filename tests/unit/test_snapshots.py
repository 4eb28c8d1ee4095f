"""When the persister takes snapshots: by time, by log, on demand, after damage; and what a failure costs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mstore import clock
from mstore.errors import MstoreError, StorageError, Unavailable
from mstore.persistence.files import Files, snapshot_dir
from mstore.persistence.loaded import Loaded, Refused
from mstore.persistence.recovery import Newest, Report
from mstore.persistence.snapshot import SnapshotInfo
from mstore.workers import snapshots as module
from mstore.workers.progress import describe, left_s
from mstore.workers.snapshots import Snapshots


class Slot:
    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def add(self, name: str, n: int = 1) -> None:
        self.words[name] = self.words.get(name, 0) + n

    def set(self, name: str, value: int) -> None:
        self.words[name] = value


class Wal:
    written, bytes_written, retired = 10, 0, 0

    def retire(self, upto_seq: int) -> int:
        self.retired = upto_seq
        return 1


class Rig:
    """Snapshots over a persister made of a few words, on a clock of its own; `taken` counts helpers."""

    def __init__(self, directory: Path, report: Report | None = None, **config: int) -> None:
        self.now_s = 1000.0
        self.wal, self.slot = Wal(), Slot()
        self.config = SimpleNamespace(
            **{
                "snapshot_interval_s": 0,
                "wal_bytes": 1 << 30,
                "snapshot_stop_limit_s": 5,
                "retention_s": 0,
                **config,
            }
        )
        self.spec = SimpleNamespace(store_dir=str(directory), directory=directory, instance=1, segments={})
        self.mark_applied = lambda: None
        self.taken = 0
        self.failing = False
        self.snapshots = Snapshots(self, Files(), report or Report(), lambda: None)  # type: ignore[arg-type]  # what it needs of a persister
        self.snapshots.run_helper = self.run_helper  # type: ignore[method-assign]  # no process

    async def run_helper(self) -> dict[str, Any]:
        self.taken += 1
        if self.failing:
            raise StorageError("no space")
        self.snapshots.seq = self.wal.written
        self.snapshots._last_s = self.now_s
        self.snapshots._bytes_before = self.wal.bytes_written
        return {"bytes": 5, "oldest_kept_seq": 0, "series": 1}

    async def look(self) -> int:
        """One look at the clock, and everything that follows from it; helpers so far."""
        self.snapshots._look_at_clock()
        if self.snapshots._task is not None:
            await self.snapshots._task
        if self.snapshots._timer is not None:
            self.snapshots._timer.cancel()
        return self.taken


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    def make(report: Report | None = None, **config: int) -> Rig:
        made: list[Rig] = []
        monkeypatch.setattr(clock, "monotonic_s", lambda: made[0].now_s if made else 1000.0)
        made.append(Rig(tmp_path, report, **config))
        return made[0]

    return make


def test_an_interval_that_is_over_asks_for_one_and_a_new_interval_counts_at_once(
    rig: Callable[..., Rig],
) -> None:
    async def run() -> None:
        store = rig(snapshot_interval_s=100)
        assert await store.look() == 0
        store.now_s += 101
        assert await store.look() == 1
        assert await store.look() == 1, "the next interval has begun"
        store.now_s += 101
        assert await store.look() == 1, "nothing was written since"
        store.wal.written += 1
        store.config.snapshot_interval_s = 0
        assert await store.look() == 1
        store.config.snapshot_interval_s = 50
        assert await store.look() == 2

    asyncio.run(run())


def test_the_age_of_the_loaded_snapshot_counts(rig: Callable[..., Rig]) -> None:
    """Else a store that is restarted more often than the interval would never take one."""
    created_ns = clock.now_ns() - 90 * 10**9
    info = SnapshotInfo(Path("s"), 5, created_ns, 0, 0, 0, 0, 0, 0, 0, 0)
    report = Report(loaded=Loaded(snapshot=info, before_log_seq=5))

    async def run() -> None:
        store = rig(report, snapshot_interval_s=100)
        assert await store.look() == 0
        store.now_s += 11
        assert await store.look() == 1

    asyncio.run(run())


def test_the_age_of_a_snapshot_that_was_not_read_counts(rig: Callable[..., Rig]) -> None:
    """Over kept memory nothing is loaded."""
    report = Report(unread=Newest(5, clock.now_ns() - 90 * 10**9, 700, (5,)))

    async def run() -> None:
        store = rig(report, snapshot_interval_s=100, wal_bytes=1000)
        store.snapshots._unsound = set()
        assert await store.look() == 0
        store.now_s += 11
        assert await store.look() == 1
        again = rig(report, wal_bytes=1000)
        assert again.snapshots._unsound == {5}
        again.snapshots._unsound = set()
        again.wal.bytes_written = 299
        assert await again.look() == 0
        again.wal.bytes_written = 300
        assert await again.look() == 1

    asyncio.run(run())


def test_a_log_that_has_grown_asks_for_one_that_of_the_life_before_counted(rig: Callable[..., Rig]) -> None:
    report = Report()
    report.log.n_bytes = 700

    async def run() -> None:
        store = rig(report, wal_bytes=1000)
        store.wal.bytes_written = 299
        assert await store.look() == 0
        store.wal.bytes_written = 300
        assert await store.look() == 1
        store.wal.bytes_written = 1299
        store.snapshots.look_at_log()
        assert store.snapshots._task is None

    asyncio.run(run())


def test_damage_asks_for_one_at_once_whatever_the_interval(rig: Callable[..., Rig]) -> None:
    refused = Refused("p", 7, 1, 0, "checksum", 1, 1, 0, 0)
    report = Report(loaded=Loaded(before_log_seq=5, refused=[refused, refused]))

    async def run() -> None:
        store = rig(report)
        assert store.snapshots._unsound == {7}
        assert await store.look() == 1
        assert store.snapshots._unsound == set()
        store.wal.written += 1
        assert await store.look() == 1

    asyncio.run(run())


def test_a_failure_is_told_counted_cleaned_up_and_tried_again_after_ever_longer_waits(
    rig: Callable[..., Rig], tmp_path: Path
) -> None:
    told: list[MstoreError | None] = []

    async def run() -> None:
        store = rig(snapshot_interval_s=100)
        folder = snapshot_dir(tmp_path)
        folder.mkdir()
        (folder / "x.tmp").write_bytes(b"left by a helper that was killed")
        store.failing = True
        store.snapshots.request(lambda _details, error: told.append(error))
        store.snapshots.request(lambda _details, error: told.append(error))
        assert await store.look() == 1, "who asks while one is under way waits for it"
        assert [str(error) for error in told] == ["no space"] * 2
        assert list(folder.iterdir()) == []
        assert store.slot.words["snapshot_errors"] == 1
        waits = []
        store.now_s += 101
        for _ in range(3):
            before, count = store.now_s, store.taken
            while await store.look() == count:
                store.now_s += 1
            waits.append(store.now_s - before)
        assert waits[0] < waits[1] < waits[2]
        store.failing = False
        store.now_s += module._RETRY_S_MAX
        await store.look()
        assert store.slot.words["snapshots"] == 1

    asyncio.run(run())


def test_a_stop_takes_a_last_one_only_when_something_was_written(rig: Callable[..., Rig]) -> None:
    async def run() -> None:
        store = rig()
        await store.snapshots.stop(take=True)
        assert store.taken == 1
        await store.snapshots.stop(take=True)
        assert store.taken == 1
        store.wal.written += 1
        await store.snapshots.stop(take=False)
        assert store.taken == 1, "memory is kept"
        store.config.snapshot_stop_limit_s = 0
        await store.snapshots.stop(take=True)
        assert store.taken == 1

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(run())


def test_who_waits_for_one_that_a_stop_ends_is_told_that_the_store_stops(rig: Callable[..., Rig]) -> None:
    async def run() -> None:
        store = rig()
        killed = asyncio.Event()

        async def run_helper() -> dict[str, Any]:
            await killed.wait()
            raise StorageError("the snapshot helper failed: it ended with status -9")

        store.snapshots.run_helper = run_helper  # type: ignore[method-assign]  # no process
        told: list[MstoreError | None] = []
        store.snapshots.request(lambda _details, error: told.append(error))
        store.snapshots._helper = SimpleNamespace(kill=killed.set)  # type: ignore[assignment]  # what is needed of it
        await asyncio.sleep(0)
        await store.snapshots.stop(take=False)
        (error,) = told
        assert isinstance(error, Unavailable)
        assert "the store stops" in error.message

    asyncio.run(run())


def test_who_asked_for_one_is_answered_also_when_nobody_can_look_at_the_files_then(
    rig: Callable[..., Rig],
) -> None:
    async def run() -> None:
        store = rig()

        def on_taken(_seq: int, _oldest: int) -> None:
            raise StorageError("an error of the disk")

        store.snapshots.on_taken = on_taken
        told: list[MstoreError | None] = []
        store.snapshots.request(lambda _details, error: told.append(error))
        assert store.snapshots._task is not None
        await store.snapshots._task
        assert told == [None]

    asyncio.run(run())


def test_what_is_left_is_told_by_the_pace_so_far() -> None:
    assert left_s(0, 100, 5) is None
    assert left_s(25, 100, 5) == 15
    assert describe("chunks", 25, 100, 5) == "reading chunks: 25% of 100 bytes, about 15 s left"
    assert describe("log", 0, 0, 0) == "reading log: 0% of 0 bytes"


def test_what_is_in_memory_only_asks_for_one_at_once_and_for_another_when_one_is_under_way(
    rig: Callable[..., Rig],
) -> None:
    async def run() -> None:
        store = rig()
        store.snapshots.seq = store.wal.written  # nothing was written since: it is not the log that asks
        told: list[int] = []
        store.snapshots.on_taken = lambda seq, _oldest: told.append(seq)
        store.snapshots.protect({3})
        store.snapshots.protect({4})  # while the first is about to begin
        for _ in range(3):
            task = store.snapshots._task
            if task is not None:
                await task
        assert (store.taken, told) == (1, [10]), "it began behind both"
        store.snapshots.protect({5})
        await asyncio.sleep(0)  # under way
        store.snapshots.protect({6})
        while store.snapshots._task is not None:
            await store.snapshots._task
        assert store.taken == 3
        assert store.snapshots._unsound == set()

    asyncio.run(run())


def test_what_is_in_memory_only_is_tried_again_until_it_is_done(rig: Callable[..., Rig]) -> None:
    async def run() -> None:
        store = rig()
        store.snapshots.seq = store.wal.written
        store.failing = True
        store.snapshots.protect(set())
        assert await store.look() == 1
        store.failing = False
        assert await store.look() == 1, "a full disk stays full for a while"
        store.now_s += 6
        assert await store.look() == 2
        store.now_s += 600
        assert await store.look() == 2

    asyncio.run(run())
