"""A retention pass is cut into slices, with a pause after each that frees: what comes in meanwhile is not held up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore.workers import retention as module
from mstore.workers.leaving import Why
from tests.unit.test_review_recovery import Rig, machine

N_SERIES = 10_000


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    store = machine(tmp_path)
    made = Rig(store)
    monkeypatch.setattr(made, "directory", Counted(made.directory))
    monkeypatch.setattr(made.housekeeping.retention, "_remove_idle", lambda count, kept_from_s: False)
    made.housekeeping.snapshots.seq = made.wal.written
    yield made
    store.wal.close()


class Counted:
    """A directory that says it has N_SERIES."""

    def __init__(self, directory: object) -> None:
        self._directory = directory

    def counts(self) -> dict[str, int]:
        return {"n_series": N_SERIES}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._directory, name)


def slices_of(rig: Rig, monkeypatch: pytest.MonkeyPatch, freed: int, turns: int) -> list[tuple[int, int]]:
    """(first series, number) of each slice within so many turns of the loop."""
    found: list[tuple[int, int]] = []

    def free(start: int, count: int, before_s: np.ndarray, why: Why) -> int:
        assert (len(before_s), why) == (count, Why.RETENTION)
        found.append((start, count))
        return freed

    monkeypatch.setattr(rig.housekeeping.freeing, "free", free)

    async def run() -> None:
        rig.housekeeping.retention._begin()
        for _ in range(turns):
            await asyncio.sleep(0)
        await rig.housekeeping.stop()
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), 30))
    return found


def test_a_pass_that_frees_nothing_looks_at_every_series_once_slice_by_slice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = slices_of(rig, monkeypatch, freed=0, turns=50)
    assert [start for start, _ in slices] == list(range(0, N_SERIES, module._SWEEP_SERIES))
    assert sum(count for _, count in slices) == N_SERIES
    assert max(count for _, count in slices) <= 2048, "freeing a chunk of each takes about a millisecond"
    assert rig.slot.words["retention_passes"] == 1


def test_after_a_slice_that_freed_something_the_pass_pauses_and_a_stop_ends_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEP_PAUSE_S", 1000.0)
    assert slices_of(rig, monkeypatch, freed=1, turns=50) == [(0, module._SWEEP_SERIES)]
    assert "retention_passes" not in rig.slot.words
