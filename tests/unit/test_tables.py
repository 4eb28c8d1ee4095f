"""Tables and stacks of series: what they say, and that a socket carries them bit for bit or refuses them."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore import stacked, tables
from mstore.errors import ProtocolError
from mstore.frames import Series
from mstore.tables import Above, Latest, LevelPath, Paths, Stats, Top

PATHS = Paths.of(
    [
        LevelPath("fritz", "f1"), LevelPath("fritz", "f2", "hwthread", "7"),
        LevelPath("fritz", "f3", "accelerator", "00:1", "mig", "0"),
    ]
)  # fmt: skip
NAN = np.nan


def latest(n: int = 3) -> Latest:
    return Latest(
        "load", "procs", PATHS[:n], "sum", np.array([1.5, NAN, 3.0])[:n], np.array([1_700_000_000_123, 0, 60_000])[:n],
        np.array([2, 0, 1], np.uint32)[:n], np.array([0, 1, 0], np.uint8)[:n],
    )  # fmt: skip


def stats() -> Stats:
    def u64(*values: int) -> np.ndarray:
        return np.array(values, np.uint64)

    numbers = u64(2**63, 0, 7)
    times = np.array([1000, 0, 2000])
    return Stats(
        "ops", "", PATHS, 0, 60, (50.0,), u64(2, 0, 1), np.array([1.0, NAN, 7.0]), np.array([0.5, NAN, 7.0]), numbers,
        numbers, numbers, numbers, times, times, np.array([[1.0], [NAN], [7.0]]), np.array([1, 0, 1], np.uint32),
        np.array([0, 4, 0], np.uint8),
    )  # fmt: skip


def above() -> Above:
    return Above(
        "load", "", PATHS, 80.0, False, 300, 10, np.array([90.0, 91.0, 92.0]), np.array([60_000] * 3),
        np.array([1000] * 3), np.array([95.0, 96.0, 97.0]),
    )  # fmt: skip


def top() -> Top:
    found = stats()
    plain = ("metric", "unit", "paths", "start", "end", "percents")
    return Top(**{name: getattr(found, name) for name in (*plain, *Stats.COLUMNS)}, by="max", largest=True)


ALL = [latest(), latest(0), stats(), above(), top()]


@pytest.mark.parametrize("table", ALL, ids=lambda table: f"{type(table).__name__}-{len(table)}")
def test_a_table_survives_a_socket_bit_for_bit(table: tables.Table) -> None:
    again = tables.from_wire(table.to_wire())
    assert type(again) is type(table)
    assert again.to_wire() == table.to_wire()
    assert repr(again) == repr(table)
    assert list(again.paths) == list(table.paths)


@pytest.mark.parametrize("table", [latest(), stats(), above(), top()], ids=lambda table: type(table).__name__)
def test_what_is_no_table_is_a_protocol_error(table: tables.Table) -> None:
    name, plain, paths, columns = table.to_wire()
    dtype, shape, raw = columns[0]
    for wrong in (
        [], [name, plain, paths], ["Nope", plain, paths, columns], [name, {}, paths, columns],
        [name, {**plain, "more": 1}, paths, columns], [name, plain, b"\xff\n", columns], [name, plain, "text", columns],
        [name, plain, paths[:-5], columns], [name, plain, b"", columns], [name, plain, paths, columns[1:]],
        [name, plain, paths, [["<f2", shape, raw], *columns[1:]]], [name, plain, paths, [[dtype, [2], raw], *columns[1:]]],
        [name, plain, paths, [[dtype, shape, raw[:-1]], *columns[1:]]],
        [name, plain, paths, [[dtype, shape, None], *columns[1:]]],
        [name, plain, paths, [7, *columns[1:]]],
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="no table"):
            tables.from_wire(wrong)


def test_paths_are_a_sequence_with_their_parts() -> None:
    assert PATHS.texts == ["fritz/f1", "fritz/f2/hwthread7", "fritz/f3/accelerator00:1/mig0"]
    assert [str(path) for path in PATHS] == PATHS.texts
    assert (PATHS[1].type, PATHS[1].type_id, PATHS[-1].subtype_id) == ("hwthread", "7", "0")
    assert PATHS[:2] == Paths.of([PATHS[0], PATHS[1]])
    assert PATHS[::-2].texts == [PATHS.texts[2], PATHS.texts[0]]
    assert len(Paths("")) == 0
    assert list(Paths("")) == []
    assert hash(PATHS) == hash(Paths.of(list(PATHS)))
    assert list(PATHS) != PATHS
    with pytest.raises(IndexError):
        PATHS[3]
    many = Paths.of([LevelPath("c", f"h{i}") for i in range(1000)])
    assert len(repr(many)) < 200
    assert "990 more" in repr(many)


def test_a_table_shows_its_first_rows_and_says_why_one_is_empty() -> None:
    lines = repr(latest()).split("\n")
    assert lines[0] == "Latest load [procs]: 3 rows, 2 with a value"
    assert lines[1].split() == ["fritz/f1", "1.5", "2023-11-14T22:13:20Z"]
    assert lines[2].split(maxsplit=1) == ["fritz/f2/hwthread7", "no such host"]
    assert "9223372036854775808" in repr(top())
    assert "no samples in range" in repr(stats())
    assert repr(above()).split("\n")[0] == "Above load: 3 of 10 series above 80 for 300 s"
    assert repr(latest(0)) == "Latest load [procs]: 0 rows, 0 with a value"


def test_some_rows_of_a_table_are_a_table() -> None:
    some = stats().taken(np.array([2, 0]))
    assert some.paths.texts == [PATHS.texts[2], PATHS.texts[0]]
    assert (some.counts.tolist(), some.quantiles.tolist()) == ([1, 2], [[7.0], [1.0]])


# --- stacks


def series(rng: random.Random) -> Series:
    n = rng.choice([0, 1, 5, 2880])
    kind = rng.choice(["f4", "f8", "u8", "rows"])
    labels = {
        "cluster": "fritz",
        "host": f"f{rng.randrange(9)}",
        "metric": "load",
        "unit": rng.choice(["", "a b"]),
    }
    if kind == "rows":
        values = np.zeros(n, [("reads", "<u8"), ("seconds", "<f8")])
        values["reads"] = rng.randrange(9)
        valid = np.ones((n, 2), np.bool_)
        valid[: n // 2, 0] = False
        values["reads"][: n // 2] = 0
        return Series(values, 60, 0, valid=valid, stamps_ms=np.arange(n) * 7, **labels)
    if kind == "u8":
        valid = np.array([rng.random() < 0.7 for _ in range(n)], np.bool_)
        values = np.where(valid, np.arange(n, dtype=np.uint64) + np.uint64(2**60), np.uint64(0))
        return Series(values, -60, 10, valid=valid, why="none", **labels)
    values = np.array([rng.choice([NAN, rng.random()]) for _ in range(n)], kind)
    coverage = np.arange(n, dtype=np.uint32) if rng.random() < 0.5 else None
    stamps = np.arange(n) * 1000 if coverage is None and rng.random() < 0.3 else None
    return Series(
        values, 120, 0 if stamps is not None else 60, coverage=coverage, stamps_ms=stamps, n_series=rng.randrange(4),
        aggregation="sum", **labels,
    )  # fmt: skip


def same(one: Series, other: Series) -> bool:
    wire, again = one.to_wire(), other.to_wire()
    return wire == again and one.valid.tolist() == other.valid.tolist() and one.path == other.path


@given(st.integers(0, 2**32), st.integers(0, 12))
def test_a_stack_is_its_series_bit_for_bit(seed: int, n: int) -> None:
    rng = random.Random(seed)
    given_ = [series(rng) for _ in range(n)]
    stack = stacked.stacked(given_)
    found = stacked.unstacked(stack)
    assert len(found) == n
    assert all(same(one, other) for one, other in zip(given_, found, strict=True))
    views = stacked.Stack(*(memoryview(bytes(part)) for part in stack))
    assert all(same(one, other) for one, other in zip(given_, stacked.unstacked(views), strict=True))


def test_series_of_a_stack_can_be_copied_and_have_texts_that_hold_line_ends() -> None:
    odd = Series(np.zeros(1, np.float32), 0, 60, "a\nb", metric="m")
    (found,) = stacked.unstacked(stacked.stacked([odd]))
    assert (found.unit, found.metric, found.why) == ("a b", "m", "")
    for again in (copy.copy(found), pickle.loads(pickle.dumps(found))):
        assert (again.unit, again.metric, again.values.tolist()) == ("a b", "m", [0.0])
    with pytest.raises(AttributeError):
        found.nothing  # noqa: B018


def test_answers_are_series_and_lists_of_them() -> None:
    given_ = [Series(np.full(1, float(i)), 0, 60) for i in range(4)]
    counts = np.array([-1, 2, 0, -1], np.int64).tobytes()
    one, two, none, last = stacked.answers(counts, stacked.stacked(given_))
    assert isinstance(one, Series)
    assert isinstance(two, list)
    assert [len(two), none, last.values.tolist()] == [2, [], [3.0]]  # type: ignore[union-attr]
    for wrong in ([-1, 2, -1, -1], [-1, 2], [-2, 3], [4, -1], [2**40]):
        with pytest.raises(ProtocolError):
            stacked.answers(np.array(wrong, np.int64).tobytes(), stacked.stacked(given_))
    with pytest.raises(ProtocolError):
        stacked.answers(counts[:-1], stacked.stacked(given_))


@given(st.integers(0, 2**32), st.integers(0, 5), st.integers(0, 400), st.integers(0, 255))
def test_a_stack_that_was_changed_is_series_or_a_protocol_error(
    seed: int, part: int, at: int, byte: int
) -> None:
    rng = random.Random(seed)
    parts = [bytearray(bytes(one)) for one in stacked.stacked([series(rng) for _ in range(3)])]
    if len(parts[part]) > at:
        parts[part][at] = byte
    else:
        parts[part] += bytes([byte])
    try:
        found = stacked.unstacked(stacked.Stack(*parts))
    except ProtocolError:
        return
    assert all(len(one.values) >= 0 and isinstance(one.metric, str) for one in found)
