"""A Series in other libraries' words: pandas, polars, xarray, Arrow. Each is imported when it is asked for.

    Series ---- to_arrow()           pyarrow.RecordBatch   time, value(s)        missing = null
           \\--- __arrow_c_stream__()  whatever reads Arrow's C interface: polars, duckdb, pandas, ...
            \\-- to_pandas()          Series, DataFrame      index: time, UTC      missing = NaN; u64: <NA>
             \\- to_polars()          DataFrame              time, value(s)        missing = null
              \\ to_xarray()          DataArray, Dataset     dimension: time       missing = NaN

Times are those of the slots, or of the rows, in UTC to the millisecond. What pandas gets is a copy, because it may be
written to. All others have the values where the Series has them, but for u64 that xarray makes floats of. The coverage of an
aggregate is in none of them.

Several series: side_by_side() is a pandas.DataFrame of a column each, long_table() a pyarrow.Table of a row a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidRequest, MissingLibrary

if TYPE_CHECKING:
    from mstore.frames import Series

_EXTRAS = {
    "pandas": "frames", "polars": "frames", "xarray": "frames", "pyarrow": "archive", "matplotlib": "plot",
    "textual": "top",
}  # fmt: skip
"""Library -> the extra of mstore that installs it."""
_LONG_NAMES = ("time", "cluster", "host", "level", "metric")
"""Columns of long_table() before the values."""


def library(name: str) -> Any:
    """A library that mstore can do without. raises MissingLibrary, which says how to install it"""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingLibrary(
            f"{package} is not installed, and this needs it: pip install {package}, or 'mstore[{_EXTRAS[package]}]'",
            package=package,
        ) from error


class SeriesConversions:
    """Methods of Series; nothing else has them."""

    __slots__ = ()

    def to_pandas(self) -> Any:
        """pandas.Series named after the metric, or a DataFrame of a column each; the index is the time, in UTC.

        Floats as they are, u64 as UInt64; names and unit are in `.attrs`.
        raises  MissingLibrary
        """
        pandas = library("pandas")
        series = cast("Series", self)
        index = pandas.DatetimeIndex(_stamps(series), tz="UTC", name="time")
        found = {name: _pandas_array(pandas, *column) for name, column in _columns(series).items()}
        answer = (
            pandas.DataFrame(found, index=index, copy=True)
            if series.columns
            else pandas.Series(found["value"], index=index, name=series.metric or "value", copy=True)
        )
        answer.attrs = _attributes(series)
        return answer

    def to_polars(self) -> Any:
        """polars.DataFrame of time and value, or time and a column each.

        raises  MissingLibrary, InvalidRequest for a column that is called "time"
        """
        polars = library("polars")
        series = cast("Series", self)
        time = polars.Series("time", _stamps(series)).dt.replace_time_zone("UTC")
        columns = [time]
        for name, (values, valid) in _beside_time(series).items():
            column = polars.Series(name, np.ascontiguousarray(values))
            columns.append(column.set(polars.Series(~valid), None) if not valid.all() else column)
        return polars.DataFrame(columns)

    def to_xarray(self) -> Any:
        """xarray.DataArray over time, or a Dataset of a variable each; names and unit are attributes.

        Where u64 are missing they are NaN, and all of them float64.
        raises  MissingLibrary, InvalidRequest for a column that is called "time"
        """
        xarray = library("xarray")
        series = cast("Series", self)
        coords = {"time": _stamps(series)}
        arrays = {
            name: xarray.DataArray(
                values if values.dtype.kind == "f" or valid.all() else np.where(valid, values, np.nan),
                coords, dims=["time"], name=series.metric or "value", attrs=_attributes(series),
            )
            for name, (values, valid) in _beside_time(series).items()
        }  # fmt: skip
        return xarray.Dataset(arrays, attrs=_attributes(series)) if series.columns else arrays["value"]

    def to_arrow(self) -> Any:
        """pyarrow.RecordBatch of time (timestamp[ms, UTC]) and value, or a column each.

        Names and unit are in the schema's metadata.
        raises  MissingLibrary, InvalidRequest for a column that is called "time"
        """
        pyarrow = library("pyarrow")
        series = cast("Series", self)
        time = pyarrow.array(_stamps(series), pyarrow.timestamp("ms", "UTC"))
        arrays, names = [time], ["time"]
        for name, (values, valid) in _beside_time(series).items():
            arrays.append(pyarrow.array(np.ascontiguousarray(values), mask=~valid))
            names.append(name)
        schema = pyarrow.schema(
            [pyarrow.field(name, array.type) for name, array in zip(names, arrays, strict=True)],
            {key: str(value) for key, value in _attributes(series).items()},
        )
        return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Arrow's C stream interface, for whoever reads it: polars.DataFrame(series), duckdb, ..."""
        pyarrow = library("pyarrow")
        table = pyarrow.Table.from_batches([self.to_arrow()])
        stream: object = table.__arrow_c_stream__(requested_schema)
        return stream


def side_by_side(found: Sequence[Series]) -> Any:
    """Several series as one pandas.DataFrame: a column each, on the union of their times, in UTC.

    Columns are named by what tells the series apart, a single one by its host. Where one has no slot at a time of
    another, it is missing there: NaN, of u64 <NA>.
    raises  InvalidRequest for series of several columns, MissingLibrary
    """
    pandas = library("pandas")
    if any(series.columns for series in found):
        raise InvalidRequest("series of several columns do not fit side by side: convert them one by one")
    if not found:
        return pandas.DataFrame(index=pandas.DatetimeIndex([], tz="UTC", name="time").as_unit("ms"))
    names = labels(found) if len(found) > 1 else [found[0].host or "value"]
    return pandas.concat([series.to_pandas() for series in found], axis=1, keys=names, sort=True)


def long_table(found: Iterable[Series]) -> Any:
    """Several series as one pyarrow.Table, a row a sample: time, cluster, host, level, metric, value. Gaps are left out.

    Values are float64, or uint64 where all are. Series of several columns have these in the place of value, null where a
    row lacks one. The unit is in the schema's metadata where all have the same.
    raises InvalidRequest for series whose columns differ or are called as one of these, MissingLibrary
    """
    pyarrow = library("pyarrow")
    parts = list(found)
    names = parts[0].columns if parts else ()
    if any(series.columns != names for series in parts):
        raise InvalidRequest("series of different columns have no table in common: convert them one by one")
    if taken := set(names).intersection(_LONG_NAMES):
        raise InvalidRequest(
            f"a column of these series is called {min(taken)!r}, as one of the table is: take .column(name) of each"
        )
    schema = _long_schema(pyarrow, parts, names or ("value",))
    tables = [_long_rows(pyarrow, series, schema) for series in parts]
    return pyarrow.concat_tables(tables) if tables else schema.empty_table()


def _long_schema(pyarrow: Any, parts: Sequence[Series], names: Sequence[str]) -> Any:
    fields = [("time", pyarrow.timestamp("ms", "UTC"))]
    fields += [(name, pyarrow.string()) for name in _LONG_NAMES[1:]]
    for name in names:
        kinds = {_columns(series)[name][0].dtype.kind for series in parts}
        fields.append((name, pyarrow.uint64() if kinds == {"u"} else pyarrow.float64()))
    units = {series.unit for series in parts}
    return pyarrow.schema(fields, {"unit": units.pop()} if len(units) == 1 else None)


def _long_rows(pyarrow: Any, series: Series, schema: Any) -> Any:
    """The rows of one series that have a sample."""
    kept = series.valid.any(axis=1) if series.columns else series.valid
    texts = (series.cluster, series.host, level_of(series), series.metric)
    columns = [pyarrow.array(_stamps(series)[kept], schema.field("time").type)]
    columns += [pyarrow.repeat(pyarrow.scalar(text), int(np.count_nonzero(kept))) for text in texts]
    for name, (values, valid) in _columns(series).items():
        stored = np.uint64 if pyarrow.types.is_uint64(schema.field(name).type) else np.float64
        columns.append(pyarrow.array(values[kept].astype(stored), mask=~valid[kept]))
    return pyarrow.Table.from_arrays(columns, schema=schema)


def labels(found: Sequence[Series]) -> list[str]:
    """What tells the series apart: the parts of their paths that differ, "value" for a single one."""
    if len(found) == 1:
        return ["value"]
    parts = {
        "cluster": [series.cluster for series in found], "host": [series.host for series in found],
        "level": [level_of(series) for series in found], "metric": [series.metric for series in found],
    }  # fmt: skip
    differing = [texts for texts in parts.values() if len(set(texts)) > 1]
    return [
        "/".join(text for text in row if text) or found[i].host
        for i, row in enumerate(zip(*differing, strict=True))
    ] or [series.host for series in found]


def level_of(series: Series) -> str:
    """The names below the host: type and id, subtype and id."""
    parts = (series.type + series.type_id, series.subtype + series.subtype_id)
    return "/".join(part for part in parts if part)


def _stamps(series: Series) -> NDArray[np.datetime64]:
    return series.times_ms.astype("datetime64[ms]")


def _columns(series: Series) -> dict[str, tuple[NDArray[Any], NDArray[np.bool_]]]:
    """name -> (values, valid) of each column; a single one is called value."""
    if not series.columns:
        return {"value": (series.values, series.valid)}
    return {name: (series.values[name], series.valid[:, i]) for i, name in enumerate(series.columns)}


def _beside_time(series: Series) -> dict[str, tuple[NDArray[Any], NDArray[np.bool_]]]:
    """_columns() for where the times are a column, too. raises InvalidRequest if there would be two of that name"""
    if "time" in series.columns:
        raise InvalidRequest(
            "a column of this series is called 'time', as the stamps are: take .column('time') alone, or to_pandas(), "
            "which has the stamps as its index"
        )
    return _columns(series)


def _attributes(series: Series) -> dict[str, str]:
    names = ("cluster", "host", "metric", "type", "type_id", "subtype", "subtype_id", "unit", "aggregation")
    return {name: text for name in names if (text := getattr(series, name))}


def _pandas_array(pandas: Any, values: NDArray[Any], valid: NDArray[np.bool_]) -> Any:
    if values.dtype.kind == "f":
        return values
    return pandas.arrays.IntegerArray(np.ascontiguousarray(values), ~valid)
