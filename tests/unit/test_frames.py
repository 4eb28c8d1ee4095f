"""Series: what it shows, derives, and carries across a socket."""

from __future__ import annotations

import copy
import pickle
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mstore.display import sparkline
from mstore.errors import ProtocolError
from mstore.frames import Series


def grid(values: list[float], **fields: Any) -> Series:
    return Series(np.array(values, np.float32), 100, 10, **fields)


def test_times_of_a_grid_are_nominal() -> None:
    series = grid([1.0, np.nan, 3.0])
    assert series.times.tolist() == [100, 110, 120]
    assert series.times_ms.tolist() == [100_000, 110_000, 120_000]
    assert (series.end, len(series), series.stamped, series.columns) == (130, 3, False, ())
    assert series.valid.tolist() == [True, False, True]
    assert series.times is series.times


def test_times_of_stamped_rows_are_their_own() -> None:
    stamps = np.array([1500, 2999], np.int64)
    series = Series(np.array([1, 2], np.uint64), 1, 0, stamps_ms=stamps)
    assert series.times.tolist() == [1, 2]
    assert series.times_ms is stamps
    assert (series.end, series.stamped) == (3, True)
    assert Series(np.empty(0), 7, 0, stamps_ms=stamps[:0]).end == 7


def test_repr_fits_a_screen_and_draws_the_values() -> None:
    series = grid(
        [0.0, 1.0, np.nan, 2.0], unit="GHz", cluster="c", host="h", metric="clock", type="core", type_id="3"
    )
    assert repr(series).splitlines() == [
        "Series clock of c/h/core3: 4 slots of 10 s, 3 with a sample, f32",
        "  1970-01-01T00:01:40Z .. 1970-01-01T00:02:20Z   min 0  mean 1  max 2 GHz",
        "  ▁▅ █",
    ]
    many = grid(list(range(100_000)), n_series=3, aggregation="sum")
    assert len(repr(many).splitlines()) == 3
    assert max(map(len, repr(many).splitlines())) <= 120
    assert "sum of 3 series" in repr(many)
    assert repr(grid([np.nan], why="no such host")).splitlines()[0].endswith("(no such host)")
    rows = Series(np.zeros(2, [("a", "<f8"), ("b", "<u8")]), 0, 0, stamps_ms=np.zeros(2, np.int64))
    assert repr(rows).splitlines()[1:] == ["  a", "  b"]
    assert "Series ? of ?" in repr(grid([]))


@given(
    st_numpy.arrays(np.float64, st.integers(0, 300), elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.integers(1, 80),
)
def test_sparkline_of_anything_has_one_mark_a_run(values: np.ndarray[Any, Any], width: int) -> None:
    valid = ~np.isnan(values)
    line = sparkline(values, valid, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set(" ▁▂▃▄▅▆▇█")


def test_columns_of_rows_become_series() -> None:
    values = np.array([(1.0, 5), (np.nan, 0)], [("seconds", "<f8"), ("reads", "<u8")])
    valid = np.array([[True, True], [False, False]])
    rows = Series(values, 0, 0, valid=valid, stamps_ms=np.array([1, 2]), metric="scrape", host="h")
    reads = rows.column("reads")
    assert (reads.values.tolist(), reads.valid.tolist(), reads.host) == ([5, 0], [True, False], "h")
    with pytest.raises(KeyError, match="seconds, reads"):
        rows.column("writes")


@st.composite
def any_series(draw: st.DrawFn) -> Series:
    n = draw(st.integers(0, 20))
    kind = draw(st.sampled_from(["<f4", "<f8", "<u8", "rows"]))
    dtype = np.dtype([("a", "<u8"), ("b", "<f8")]) if kind == "rows" else np.dtype(kind)
    raw = draw(st.binary(min_size=n * dtype.itemsize, max_size=n * dtype.itemsize))
    values = np.frombuffer(raw, dtype).copy()
    valid = None
    if kind == "<u8":
        valid = draw(st_numpy.arrays(np.bool_, n)) & (values != np.uint64(2**64 - 1))
        values[~valid] = 0
    elif kind == "rows":
        a_valid = draw(st_numpy.arrays(np.bool_, n)) & (values["a"] != np.uint64(2**64 - 1))
        values["a"][~a_valid] = 0
        valid = np.stack([a_valid, ~np.isnan(values["b"])], axis=1)
    stamps = draw(st_numpy.arrays(np.int64, n)) if kind == "rows" or draw(st.booleans()) else None
    coverage = draw(st_numpy.arrays(np.uint32, n)) if draw(st.booleans()) else None
    return Series(
        values, draw(st.integers(-(2**40), 2**40)), 0 if stamps is not None else draw(st.integers(1, 3600)),
        valid=valid, coverage=coverage, stamps_ms=stamps, n_series=draw(st.integers(0, 9)),
        unit=draw(st.text(max_size=5)), why=draw(st.text(max_size=5)), type_id=draw(st.text(max_size=5)),
    )  # fmt: skip


@given(any_series())
def test_a_series_survives_the_wire_bit_for_bit(series: Series) -> None:
    again = Series.from_wire(series.to_wire())
    assert again.values.dtype == series.values.dtype
    assert again.values.tobytes() == series.values.tobytes()
    assert (again.valid == series.valid).all()
    for name in ("start", "step", "unit", "why", "type_id", "n_series", "stamped"):
        assert getattr(again, name) == getattr(series, name)
    for ours, theirs in ((series.coverage, again.coverage), (series._stamps_ms, again._stamps_ms)):
        assert (ours is None) is (theirs is None)
        assert ours is None or ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    "entry",
    [
        [], None, 5, "abcdefg",
        [{}, b"abc", "<f4", 0, 1, None, None],
        [{}, b"abcd", "<f2", 0, 1, None, None],
        [{}, b"abcd", "|O", 0, 1, None, None],
        [{}, b"abcd", ["<f4"], 0, 1, None, None],
        [{}, b"abcd", "<f4", "0", 1, None, None],
        [{}, b"abcd", "<f4", 0, -1, None, None],
        [{}, b"abcd", "<f4", 0, 1, b"", None],
        [{}, b"abcd", "<f4", 0, 1, None, b"12345678" * 2],
        [{}, 7, "<f4", 0, 1, None, None],
        [[], b"abcd", "<f4", 0, 1, None, None],
        [{"n_series": "x"}, b"abcd", "<f4", 0, 1, None, None],
        [{"columns": [["a", "<f8"], ["a", "<f8"]]}, b"", "rows", 0, 0, None, b""],
        [{"columns": 5}, b"", "rows", 0, 0, None, b""],
        [{}, b"", "rows", 0, 0, None, b""],
    ],
)  # fmt: skip
def test_what_is_no_series_on_the_wire_is_a_protocol_error(entry: Any) -> None:
    with pytest.raises(ProtocolError):
        Series.from_wire(entry)


def test_texts_of_an_answer_are_there_when_asked_for_and_survive_a_copy() -> None:
    sent = Series(np.zeros(2, np.float32), 60, 60, "W", host="h", type="core", type_id="3")
    found = Series.from_wire(sent.to_wire())
    for copied in (found, copy.copy(found), pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert (copied.unit, copied.host, copied.path, copied.why) == ("W", "h", "h/core3", "")
        assert copied.values.tolist() == [0, 0]
    assert found.to_wire() == sent.to_wire()


def test_a_series_has_no_other_attributes() -> None:
    wire = Series(np.zeros(2, np.float32), 60, 60).to_wire()
    for series in (Series(np.zeros(2, np.float32), 60, 60), Series.from_wire(wire)):
        with pytest.raises(AttributeError, match="minimum"):
            attrgetter("minimum")(series)
        assert not hasattr(series, "__array__")


def test_texts_that_are_none_become_text() -> None:
    wire = Series(np.zeros(2, np.float32), 60, 60).to_wire()
    wire[0] = {"unit": 7, "newer": [1]}
    assert Series.from_wire(wire).unit == "7"
