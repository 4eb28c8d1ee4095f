"""Late samples, frees, retention, protection, removals, snapshots and crashes, in any order: what is in memory is what a
model in plain Python says, and the files give back exactly that."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mstore import clock
from mstore.apply.store import split_records
from mstore.ipc import messages as m
from mstore.kernels._segment import Segment
from mstore.persistence import recovery
from mstore.persistence.blocks import CATALOG
from mstore.persistence.snapshot import write_snapshot
from mstore.selector import Selector, Step
from mstore.shm import layout
from mstore.shm.directory import DUMP_BYTES, DirectoryReader
from mstore.shm.protection import FOR_GOOD_S, NOT_S
from mstore.workers import orders as orders_module
from mstore.workers import retention as retention_module
from tests.unit.test_recovery_store import STEP_S, Machine, scatter
from tests.unit.test_review_recovery import Rig, machine

SPAN_S = layout.CHUNK_SLOTS * STEP_S
NOW_S = 1_700_000_000
PLACES = [
    ("fritz", "f1"), ("fritz", "f1", "core0"), ("fritz", "f1", "core1"), ("fritz", "f2"), ("fritz", "f3"),
    ("alex", "a1"), ("alex", "f1"), ("alex", "a2", "socket0"),
]  # fmt: skip
METRICS = "load", "power"
SELECTORS = [
    "*",
    "fritz",
    "alex",
    "fritz/f1",
    "fritz/f[1-2]",
    "*/f1",
    "fritz/f1/core*",
    "alex/a2/*",
    "alex/a9",
]

Name = tuple[tuple[str, ...], str]
"""(path, metric)"""
Held = dict[tuple[Name, int], "Piece"]
"""By series and chunk."""


class Piece(NamedTuple):
    """A chunk: `end_s` is where its last sample's slot ends."""

    end_s: int
    samples: dict[int, float]


class Workers:
    """No ingest worker holds a reference."""

    def workers(self) -> list[Any]:
        return []


class World:
    """A store over its files, and what it should hold."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.rng = rng
        self.directory = directory
        self.n_lives = 0
        self.kept_s = rng.choice((0, rng.randrange(1, 6 * SPAN_S)))
        """Retention as the starts know it."""
        self.protected: set[tuple[str, str]] = set()
        self.model: dict[Name, dict[int, float]] = {}
        self.left_in_files: dict[Name, dict[int, float]] = {}
        """Samples that a start found too old: no order freed them."""
        self.begin(machine(directory))

    def begin(self, store: Machine) -> None:
        self.store = store
        self.rig = Rig(store)
        self.rig.control, self.rig.rings = Workers(), []  # type: ignore[attr-defined]
        self.keep(0)

    def keep(self, retention_s: int) -> None:
        self.rig.config.retention_s = retention_s
        self.rig.config.retentions_s = lambda: {retention_s}

    # --- what is there, read from the bytes of memory

    def held(self) -> Held:
        directory = self.store.store.directory
        found: Held = {}
        for (slot, _, n), entry in self.store.entries().items():
            info = directory.series(slot)
            assert info is not None
            names, level = [], info.level
            while level:
                names.append(directory.level(level).name)
                level = directory.level(level).parent
            header = np.frombuffer(entry, layout.CHUNK, 1)[0]
            values = np.frombuffer(entry[layout.CHUNK.itemsize :], "<f4", int(header["count"]))
            start_s = info.anchor_s + n * SPAN_S
            samples = {
                start_s + k * STEP_S: float(value) for k, value in enumerate(values) if not np.isnan(value)
            }
            name = tuple(reversed(names)), directory.metric(info.metric).name
            found[name, n] = Piece(start_s + len(values) * STEP_S, samples)
        return found

    def served(self) -> dict[Name, dict[int, float]]:
        found: dict[Name, dict[int, float]] = {}
        for (name, _), piece in self.held().items():
            found.setdefault(name, {}).update(piece.samples)
        return {name: samples for name, samples in found.items() if samples}

    def expected(self) -> dict[Name, dict[int, float]]:
        return {name: samples for name, samples in self.model.items() if samples}

    # --- samples

    def slot_of(self, name: Name, t_s: int) -> int:
        """Where a sample of this time is put: the slot of its series' grid."""
        path, metric = name
        key = f"{metric},cluster={path[0]},hostname={path[1]}"
        if len(path) > 2:
            key += (
                f",type={path[2].rstrip('0123456789')},type-id={path[2].lstrip('abcdefghijklmnopqrstuvwxyz')}"
            )
        offsets = np.array([0, len(key)], "<i8").tobytes()
        times = np.array([t_s], "<i8").tobytes()
        refs, _, _, log = self.store.store.directory.intern(key.encode(), offsets, times, b"")
        if log:
            self.store.wal.append(CATALOG, 0, 0, log)
        self.store.store.directory.publish()
        return int(np.frombuffer(refs, "<u8")[0])

    def write(self) -> None:
        """A burst of one series: of the present, late, or from before its first sample."""
        name = self.rng.choice(PLACES), self.rng.choice(METRICS)
        at_s = NOW_S - self.rng.randrange(6 * SPAN_S)
        ref = self.slot_of(name, at_s)
        info = self.store.store.directory.series(ref & 0xFFFF_FFFF)
        assert info is not None
        for k in range(self.rng.choice((1, 3, 20, 200))):
            slot = (at_s + k * STEP_S - info.anchor_s) // STEP_S
            t_s = info.anchor_s + slot * STEP_S
            value = float(np.float32(self.rng.random()))
            self.store.log(scatter([ref], np.array([value]), t_s))
            self.model.setdefault(name, {})[t_s] = value

    # --- what goes

    def forget(self, goes: Callable[[Name, int, Piece], bool]) -> tuple[int, int, int]:
        """Take chunks out of the model: how many of how many series, with how many samples."""
        chunks, n_samples = [], 0
        for (name, n), piece in self.held().items():
            if goes(name, n, piece):
                chunks.append(name)
                n_samples += len(piece.samples)
                for t_s in piece.samples:
                    del self.model[name][t_s]
        return len(chunks), n_samples, len(set(chunks))

    async def order(self, message: m.Message) -> dict[str, Any]:
        fd = os.memfd_create("order")
        os.write(fd, m.encode_body(message))
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.rig.housekeeping.orders.take(message.TAG, fd, lambda details, error: done.set_result(details))
        details = await done
        await self.rest()
        return details

    async def rest(self) -> None:
        retention = self.rig.housekeeping.retention
        while retention._passing or retention._again:
            await asyncio.sleep(0)

    async def free(self) -> None:
        selectors, exclude = self.selectors()
        before_s = NOW_S - self.rng.randrange(-SPAN_S, 6 * SPAN_S)
        expected = self.forget(
            lambda name, n, piece: below(name, selectors, exclude) and self.end_of(name, n) <= before_s
        )
        details = await self.order(m.Free(selectors, before_s, exclude))
        assert (details["chunks"], details["samples"], details["series"]) == expected

    def end_of(self, name: Name, n: int) -> int:
        """The end of a chunk's last slot, whether or not there is a sample."""
        anchors = dict(self.anchors())
        return anchors[name] + (n + 1) * SPAN_S

    def anchors(self) -> Iterator[tuple[Name, int]]:
        directory = self.store.store.directory
        for slot in range(directory.counts()["n_series"]):
            if (info := directory.series(slot)) is not None:
                path = directory.path(info.level)
                parts = (path.cluster, path.host, *([path.type + path.type_id] if path.type else []))
                yield (parts, directory.metric(info.metric).name), info.anchor_s

    async def force_free(self) -> None:
        selectors, exclude = self.selectors()
        oldest: dict[Name, int] = {}
        for name, n in self.held():
            oldest[name] = min(n, oldest.get(name, n))
        expected = self.forget(lambda name, n, _: below(name, selectors, exclude) and oldest[name] == n)
        details = await self.order(m.ForceFree(selectors, exclude))
        assert (details["chunks"], details["samples"], details["series"]) == expected

    def selectors(self) -> tuple[list[str], list[str]]:
        exclude = self.rng.sample(SELECTORS[1:], self.rng.choice((0, 0, 0, 1, 2)))
        return self.rng.sample(SELECTORS, self.rng.choice((1, 1, 2))), exclude

    async def retain(self) -> None:
        """A pass of retention."""
        retention_s = self.rng.randrange(1, 7 * SPAN_S)
        before_s = NOW_S - retention_s
        self.forget(lambda name, n, _: self.end_of(name, n) <= before_s and name[0][:2] not in self.protected)
        self.keep(retention_s)
        self.rig.housekeeping.retention.pass_soon()
        await asyncio.sleep(0)
        await self.rest()
        self.keep(0)

    async def protect(self) -> None:
        cluster = self.rng.choice(("fritz", "alex"))
        hosts = self.rng.sample(["f1", "f2", "a1", "a2", "new"], self.rng.randrange(1, 4))
        until_s = self.rng.choice((NOT_S, FOR_GOOD_S, NOW_S + 1000))
        places = {(cluster, host) for host in hosts}
        self.protected = self.protected - places if until_s == NOT_S else self.protected | places
        done = await self.order(m.Protect(cluster, hosts, until_s))
        assert done["protected"] == len(self.protected)
        with_samples = {path[1] for (path, _), held in self.model.items() if held and path[0] == cluster}
        never_sent = set(hosts) & {"new"}
        assert never_sent <= set(done["unknown"]) <= set(hosts) - with_samples, done
        assert done["n_unknown"] == len(done["unknown"])

    # --- files

    def snapshot(self) -> Callable[[], None]:
        """A snapshot of now: writing it may take its time, in a thread, while all else goes on."""
        store, log_seq = self.store, self.store.wal.written
        protected = b"".join(store.store.protection.records())

        def run() -> None:
            reader = DirectoryReader(Segment(store.directory_words))
            write_snapshot(
                store.files, store.dir, log_seq,
                chain(reader.dump_definitions(), split_records(protected, DUMP_BYTES)),
                Segment(store.directory_words), Segment(store.samples_words),
                written=lambda: store.wal.written, durable=store.wal.durable, pause_s=0.0, verify=True,
            )  # fmt: skip

        return run

    def crash(self) -> None:
        """What is durable is there after it; begun anew with all of it."""
        before = self.store.entries()
        assert self.store.wal.flush(10)
        self.n_lives += 1
        directory = self.directory.with_name(f"life-{self.n_lives}")
        shutil.copytree(self.store.dir, directory)
        self.store.wal.close()
        again = Machine(directory, self.kept_s)
        if self.kept_s == 0:
            assert again.entries() == before
        self.begin(again)
        assert again.store.protection.hosts() == by_cluster(self.protected)
        had, self.model = self.model, self.served()
        for (
            name,
            samples,
        ) in had.items():  # only what is too old may be missing, and nothing of protected hosts
            kept = self.model.get(name, {})
            # What a start left in the files as too old comes back when its host is protected by the next one.
            back = dict(kept.items() - samples.items())
            assert not back or name[0][:2] in self.protected
            assert back.items() <= self.left_in_files.get(name, {}).items()
            self.left_in_files.setdefault(name, {}).update(samples.items() - kept.items())
            assert samples.items() <= kept.items() or name[0][:2] not in self.protected
            assert all(t_s < NOW_S - self.kept_s for t_s in samples.keys() - kept.keys())
        assert self.model.keys() <= had.keys()
        again.store.validate()

    # --- several at once

    async def busy(self) -> None:
        """Samples and a snapshot while an order is carried out in slices."""
        selectors, exclude = self.selectors()
        before_s = NOW_S - self.rng.randrange(6 * SPAN_S)
        order = asyncio.ensure_future(self.order(m.Free(selectors, before_s, exclude)))
        copy = asyncio.ensure_future(asyncio.to_thread(self.snapshot())) if self.rng.random() < 0.3 else None
        while not order.done():
            if self.rng.random() < 0.3:
                self.write()
            await asyncio.sleep(0)
        if copy is not None:
            await copy
        served = self.served()
        for name, samples in self.model.items():
            for t_s in samples.keys() - served.get(name, {}).keys():
                assert below(name, selectors, exclude)
                assert t_s < before_s
        for name, samples in served.items():
            assert samples.items() <= self.model[name].items()
        self.model = served


def below(name: Name, selectors: list[str], exclude: list[str]) -> bool:
    """Whether a series is meant."""

    def named(text: str) -> bool:
        steps = Selector.parse(text).steps
        return len(steps) <= len(name[0]) and all(map(Step.matches, steps, name[0]))

    return any(map(named, selectors)) and not any(map(named, exclude))


def by_cluster(hosts: set[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cluster, host in sorted(hosts):
        found.setdefault(cluster, []).append(host)
    return found


@pytest.mark.parametrize("n_th", range(4))
def test_what_is_freed_and_what_is_not_is_the_same_in_memory_in_the_files_and_in_plain_python(
    tmp_path: Path, seed: int, n_th: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now_s", lambda: NOW_S)
    monkeypatch.setattr(recovery, "now_s", lambda: NOW_S)
    monkeypatch.setattr(orders_module, "SLICE_SERIES", 1)
    monkeypatch.setattr(orders_module, "_SLICE_S", 0.0)
    monkeypatch.setattr(orders_module, "_PAUSE_S", 0.0)
    monkeypatch.setattr(retention_module, "_SWEEP_SERIES", 3)
    monkeypatch.setattr(retention_module, "_REMOVAL_STEP_S", 0.0)
    rng = random.Random(seed * 100 + n_th)
    (tmp_path / "life-0" / "run").mkdir(parents=True)
    world = World(tmp_path / "life-0", rng)

    async def play() -> None:
        for _ in range(120):
            what = rng.choices(
                ("write", "free", "force", "retain", "protect", "snapshot", "crash", "busy"),
                (45, 8, 8, 10, 10, 6, 5, 8),
            )[0]
            match what:
                case "write":
                    world.write()
                case "free":
                    await world.free()
                case "force":
                    await world.force_free()
                case "retain":
                    await world.retain()
                case "protect":
                    await world.protect()
                case "snapshot":
                    world.snapshot()()
                case "crash":
                    world.crash()
                case "busy":
                    await world.busy()
            assert world.served() == world.expected()

    try:
        asyncio.run(asyncio.wait_for(play(), 300))
    finally:
        world.store.wal.close()
