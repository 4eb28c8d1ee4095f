"""The column kernels and their plain Python twin make the same records, bit for bit, whatever the ring's size."""

from __future__ import annotations

import random
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.kernels import reference_columns as twin
from mstore.kernels._columns import ColumnEncoder, RowEncoder
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words, record_length
from mstore.kernels._segment import Segment
from mstore.shm import layout

SPECIAL = {
    1: [struct.pack("<f", x) for x in (0.0, -0.0, 1e-45, float("nan"), float("inf"), -float("inf"))]
    + [bytes.fromhex("010080ff"), bytes.fromhex("ffff7f7f")],
    2: [struct.pack("<d", x) for x in (0.0, -0.0, 5e-324, float("nan"), float("inf"), -float("inf"))]
    + [bytes.fromhex("010000000000f07f"), bytes.fromhex("ffffffffffffef7f")],
    3: [bytes(8), b"\xff" * 8, b"\xfe" + b"\xff" * 7],
}


class SmallRing:
    """A ring that is drained whenever it is full, from a position that is not its beginning."""

    def __init__(self, ring_bytes: int, position: int) -> None:
        self.segment = Segment(bytearray(layout.RING_DATA + ring_bytes), True)
        create_ring_words(self.segment, ring_bytes, position)
        self.writer, self.reader = RingWriter(self.segment), RingReader(self.segment)
        self.ring_bytes = ring_bytes
        self.n_rooms = 0

    def take(self, encoder: ColumnEncoder | RowEncoder) -> bytes:
        """Everything the encoder puts into the ring, PADs left out."""
        found = b""
        while not encoder.encode(self.writer):
            self.n_rooms += 1
            assert self.n_rooms < 10_000, "the ring never has room"
            found += self.drain()
        return found + self.drain()

    def drain(self) -> bytes:
        start, head = self.reader.drained(), self.writer.publish()
        self.reader.validate(start, head)
        found = b""
        while start < head:
            view = bytes(self.reader.view(start, self.ring_bytes))
            start += len(view)
            while view:
                n = record_length(view)
                found += view[:n] if view[:2] != b"\0\0" else b""
                view = view[n:]
        self.reader.set_drained(head)
        self.reader.set_durable(head)
        return found


def frame(
    rng: random.Random, vtype: int, n: int, m: int, holes: float, jumps: float
) -> tuple[list[int], list[int], bytes]:
    """References mostly in slot order, times mostly a minute apart, values with holes."""
    refs, slot = [], rng.randrange(1 << 20)
    for _ in range(n):
        slot = rng.randrange(1 << 31) if rng.random() < jumps else slot + 1
        refs.append((7 if rng.random() < jumps / 4 else 1) << 32 | slot)
    times, t = [], 1_700_000_000
    for _ in range(m):
        t += rng.choice([60, 60, 60, 60, 61, 0, -120, 1 << 40, -(1 << 41)]) if rng.random() < jumps else 60
        times.append(t)
    size = 4 if vtype == 1 else 8
    values = b"".join(
        rng.choice(SPECIAL[vtype]) if rng.random() < holes else rng.randbytes(size) for _ in range(n * m)
    )
    return refs, times, values


SHAPES = st.one_of(
    st.tuples(st.integers(0, 200), st.integers(0, 15)), st.tuples(st.integers(0, 8), st.integers(16, 300))
)
RINGS = st.sampled_from([128, 256, 1024, 4096, 1 << 16, 1 << 21])


@settings(max_examples=200)
@given(
    shape=SHAPES, vtype=st.sampled_from([1, 2, 3]), seed=st.integers(0, 2**32), ring_bytes=RINGS,
    holes=st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]), jumps=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    offset=st.integers(0, 7),
)  # fmt: skip
def test_columns_become_the_records_of_the_twin(
    shape: tuple[int, int], vtype: int, seed: int, ring_bytes: int, holes: float, jumps: float, offset: int
) -> None:
    rng = random.Random(seed)
    refs, times, values = frame(rng, vtype, *shape, holes, jumps)
    ring = SmallRing(ring_bytes, 8 * rng.randrange(1000))

    def unaligned(data: bytes) -> memoryview:
        return memoryview(bytes(offset) + data)[offset:]

    packed = [struct.pack(f"<{len(refs)}Q", *refs), struct.pack(f"<{len(times)}q", *times), values]
    encoder = ColumnEncoder(*map(unaligned, packed), vtype)
    records, n_written, n_bad = twin.encode_columns(refs, times, values, vtype, ring_bytes)
    assert ring.take(encoder) == b"".join(records)
    assert (encoder.n_written, encoder.n_bad) == (n_written, n_bad)
    assert n_written + n_bad == len(refs) * len(times)


@settings(max_examples=150)
@given(
    n=st.integers(0, 300), k=st.sampled_from([1, 2, 5, 63]), seed=st.integers(0, 2**32),
    holes=st.sampled_from([0.0, 0.1, 0.7, 1.0]), ring_bytes=st.sampled_from([2048, 1 << 14, 1 << 21]),
    offset=st.integers(0, 7),
)  # fmt: skip
def test_rows_become_the_records_of_the_twin(
    n: int, k: int, seed: int, holes: float, ring_bytes: int, offset: int
) -> None:
    rng = random.Random(seed)
    types = [rng.choice([2, 3]) for _ in range(k)]
    words = [
        [
            int.from_bytes(rng.choice(SPECIAL[kind]) if rng.random() < holes else rng.randbytes(8), "little")
            for kind in types
        ]
        for _ in range(n)
    ]
    stamps = [rng.randrange(1 << 50) for _ in range(n)]
    ref = 5 << 32 | rng.randrange(1 << 20)
    ring = SmallRing(ring_bytes, 8 * rng.randrange(1000))
    packed_stamps = memoryview(bytes(offset) + struct.pack(f"<{n}q", *stamps))[offset:]
    packed = memoryview(bytes(offset) + b"".join(struct.pack(f"<{k}Q", *row) for row in words))[offset:]
    encoder = RowEncoder(ref, packed_stamps, packed, bytes(types))
    records, n_written, n_bad = twin.encode_rows(ref, stamps, words, types, ring_bytes)
    assert ring.take(encoder) == b"".join(records)
    assert (encoder.n_written, encoder.n_bad) == (n_written, n_bad)
