"""The reference's files: what is written is read back bit for bit, and no damage is a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mstore.compat.bin_snapshot import read_bin, write_bin
from mstore.compat.contents import Checkpoint, Points, Stretch
from mstore.compat.json_checkpoint import read_json, write_json
from mstore.compat.wal import LogReader, write_wal
from mstore.errors import CorruptRecord
from mstore.kernels import _ccms_wal

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)
LEVELS = st.lists(NAMES, max_size=3).map(tuple)
F32 = hnp.arrays(np.uint32, st.integers(0, 20)).map(lambda words: words.view(np.float32))
FINITE = hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32, allow_infinity=False))
TIMES = st.integers(-(10**9), 10**10)


def stretches(values: st.SearchStrategy[np.ndarray]) -> st.SearchStrategy[list[Stretch]]:
    one = st.builds(Stretch, LEVELS, NAMES, TIMES, st.integers(1, 10**5), values)
    return st.lists(one, max_size=6, unique_by=lambda stretch: (stretch.levels, stretch.metric))


def plain(found: Checkpoint) -> list[tuple[object, ...]]:
    return sorted(
        (one.levels, one.metric, one.start, one.step_s, bits(one.values)) for one in found.stretches
    )


def bits(values: np.ndarray) -> list[int]:
    """Of float32 values; which of the NaN it is does not matter."""
    narrow = values.astype(np.float32)
    return [-1 if np.isnan(value) else int(value.view(np.uint32)) for value in narrow]


@given(st.integers(0, 10**10), stretches(F32))
def test_a_snapshot_is_read_back_bit_for_bit(start: int, given: list[Stretch]) -> None:
    wanted = Checkpoint(start, start + 1, given)
    found = read_bin(write_bin(wanted))
    assert (found.start, found.end) == (start, start + 1)
    assert plain(found) == plain(wanted)
    assert write_bin(found) == write_bin(wanted)


@given(st.integers(0, 10**10), stretches(FINITE))
def test_json_is_read_back_to_the_same_float32_bits(start: int, given: list[Stretch]) -> None:
    wanted = Checkpoint(start, start + 1, given)
    found = read_json(write_json(wanted))
    assert (found.start, found.end) == (start, start + 1)
    assert plain(found) == plain(wanted)


@given(hnp.arrays(np.float64, 20, elements=st.floats(allow_infinity=False)), hnp.arrays(np.uint64, 20))
def test_json_keeps_every_bit_of_wider_values(floats: np.ndarray, counts: np.ndarray) -> None:
    written = write_json(Checkpoint(0, 1, [Stretch((), "f", 0, 1, floats), Stretch((), "u", 0, 1, counts)]))
    text = written.decode()
    assert np.array_equal(read_json(written).stretches[0].values, floats, equal_nan=True)
    assert text[text.index('"u"') :].count(",") >= 20
    assert all(f"{count}" in text for count in counts.tolist())


@st.composite
def logs(draw: st.DrawFn) -> list[Points]:
    series = st.tuples(LEVELS, NAMES, st.lists(TIMES, min_size=1, max_size=8))
    found = draw(st.lists(series, max_size=5, unique_by=lambda one: one[:2]))
    values = st.integers(0, 2**32 - 1)
    return [
        Points(levels, metric, np.array(sorted(times), np.int64),
               np.array([draw(values) for _ in times], np.uint32).view(np.float32))
        for levels, metric, times in found
    ]  # fmt: skip


def read_log(data: bytes) -> tuple[LogReader, list[Points]]:
    reader = LogReader(data)
    return reader, [one for piece in reader.pieces() for one in piece]


@given(logs())
def test_a_log_is_read_back_bit_for_bit_in_the_order_of_time(given: list[Points]) -> None:
    reader, found = read_log(write_wal(given))
    assert reader.damage == []
    assert sorted((p.levels, p.metric, p.times.tolist(), p.values.view(np.uint32).tolist()) for p in found) == sorted(
        (p.levels, p.metric, p.times.tolist(), p.values.view(np.uint32).tolist()) for p in given
    )  # fmt: skip


SMALL = Checkpoint(
    1000,
    1180,
    [
        Stretch((), "cpu_load", 1000, 60, np.array([0.5, np.nan, 2.5], np.float32)),
        Stretch(("socket0",), "mem_bw", 1060, 60, np.array([100.0], np.float32)),
    ],
)
SMALL_LOG = [
    Points((), "cpu_load", np.array([1000, 1060, 1120]), np.array([0.5, 1.5, 2.5], np.float32)),
    Points(("socket0",), "mem_bw", np.array([1030]), np.array([100.0], np.float32)),
]


def damaged(whole: bytes) -> list[bytes]:
    """Every truncation, and every byte with one bit or all of them changed."""
    cut = [whole[:n] for n in range(len(whole))]
    flipped = [
        whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :]
        for at in range(len(whole))
        for change in (1, 0x80, 0xFF)
    ]
    return cut + flipped


def read_or_refused(read: Callable[[bytes], Any], data: bytes) -> Any:
    """What was read, or the refusal, whose place is one of the file."""
    try:
        return read(data)
    except CorruptRecord as error:
        refusal = error
    assert 0 <= refusal.details["offset"] <= len(data)
    return refusal


def test_a_snapshot_cut_anywhere_is_refused() -> None:
    whole = write_bin(SMALL)
    for n in range(len(whole)):
        with pytest.raises(CorruptRecord):
            read_bin(whole[:n])


def test_json_cut_anywhere_is_refused() -> None:
    whole = write_json(SMALL)
    for n in range(len(whole)):
        with pytest.raises(CorruptRecord):
            read_json(whole[:n])


def test_a_changed_byte_of_a_snapshot_is_refused_or_changes_what_it_says() -> None:
    """Without a checksum a value, a name or a time that was changed stays what it is; nothing else may happen."""
    whole, n_refused = write_bin(SMALL), 0
    for data in damaged(whole)[len(whole) :]:
        found = read_or_refused(read_bin, data)
        if isinstance(found, CorruptRecord):
            n_refused += 1
        else:
            assert len(write_bin(found)) == len(whole)
    assert n_refused > len(whole)


def test_a_changed_byte_of_json_is_refused_or_changes_what_it_says() -> None:
    whole = write_json(SMALL)
    for data in damaged(whole)[len(whole) :]:
        assert read_or_refused(read_json, data) is not None


def test_every_damage_to_a_log_costs_the_damaged_record_and_is_told() -> None:
    whole = write_wal(SMALL_LOG)
    edges = [_ccms_wal.scan(whole, 4, n)[0] for n in range(5)]
    for data in damaged(whole):
        reader = LogReader(data)
        try:
            found = [one for piece in reader.pieces() for one in piece]
        except CorruptRecord:
            assert len(data) < edges[1]
            continue
        n = sum(len(one.times) for one in found)
        if len(data) == len(whole):
            assert n >= 3
            assert reader.damage, "a byte was changed, and nobody was told"
        else:
            assert bool(reader.damage) == (len(data) not in (0, *edges))
            assert n == sum(edge <= len(data) for edge in edges[1:])
        known = {
            (p.levels, p.metric): dict(zip(p.times.tolist(), p.values.tolist(), strict=True))
            for p in SMALL_LOG
        }
        for one in found:
            for t, value in zip(one.times.tolist(), one.values.tolist(), strict=True):
                assert known[one.levels, one.metric][t] == value


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_anything_at_all_is_read_or_refused(data: bytes) -> None:
    for read in (read_bin, read_json, read_log):
        for prefix in (b"", write_bin(SMALL)[:20], write_wal(SMALL_LOG)[:40]):
            assert read_or_refused(read, prefix + data) is not None
