from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from mstore import limits
from mstore.errors import ConfigError, CorruptRecord, InvariantBroken, StoreFull
from mstore.kernels import _intern
from mstore.model import MetricSpec, Reason, SeriesPath
from mstore.shm import directory, layout
from tests.directory_rig import Rig, contents

KEY = b"cpu_user,cluster=fritz,hostname=f0201,type=hwthread,type-id=12"
INT64_MIN = -(1 << 63)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def reason(word: int) -> Reason:
    assert word & 0xFFFFFFFF == layout.IGNORE_SLOT
    return Reason(word >> 56)


def test_reason_numbers_of_the_kernel_are_those_of_the_model() -> None:
    assert {name: Reason[name] for name in _intern.REASONS} == _intern.REASONS


def test_an_empty_directory_is_valid_and_knows_nothing(rig: Rig) -> None:
    rig.reader.validate()
    assert rig.reader.counts()["n_levels"] == 1
    assert rig.reader.find_path("fritz") == -1
    assert rig.reader.lookup_key(KEY, 0) == 0
    assert rig.reader.children(0) == []
    assert list(rig.reader.dump_definitions()) == []


def test_a_key_becomes_levels_metric_and_series_anchored_half_a_step_before_its_first_sample(
    rig: Rig,
) -> None:
    ref = rig.ref(KEY, t=1_700_000_007)
    reader = rig.reader
    assert reader.lookup_key(KEY, 0) == ref
    series = reader.series(ref & 0xFFFFFFFF)
    assert series is not None
    assert series.ref == ref
    assert (series.anchor_s, series.step_s, series.era_start) == (1_700_000_007 - 30, 60, INT64_MIN)
    assert reader.path(series.level, "cpu_user") == SeriesPath("fritz", "f0201", "cpu_user", "hwthread", "12")
    metric = reader.metric(series.metric)
    assert (metric.name, metric.type, metric.aggregation, metric.step_s) == ("cpu_user", "f32", "avg", 60)
    assert metric.origin == layout.ORIGIN_REGISTERED
    assert reader.find_series_path("fritz", "f0201", "cpu_user", "hwthread", "12", "", "") == ref
    assert reader.level_series(series.level) == [series.slot]
    reader.validate()


def test_find_series_path_says_which_part_is_missing(rig: Rig) -> None:
    rig.intern([KEY, b"load,cluster=fritz,hostname=f0201"])
    find = rig.reader.find_series_path
    assert find("alex", "f0201", "cpu_user") == directory.MISSING_CLUSTER
    assert find("fritz", "f0202", "cpu_user") == directory.MISSING_HOST
    assert find("fritz", "f0201", "flops") == directory.MISSING_METRIC
    assert find("fritz", "f0201", "cpu_user", "core", "1", "", "") == directory.MISSING_LEVEL
    assert find("fritz", "f0201", "cpu_user") == directory.MISSING_SERIES
    assert find("fritz", "\ud800", "cpu_user") == directory.MISSING_HOST


def test_type_node_is_the_host_itself_and_type_and_id_are_kept_apart(rig: Rig) -> None:
    refs, _ = rig.intern(
        [
            b"m,cluster=c,host=h",
            b"m,cluster=c,host=h,type=node,type-id=7",
            b"m,cluster=c,host=h,type=core1,type-id=2",
            b"m,cluster=c,host=h,type=core,type-id=12",
        ]
    )
    assert refs[0] == refs[1]
    assert len(set(refs)) == 3
    host = rig.reader.find_path("c", "h")
    assert rig.reader.find_path("c", "h", "node", "7") == host
    assert sorted(rig.reader.level(i).name for i in rig.reader.children(host)) == ["core12", "core12"]
    assert rig.reader.find_series_path("c", "h", "m", "core1", "2") == refs[2]
    assert rig.reader.find_series_path("c", "h", "m", "core", "12") == refs[3]


def test_different_spellings_are_keys_of_one_series(rig: Rig) -> None:
    other = b"cpu_user,type-id=12,type=hwthread,host=f0201,extra=1,cluster=fritz"
    refs, _ = rig.intern([KEY, other, KEY])
    assert len(set(refs)) == 1
    assert rig.reader.counts()["n_keys"] == 3  # met twice in one request: the later entry is dead
    assert rig.reader.lookup_key(other, 0) == refs[0]
    rig.reader.validate()


def test_nothing_is_visible_before_publish(rig: Rig) -> None:
    refs, log = rig.intern([KEY], publish=False)
    assert log
    reader = rig.reader
    assert reader.lookup_key(KEY, 0) == 0
    assert reader.find_path("fritz") == -1
    assert reader.children(0) == []
    assert reader.counts()["n_series"] == 0
    assert list(reader.dump_definitions()) == []
    assert reader.counts()["critical"] % 2 == 1
    again, _ = rig.intern([KEY], publish=False)
    assert again == refs
    rig.writer.publish()
    assert reader.lookup_key(KEY, 0) == refs[0]
    reader.validate()


def test_a_writer_that_died_before_publish_leaves_a_directory_that_is_refused(rig: Rig) -> None:
    rig.intern([KEY], publish=False)
    with pytest.raises(RuntimeError, match="middle of a change"):
        directory.DirectoryWriter(rig.segment, rig.fd)


def test_a_new_writer_continues_where_the_last_one_stopped(rig: Rig) -> None:
    first = rig.ref(KEY)
    rig.remove(rig.ref(b"gone,cluster=c,host=h") & 0xFFFFFFFF)
    rig.writer = directory.DirectoryWriter(rig.segment, rig.fd)
    assert rig.ref(KEY) == first
    reused = rig.ref(b"new,cluster=c,host=h")
    assert reused == 2 << 32 | 1
    rig.reader.validate()


def test_lines_without_cluster_belong_to_the_connections_default_cluster(rig: Rig) -> None:
    key = b"m,host=h"
    a, b = rig.ref(key, default=b"a"), rig.ref(key, default=b"b")
    assert a != b
    assert reason(rig.ref(key)) is Reason.NO_CLUSTER
    for name, ref in (("a", a), ("b", b)):
        assert rig.reader.lookup_key(key, rig.reader.find_path(name)) == ref
    assert rig.reader.lookup_key(key, 0) == 0
    rig.reader.validate()


def test_unknown_metrics_become_ignore_words_until_the_configuration_changes(rig: Rig) -> None:
    asked: list[tuple[bytes, bytes]] = []

    def source(cluster: bytes, metric: bytes) -> MetricSpec | None:
        asked.append((cluster, metric))
        return MetricSpec("load", 10, "sum", "f64") if metric == b"load" else None

    rig.writer.set_policy(False, 60, 5, 1000, 1000)
    rig.writer.set_metric_source(source)
    keys = [b"load,cluster=c,host=h", b"junk,cluster=c,host=h", b"junk,cluster=c,host=h2", b"junk,host=h"]
    refs, _ = rig.intern(keys, default=b"d")
    assert [reason(ref) for ref in refs[1:]] == [Reason.UNKNOWN_METRIC] * 3
    assert asked == [(b"c", b"load"), (b"c", b"junk"), (b"d", b"junk")]
    assert rig.reader.lookup_key(keys[1], 0) == (9 << 24 | 5) << 32 | 0xFFFFFFFF
    assert rig.reader.lookup_key(keys[3], rig.reader.find_path("d")) == refs[3]
    assert rig.reader.metric(0).aggregation == "sum"
    rig.reader.validate()
    rig.writer.set_policy(True, 30, 6, 1000, 1000)
    ref = rig.ref(keys[1])
    assert rig.reader.lookup_key(keys[1], 0) == ref
    assert rig.reader.metric(1).step_s == 30
    assert rig.reader.counts()["n_keys"] == 4  # the entry was revived, not made again
    rig.reader.validate()


def test_ignore_words_fill_at_most_half_of_the_keys(rig: Rig) -> None:
    rig.writer.set_policy(False, 60, 1, 1000, 10)
    refs, log = rig.intern([b"junk%d,cluster=c,host=h" % i for i in range(20)])
    assert {reason(ref) for ref in refs} == {Reason.UNKNOWN_METRIC}
    assert log == b""
    assert rig.reader.counts()["n_keys"] == 5


def test_beyond_max_keys_references_are_returned_without_an_entry(rig: Rig) -> None:
    rig.writer.set_policy(True, 60, 1, 1000, 2)
    keys = [b"m,cluster=c,host=h%d" % i for i in range(4)]
    refs, _ = rig.intern(keys)
    assert len(set(refs)) == 4
    assert [rig.reader.lookup_key(key, 0) for key in keys] == [*refs[:2], 0, 0]
    assert rig.intern(keys)[0] == refs
    rig.reader.validate()


def test_series_limit_refuses_new_series_and_makes_no_levels_for_them(rig: Rig) -> None:
    rig.writer.set_policy(True, 60, 1, 2, 1000)
    keys = [b"m,cluster=c,host=h%d" % i for i in range(3)]
    refs, _ = rig.intern([*keys, b"new,cluster=d,host=h"])
    assert [reason(ref) for ref in refs[2:]] == [Reason.SERIES_LIMIT] * 2
    assert rig.reader.counts()["n_levels"] == 4
    assert rig.reader.lookup_key(keys[2], 0) == 0
    rig.remove(refs[0] & 0xFFFFFFFF)
    assert rig.ref(keys[2]) == 2 << 32 | 0
    rig.reader.validate()


def test_the_first_unit_tag_becomes_the_unit_of_a_metric_without_one(rig: Rig) -> None:
    rig.intern([b"m,cluster=c,host=h", b"m,cluster=c,host=h,unit=W", b"m,cluster=c,host=h,unit=kW"])
    assert rig.reader.metric(0).unit == "W"
    assert rig.writer.define_metric("c", MetricSpec("m", unit="MW")) != b""
    rig.writer.publish()
    assert rig.reader.metric(0).unit == "MW"
    rig.reader.validate()


def test_defining_the_same_metric_again_logs_nothing(rig: Rig) -> None:
    spec = MetricSpec("rows", step_s=0, aggregation="none", columns=(("a", "f64"), ("b", "u64")))
    log = rig.writer.define_metric("c", spec)
    rig.writer.publish()
    assert log
    assert rig.writer.define_metric("c", spec) == b""
    metric = rig.reader.metric(0)
    assert (metric.kind, metric.type, metric.n_columns) == (layout.KIND_STAMPED, "", 2)
    assert metric.columns == (("a", "f64"), ("b", "u64"))


def test_a_line_cannot_write_a_metric_of_several_columns(rig: Rig) -> None:
    rig.writer.define_metric("c", MetricSpec("rows", step_s=0, columns=(("a", "f64"), ("b", "u64"))))
    rig.writer.publish()
    key = b"rows,cluster=c,host=h"
    assert reason(rig.ref(key)) is Reason.UNKNOWN_FIELD
    assert rig.reader.lookup_key(key, 0) >> 56 == Reason.UNKNOWN_FIELD
    refs, types, kinds, _ = rig.writer.intern_paths([("c", "h", "", "", "", "", "rows")], bytes(8))
    rig.writer.publish()
    assert (types, kinds) == (b"\0", bytes([layout.KIND_STAMPED]))
    assert rig.reader.series(int.from_bytes(refs, "little") & 0xFFFFFFFF) is not None


@pytest.mark.parametrize(
    "spec",
    [
        MetricSpec("m", type="i8"),
        MetricSpec("m", aggregation="max"),
        MetricSpec("m", step_s=-1),
        MetricSpec("m", columns=(("a", "f64"),)),
        MetricSpec("m", step_s=0, columns=(("a:b", "f64"),)),
        MetricSpec("m", step_s=0, columns=(("a", "f32"),)),
        MetricSpec("m", step_s=0, columns=tuple((f"c{i}", "f64") for i in range(64))),
    ],
)
def test_impossible_definitions_are_refused(rig: Rig, spec: MetricSpec) -> None:
    with pytest.raises(ConfigError):
        rig.writer.define_metric("c", spec)


def test_paths_are_interned_without_keys_and_bad_names_are_refused(rig: Rig) -> None:
    paths = [
        ("c", "h", "core", "1", "", "", "m"),
        ("c", "h", "node", "3", "", "", "m"),
        ("", "h", "", "", "", "", "m"),
        ("c", "", "", "", "", "", "m"),
        ("c", "h", "", "", "", "", ""),
        ("c", "h\n", "", "", "", "", "m"),
        ("c", "h\x85", "", "", "", "", "m"),
        ("c", "\ud800", "", "", "", "", "m"),
        ("c", "h" * 256, "", "", "", "", "m"),
    ]
    specs: list[MetricSpec | None] = [MetricSpec("m", 1, "sum", "u64", "B")] * len(paths)
    refs, types, kinds, log = rig.writer.intern_paths(paths, np.full(len(paths), 77, "<i8").tobytes(), specs)
    rig.writer.publish()
    words = np.frombuffer(refs, "<u8").tolist()
    assert types[:2] == bytes([layout.TYPE_U64] * 2)
    assert kinds[:2] == bytes([layout.KIND_GRID] * 2)
    assert [reason(word) for word in words[2:]] == [
        Reason.NO_CLUSTER, Reason.NO_HOST, Reason.BAD_SYNTAX, Reason.BAD_ENCODING, Reason.BAD_ENCODING,
        Reason.BAD_ENCODING, Reason.TOO_LONG,
    ]  # fmt: skip
    assert log
    assert rig.reader.counts()["n_keys"] == 0
    assert rig.reader.metric(0).origin == layout.ORIGIN_CLIENT
    assert rig.reader.find_series_path("c", "h", "m", "core", "1", "", "") == words[0]
    rig.reader.validate()


def test_malformed_requests_raise_and_change_nothing(rig: Rig) -> None:
    for keys, offsets, times in (
        (b"ab", np.array([0, 3], "<i8"), 1),
        (b"ab", np.array([1, 0], "<i8"), 1),
        (b"ab", np.array([-1, 1], "<i8"), 1),
        (b"ab", np.array([0, 1], "<i8"), 2),
        (b"", np.array([], "<i8"), 0),
    ):
        with pytest.raises(ValueError, match="offsets"):
            rig.writer.intern(keys, offsets.tobytes(), bytes(8 * times), b"")
    assert not rig.writer.unpublished


def test_a_source_that_raises_keeps_its_records_until_they_are_taken(rig: Rig) -> None:
    def source(cluster: bytes, metric: bytes) -> MetricSpec | None:
        if metric == b"bad":
            raise RuntimeError("source")
        return None

    rig.writer.set_metric_source(source)
    with pytest.raises(RuntimeError, match="source"):
        rig.intern([b"good,cluster=c,host=h", b"bad,cluster=c,host=h"])
    with pytest.raises(RuntimeError, match="take_log"):
        rig.writer.publish()
    log = rig.writer.take_log()
    rig.writer.publish()
    rig.reader.validate()
    other = Rig()
    assert other.writer.apply_definition(log) == 5
    assert contents(other.reader) == contents(rig.reader)
    other.close()


def test_a_new_era_takes_over_keys_and_lookups_and_the_old_one_leads_to_it(rig: Rig) -> None:
    other = KEY + b",extra=1"
    old = rig.intern([KEY, other])[0][0]
    new, _ = rig.era(old & 0xFFFFFFFF, anchor_s=990, step_s=10, era_start=5000, type_code=layout.TYPE_F64)
    reader = rig.reader
    assert reader.lookup_key(KEY, 0) == reader.lookup_key(other, 0) == new
    assert reader.find_series_path("fritz", "f0201", "cpu_user", "hwthread", "12", "", "") == new
    before, after = reader.series(old & 0xFFFFFFFF), reader.series(new & 0xFFFFFFFF)
    assert before is not None
    assert after is not None
    assert (before.ended, before.next, after.prev) == (True, new, old)
    assert (after.anchor_s, after.step_s, after.era_start, after.type) == (990, 10, 5000, layout.TYPE_F64)
    assert reader.level_series(after.level) == [after.slot]
    assert sorted(reader.level_series(after.level, eras=True)) == sorted([before.slot, after.slot])
    assert rig.ref(KEY + b",extra=2") == new
    with pytest.raises(ValueError, match="newest era"):
        rig.writer.new_era(before.slot, 0, 60, 6000, 1)
    reader.validate()
    rig.remove(after.slot)
    again = reader.series(before.slot)
    assert again is not None
    assert not again.ended
    assert reader.find_series(again.level, again.metric) == before.slot
    reader.validate()


def test_removing_the_middle_era_joins_its_neighbours(rig: Rig) -> None:
    first = rig.ref(KEY)
    second, _ = rig.era(first & 0xFFFFFFFF, 1)
    third, _ = rig.era(second & 0xFFFFFFFF, 2)
    rig.remove(second & 0xFFFFFFFF)
    before, after = rig.reader.series(first & 0xFFFFFFFF), rig.reader.series(third & 0xFFFFFFFF)
    assert before is not None
    assert after is not None
    assert (before.next, after.prev) == (third, first)
    rig.reader.validate()


def test_a_removed_series_is_gone_and_its_slot_returns_with_the_next_generation(rig: Rig) -> None:
    ref = rig.ref(KEY)
    rig.writer.remove_begin(ref & 0xFFFFFFFF)
    assert rig.reader.lookup_key(KEY, 0) == 0
    assert rig.writer.remove_finish(ref & 0xFFFFFFFF) != b""
    rig.writer.publish()
    assert rig.reader.series(ref & 0xFFFFFFFF) is None
    assert (
        rig.reader.find_series_path("fritz", "f0201", "cpu_user", "hwthread", "12", "", "")
        == directory.MISSING_HOST
    )
    rig.reader.validate()
    assert rig.ref(KEY) == ref + (1 << 32)
    assert rig.reader.lookup_key(KEY, 0) == ref + (1 << 32)
    rig.reader.validate()


def test_a_key_met_during_removal_cancels_it(rig: Rig) -> None:
    ref = rig.ref(KEY)
    rig.writer.remove_begin(ref & 0xFFFFFFFF)
    assert rig.ref(KEY) == ref
    assert rig.reader.lookup_key(KEY, 0) == ref
    assert rig.writer.remove_finish(ref & 0xFFFFFFFF) == b""
    rig.writer.remove_begin(ref & 0xFFFFFFFF)
    rig.writer.remove_abort(ref & 0xFFFFFFFF)
    assert rig.reader.lookup_key(KEY, 0) == ref
    with pytest.raises(ValueError, match="free"):
        rig.writer.remove_begin(999)
    rig.reader.validate()


def test_series_that_lapse_are_counted_and_new_ones_are_not(rig: Rig) -> None:
    first, second = rig.ref(KEY) & 0xFFFFFFFF, rig.ref(KEY.replace(b"12", b"13")) & 0xFFFFFFFF
    assert rig.reader.lapses() == 0
    counts = [0]

    def counted() -> bool:
        counts.append(rig.reader.lapses())
        return counts[-1] > counts[-2]

    rig.writer.remove_begin(first)
    assert counted()
    rig.writer.remove_abort(first)
    assert not counted()
    rig.era(second, anchor_s=17)
    assert counted()
    rig.writer.remove_begin(first)
    assert counted()
    rig.writer.remove_finish(first)
    assert counted()
    assert rig.ref(KEY) & 0xFFFFFFFF == first
    assert not counted()


def test_tables_grow_and_everything_is_still_found() -> None:
    rig = Rig(20_000)
    keys = [b"m%d,cluster=c,host=h%d" % (i % 7, i // 7) for i in range(12_000)]
    refs, _ = rig.intern(keys)
    assert [rig.reader.lookup_key(key, 0) for key in keys] == refs
    tables = np.frombuffer(rig.reader.table_bytes(0), np.uint64)
    assert tables.size >= 12_000 / 0.8
    rig.reader.validate()
    for ref in refs[::2]:
        rig.remove(ref & 0xFFFFFFFF)
    rig.reader.validate()
    assert rig.writer.rebuild_keys() == (12_000, 6_000)
    rig.reader.validate()
    assert [rig.reader.lookup_key(key, 0) for key in keys[1::2]] == refs[1::2]
    assert rig.reader.counts()["generation"] == 2
    rig.close()


def test_churn_does_not_grow_the_series_table_or_its_hash_table() -> None:
    rig = Rig(3_000)
    paths = [("c", f"h{i}", "", "", "", "", "m") for i in range(500)]
    for _ in range(20):
        refs = np.frombuffer(rig.writer.intern_paths(paths, bytes(8 * 500))[0], "<u8")
        rig.writer.publish()
        for slot in (refs & np.uint64(0xFFFFFFFF)).tolist():
            rig.remove(slot)
    counts = rig.reader.counts()
    assert (counts["n_series"], counts["live_series"]) == (500, 0)
    assert np.frombuffer(rig.reader.table_bytes(2), np.uint64).size <= 2048
    assert counts["tables_used"] < 200_000
    rig.reader.validate()
    rig.close()


def test_a_full_store_refuses_at_every_step_and_stays_valid() -> None:
    keys = [
        b"m%d,cluster=c%d,host=h%d,type=t,type-id=%d" % (i % 3, i % 2, i, i) + b",x=%s" % (b"y" * 100)
        for i in range(2500)
    ]
    seen = set()
    for allowed in range(5):
        rig = Rig(8000)
        rig.writer.commits_allowed = allowed
        refs, log = rig.intern(keys)
        seen |= {reason(ref) for ref in refs if ref & 0xFFFFFFFF == layout.IGNORE_SLOT}
        rig.reader.validate()
        rig.writer.commits_allowed = -1
        later, more = rig.intern(keys)
        assert all(ref & 0xFFFFFFFF != layout.IGNORE_SLOT for ref in later)
        rig.reader.validate()
        copy = Rig(8000)
        copy.writer.apply_definition(log + more)
        ours, theirs = contents(rig.reader), contents(copy.reader)
        ours.pop("keys")
        theirs.pop("keys")  # a key without room for its entry is in the log all the same
        assert ours == theirs
        copy.close()
        rig.close()
    assert seen == {Reason.STORE_FULL}


def test_an_empty_directory_that_does_not_fit_is_store_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("mstore.shm.directory._replay.create", full)
    with pytest.raises(StoreFull):
        Rig()


def test_bounds_of_max_series_are_checked() -> None:
    with pytest.raises(ConfigError):
        Rig(0)
    assert directory.directory_bytes(limits.SERIES_MAX_DEFAULT) < 16 * limits.GIB


def test_numpy_views_are_read_only_and_live(rig: Rig) -> None:
    ref = rig.ref(KEY)
    table = rig.reader.series_table()
    assert table.dtype == layout.SERIES
    assert not table.flags.writeable
    assert table["generation"].tolist() == [1]
    rig.remove(ref & 0xFFFFFFFF)
    assert table["generation"].tolist() == [2]
    assert rig.reader.levels().shape == (4,)
    assert rig.reader.metrics_table()["step_s"].tolist() == [60]


def test_validate_names_what_is_broken(rig: Rig) -> None:
    rig.intern([KEY, b"m,cluster=c,host=h"])
    offsets = rig.reader.counts()
    assert offsets["n_series"] == 2
    memory = np.frombuffer(rig.segment_buffer, np.uint8)
    series_at = 2 * layout.PAGE_BYTES + directory.region_bytes(rig.max_series)["levels"]
    rows = memory[series_at : series_at + 256].view(layout.SERIES)
    for field, value, text in (
        ("metric", 9, "no metric"), ("step_s", 0, "no step"), ("flags", 3, "ended"), ("generation", 7, "key"),
        ("next_series", 2, "linked|list"),
    ):  # fmt: skip
        kept = rows[0][field].copy()
        rows[0][field] = value
        with pytest.raises(InvariantBroken, match=text):
            rig.reader.validate()
        rows[0][field] = kept
    rig.reader.validate()


def test_readers_never_see_half_a_change_while_the_writer_works() -> None:
    """One thread interns, ends eras and removes; another lists and dumps: nothing it is told may be wrong."""
    rig = Rig(3_000)
    stop, faults = threading.Event(), []

    def read() -> None:
        reader = rig.reader
        while not stop.is_set():
            for level in reader.children(0):
                for host in reader.children(level)[:50]:
                    for slot in reader.level_series(host, eras=True):
                        series = reader.series(slot)
                        if series is not None and series.level == host and reader.path(host).cluster != "c":
                            faults.append(series)
            b"".join(reader.dump_definitions())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        end = time.monotonic() + 1.0
        i = 0
        while time.monotonic() < end:
            refs, _ = rig.intern([b"m%d,cluster=c,host=h%d" % (j % 5, (i + j) % 400) for j in range(40)])
            rig.era(refs[0] & 0xFFFFFFFF, i)
            for ref in set(refs[20:]):
                rig.remove(ref & 0xFFFFFFFF)
            i += 17
    finally:
        stop.set()
        thread.join()
    assert not faults
    assert i > 100
    rig.reader.validate()
    rig.close()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda log: log[:-3], "length|half"),
        (lambda log: log[:5], "half a record"),
        (lambda log: b"\x63\0\0\0\x08\0\0\0" + log, "type 99"),
        (lambda log: log[32:], "type 17 at offset 0"),
        (lambda log: b"\x10\0\0\0\x08\0\0\0", "too short"),
        (lambda log: log.replace(b"\x40\0\0\0", b"\x41\0\0\0"), "length"),
    ],
)
def test_damaged_records_are_refused_by_offset(rig: Rig, damage: object, text: str) -> None:
    log = rig.intern([KEY])[1]
    other = Rig()
    assert callable(damage)
    with pytest.raises(CorruptRecord, match=text):
        other.writer.apply_definition(damage(log))
    other.reader.validate()
    other.close()


def test_random_bytes_never_break_a_directory() -> None:
    import random

    draw = random.Random(5)
    rig = Rig()
    log = rig.intern([KEY, b"m,cluster=c,host=h,unit=B", b"n,host=h"], default=b"c")[1]
    log += rig.era(0, 5)[1] + rig.remove(1)
    refused = 0
    for _ in range(400):
        damaged = bytearray(log)
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        other = Rig()
        try:
            other.writer.apply_definition(damaged)
        except CorruptRecord:
            refused += 1
        other.close()
    assert 0 < refused < 400
    rig.close()


def test_an_ignored_metric_is_unknown_by_key_and_by_path_until_it_is_wanted_again(rig: Rig) -> None:
    keys = [b"m,cluster=c,hostname=h", b"m,cluster=c,hostname=h,unit=W", b"n,cluster=c,hostname=h"]
    refs = rig.intern(keys)[0]
    index = int(rig.reader.series_table()["metric"][refs[0] & 0xFFFFFFFF])
    rig.writer.ignore_metrics([index])
    assert (rig.writer.ignores(index), rig.writer.ignores(index + 1)) == (True, False)
    assert [rig.reader.lookup_key(key, 0) for key in keys] == [0, 0, refs[2]], "workers ask for its keys"
    flags = rig.reader.series_table()["flags"].tolist()
    assert flags == [layout.SERIES_LIVE | layout.SERIES_REMOVING, layout.SERIES_LIVE], "handles are stale"
    word = (Reason.UNKNOWN_METRIC << 24 | 1) << 32 | layout.IGNORE_SLOT
    for _ in range(2):
        assert rig.intern([*keys, b"m,cluster=c,hostname=new"])[0] == [word, word, refs[2], word]
        assert [rig.reader.lookup_key(key, 0) for key in keys] == [word, word, refs[2]]
    path = ("c", "h", "", "", "", "", "m")
    spec = MetricSpec("m", 60, "sum", "f64")
    for specs in (None, [spec]):
        found = rig.writer.intern_paths([path], np.int64(1000).tobytes(), specs)
        assert int.from_bytes(found[0], "little") == word
    rig.writer.publish()
    assert rig.reader.find_series_path("c", "h", "m", "", "", "", "") == refs[0], "what is stored is found"
    rig.writer.validate()
    with pytest.raises(IndexError, match="no metric 2"):
        rig.writer.ignore_metrics([2])
    rig.writer.ignore_metrics([])
    assert [rig.reader.lookup_key(key, 0) for key in keys] == refs
    assert rig.reader.series_table()["flags"].tolist() == [layout.SERIES_LIVE] * 2
    assert rig.intern(keys)[0] == refs
    rig.writer.validate()


def test_the_removal_of_an_ignored_series_may_be_taken_back_and_leaves_it_ignored(rig: Rig) -> None:
    key = b"m,cluster=c,hostname=h"
    slot = rig.ref(key) & 0xFFFFFFFF
    rig.writer.ignore_metrics([0])
    rig.writer.remove_begin(slot)
    rig.writer.remove_abort(slot)
    assert rig.reader.lookup_key(key, 0) == 0
    rig.writer.remove_begin(slot)
    assert rig.writer.remove_finish(slot) != b""
    rig.writer.publish()
    rig.writer.ignore_metrics([])
    ref = rig.ref(key)
    assert (ref & 0xFFFFFFFF, ref >> 32) == (slot, 2)
    rig.writer.remove_begin(slot)
    rig.writer.ignore_metrics([0])
    rig.writer.ignore_metrics([])
    assert rig.reader.lookup_key(key, 0) == 0, "it is still being removed"
    rig.writer.remove_abort(slot)
    assert rig.reader.lookup_key(key, 0) == ref
    rig.writer.validate()
