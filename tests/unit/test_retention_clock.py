"""Retention trusts the wall clock only while it agrees with the monotonic one; else it frees nothing, and says so."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest

from mstore import clock
from mstore.shm import layout
from tests.unit.test_recovery_store import START_S, Machine
from tests.unit.test_review_recovery import Rig, machine

HOUR_NS = 3600 * 10**9


def old_sample(store: Machine) -> None:
    """Of a series whose only chunk is years beyond the retention period of the rig."""
    ref = store.intern(["old"], START_S)[0]
    run = np.zeros(1, layout.RUN)[0]
    run["type"], run["vtype"], run["count"] = layout.REC_ROW, layout.TYPE_F32, 1
    run["slot"], run["generation"], run["t"] = ref & 0xFFFFFFFF, ref >> 32, START_S
    store.log(run.tobytes() + np.array([1.5, 0], "<f4").tobytes())


def test_a_wall_clock_that_jumped_frees_nothing_says_so_once_and_is_forgiven_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = machine(tmp_path)
    rig = Rig(store)
    old_sample(store)
    real_ns, jump_ns = clock.now_ns, [0]
    monkeypatch.setattr(clock, "now_ns", lambda: real_ns() + jump_ns[0])

    def complaints() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]

    async def run() -> None:
        housekeeping = rig.housekeeping
        for jump_hours in (2, 2, -3):
            jump_ns[0] = jump_hours * HOUR_NS
            housekeeping.retention._begin()
            await asyncio.sleep(0)
        assert store.entries(), "nothing is freed, whichever way it jumped"
        assert "retention_passes" not in rig.slot.words
        assert len(complaints()) == 1, "said once, not at every look"
        assert "7200 s off the monotonic clock: nothing is freed" in complaints()[0]
        assert len(housekeeping._timers) == 1, "it looks again, once"
        jump_ns[0] = 0
        housekeeping.retention._begin()
        while "retention_passes" not in rig.slot.words:
            await asyncio.sleep(0.001)
        assert not store.entries()
        assert rig.slot.words["chunks_freed"] == 1
        jump_ns[0] = HOUR_NS
        housekeeping.retention._begin()
        assert len(complaints()) == 2, "another jump is another message"
        housekeeping.snapshots.seq = rig.wal.written
        await housekeeping.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(run(), 30))
    store.wal.close()
