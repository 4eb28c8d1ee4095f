"""What a pass writes: the reference's rows and more, really sorted, at their place whole, each sample once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from mstore.archive import names, writing
from mstore.archive.leavers import EarlyLeavers
from mstore.archive.manifest import read_manifest
from mstore.archive.passes import locked
from mstore.errors import ArchiveError, StorageError
from mstore.persistence.files import Files
from mstore.shm import layout
from tests import archive_rig
from tests.archive_rig import Filled
from tests.query_rig import T0, Store

FAR_S = 1 << 40


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-{os.getpid()}-{archive_rig.name()}")
    yield made
    made.close()


def files_of(root: Path) -> list[Path]:
    return sorted(root.glob("cluster=*/day=*/*.parquet"))


def read(root: Path) -> list[dict[str, Any]]:
    """All rows, in the order of the files."""
    return [row for path in files_of(root) for row in pq.ParquetFile(path).read().to_pylist()]


def test_the_rows_of_a_host_and_its_sockets_are_the_references(store: Store, tmp_path: Path) -> None:
    cpu_load = store.open("load", "node001", t=1000)
    store.put(cpu_load, 1000, [0.5, 0.7])
    mem_bw = store.open("load", "node001", "socket", "0", t=1000)
    store.put(mem_bw, 1000, [100.0])
    store.put(mem_bw, 1120, [200.0])
    Filled(store, tmp_path).archive(FAR_S)
    rows = read(tmp_path)
    eight = ["cluster", "hostname", "metric", "scope", "scope_id", "timestamp", "frequency", "value"]
    assert [[row[name] for name in eight] for row in rows] == [
        ["fritz", "node001", "load", "node", "", 1000, 60, 0.5],
        ["fritz", "node001", "load", "socket", "0", 1000, 60, 100.0],
        ["fritz", "node001", "load", "node", "", 1060, 60, pytest.approx(0.7)],
        ["fritz", "node001", "load", "socket", "0", 1120, 60, 200.0],
    ]


def test_three_metrics_of_three_samples_are_nine_rows_of_one_host(store: Store, tmp_path: Path) -> None:
    for metric, levels, step_s in (("load", (), 60), ("flops", (), 60), ("clock", ("socket", "0"), 10)):
        ref = store.open(metric, "node001", *levels, cluster="testcluster")
        store.put(ref, T0, [1.0, 2.0, 3.0], step_s)
    assert Filled(store, tmp_path).archive(FAR_S).n_rows == 9
    rows = read(tmp_path)
    assert len(rows) == 9
    assert {(row["cluster"], row["hostname"]) for row in rows} == {("testcluster", "node001")}


def test_the_first_eight_columns_are_those_of_the_reference(store: Store, tmp_path: Path) -> None:
    store.put(store.open("load"), T0, [1.0])
    Filled(store, tmp_path).archive(FAR_S)
    schema = pq.ParquetFile(files_of(tmp_path)[0]).schema_arrow
    assert schema.names[:8] == [
        "cluster", "hostname", "metric", "scope", "scope_id", "timestamp", "frequency", "value",
    ]  # fmt: skip
    text, whole, single = pa.string(), pa.int64(), pa.float32()
    assert schema.types[:8] == [text, text, text, text, text, whole, whole, single]
    assert not any(schema.field(i).nullable for i in range(8))


def test_values_keep_every_bit_beside_their_float32(store: Store, tmp_path: Path) -> None:
    store.put(store.open("flops"), T0, [0.1])
    store.put(store.open("ops"), T0, [2**63 + 1], 10)
    store.put(store.open("load"), T0, [0.1])
    store.rows(store.open("scrape"), [(T0 * 1000 + 7, 2**60 + 1, 0.3)], "Qd")
    Filled(store, tmp_path).archive(FAR_S)
    rows = {(row["metric"], row["column"]): row for row in read(tmp_path)}
    f64, u64, f32 = rows["flops", None], rows["ops", None], rows["load", None]
    assert (f64["value_f64"], f64["value_u64"], f64["value"]) == (0.1, None, float(np.float32(0.1)))
    assert (u64["value_f64"], u64["value_u64"], u64["value"]) == (None, 2**63 + 1, float(np.float32(2**63)))
    assert (f32["value_f64"], f32["value_u64"], f32["value"]) == (None, None, float(np.float32(0.1)))
    reads, seconds = rows["scrape", "reads"], rows["scrape", "seconds"]
    assert (reads["value_u64"], reads["stamp_ms"], reads["frequency"]) == (2**60 + 1, T0 * 1000 + 7, 0)
    assert (seconds["value_f64"], seconds["timestamp"]) == (0.3, T0)


def test_every_file_is_really_sorted_and_says_so(
    store: Store, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_ROWS", 5000)
    filled = archive_rig.fill(store, tmp_path, np.random.default_rng(seed))
    filled.archive(FAR_S)
    assert len(files_of(tmp_path)) > 1
    for path in files_of(tmp_path):
        file = pq.ParquetFile(path)
        table = file.read()
        order = ["cluster", "hostname", "metric", "timestamp"]
        keys = list(zip(*(table[name].to_pylist() for name in order), strict=True))
        assert keys == sorted(keys)
        places = tuple(pq.SortingColumn(file.schema_arrow.get_field_index(name)) for name in order)
        for group in range(file.num_row_groups):
            meta = file.metadata.row_group(group)
            assert meta.sorting_columns == places
            assert meta.num_rows <= 5000
            for name in ("hostname", "metric", "timestamp"):
                statistics = meta.column(file.schema_arrow.get_field_index(name)).statistics
                rows = file.read_row_group(group, [name])[name].to_pylist()
                assert (statistics.min, statistics.max) == (min(rows), max(rows))


def test_each_sample_is_archived_once_whatever_the_passes_are(
    store: Store, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    filled = archive_rig.fill(store, tmp_path, rng)
    for to_s in sorted(rng.integers(T0, T0 + archive_rig.SPAN_S, 4).tolist()):
        filled.archive(to_s)
    filled.archive(FAR_S)
    assert filled.archive(FAR_S).n_rows == 0
    several = read(tmp_path)
    whole = tmp_path / "whole"
    Filled(store, whole).archive(FAR_S)
    once = read(whole)

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["series"], row["timestamp"], row["stamp_ms"] or 0, row["column"] or "", row["metric"]

    assert sorted(map(repr, several)) == sorted(map(repr, once))
    assert len({key(row) for row in once}) == len(once)


def test_the_part_says_what_its_series_and_metrics_are(store: Store, tmp_path: Path) -> None:
    ref = store.open("ops", "f1", "accelerator", "00:1", "nvlink", "2")
    store.put(ref, T0, [1, 2], 10)
    Filled(store, tmp_path).archive(FAR_S)
    day = names.day_of(T0)
    series = pq.read_table(
        names.part_path(tmp_path, "fritz", day, 1, names.SERIES), partitioning=None
    ).to_pylist()
    metrics = pq.read_table(
        names.part_path(tmp_path, "fritz", day, 1, names.METRICS), partitioning=None
    ).to_pylist()
    assert series == [
        {
            "cluster": "fritz", "hostname": "f1", "metric": "ops", "type": "accelerator", "type_id": "00:1",
            "subtype": "nvlink", "subtype_id": "2", "series": ref, "kind": "grid", "value_type": "u64",
            "n_columns": 1, "anchor": T0 - 5, "frequency": 10, "life_start": None, "life_end": None,
            "n_samples": 2, "first": T0, "last": T0 + 10,
        }
    ]  # fmt: skip
    assert metrics[0]["metric"] == "ops"
    assert (metrics[0]["aggregation"], metrics[0]["value_type"], metrics[0]["frequency"]) == (
        "sum",
        "u64",
        10,
    )


def test_all_tables_are_compressed_by_zstd(store: Store, tmp_path: Path) -> None:
    store.put(store.open("load"), T0, [1.0])
    Filled(store, tmp_path).archive(FAR_S)
    tables = sorted(tmp_path.rglob("*.parquet"))
    assert len(tables) == 3
    for path in tables:
        group = pq.ParquetFile(path).metadata.row_group(0)
        assert {group.column(n).compression for n in range(group.num_columns)} == {"ZSTD"}, path


def test_rows_name_the_level_above_theirs(store: Store, tmp_path: Path) -> None:
    for levels in ((), ("socket", "1"), ("accelerator", "00:1", "nvlink", "2")):
        store.put(store.open("load", "f1", *levels), T0, [1.0])
    Filled(store, tmp_path).archive(FAR_S)
    found = {
        (row["scope"], row["scope_id"]): (row["parent_scope"], row["parent_scope_id"])
        for row in read(tmp_path)
    }
    assert found == {
        ("node", ""): (None, None),
        ("socket", "1"): ("node", ""),
        ("nvlink2", ""): ("accelerator", "00:1"),
    }


def test_lives_of_a_series_end_where_the_next_one_begins(store: Store, tmp_path: Path) -> None:
    first = store.open("load", "f1")
    store.put(first, T0, [1.0, 2.0], 60)
    anchor_s = T0 + 1000
    second, _ = store.writer.begin_era(first & 0xFFFF_FFFF, anchor_s, 10, anchor_s, layout.TYPE_F64)
    store.writer.publish()
    store.put(second, anchor_s + 5, [3.0, 4.0], 10)
    Filled(store, tmp_path).archive(FAR_S)
    path = names.part_path(tmp_path, "fritz", names.day_of(T0), 1, names.SERIES)
    lives = sorted(pq.read_table(path, partitioning=None).to_pylist(), key=lambda row: row["first"])
    assert [(row["frequency"], row["life_start"], row["life_end"]) for row in lives] == [
        (60, None, anchor_s),
        (10, anchor_s, None),
    ]


def test_a_metric_is_archived_up_to_its_own_time_and_no_further(store: Store, tmp_path: Path) -> None:
    store.put(store.open("load"), T0, [1.0] * 10)
    store.put(store.open("flops"), T0, [2.0] * 10)
    filled = Filled(store, tmp_path)
    limits = np.full(filled.n_metrics, T0)
    load = store.writer.find_metric(store.writer.find_path("fritz"), b"load")
    limits[load] = T0 + 120
    filled.archive(limits)
    assert [(row["metric"], row["timestamp"]) for row in read(tmp_path)] == [("load", T0), ("load", T0 + 60)]
    manifest = read_manifest(Files(), tmp_path, "fritz")
    assert manifest is not None
    assert manifest.archived_to == {"load": T0 + 120, "flops": T0}


def test_clusters_that_were_not_asked_for_are_left_alone(store: Store, tmp_path: Path) -> None:
    for cluster in ("alex", "fritz"):
        store.put(store.open("load", cluster=cluster), T0, [1.0])
    Filled(store, tmp_path).archive(FAR_S, clusters=["alex"])
    assert [path.parent.parent.name for path in files_of(tmp_path)] == ["cluster=alex"]


def test_the_archive_is_read_by_pandas_duckdb_and_plain_pyarrow(
    store: Store, tmp_path: Path, seed: int
) -> None:
    filled = archive_rig.fill(store, tmp_path, np.random.default_rng(seed))
    n = filled.archive(FAR_S).n_rows
    frame = pd.read_parquet(tmp_path, partitioning=None)
    assert len(frame) == n
    dataset = ds.dataset(tmp_path, partitioning="hive")
    assert dataset.count_rows() == n
    assert set(dataset.to_table(filter=ds.field("cluster") == "fritz")["cluster"].to_pylist()) == {"fritz"}
    glob = f"{tmp_path}/cluster=*/*/*.parquet"
    sql = f"select count(*), sum(value_u64) from read_parquet('{glob}', hive_partitioning = true)"
    count, total = duckdb.sql(sql).fetchall()[0]
    assert count == n
    assert int(total) == sum(row["value_u64"] or 0 for row in read(tmp_path))


class Failing(Files):
    """Its n-th operation of a kind fails, once."""

    def __init__(self, operation: str, n: int) -> None:
        self._left = n
        real = getattr(Files, operation)

        def fail(*arguments: Any, **more: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise StorageError(f"{operation} failed")
            return real(self, *arguments, **more)

        setattr(self, operation, fail)

    @property
    def failed(self) -> bool:
        return self._left <= 0


@pytest.mark.parametrize(
    "operation", ["create", "pwritev", "fdatasync", "rename", "sync_path", "mkdir", "unlink"]
)
def test_a_disk_that_fails_at_any_operation_leaves_an_archive_that_the_next_pass_completes(
    tmp_path: Path, operation: str
) -> None:
    n = 0
    while True:
        n += 1
        made = Store(f"mstore-{os.getpid()}-{archive_rig.name()}")
        try:
            root = tmp_path / f"{operation}-{n}"
            for host in ("a", "b"):
                made.put(made.open("load", host, t=T0), T0, [float(i) for i in range(1500)])
            filled = Filled(made, root)
            files = Failing(operation, n)
            try:
                filled.archive(FAR_S, files)
            except StorageError:
                assert files.failed
            visible = read(root)
            assert len({(row["series"], row["timestamp"]) for row in visible}) == len(visible)
            filled.archive(FAR_S)
            rows = read(root)
            assert len({(row["series"], row["timestamp"]) for row in rows}) == len(rows) == 3000
            assert not list((root / "_tmp").iterdir())
        finally:
            made.close()
        if not files.failed:
            assert n > 1
            return


def test_one_writer_at_a_time(store: Store, tmp_path: Path) -> None:
    store.put(store.open("load"), T0, [1.0])
    with locked(Files(), tmp_path), pytest.raises(ArchiveError, match="another process archives"):
        Filled(store, tmp_path).archive(FAR_S)
    assert Filled(store, tmp_path).archive(FAR_S).n_rows == 1


def test_nothing_that_left_early_is_an_empty_list_of_leavers(tmp_path: Path) -> None:
    early = EarlyLeavers(Files(), [])
    assert not early.chunks
    assert early.without(["x"]) is early
