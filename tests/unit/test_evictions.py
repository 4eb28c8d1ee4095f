"""Evictions are said: how much, of which time, what to do; and not more often than once a minute."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest

from mstore import clock
from mstore.workers.evictions import TELL_EVERY_S, Evictions
from tests.unit.test_recovery_store import START_S, STEP_S, Machine, scatter

SERIES = 8


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    refs = made.intern([f"m{i}" for i in range(SERIES)], START_S)
    for k in range(0, 512 * 4, 8):
        made.log(scatter(refs, np.full(SERIES, float(k)), START_S + k * STEP_S))
    return made


def evict(machine: Machine, evictions: Evictions) -> tuple[int, int]:
    """(chunks, bytes) of one eviction."""
    records, n_chunks = machine.store.plan_evict(3 * 2112, now_s=START_S + 10**6)
    before = machine.store.stats()["chunk_bytes"]
    evictions.note(records)
    machine.store.apply_block(records)
    return n_chunks, before - machine.store.stats()["chunk_bytes"]


def test_what_goes_is_said_with_its_size_time_and_remedy_once_a_minute(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])

    async def run() -> None:
        evictions = Evictions(machine.store, lambda: 24 << 20)
        n_chunks, n_bytes = evict(machine, evictions)
        (told,) = caplog.messages
        assert "memory_cap, 24MiB, is reached" in told
        assert f"{n_chunks} chunks" in told
        assert f"{n_bytes} bytes" in told
        assert "from 2023-11-14 22:13:15Z up to 2023-11-14 23:38:35Z" in told
        assert "raise memory_cap" in told
        some = [evict(machine, evictions) for _ in range(3)]
        assert len(caplog.messages) == 1, "within the minute"
        now_s[0] += TELL_EVERY_S
        some.append(evict(machine, evictions))
        assert len(caplog.messages) == 2
        assert f"{sum(n for n, _ in some)} chunks" in caplog.messages[1]
        assert f"{sum(n for _, n in some)} bytes" in caplog.messages[1]
        assert evictions._timer is None
        last = evict(machine, evictions)
        evictions.stop()
        assert f"{last[0]} chunks" in caplog.messages[2], "a stop says the rest"
        assert {record.levelno for record in caplog.records} == {logging.WARNING}

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert machine.wal.close()


def test_a_store_without_a_cap_says_that_dev_shm_is_full_and_the_rest_follows_by_itself(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mstore.workers.evictions.TELL_EVERY_S", 0.05)

    async def run() -> None:
        evictions = Evictions(machine.store, lambda: 0)
        evict(machine, evictions)
        evict(machine, evictions)
        assert len(caplog.messages) == 1
        await asyncio.sleep(0.2)
        assert len(caplog.messages) == 2

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert all("/dev/shm is full" in told for told in caplog.messages)
    assert machine.wal.close()
