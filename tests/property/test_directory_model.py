"""Random histories of a directory against its naive twin, its own replay, and dumps taken meanwhile.

Key modes: short, long, common prefix, not UTF-8, empty, one series spelled twice, default cluster, stamped,
unknown metric.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mstore.kernels.reference_directory import ReferenceDirectory
from mstore.model import MetricSpec
from mstore.shm import layout
from mstore.shm.directory import Definition, definition
from tests.directory_rig import Rig, contents

Change = tuple[Any, ...]  # name and arguments, of the strategy below
SEED = int(os.environ.get("MSTORE_SEED", "1"))
LIMITS = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
STAMPED = MetricSpec("rows", step_s=0, aggregation="none", columns=(("a", "f64"), ("b", "u64")))
EVENTS = MetricSpec("events", step_s=0, aggregation="none", type="u64")


def configured(cluster: bytes, metric: bytes) -> Definition | None:
    specs = {b"rows": STAMPED, b"events": EVENTS, b"load": MetricSpec("load", 10, "sum", "f64", "")}
    return definition(specs[metric], layout.ORIGIN_CONFIGURED) if metric in specs else None


@st.composite
def keys(draw: st.DrawFn) -> bytes:
    mode = draw(st.sampled_from(["short", "long", "prefix", "bytes", "empty", "spelling", "default", "deep"]))
    n = draw(st.integers(0, 5))
    metric = draw(st.sampled_from([b"m", b"load", b"rows", b"events", b"m2"]))
    unit = draw(st.sampled_from([b"", b",unit=W", b",unit=GB/s"]))
    if mode == "short":
        return b"%s,cluster=a,host=%d" % (metric, n)
    if mode == "long":
        return b"%s,cluster=a,host=h%s%s" % (metric, b"x" * (254 - n), unit) + b",t%d=%s" % (n, b"y" * 3000)
    if mode == "prefix":
        return b"%s,cluster=a,hostname=%s%d,type=hwthread,type-id=%d%s" % (
            metric,
            b"node" * 8,
            n,
            n * 7,
            unit,
        )
    if mode == "bytes":
        return metric + b",cluster=a,host=" + draw(st.binary(min_size=0, max_size=6))
    if mode == "empty":
        return draw(
            st.sampled_from(
                [b"", b",", b"m", b"m,cluster=a", b"m,cluster=,host=h", b"m,host=h,cluster=a,type="]
            )
        )
    if mode == "spelling":
        tags = draw(
            st.permutations(
                [b"cluster=b", b"host=h%d" % n, b"type=core", b"type-id=1", b"extra=%d" % (n % 2)]
            )
        )
        return metric + b"," + b",".join(tags) + unit
    if mode == "default":
        return b"%s,host=h%d,type=node,type-id=%d%s" % (metric, n, n % 2, unit)
    return b"%s,cluster=a,host=h%d,type=socket,type-id=0,stype=disk,stype-id=sd%d" % (metric, n % 3, n)


CHANGES = st.one_of(
    st.tuples(
        st.just("intern"),
        st.lists(keys(), min_size=1, max_size=6),
        st.sampled_from([b"", b"a", b"z"]),
        st.booleans(),
    ),
    st.tuples(
        st.just("paths"),
        st.integers(0, 3),
        st.sampled_from(["node", "core", ""]),
        st.sampled_from(["rows", "m", "p"]),
    ),
    st.tuples(st.just("remove"), st.integers(0, 30), st.booleans(), st.lists(keys(), max_size=2)),
    st.tuples(st.just("era"), st.integers(0, 30), st.integers(-100, 100), st.sampled_from([0, 10, 60])),
    st.tuples(
        st.just("define"),
        st.sampled_from(["m", "load", "new"]),
        st.sampled_from([0, 1, 60]),
        st.sampled_from(["", "B"]),
    ),
    st.tuples(st.just("version"), st.integers(1, 3), st.booleans()),
)


class History:
    """Applies changes to the compiled writer and to the twin at once; the log is what both returned."""

    def __init__(self, max_series: int) -> None:
        self.rig, self.twin = Rig(max_series), ReferenceDirectory(max_series)
        self.log = b""
        self.rig.writer.set_source(configured)
        self.twin.source = configured
        self.now = 1000

    def both(self, ours: bytes, twins: bytes) -> None:
        assert ours == twins
        self.log += ours

    def publish(self) -> None:
        self.rig.writer.publish()
        self.twin.publish()

    def intern(self, found: list[bytes], default: bytes, publish: bool = True) -> None:
        self.now += 7
        times = [self.now - i for i in range(len(found))]
        refs, log = self.rig.intern_at(found, times, default, publish=False)
        expected, twin_log = self.twin.intern(found, times, default)
        assert refs == expected
        self.both(log, twin_log)
        if publish:
            self.publish()

    def pick(self, number: int) -> int | None:
        live = [slot for slot, series in enumerate(self.twin.slots) if series is not None]
        return live[number % len(live)] if live else None

    def apply(self, change: Change) -> None:
        name, *rest = change
        if name != "intern":
            self.publish()
        getattr(self, f"on_{name}")(*rest)

    def on_intern(self, found: list[bytes], default: bytes, publish: bool) -> None:
        self.intern(found, default, publish)

    def on_paths(self, n: int, kind: str, metric: str) -> None:
        items = [("a", f"h{i}", kind, str(i) if kind else "", "", "", metric) for i in range(n)]
        spec = definition(MetricSpec("p", 5, "none", "u64"), layout.ORIGIN_CLIENT)
        refs, _, _, log = self.rig.writer.intern_items(
            items, np.full(n, self.now, "<i8").tobytes(), [spec] * n
        )
        encoded = [tuple(part.encode() for part in item) for item in items]
        expected, twin_log = self.twin.intern_items(encoded, [self.now] * n, [spec] * n)  # type: ignore[arg-type]  # seven each
        assert np.frombuffer(refs, "<u8").tolist() == expected
        self.both(log, twin_log)
        self.publish()

    def on_remove(self, number: int, abort: bool, met: list[bytes]) -> None:
        slot = self.pick(number)
        if slot is None:
            return
        self.rig.writer.remove_begin(slot)
        self.twin.remove_begin(slot)
        self.intern(met, b"a")  # may meet a key of this very series: then the removal is off
        if abort:
            self.rig.writer.remove_abort(slot)
            self.twin.remove_abort(slot)
        self.both(self.rig.writer.remove_finish(slot), self.twin.remove_finish(slot))
        self.publish()

    def on_era(self, number: int, shift: int, step_s: int) -> None:
        slot = self.pick(number)
        series = None if slot is None else self.twin.slots[slot]
        if slot is None or series is None or series.next or self.twin.live() >= self.twin.max_series:
            return
        self.now += 100
        ref, log = self.rig.writer.new_era(slot, shift, step_s, self.now, series.type)
        expected, twin_log = self.twin.new_era(slot, shift, step_s, self.now, series.type)
        assert ref == expected
        self.both(log, twin_log)
        self.publish()

    def on_define(self, name: str, step_s: int, unit: str) -> None:
        spec = definition(MetricSpec(name, step_s, "sum", "f64", unit), layout.ORIGIN_CONFIGURED)
        self.both(self.rig.writer.define("a", name, spec), self.twin.define(b"a", name.encode(), spec))
        self.publish()

    def on_version(self, version: int, register: bool) -> None:
        self.rig.writer.set_policy(register, 60, version, self.rig.max_series, 1 << 20)
        self.twin.version, self.twin.register = version, register

    def close(self) -> None:
        self.rig.close()


@seed(SEED)
@LIMITS
@given(st.lists(CHANGES, max_size=25), st.sampled_from([3, 8, 200]))
def test_any_history_gives_the_twins_references_and_log(changes: list[Change], max_series: int) -> None:
    history = History(max_series)
    try:
        for change in changes:
            history.apply(change)
            if not history.rig.writer.unpublished:
                history.rig.reader.validate()
        history.publish()
        history.rig.reader.validate()
        for (key, cluster), word in history.twin.keys.items():
            assert history.rig.reader.lookup_key(key, cluster) == word
        assert history.rig.reader.counts()["live_series"] == history.twin.live()
    finally:
        history.close()


@seed(SEED)
@LIMITS
@given(st.lists(CHANGES, max_size=25))
def test_replaying_the_log_once_or_twice_gives_the_same_directory(changes: list[Change]) -> None:
    history, copy = History(200), Rig(200)
    try:
        for change in changes:
            history.apply(change)
        history.publish()
        copy.writer.apply_definition(history.log)
        copy.reader.validate()
        once = contents(copy.reader)
        assert once == contents(history.rig.reader)
        copy.writer.apply_definition(history.log)
        copy.reader.validate()
        twice = contents(copy.reader)
        known, again = once.pop("keys"), twice.pop("keys")
        assert twice == once
        assert isinstance(known, dict)
        assert isinstance(again, dict)
        assert known.items() <= again.items()  # a key that went with a removed era finds the era before
    finally:
        history.close()
        copy.close()


@seed(SEED)
@LIMITS
@given(st.lists(CHANGES, max_size=15), st.lists(CHANGES, min_size=1, max_size=20), st.integers(1, 4))
def test_a_dump_taken_during_changes_and_the_log_since_its_start_give_the_same_directory(
    before: list[Change],
    during: list[Change],
    every: int,
) -> None:
    """One block of the dump after every few changes; what the dump missed or saw early, the log repairs."""
    history, copy = History(200), Rig(200)
    try:
        for change in before:
            history.apply(change)
        history.publish()
        start = len(history.log)
        dump = history.rig.reader.dump_definitions(block_bytes=64)
        blocks = []
        for i, change in enumerate(during):
            history.apply(change)
            if i % every == 0:
                blocks.append(next(dump, b""))
        history.publish()
        blocks += list(dump)
        for block in blocks:
            copy.writer.apply_definition(block)
        copy.writer.apply_definition(history.log[start:])
        copy.reader.validate()
        found, expected = contents(copy.reader), contents(history.rig.reader)
        # Keys only spare a request. One may be missing (it led to a series the dump had passed) or be known
        # again (it went with a removed era), but each leads where its own text leads.
        keys = found.pop("keys")
        expected.pop("keys")
        assert found == expected
        assert isinstance(keys, dict)
        for (text, cluster), ref in keys.items():
            default = history.rig.reader.path(cluster).cluster.encode() if cluster else b""
            assert history.rig.ref(text, default=default) == ref
    finally:
        history.close()
        copy.close()
