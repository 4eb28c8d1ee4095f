"""When the service manager is told that the store is alive: never without an answer, or work, to tell of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mstore.workers.heartbeat import EXTEND_EVERY_S, EXTEND_S, Heartbeat


class Loop:
    """Timers that a test fires."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Any:
        self.timers.append((delay_s, call))
        return None

    def fire(self) -> float:
        delay_s, call = self.timers.pop(0)
        call()
        return delay_s


class Manager:
    """Notes what it is told."""

    def __init__(self, watchdog_s: float = 0.0, present: bool = True) -> None:
        self.watchdog_s, self.present = watchdog_s, present
        self.told: list[Any] = []

    def alive(self) -> None:
        self.told.append("alive")

    def extend(self, seconds: float) -> None:
        self.told.append(seconds)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


class Persister:
    """Listens (worked is None), or reads its files."""

    def __init__(self) -> None:
        self.worked: float | None = None
        self.asked = 0

    def ask(self) -> None:
        self.asked += 1

    def progress(self) -> float | None:
        return self.worked


def heartbeat(manager: Manager, persister: Persister) -> Heartbeat:
    return Heartbeat(manager, persister.ask, persister.progress)  # type: ignore[arg-type]


def test_only_an_answer_of_the_persister_makes_a_ping(loop: Loop) -> None:
    manager, persister = Manager(watchdog_s=30), Persister()
    heart = heartbeat(manager, persister)
    heart.started()
    heart.start()
    assert (persister.asked, manager.told) == (1, [])
    heart.answered()
    assert manager.told == ["alive"]
    assert loop.fire() == 15, "half of the manager's limit"
    assert loop.fire() == 15
    assert (persister.asked, manager.told) == (3, ["alive"]), "a persister that hangs: nothing is told"


def test_a_persister_that_reads_its_files_is_alive_while_it_uses_processor_time(loop: Loop) -> None:
    manager, persister = Manager(watchdog_s=60), Persister()
    persister.worked = 0.1
    heart = heartbeat(manager, persister)
    heart.start()
    persister.worked = 0.2
    assert loop.fire() == EXTEND_EVERY_S
    assert manager.told == [EXTEND_S, "alive"] * 2
    loop.fire()
    assert manager.told == [EXTEND_S, "alive"] * 2, "it stands still"
    assert persister.asked == 0


def test_a_start_asks_for_time_also_without_a_watchdog_and_then_the_timer_ends(loop: Loop) -> None:
    manager, persister = Manager(), Persister()
    persister.worked = 0.1
    heart = heartbeat(manager, persister)
    heart.start()
    assert manager.told == [EXTEND_S]
    heart.started()
    persister.worked = None
    loop.fire()
    assert loop.timers == [], "an idle store has no timer that nobody wants"


def test_without_a_manager_there_is_no_timer(loop: Loop) -> None:
    persister = Persister()
    heartbeat(Manager(present=False), persister).start()
    assert (loop.timers, persister.asked) == ([], 0)
