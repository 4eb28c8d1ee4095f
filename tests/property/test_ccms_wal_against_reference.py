"""The kernel that finds the records of a log and its naive twin find the same ones."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.kernels import _ccms_wal, reference_ccms_wal

NAME = st.binary(max_size=6)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    metric, levels = draw(NAME), draw(st.lists(NAME, max_size=3))
    payload = struct.pack("<qH", draw(st.integers(-(2**63), 2**63 - 1)), len(metric)) + metric
    payload += bytes([len(levels)]) + b"".join(bytes([len(one)]) + one for one in levels)
    payload += draw(st.binary(min_size=4, max_size=4)) + draw(st.sampled_from([b"", b"", b"x"]))
    crc = zlib.crc32(payload) ^ draw(st.sampled_from([0, 0, 0, 1]))
    return struct.pack("<II", _ccms_wal.RECORD_MAGIC, len(payload)) + payload + struct.pack("<I", crc)


def same(data: bytes, start: int, n_max: int) -> bool:
    pairs = zip(_ccms_wal.scan(data, start, n_max), reference_ccms_wal.scan(data, start, n_max), strict=True)
    return all(
        one == other if isinstance(one, int) else np.array_equal(one, other) and one.dtype == other.dtype
        for one, other in pairs
    )


@given(st.lists(records(), max_size=8), st.binary(max_size=30), st.integers(0, 9))
def test_both_find_the_same_records(found: list[bytes], rest: bytes, n_max: int) -> None:
    data = b"".join(found) + rest
    for n in (n_max, 100):
        assert same(data, 0, n)
        assert same(data, min(len(data), len(found[0]) if found else 0), n)


def test_both_number_more_series_than_the_first_table_holds() -> None:
    def record(i: int) -> bytes:
        metric = b"metric%d" % i
        payload = struct.pack("<qH", i, len(metric)) + metric + b"\0" + struct.pack("<f", i)
        head = struct.pack("<II", _ccms_wal.RECORD_MAGIC, len(payload))
        return head + payload + struct.pack("<I", zlib.crc32(payload))

    data = b"".join(record(i % 3000) for i in range(9000))
    assert same(data, 0, 1 << 20)
    assert len(_ccms_wal.scan(data, 0, 1 << 20)[5]) == 3000


def test_both_know_the_same_numbers() -> None:
    names = ("RECORD_MAGIC", "PAYLOAD_BYTES_MAX", "RECORD_BYTES_MIN", "END", "FULL", "BAD_MAGIC", "BAD_LENGTH",
             "SHORT", "BAD_CRC")  # fmt: skip
    assert {name: getattr(_ccms_wal, name) for name in names} == {
        name: getattr(reference_ccms_wal, name) for name in names
    }


def test_a_start_outside_the_buffer_is_an_error() -> None:
    with pytest.raises(ValueError, match="start 3 of 2 bytes"):
        _ccms_wal.scan(b"xx", 3, 1)
