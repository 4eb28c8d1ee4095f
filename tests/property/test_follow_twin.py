"""What is picked out of a log block: the kernel and its naive twin give the same samples."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.kernels import _follow, reference_follow

SLOTS = 20
NEVER = 2**63 - 1
slots = st.integers(0, SLOTS + 3)  # some beyond the table
generations = st.integers(0, 3)
times = st.integers(-(10**9), 2**40)
counts = st.integers(1, 6)
VALUES = {
    1: st.floats(width=32),
    2: st.floats(),
    3: st.integers(0, 2**64 - 1) | st.just(2**64 - 1),
}
LETTERS = {1: "f", 2: "d", 3: "Q"}


def padded(record: bytes) -> bytes:
    return record + bytes(-len(record) % 8)


@st.composite
def runs(draw: st.DrawFn) -> bytes:
    kind, vtype, n = draw(st.sampled_from((1, 2, 3, 4))), draw(st.integers(1, 3)), draw(counts)
    slot, generation, t = draw(slots), draw(generations), draw(times)
    head = struct.pack("<HBBIIIq", kind, vtype, 0, n, slot, generation, t)
    if kind == 3:
        rows = [
            struct.pack(f"<q{vtype}Q", draw(times), *draw(st.tuples(*[VALUES[3]] * vtype))) for _ in range(n)
        ]
        return head + b"".join(rows)
    body = struct.pack(f"<{n}{LETTERS[vtype]}", *(draw(VALUES[vtype]) for _ in range(n)))
    if kind == 2:
        body = struct.pack("<q", draw(st.integers(-3600, 3600))) + body
    if kind == 4:
        refs = b"".join(struct.pack("<II", draw(slots), draw(generations)) for _ in range(n))
        head = struct.pack("<HBBIIIq", kind, vtype, 0, n, 0, 0, t)
        body = refs + body
    return padded(head + body)


def other(kind: int) -> bytes:
    return struct.pack("<HBBI", kind, 0, 0, 24) + bytes(16)


records = runs() | st.sampled_from([0, 16, 17, 18, 19, 20, 21, 24, 25]).map(other)


@given(
    st.lists(records, max_size=12),
    st.dictionaries(st.integers(0, SLOTS - 1), generations),
    st.integers(0, 30),
)
def test_the_kernel_picks_what_its_twin_picks(parts: list[bytes], wanted: dict[int, int], limit: int) -> None:
    payload = b"".join(parts)
    table = np.zeros(SLOTS, np.uint32)
    for slot, generation in wanted.items():
        table[slot] = generation
    expected, left_out, changed = reference_follow.pick(payload, wanted, limit)

    found_slots, stamps_ms, types, words, n_left_out, left_out_ms, defines = _follow.pick(
        payload, table, limit
    )

    assert found_slots.tolist() == [sample[0] for sample in expected]
    assert stamps_ms.tolist() == [sample[1] for sample in expected]
    assert types.tolist() == [sample[2] for sample in expected]
    assert words.tolist() == [word for sample in expected for word in sample[3]]
    assert n_left_out == len(left_out)
    assert left_out_ms == min(left_out, default=NEVER)
    assert defines == changed


@given(st.lists(runs(), min_size=1, max_size=3), st.integers(1, 7))
def test_a_block_cut_within_a_record_is_refused(parts: list[bytes], n: int) -> None:
    payload = b"".join(parts)
    with pytest.raises(ValueError, match="malformed"):
        _follow.pick(payload[: len(payload) - n], np.zeros(SLOTS, np.uint32), 100)


def test_nothing_is_picked_from_nothing() -> None:
    found = _follow.pick(b"", np.zeros(0, np.uint32), 10)
    assert [len(part) for part in found[:4]] == [0, 0, 0, 0]
    assert found[4:] == (0, NEVER, False)
