"""A hold of the log: answered once all that was written before is durable, ended by its owner or by its limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mstore.errors import Degraded, MstoreError
from mstore.workers import holds
from mstore.workers.holds import Holds


class Log:
    """A Wal whose commit thread is the test."""

    def __init__(self, written: int, durable: int) -> None:
        self.written = written
        self._durable = durable
        self.held: set[int] = set()

    def durable(self) -> int:
        return self._durable

    def sync(self) -> None:
        self._durable = self.written

    def hold(self) -> int:
        self.held.add(number := 70 + len(self.held))
        return number

    def release(self, number: int) -> int:
        self.held.discard(number)
        return 0


class Slot:
    """Keeps the gauge."""

    def __init__(self) -> None:
        self.gauges: dict[str, int] = {}

    def set(self, name: str, value: int) -> None:
        self.gauges[name] = value


class Rig:
    """Holds over a log, and what they answered."""

    def __init__(self, log: Log) -> None:
        self.log, self.slot = log, Slot()
        self.holds = Holds(log, self.slot)  # type: ignore[arg-type]
        self.answers: list[tuple[dict[str, Any], MstoreError | None]] = []

    def begin(self, limit_s: int = 3600) -> None:
        self.holds.begin(limit_s, lambda details, error: self.answers.append((details, error)))

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not done():
                await asyncio.sleep(0.001)


def play(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_a_hold_begins_at_once_and_is_answered_when_all_written_before_is_durable() -> None:
    async def story() -> None:
        rig = Rig(Log(written=12, durable=9))
        rig.begin()
        assert rig.log.held == {70}
        rig.log.written = 15  # what comes later is not waited for
        for _ in range(5):
            await asyncio.sleep(holds._LOOK_S)
        assert rig.answers == []
        rig.log._durable = 12
        await rig.until(lambda: bool(rig.answers))
        assert rig.answers == [({"hold": 70, "seq": 12}, None)]
        rig.holds.end(70)

    play(story())


def test_a_log_that_does_not_become_durable_is_not_held_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "_DURABLE_S_MAX", 0.02)

    async def story() -> None:
        rig = Rig(Log(written=12, durable=9))
        rig.begin()
        await rig.until(lambda: bool(rig.answers))
        ((details, error),) = rig.answers
        assert details == {}
        assert isinstance(error, Degraded)
        assert "block 12" in error.message
        assert (rig.log.held, rig.slot.gauges) == (set(), {"log_holds": 0})

    play(story())


def test_each_hold_ends_once_by_its_owner_or_by_its_limit() -> None:
    async def story() -> None:
        rig = Rig(Log(written=12, durable=12))
        rig.begin()
        rig.begin(limit_s=0)
        assert (rig.log.held, rig.slot.gauges) == ({70, 71}, {"log_holds": 2})
        await rig.until(lambda: rig.log.held == {70})
        assert rig.slot.gauges == {"log_holds": 1}
        rig.holds.end(71)  # its connection closes later
        rig.holds.end(70)
        rig.holds.end(70)
        assert (rig.log.held, rig.slot.gauges) == (set(), {"log_holds": 0})

    play(story())
