"""Parquet as the reference's archive has it: columns, order, rows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mstore.compat import parquet
from mstore.compat.parquet import ParquetWriter, Rows, read_parquet
from mstore.errors import CorruptRecord, InvalidRequest

COLUMNS = {
    "cluster": "string",
    "hostname": "string",
    "metric": "string",
    "scope": "string",
    "scope_id": "string",
    "timestamp": "int64",
    "frequency": "int64",
    "value": "float",
}
GPU = ("accelerator", "00000000:49:00.0")


def rows(
    levels: tuple[tuple[str, str], ...],
    metric: str,
    times: list[int],
    values: list[float],
    host: str = "node001",
) -> Rows:
    return Rows("fritz", host, levels, metric, 60, np.array(times), np.array(values, np.float32))


def written(path: Path, found: dict[str, list[Rows]]) -> Path:
    with open(path, "wb") as sink:
        writer = ParquetWriter(sink, "fritz")
        for host, series in found.items():
            for metric in sorted({one.metric for one in series}):
                writer.add(host, metric, [one for one in series if one.metric == metric])
        writer.close()
    return path


SERIES = [
    rows((), "cpu_load", [1000, 1060], [0.5, 0.7]),
    rows((("socket", "0"),), "mem_bw", [1000, 1120], [100.0, 200.0]),
]


def test_a_checkpoint_s_samples_are_rows_as_in_the_reference(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "1000.parquet", {"node001": SERIES}))
    assert table.select(list(COLUMNS)).to_pylist() == [
        {"cluster": "fritz", "hostname": "node001", "metric": metric, "scope": scope, "scope_id": scope_id,
         "timestamp": t, "frequency": 60, "value": value}
        for metric, scope, scope_id, t, value in [
            ("cpu_load", "node", "", 1000, 0.5), ("cpu_load", "node", "", 1060, np.float32(0.7)),
            ("mem_bw", "socket", "0", 1000, 100.0), ("mem_bw", "socket", "0", 1120, 200.0),
        ]
    ]  # fmt: skip


def test_columns_are_required_compressed_by_zstd_and_declared_sorted(tmp_path: Path) -> None:
    with pq.ParquetFile(written(tmp_path / "x.parquet", {"node001": SERIES})) as file:
        schema, group = file.schema_arrow, file.metadata.row_group(0)
        assert {name: str(schema.field(name).type) for name in COLUMNS} == COLUMNS
        assert list(schema.names)[: len(COLUMNS)] == list(COLUMNS)
        assert not any(schema.field(name).nullable for name in schema.names)
        assert {group.column(k).compression for k in range(len(COLUMNS))} == {"ZSTD"}
        order = [schema.names[one.column_index] for one in group.sorting_columns]
        assert order == ["cluster", "hostname", "metric", "timestamp"]


def test_rows_are_in_the_declared_order(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def some(host: str, metric: str, core: int) -> Rows:
        times = sorted(rng.integers(0, 10**6, 50).tolist())
        return rows((("core", str(core)),), metric, times, rng.random(50).tolist(), host)

    hosts = {
        host: [some(host, m, core) for m in ("b", "a", "c") for core in (2, 10, 1)] for host in ("n1", "n2")
    }
    found = pq.read_table(written(tmp_path / "x.parquet", hosts)).to_pylist()
    keys = [tuple(row[name] for name in ("cluster", "hostname", "metric", "timestamp")) for row in found]
    assert keys == sorted(keys)
    assert len(keys) == 2 * 9 * 50


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    series = [
        *SERIES,
        rows((GPU,), "acc_mem", [1000, 1060], [1e-40, -0.0]),
        rows((GPU, ("nvlink", "3")), "nv_link", [1000], [7.0]),
        rows((("network", "enp1s0"),), "net", [1000], [7.0]),
    ]
    path = written(tmp_path / "x.parquet", {"node001": series})
    found = {(one.levels, one.metric): one for piece in read_parquet(path) for one in piece}
    assert set(found) == {(one.levels, one.metric) for one in series}
    for one in series:
        back = found[one.levels, one.metric]
        assert (back.cluster, back.host, back.step_s) == ("fritz", "node001", 60)
        assert back.times.tolist() == one.times.tolist()
        assert back.values.view(np.uint32).tolist() == one.values.view(np.uint32).tolist()


def test_a_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_ROWS_A_PIECE", 3)
    pieces = list(read_parquet(written(tmp_path / "x.parquet", {"node001": SERIES})))
    assert [sum(len(one.times) for one in piece) for piece in pieces] == [3, 1]


def test_more_distinct_texts_than_a_number_can_count_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    columns = [(rng.integers(0, 3, 500), 1 << 21) for _ in range(5)]
    group = parquet._grouped(columns)
    rows = list(zip(*(codes.tolist() for codes, _ in columns), strict=True))
    assert len(set(group.tolist())) == len(set(rows))
    assert len(set(zip(group.tolist(), rows, strict=True))) == len(set(rows))


def test_wider_values_and_a_cluster_in_the_directory_s_name_are_read(tmp_path: Path) -> None:
    table = pa.table({
        "hostname": ["n1"] * 3, "metric": ["a", "b", "c"], "scope": ["node"] * 3, "scope_id": [""] * 3,
        "timestamp": [60, 60, 60], "frequency": [60, 60, 60],
        "value": pa.array([1.5, None, None], pa.float32()),
        "value_f64": pa.array([None, 0.1, None], pa.float64()),
        "value_u64": pa.array([None, None, 2**63 + 1], pa.uint64()),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    found = [one for piece in read_parquet(tmp_path / "x.parquet", "fritz") for one in piece]
    assert {one.metric: (one.cluster, one.values.dtype.str, one.values.tolist()) for one in found} == {
        "a": ("fritz", "<f4", [1.5]),
        "b": ("fritz", "<f8", [0.1]),
        "c": ("fritz", "<u8", [2**63 + 1]),
    }


def test_damaged_files_and_other_tables_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet", {"node001": SERIES})
    whole = path.read_bytes()
    for n in range(0, len(whole), 7):
        path.write_bytes(whole[:n])
        with pytest.raises(CorruptRecord, match="no Parquet table"):
            list(read_parquet(path))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(CorruptRecord, match="a table without cluster, frequency, hostname"):
        list(read_parquet(path))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("timestamp", pa.array([1_700_000_000_000])),
        ("timestamp", pa.array([None], pa.int64())),
        ("timestamp", pa.array(["now"])),
        ("frequency", pa.array([-1])),
        ("frequency", pa.array([1.5])),
    ],
)
def test_times_that_cannot_be_are_refused(tmp_path: Path, column: str, values: pa.Array) -> None:
    table = pa.table({"cluster": ["c"], "hostname": ["h"], "metric": ["m"], "scope": ["node"], "scope_id": [""],
                      "timestamp": [60], "frequency": [60], "value": pa.array([1.0], pa.float32())})  # fmt: skip
    table = table.set_column(table.schema.names.index(column), column, values)
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(CorruptRecord):
        list(read_parquet(tmp_path / "x.parquet"))


def test_changed_bytes_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    path = written(tmp_path / "x.parquet", {"node001": SERIES})
    whole, rng = path.read_bytes(), np.random.default_rng(seed)
    n_refused = 0
    for at in rng.integers(0, len(whole), 300).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1 :])
        try:
            list(read_parquet(path))
        except CorruptRecord:
            n_refused += 1
    assert n_refused > 0


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = parquet.import_module

    def absent(name: str) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(parquet, "import_module", absent)
    with pytest.raises(InvalidRequest, match=r"pip install 'mstore\[archive\]'"):
        list(read_parquet(tmp_path / "x.parquet"))
