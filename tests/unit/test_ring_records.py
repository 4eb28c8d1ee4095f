"""How long a record is, told by its first bytes: all who write and read rings and logs must agree on it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.errors import InvariantBroken
from mstore.kernels import _ring, reference_ring
from mstore.kernels._samples import STOPPED_OTHER
from mstore.kernels._segment import Segment
from mstore.limits import RUN_VALUES_MAX, STAMPED_COLUMNS_MAX
from mstore.shm import layout
from tests.samples_rig import Rig

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


MALFORMED = [
    (b"", "cut short: 0 bytes"),
    (b"\x10\0\0\0", "cut short: 4 bytes"),
    (record(layout.REC_PAD, 0), "type 0 with a length of 0: expected a multiple of 8"),
    (record(layout.REC_PAD, 12) + bytes(8), "type 0 with a length of 12: expected a multiple of 8"),
    (record(layout.REC_LEVEL, 13) + bytes(8), "type 16 with a length of 13: expected a multiple of 8"),
    (record(layout.REC_LEVEL, 100) + bytes(64), "length of 100"),
    (record(layout.REC_LEVEL, 104)[:64], "type 16 cut short: 64 bytes"),
    (run(5, F32, 1, 64), "type 5 does not exist"),
    (run(layout.REC_ROW, 0, 1, 64), "values of type 0: expected 1 to 3"),
    (run(layout.REC_COLUMN, 4, 1, 64), "values of type 4: expected 1 to 3"),
    (run(layout.REC_ROW, F32, 0, 64), "type 1 with a count of 0: expected 1 to 8192"),
    (run(layout.REC_STAMPED, 1, 0, 64), "type 3 with a count of 0"),
    (run(layout.REC_SCATTER, F32, RUN_VALUES_MAX + 1, 64 * 1024), "count of 8193"),
    (run(layout.REC_STAMPED, STAMPED_COLUMNS_MAX + 1, 1, 1024), "64 columns: expected 1 to 63"),
    (run(layout.REC_ROW, F64, 2, 8), "type 1 cut short: 32 bytes"),
]


@pytest.mark.parametrize(("made", "why"), MALFORMED)
def test_a_malformed_record_is_refused_by_name_by_all_who_walk_records(made: bytes, why: str) -> None:
    assert why in _ring.record_fault(made)
    for call in (apply, need):
        if made:
            with pytest.raises(ValueError, match=f"malformed record at offset 0: .*{why}"):
                call(made)
    if made and len(made) % 8 == 0:
        with pytest.raises(InvariantBroken, match=f"malformed record at ring position 0: .*{why}"):
            walk_ring(made)


def apply(records: bytes) -> int:
    with Rig() as rig:
        rig.add(60, count=20)
        rig.add(0)
        result = rig.kernel.apply(records)
        assert result.why != STOPPED_OTHER or int.from_bytes(records[:2], "little") >= layout.REC_LEVEL
        return len(records)


def need(records: bytes) -> int:
    with Rig() as rig:
        assert rig.kernel.need(records, 0) >= 0
        return len(records)


def walk_ring(records: bytes) -> int:
    """Put bytes into a ring as one record, whatever they are, and check the ring."""
    segment = Segment(bytearray(layout.RING_DATA + (1 << 18)), True)
    _ring.create_ring_words(segment, 1 << 18)
    writer, reader = _ring.RingWriter(segment), _ring.RingReader(segment)
    assert writer.put(records)
    assert reader.validate(0, writer.publish()) == 1
    return len(records)


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
    length = reference_ring.record_length(made)
    assert _ring.record_length(made) == length
    assert (_ring.record_fault(made) == "") == (length > 0)


@given(
    kind=st.sampled_from([layout.REC_ROW, layout.REC_COLUMN, layout.REC_STAMPED, layout.REC_SCATTER, 16, 40]),
    vtype=st.integers(0, 4),
    count=st.integers(0, 5) | st.sampled_from([13, 24, 32, RUN_VALUES_MAX, RUN_VALUES_MAX + 1]),
    payload=st.integers(0, 20),
)
def test_ring_samples_and_twin_take_the_same_headers_for_whole(
    kind: int, vtype: int, count: int, payload: int
) -> None:
    made = run(kind, vtype, count, 8 * payload)
    length = reference_ring.record_length(made)
    for call in (apply, need, walk_ring):
        if length:
            assert call(made[:length]) == length
        else:
            with pytest.raises((ValueError, InvariantBroken), match="malformed record"):
                call(made)
