"""A Series in the words of pandas, polars, xarray and Arrow; several of them together; and without these libraries."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import mstore
from mstore.errors import InvalidRequest, MissingLibrary
from mstore.frames import Series

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")
xarray = pytest.importorskip("xarray")

T0 = 1725620400
STAMPS = np.array([T0 * 1000 + 123, T0 * 1000 + 999, T0 * 1000 + 61_000], np.int64)


@pytest.fixture(scope="module", autouse=True)
def runtime_of_polars() -> None:
    """Threads and descriptors that polars keeps as long as the process lives: no test's leak."""
    polars.DataFrame({"a": [1, 2]}).lazy().collect()
    scraped().to_polars()


def grid(values: list[float], dtype: str = "<f4", **fields: Any) -> Series:
    """Slots of a minute from T0 on, as they come over a socket: read-only."""
    labels = {"cluster": "fritz", "host": "f0201", "metric": "cpu_load", "unit": "GB/s", **fields}
    return Series.from_wire(Series(np.array(values, dtype), T0, 60, **labels).to_wire())


def counts() -> Series:
    """u64 of which one is missing, one beyond what float64 tells apart."""
    valid = np.array([True, False, True])
    return grid([2**63 + 1, 0, 3], "<u8", valid=valid, unit="B", type="core", type_id="7")


def scraped(names: tuple[str, str] = ("seconds", "reads")) -> Series:
    """Rows with stamps of their own and two columns."""
    rows = np.array([(1.5, 7), (np.nan, 0), (2.5, 2**63 + 1)], [(names[0], "<f8"), (names[1], "<u8")])
    valid = np.array([[True, True], [False, False], [True, True]])
    return Series(rows, T0, 0, valid=valid, stamps_ms=STAMPS, host="f0201", metric="scrape", unit="s")


def addresses(array: Any) -> tuple[int, int]:
    """Where an Arrow array's values begin and, 0 where nothing is missing, the bits of what is there."""
    valid, values = array.buffers()
    return values.address, 0 if valid is None else valid.address


# --- pandas


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_pandas_has_floats_as_they_are_over_times_in_utc(dtype: str) -> None:
    found = grid([0.1, np.nan, np.inf], dtype).to_pandas()
    assert (found.name, found.dtype, found.index.name) == ("cpu_load", np.dtype(dtype), "time")
    assert str(found.index.dtype) == "datetime64[ms, UTC]"
    assert [str(time) for time in found.index[:2]] == [
        "2024-09-06 11:00:00+00:00",
        "2024-09-06 11:01:00+00:00",
    ]
    np.testing.assert_array_equal(found.to_numpy(), np.array([0.1, np.nan, np.inf], dtype))
    assert found.attrs == {"cluster": "fritz", "host": "f0201", "metric": "cpu_load", "unit": "GB/s"}


def test_pandas_has_u64_exactly_and_says_what_is_missing() -> None:
    found = counts().to_pandas()
    assert str(found.dtype) == "UInt64"
    assert found.isna().tolist() == [False, True, False]
    assert [int(value) for value in found.dropna()] == [2**63 + 1, 3]
    assert (found.attrs["type"], found.attrs["type_id"], found.attrs["unit"]) == ("core", "7", "B")


def test_pandas_has_the_columns_of_rows_at_their_own_times() -> None:
    found = scraped().to_pandas()
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == {
        "seconds": "float64",
        "reads": "UInt64",
    }
    assert (found.index.astype("int64") == STAMPS).all()
    assert found["seconds"].isna().tolist() == found["reads"].isna().tolist() == [False, True, False]
    assert int(found["reads"].iloc[2]) == 2**63 + 1
    assert found.attrs == {"host": "f0201", "metric": "scrape", "unit": "s"}


@pytest.mark.parametrize("series", [grid([1, 2]), grid([1, 2], "<u8")], ids=["f32", "u64"])
def test_what_pandas_has_may_be_written_to_and_the_series_stays_as_it_is(series: Series) -> None:
    found = series.to_pandas()
    found.iloc[0] = 5
    assert (found.tolist(), series.values.tolist()) == ([5, 2], [1, 2])


def test_frames_of_several_columns_may_be_written_to_and_the_series_stays_as_it_is() -> None:
    series = scraped()
    found = series.to_pandas()
    found.iloc[0, 0], found.iloc[0, 1] = 9.5, 9
    assert series.values[0].tolist() == (1.5, 7)


# --- polars


@pytest.mark.parametrize(
    ("series", "dtype", "values"),
    [
        (grid([1, np.nan, 3]), "Float32", [1.0, None, 3.0]),
        (grid([1, np.nan, np.inf], "<f8"), "Float64", [1.0, None, np.inf]),
        (counts(), "UInt64", [2**63 + 1, None, 3]),
    ],
    ids=["f32", "f64", "u64"],
)
def test_polars_has_null_where_a_sample_is_missing(series: Series, dtype: str, values: list[Any]) -> None:
    found = series.to_polars()
    assert (found.columns, str(found["value"].dtype)) == (["time", "value"], dtype)
    assert found["value"].to_list() == values
    assert found["time"].dtype == polars.Datetime("ms", "UTC")
    assert found["time"].dt.timestamp("ms").to_list() == series.times_ms.tolist()


def test_polars_has_the_columns_of_rows() -> None:
    found = scraped().to_polars()
    assert found["time"].dt.timestamp("ms").to_list() == STAMPS.tolist()
    assert found["seconds"].to_list() == [1.5, None, 2.5]
    assert found["reads"].to_list() == [7, None, 2**63 + 1]


# --- xarray


def test_xarray_has_names_and_unit_as_attributes() -> None:
    found = grid([1, np.nan, 3]).to_xarray()
    assert (found.name, found.dims, found.dtype) == ("cpu_load", ("time",), np.float32)
    np.testing.assert_array_equal(found.to_numpy(), np.array([1, np.nan, 3], np.float32))
    assert (found.time.to_numpy() == grid([1, 2, 3]).times_ms.astype("datetime64[ms]")).all()
    assert found.attrs == {"cluster": "fritz", "host": "f0201", "metric": "cpu_load", "unit": "GB/s"}


def test_xarray_keeps_u64_while_none_is_missing_and_has_nan_otherwise() -> None:
    whole = grid([2**63 + 1, 2], "<u8").to_xarray()
    assert (whole.dtype, whole.values.tolist()) == (np.uint64, [2**63 + 1, 2])
    gaps = counts().to_xarray()
    assert gaps.dtype == np.float64
    np.testing.assert_array_equal(gaps.to_numpy(), [2.0**63, np.nan, 3])


def test_xarray_has_a_variable_for_each_column_of_rows() -> None:
    found = scraped().to_xarray()
    assert (list(found.data_vars), found.attrs["unit"]) == (["seconds", "reads"], "s")
    np.testing.assert_array_equal(found["reads"].to_numpy(), [7, np.nan, 2.0**63])
    assert found.time.to_numpy().astype(np.int64).tolist() == STAMPS.tolist()


# --- Arrow


def test_arrow_has_types_nulls_and_names_of_the_series() -> None:
    batch = counts().to_arrow()
    assert batch.schema.types == [pyarrow.timestamp("ms", "UTC"), pyarrow.uint64()]
    assert batch.column("value").to_pylist() == [2**63 + 1, None, 3]
    assert batch.schema.metadata == {
        b"cluster": b"fritz", b"host": b"f0201", b"metric": b"cpu_load", b"type": b"core", b"type_id": b"7",
        b"unit": b"B",
    }  # fmt: skip
    floats = grid([1, np.nan, 3]).to_arrow()
    assert (floats.schema.types[1], floats.column("value").to_pylist()) == (
        pyarrow.float32(),
        [1.0, None, 3.0],
    )


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<u8"])
def test_arrows_stream_hands_over_the_memory_of_the_series(dtype: str) -> None:
    series = grid(list(range(1000)), dtype)
    place = series.values.ctypes.data
    (chunk,) = pyarrow.table(series)["value"].chunks
    assert addresses(chunk)[0] == place
    assert addresses(polars.DataFrame(series)["value"].to_arrow())[0] == place
    assert addresses(series.to_arrow().column("value"))[0] == place


def test_arrows_stream_is_read_by_pyarrow_polars_and_duckdb() -> None:
    for series in (counts(), grid([1, np.nan, 3]), scraped()):
        table = pyarrow.table(series)
        assert table.schema.metadata == series.to_arrow().schema.metadata
        assert polars.DataFrame(series).equals(series.to_polars())
        rows = pytest.importorskip("duckdb").sql("select * exclude (time) from series").fetchall()
        assert rows == list(zip(*(table[name].to_pylist() for name in table.column_names[1:]), strict=True))


def test_arrows_stream_may_be_read_twice_and_outlives_the_series() -> None:
    series = grid(list(range(1000)), "<f8")
    first, second = pyarrow.table(series), polars.DataFrame(series)
    del series
    assert first["value"].to_pylist() == second["value"].to_list() == list(range(1000))


# --- what is empty, aggregated, or has unlucky names


@pytest.mark.parametrize("dtype", ["<f4", "<u8"])
def test_an_empty_answer_has_its_columns_and_their_types(dtype: str) -> None:
    series = grid([], dtype, why="no such host")
    whole = grid([1], dtype)
    assert (len(series.to_pandas()), series.to_pandas().dtype) == (0, whole.to_pandas().dtype)
    assert series.to_pandas().index.dtype == whole.to_pandas().index.dtype
    assert (len(series.to_polars()), series.to_polars().schema) == (0, whole.to_polars().schema)
    assert (series.to_xarray().shape, series.to_xarray().dtype) == ((0,), whole.to_xarray().dtype)
    assert (series.to_arrow().num_rows, series.to_arrow().schema) == (0, whole.to_arrow().schema)
    assert pyarrow.table(series).num_rows == 0
    rows = scraped()
    nothing = Series(rows.values[:0], T0, 0, stamps_ms=STAMPS[:0])
    assert nothing.to_polars().schema == rows.to_polars().schema
    assert list(nothing.to_pandas().columns) == ["seconds", "reads"]


def test_an_aggregate_says_how_it_was_made_and_keeps_its_coverage_to_itself() -> None:
    coverage = np.array([2, 0, 1], np.uint32)
    series = grid([1, np.nan, 3], aggregation="sum", n_series=2, coverage=coverage)
    assert series.to_pandas().attrs["aggregation"] == series.to_xarray().attrs["aggregation"] == "sum"
    assert series.to_arrow().schema.metadata[b"aggregation"] == b"sum"
    assert series.to_polars().columns == ["time", "value"]
    assert len(series.to_polars()) == len(series.coverage), "a row for each slot: it can be put beside"


def test_a_series_without_a_metric_is_called_value() -> None:
    series = Series(np.ones(2), T0, 60)
    assert (series.to_pandas().name, series.to_xarray().name) == ("value", "value")
    assert series.to_arrow().schema.metadata in (None, {})


def test_a_column_called_time_is_refused_where_the_stamps_are_a_column() -> None:
    series = scraped(("time", "reads"))
    assert series.to_pandas()["time"].tolist()[::2] == [1.5, 2.5]
    for convert in (series.to_polars, series.to_xarray, series.to_arrow, series.__arrow_c_stream__):
        with pytest.raises(InvalidRequest, match="called 'time'"):
            convert()
    with pytest.raises(InvalidRequest, match="called 'host'"):
        mstore.long_table([scraped(("host", "reads"))])


# --- several series


def test_series_side_by_side_are_a_column_each_on_all_their_times() -> None:
    later = Series(
        np.array([7, 8], np.float64), T0 + 60, 60, cluster="fritz", host="f0202", metric="cpu_load"
    )
    for found in ([grid([1, np.nan]), later], [later, grid([1, np.nan])]):
        frame = mstore.side_by_side(found)[["f0201", "f0202"]]
        assert (frame.index.astype("int64") // 1000).tolist() == [T0, T0 + 60, T0 + 120]
        assert (str(frame.index.dtype), frame.index.name) == ("datetime64[ms, UTC]", "time")
        np.testing.assert_array_equal(frame.to_numpy(), [[1, np.nan], [np.nan, 7], [np.nan, 8]])


def test_columns_side_by_side_are_named_by_what_tells_the_series_apart() -> None:
    cores = [grid([1], type="core", type_id=str(i), metric=name) for i in (0, 1) for name in ("clock", "ipc")]
    assert list(mstore.side_by_side(cores).columns) == [
        "core0/clock", "core0/ipc", "core1/clock", "core1/ipc",
    ]  # fmt: skip
    assert list(mstore.side_by_side(cores[:1]).columns) == ["f0201"]


def test_u64_stay_exact_side_by_side() -> None:
    frame = mstore.side_by_side([counts(), grid([1, 2, 3, 4], "<u8", host="f0202")])
    assert {str(dtype) for dtype in frame.dtypes} == {"UInt64"}
    assert int(frame.iloc[0, 0]) == 2**63 + 1
    assert frame.iloc[:, 0].isna().tolist() == [False, True, False, True]


def test_nothing_side_by_side_is_an_empty_frame_and_columns_do_not_fit() -> None:
    empty = mstore.side_by_side([])
    assert (empty.shape, empty.index.dtype) == ((0, 0), grid([1]).to_pandas().index.dtype)
    with pytest.raises(InvalidRequest, match="one by one"):
        mstore.side_by_side([grid([1]), scraped()])


def test_a_long_table_has_a_row_for_each_sample_that_is_there() -> None:
    table = mstore.long_table([grid([1, np.nan, 3]), counts()])
    assert table["level"].to_pylist() == ["", "", "core7", "core7"]
    assert table["value"].to_pylist() == [1.0, 3.0, float(2**63 + 1), 3.0]
    assert table.schema.metadata is None, "the units differ"
    assert mstore.long_table([counts()])["value"].to_pylist() == [2**63 + 1, 3]


# --- without a library


@pytest.mark.parametrize(
    ("method", "package", "extra"),
    [
        ("to_pandas", "pandas", "frames"),
        ("to_polars", "polars", "frames"),
        ("to_xarray", "xarray", "frames"),
        ("to_arrow", "pyarrow", "archive"),
        ("__arrow_c_stream__", "pyarrow", "archive"),
    ],
)
def test_a_library_that_is_not_there_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, method: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingLibrary, match=rf"pip install {package}, or 'mstore\[{extra}\]'") as caught:
        getattr(grid([1]), method)()
    assert caught.value.details["package"] == package


def test_several_series_need_their_library_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for convert, package in ((mstore.side_by_side, "pandas"), (mstore.long_table, "pyarrow")):
        with pytest.raises(MissingLibrary, match=f"pip install {package}"):
            convert([])
