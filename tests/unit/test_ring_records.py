"""How long a record is, told by its first bytes: all who write and read rings and logs must agree on it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.kernels import _ring, reference_ring
from mstore.limits import RUN_VALUES_MAX, STAMPED_COLUMNS_MAX
from mstore.shm import layout

F32, F64, U64 = layout.TYPE_F32, layout.TYPE_F64, layout.TYPE_U64


def run(kind: int, vtype: int, count: int, payload: int) -> bytes:
    return struct.pack("<HBBIIIq", kind, vtype, 0, count, 1, 1, 0) + bytes(payload)


def record(kind: int, length: int) -> bytes:
    return struct.pack("<HBBI", kind, 0, 0, length) + bytes(max(0, length - 8))


@pytest.mark.parametrize(
    ("made", "length"),
    [
        (run(layout.REC_ROW, F32, 1, 8), 32),
        (run(layout.REC_ROW, F32, 2, 8), 32),
        (run(layout.REC_ROW, F32, 3, 16), 40),
        (run(layout.REC_ROW, F64, 3, 24), 48),
        (run(layout.REC_ROW, U64, RUN_VALUES_MAX, 8 * RUN_VALUES_MAX), 24 + 8 * RUN_VALUES_MAX),
        (run(layout.REC_COLUMN, F32, 3, 8 + 16), 48),
        (run(layout.REC_COLUMN, F64, 1, 8 + 8), 40),
        (run(layout.REC_STAMPED, 1, 2, 2 * 16), 56),
        (run(layout.REC_STAMPED, STAMPED_COLUMNS_MAX, 3, 3 * 512), 24 + 3 * 512),
        (run(layout.REC_SCATTER, F32, 3, 24 + 16), 64),
        (run(layout.REC_SCATTER, U64, 3, 24 + 24), 72),
        (record(layout.REC_PAD, 8), 8),
        (record(layout.REC_PAD, 4096), 4096),
        (record(layout.REC_LEVEL, 48), 48),
        (record(999, 16), 16),
    ],
)
def test_length_of_each_kind_of_record(made: bytes, length: int) -> None:
    assert len(made) == length
    assert _ring.record_length(made) == reference_ring.record_length(made) == length
    assert _ring.record_length(made + b"more") == length


@pytest.mark.parametrize(
    "made",
    [
        b"",
        b"\x10\0\0\0",
        record(layout.REC_PAD, 0),
        record(layout.REC_PAD, 12) + bytes(8),
        record(layout.REC_LEVEL, 0),
        record(layout.REC_LEVEL, 4) + bytes(64),
        record(layout.REC_LEVEL, 100) + bytes(64),
        run(5, F32, 1, 64),
        run(15, F32, 1, 64),
        run(layout.REC_ROW, 0, 1, 64),
        run(layout.REC_ROW, 4, 1, 64),
        run(layout.REC_ROW, F32, 0, 64),
        run(layout.REC_ROW, F32, RUN_VALUES_MAX + 1, 64 * 1024),
        run(layout.REC_ROW, F64, 2**32 - 1, 64),
        run(layout.REC_STAMPED, 0, 1, 64),
        run(layout.REC_STAMPED, STAMPED_COLUMNS_MAX + 1, 1, 1024),
    ],
)
def test_malformed_record_has_length_zero(made: bytes) -> None:
    assert _ring.record_length(made) == reference_ring.record_length(made) == 0


@pytest.mark.parametrize(
    "kind", [layout.REC_ROW, layout.REC_COLUMN, layout.REC_STAMPED, layout.REC_SCATTER, 16]
)
def test_record_cut_short_anywhere_has_length_zero(kind: int) -> None:
    whole = record(16, 64) if kind == 16 else run(kind, F64, 2, 64)
    length = _ring.record_length(whole)
    assert length > 24
    for cut in range(length):
        assert _ring.record_length(whole[:cut]) == reference_ring.record_length(whole[:cut]) == 0


@given(
    kind=st.integers(0, 20) | st.integers(0, 65535),
    vtype=st.integers(0, 70),
    count=st.integers(0, 40) | st.integers(0, 2**32 - 1),
    payload=st.integers(0, 400),
)
def test_both_twins_measure_any_header_alike(kind: int, vtype: int, count: int, payload: int) -> None:
    made = run(kind, vtype, count, payload)
    assert _ring.record_length(made) == reference_ring.record_length(made)
