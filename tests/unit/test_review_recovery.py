"""A log that refuses for a while, and one that lost a definition: what was acknowledged comes back all the same."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mstore.errors import StorageError
from mstore.persistence.files import DIRECTORY_MODE, Files, quarantine_dir, wal_dir
from mstore.persistence.recovery import Report
from mstore.shm import layout
from mstore.workers import retention as module
from mstore.workers.housekeeping import Housekeeping
from mstore.workers.leaving import Why
from mstore.workers.persister import Persister
from tests.unit.test_recovery_store import START_S, STEP_S, Machine


def machine(directory: Path) -> Machine:
    wal_dir(directory).mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
    return Machine(directory)


class Slot:
    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def add(self, name: str, n: int = 1) -> None:
        self.words[name] = self.words.get(name, 0) + n

    def set(self, name: str, value: int) -> None:
        self.words[name] = value


class Rig:
    """Housekeeping over a real store and log, with the persister's own rules for definitions."""

    append_catalog = Persister.append_catalog
    log_the_unlogged = Persister.log_the_unlogged
    log_first = Persister.log_first

    def __init__(self, store: Machine) -> None:
        self.machine = store
        self.wal = store.wal
        self.store = store.store
        self.directory = store.store.directory
        self.samples = store.store.samples
        self.slot = Slot()
        self.spec = SimpleNamespace(
            store_dir=str(store.dir), directory=store.dir, instance=1, segments={}, lock_inode=None
        )
        self.segment_fds: dict[str, int] = {}
        self.evictions = SimpleNamespace(note=lambda _records: None)
        self.config = SimpleNamespace(
            clusters={},
            retention_s=3600, retentions_s=lambda: {3600}, snapshot_interval_s=0, wal_bytes=1,
            snapshot_stop_limit_s=10,
        )  # fmt: skip
        self.mark_applied = lambda: None
        self.helper = lambda _main, _name: Helper(self)
        self._unlogged: deque[bytes] = deque()
        self.housekeeping = Housekeeping(self, Files(), Report())  # type: ignore[arg-type]  # what it needs of a persister

    def intern(self, name: str) -> bytes:
        """Log records of a new series; the caller logs them."""
        key = f"{name},cluster=c,hostname=h".encode()
        offsets = np.array([0, len(key)], np.int64).tobytes()
        _, _, _, records = self.directory.intern(key, offsets, np.array([START_S], np.int64).tobytes(), b"")
        return records


class Helper:
    """In place of the helper process: writes the snapshot here, where the memory is private."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    async def run(self, job: dict[str, Any], *_: Any) -> dict[str, Any]:
        self._rig.wal.flush(10)
        self._rig.machine.snapshot(job["seq"])
        return {"series": 0, "bytes": 0, "oldest_kept_seq": 0}


def refuse_once(monkeypatch: pytest.MonkeyPatch, wal: Any) -> None:
    def refuse(*_arguments: Any) -> int:
        monkeypatch.undo()
        raise StorageError("cannot write: no space")

    monkeypatch.setattr(wal, "write", refuse)


def test_a_snapshot_holds_a_definition_that_the_log_refused_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path)
    rig = Rig(store)
    store.intern(["first"], START_S)
    records = rig.intern("second")
    refuse_once(monkeypatch, rig.wal)
    with pytest.raises(StorageError):
        rig.append_catalog(records)  # type: ignore[misc]  # self is what it needs of a persister
    rig.log_the_unlogged()  # type: ignore[misc]  # as the next drain does; nobody has published yet

    asyncio.run(rig.housekeeping.snapshots.run_helper())
    store.wal.close()
    again = machine(tmp_path)
    try:
        assert again.report.snapshot_seq > 0
        assert again.store.directory.counts()["live_series"] == 2
    finally:
        again.wal.close()


def test_retention_goes_on_after_the_log_refused_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path)
    rig = Rig(store)
    ref = store.intern(["old"], START_S)[0]
    run = np.zeros(1, layout.RUN)[0]
    run["type"], run["vtype"], run["count"] = 1, 1, 1
    run["slot"], run["generation"], run["t"] = ref & 0xFFFFFFFF, ref >> 32, START_S
    store.log(run.tobytes() + np.array([1.5, 0], "<f4").tobytes())
    before = START_S + 600 * STEP_S
    refuse_once(monkeypatch, rig.wal)
    with pytest.raises(StorageError):
        rig.housekeeping.freeing.free(0, 1, before, Why.RETENTION)
    assert store.entries(), "what is not logged is not freed"
    assert not rig._unlogged, "nor is it logged later, when nobody frees it"
    assert rig.housekeeping.freeing.free(0, 1, before, Why.RETENTION) == 1
    assert not store.entries()
    store.wal.close()


def test_retention_passes_do_not_end_with_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path)
    rig = Rig(store)
    store.intern(["old"], START_S)
    monkeypatch.setattr(module, "_LOG_RETRY_S", 0.001)
    tries: list[int] = []

    def free(start: int, count: int, before_s: np.ndarray, why: Why) -> int:
        tries.append(start)
        if len(tries) == 1:
            raise StorageError("cannot write: no space")
        return 0

    monkeypatch.setattr(rig.housekeeping.freeing, "free", free)

    async def run() -> None:
        rig.housekeeping.retention._begin()
        while len(tries) < 2:
            await asyncio.sleep(0.001)
        await rig.housekeeping.stop()

    rig.housekeeping.snapshots.seq = rig.wal.written
    asyncio.run(asyncio.wait_for(run(), 30))
    assert tries == [0, 0]
    store.wal.close()


def test_a_snapshot_that_fails_is_not_tried_again_after_every_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path)
    rig = Rig(store)
    store.intern(["one"], START_S)
    tries: list[int] = []

    async def fail() -> dict[str, Any]:
        tries.append(1)
        raise StorageError("cannot write: no space")

    monkeypatch.setattr(rig.housekeeping.snapshots, "run_helper", fail)

    async def run() -> None:
        for _ in range(20):
            rig.housekeeping.look_at_log()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        rig.housekeeping.snapshots.seq = rig.wal.written
        await rig.housekeeping.stop()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert len(tries) == 1
    store.wal.close()


def test_a_lost_definition_costs_its_own_series_and_not_the_start(tmp_path: Path) -> None:
    store = machine(tmp_path)
    store.intern(["early"], START_S)
    first = store.wal.written
    store.intern(["lost"], START_S)
    # Levels of a new host, whose parent is fine, and a metric that follows the lost one.
    store.intern(["behind"], START_S)
    store.wal.close()
    path = next(path for path in wal_dir(tmp_path).iterdir() if path.suffix == ".wal")
    text = bytearray(path.read_bytes())
    at = text.index(b"lost,cluster=c")
    assert first < store.wal.written
    text[at] ^= 0xFF
    path.write_bytes(text)
    again = machine(tmp_path)
    try:
        assert again.report.damaged
        assert len(again.report.log.damage) == 2  # the block itself, and the one that builds on it
        assert "refused because of what was lost" in str(again.report.log.damage[1])
        assert len(list(quarantine_dir(tmp_path).iterdir())) == 2
        assert again.store.directory.counts()["live_series"] == 1
        assert len(again.intern(["anew"], START_S)) == 1
    finally:
        again.wal.close()
