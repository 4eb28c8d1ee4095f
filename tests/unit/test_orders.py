"""Orders about data: what free, force-free and protect do to a store, and that it is so after every replay."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore import clock
from mstore.errors import EmptyCluster, InvalidRequest, StorageError
from mstore.ipc import messages as m
from mstore.shm import layout
from mstore.shm.protection import FOR_GOOD_S, NOT_S
from tests.unit.test_recovery_store import STEP_S, Machine, scatter
from tests.unit.test_review_recovery import Rig, machine, refuse_once

SPAN_S = 512 * STEP_S
HOSTS = ("f1", "f2", "g1")
EVER = 1 << 53


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Machine]:
    made = machine(tmp_path)
    yield made
    made.wal.close()


def order(rig: Rig, message: m.Message) -> dict[str, Any]:
    """The details of its answer; raises what it is refused by."""
    fd = os.memfd_create("order")
    os.write(fd, m.encode_body(message))

    async def run() -> dict[str, Any]:
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def answer(details: dict[str, Any], error: Exception | None) -> None:
            done.set_exception(error) if error else done.set_result(details)

        rig.housekeeping.orders.take(message.TAG, fd, answer)
        try:
            return await done
        finally:
            await rest(rig)

    return asyncio.run(asyncio.wait_for(run(), 30))


async def rest(rig: Rig) -> None:
    """Until what the order has emptied is taken out."""
    retention = rig.housekeeping.retention
    while retention._passing or retention._again:
        await asyncio.sleep(0.001)


class Workers:
    """No ingest worker holds a reference."""

    def workers(self) -> list[Any]:
        return []


class Filled:
    """Two metrics on three hosts and a core of one, three chunks of each, of which the last is new."""

    def __init__(self, store: Machine) -> None:
        self.store = store
        self.rig = Rig(store)
        self.rig.config.retention_s, self.rig.config.retentions_s = 0, lambda: {0}
        self.rig.control, self.rig.rings = Workers(), []
        self.now_s = clock.now_s()
        self.start_s = self.now_s - 2 * SPAN_S - 100
        keys = [f"{name},cluster=fritz,hostname={host}" for host in HOSTS for name in ("load", "power")]
        keys.append("load,cluster=fritz,hostname=f1,type=core,type-id=3")
        self.refs = self.intern(keys)
        for n in range(3):
            for k in range(5):
                t_s = self.start_s + n * SPAN_S + k * STEP_S
                store.log(scatter(self.refs, np.arange(len(keys), dtype=float), t_s))

    def intern(self, keys: list[str]) -> list[int]:
        offsets = np.cumsum([0, *map(len, keys)]).astype("<i8").tobytes()
        times = np.full(len(keys), self.start_s, "<i8").tobytes()
        refs, _, _, log = self.store.store.directory.intern("".join(keys).encode(), offsets, times, b"")
        if log:
            self.store.wal.append(0xFFFFFFFF, 0, 0, log)
        self.store.store.directory.publish()
        return [int(ref) for ref in np.frombuffer(refs, "<u8")]

    def chunks(self) -> dict[str, list[int]]:
        """{host[/core]:metric: numbers of its chunks}, without series that have none."""
        directory = self.store.store.directory
        found: dict[str, list[int]] = {}
        for slot, _, n in self.store.entries():
            info = directory.series(slot)
            assert info is not None
            path = directory.path(info.level)
            name = f"{path.host}{'/' + path.type + path.type_id if path.type else ''}:{directory.metric(info.metric).name}"
            found.setdefault(name, []).append(n)
        return {name: sorted(numbers) for name, numbers in sorted(found.items())}

    def after_a_restart(self, *, snapshot: bool) -> dict[tuple[int, int, int], bytes]:
        """What a start finds in log and snapshot."""
        self.store.wal.flush(10)
        if snapshot:
            self.store.snapshot(self.store.wal.written)
        again = machine(self.store.dir)
        again.wal.close()
        return again.entries()


ALL = {
    "f1/core3:load": [0, 1, 2],
    **{f"{host}:{name}": [0, 1, 2] for host in HOSTS for name in ("load", "power")},
}


@pytest.mark.parametrize("snapshot", [False, True])
def test_free_takes_whole_chunks_before_a_time_below_what_is_selected_and_they_stay_gone(
    store: Machine, snapshot: bool
) -> None:
    filled = Filled(store)
    assert filled.chunks() == ALL
    details = order(filled.rig, m.Free(["fritz/f[1-2]"], filled.start_s + 2 * SPAN_S - 6, []))
    assert details == {"levels": 3, "series": 5, "chunks": 5, "samples": 25}
    gone = {name: [1, 2] if name.startswith("f") else numbers for name, numbers in ALL.items()}
    assert filled.chunks() == gone, "chunk 1 ends a step later"
    assert filled.after_a_restart(snapshot=snapshot) == store.entries()


def test_what_is_excluded_keeps_its_data_with_all_below_it(store: Machine) -> None:
    filled = Filled(store)
    details = order(filled.rig, m.Free(["*"], EVER, ["fritz/f1/core3", "fritz/g*"]))
    assert details["chunks"] == 3 * 4
    assert filled.chunks() == {name: ALL[name] for name in ("f1/core3:load", "g1:load", "g1:power")}
    assert order(filled.rig, m.Free(["fritz/f1"], EVER, ["fritz"]))["chunks"] == 0


def test_free_all_leaves_nothing_and_hosts_and_levels_vanish(store: Machine) -> None:
    filled = Filled(store)
    assert order(filled.rig, m.Free(["*"], EVER, []))["samples"] == 7 * 15
    assert filled.chunks() == {}
    assert store.store.directory.children(0) == []
    assert filled.rig.slot.words["series_removed"] == 7
    assert filled.after_a_restart(snapshot=False) == {}


@pytest.mark.parametrize("snapshot", [False, True])
def test_force_free_takes_the_oldest_chunk_of_every_series_down_to_the_last_one(
    store: Machine, snapshot: bool
) -> None:
    filled = Filled(store)
    assert order(filled.rig, m.ForceFree(["fritz/f1"], [])) == {
        "levels": 2, "series": 3, "chunks": 3, "samples": 15,
    }  # fmt: skip
    assert filled.chunks()["f1:load"] == [1, 2]
    for left in (4, 2):
        assert order(filled.rig, m.ForceFree(["fritz/f1"], ["fritz/f1/core3"]))["chunks"] == 2
        assert sum(len(filled.chunks().get(f"f1:{name}", [])) for name in ("load", "power")) == left - 2
    assert filled.chunks()["f1/core3:load"] == [1, 2]
    assert order(filled.rig, m.ForceFree(["fritz/f1"], ["fritz/f1/core3"]))["chunks"] == 0
    assert filled.after_a_restart(snapshot=snapshot) == store.entries()


def test_force_free_takes_the_chunk_of_the_oldest_era_that_has_one(store: Machine) -> None:
    filled = Filled(store)
    slot = filled.refs[0] & 0xFFFF_FFFF
    era_s = filled.start_s + 2 * SPAN_S + 60
    ref, records = store.store.directory.begin_era(slot, era_s, 20, era_s, layout.TYPE_F32)
    store.wal.append(0xFFFFFFFF, 0, 0, records)
    store.store.directory.publish()
    store.log(scatter([ref], np.array([7.0]), era_s + 20))
    assert filled.chunks()["f1:load"] == [0, 0, 1, 2]
    for left in ([0, 1, 2], [0, 2], [0], []):
        order(filled.rig, m.ForceFree(["fritz/f1"], []))
        assert filled.chunks().get("f1:load", []) == left, "the new era's chunk 0 goes last"


def test_a_late_sample_into_what_was_freed_is_stored_and_comes_back(store: Machine) -> None:
    filled = Filled(store)
    order(filled.rig, m.Free(["fritz"], EVER, []))
    ref = filled.intern(["load,cluster=fritz,hostname=f1"])
    assert ref != filled.refs[:1], "the series was taken out, and its slot is used again"
    store.log(scatter(ref, np.array([5.0]), filled.start_s + STEP_S))
    assert filled.chunks() == {"f1:load": [0]}
    assert filled.after_a_restart(snapshot=False) == store.entries()


def test_what_matches_nothing_frees_nothing_and_makes_no_level(store: Machine) -> None:
    filled = Filled(store)
    n_levels = store.store.directory.counts()["n_levels"]
    for selector in ("nobody", "fritz/f9", "fritz/f1/socket0", "fritz/[]"):
        assert order(filled.rig, m.Free([selector], EVER, [])) == {
            "levels": 0, "series": 0, "chunks": 0, "samples": 0,
        }  # fmt: skip
    assert store.store.directory.counts()["n_levels"] == n_levels
    assert filled.chunks() == ALL


def test_a_bad_selector_is_refused_and_nothing_is_freed(store: Machine) -> None:
    filled = Filled(store)
    with pytest.raises(InvalidRequest, match="bad selector"):
        order(filled.rig, m.Free(["fritz", "a[b"], EVER, []))
    with pytest.raises(EmptyCluster):
        order(filled.rig, m.ForceFree([""], []))
    assert filled.chunks() == ALL


def test_a_log_that_refuses_keeps_what_it_does_not_hold(
    store: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = Filled(store)
    refuse_once(monkeypatch, filled.rig.wal)
    with pytest.raises(StorageError):
        order(filled.rig, m.Free(["fritz"], EVER, []))
    assert filled.chunks() == ALL
    assert order(filled.rig, m.Free(["fritz"], EVER, []))["chunks"] == 21


def test_protect_is_logged_and_taken_back_and_what_makes_no_sense_is_refused(store: Machine) -> None:
    filled = Filled(store)
    directory = store.store.directory

    def protected() -> list[str]:
        levels = [directory.level(level) for level in range(directory.counts()["n_levels"])]
        return [level.name for level in levels if level.protected]

    assert order(filled.rig, m.Protect("fritz", ["f2", "new"], FOR_GOOD_S)) == {
        "protected": 2, "unknown": ["new"], "n_unknown": 1,
    }  # fmt: skip
    assert protected() == ["f2"]
    store.wal.flush(10)
    again = machine(store.dir)
    again.wal.close()
    assert again.store.protection.hosts() == {"fritz": ["f2", "new"]}
    assert order(filled.rig, m.Protect("fritz", ["f2"], NOT_S))["protected"] == 1
    assert protected() == []
    for message, what in (
        (
            m.Protect("fritz", ["f2"], 1_700_000_000),
            "2023-11-14 22:13:20Z is past, it is 2.*Z now: protect until a",
        ),
        (m.Protect("fritz", ["f2"], clock.now_s() - 1), "is past"),
        (m.Protect("fritz", ["a\nb"], FOR_GOOD_S), "is no name"),
        (m.Protect("", ["f1"], FOR_GOOD_S), "is no name"),
    ):
        with pytest.raises(InvalidRequest, match=what):
            order(filled.rig, message)


def test_names_that_are_no_host_are_told_up_to_a_few_and_counted(store: Machine) -> None:
    filled = Filled(store)
    names = [f"x{n}" for n in range(20)]
    told = order(filled.rig, m.Protect("fritz", ["f1", *names, "x0"], FOR_GOOD_S))
    assert (told["protected"], told["unknown"], told["n_unknown"]) == (21, names[:10], 20)
    assert order(filled.rig, m.Protect("nobody", ["f1"], FOR_GOOD_S))["unknown"] == ["f1"]


def test_a_free_of_many_series_gives_others_their_turn_in_between(
    store: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mstore.workers import orders as module

    filled = Filled(store)
    monkeypatch.setattr(module, "SLICE_SERIES", 1)
    monkeypatch.setattr(module, "_SLICE_S", 0.0)
    turns = []

    async def run() -> None:
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        fd = os.memfd_create("order")
        os.write(fd, m.encode_body(m.Free(["*"], EVER, [])))
        filled.rig.housekeeping.orders.take(m.Free.TAG, fd, lambda details, _error: done.set_result(details))
        while not done.done():
            turns.append(len(store.entries()))
            await asyncio.sleep(0.0005)
        assert done.result()["chunks"] == 21
        await rest(filled.rig)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert len(set(turns)) > 3, "others see it half done"
    assert sorted(turns, reverse=True) == turns
