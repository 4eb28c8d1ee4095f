"""The ring: what is published is read, in order and whole; what is not published never happened."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.errors import InvariantBroken
from mstore.kernels import reference_ring
from mstore.kernels._ring import (
    RingReader,
    RingWriter,
    create_ring_words,
    load_u32,
    load_u64,
    store_u32,
    store_u64,
)
from mstore.kernels._segment import Segment
from mstore.shm import layout

SIZE = 1024


def record(length: int, fill: int = 0) -> bytes:
    return struct.pack("<HBBI", layout.REC_LEVEL, 0, 0, length) + bytes([fill & 0xFF]) * (length - 8)


def row(count: int) -> bytes:
    values = np.arange(count, dtype="<f8").tobytes()
    return struct.pack("<HBBIIIq", layout.REC_ROW, layout.TYPE_F64, 0, count, 1, 1, 0) + values


def make(size: int = SIZE, position: int = 0) -> tuple[Segment, RingWriter, RingReader]:
    segment = Segment(bytearray(layout.RING_DATA + size), True)
    create_ring_words(segment, size, position)
    return segment, RingWriter(segment), RingReader(segment)


def drain(reader: RingReader, upto: int | None = None) -> bytes:
    """All that is published, as the persister takes it, made durable at once."""
    taken = b""
    start, stop = reader.drained(), reader.head() if upto is None else upto
    while start < stop:
        view = reader.view(start, SIZE)
        taken += bytes(view)
        start += len(view)
    reader.set_drained(start)
    reader.set_durable(start)
    return taken


def without_pads(text: bytes) -> list[bytes]:
    found = []
    while text:
        length = reference_ring.record_length(text)
        if text[:2] != bytes(2):
            found.append(text[:length])
        text = text[length:]
    return found


def test_new_ring_is_empty_and_all_of_it_is_room() -> None:
    _, writer, reader = make()
    assert (reader.head(), reader.drained(), reader.durable()) == (0, 0, 0)
    assert (writer.room(), reader.ring_bytes()) == (SIZE, SIZE)
    assert bytes(reader.view(0, SIZE)) == b""
    assert reader.validate(0, 0) == 0


def test_nothing_is_visible_before_it_is_published() -> None:
    _, writer, reader = make()
    assert writer.put(record(24, 1))
    assert (reader.head(), writer.head(), writer.position()) == (0, 0, 24)
    assert bytes(reader.view(0, SIZE)) == b""
    assert writer.publish() == reader.head() == writer.head() == 24
    assert bytes(reader.view(0, SIZE)) == record(24, 1)


def test_full_ring_refuses_and_has_room_again_only_when_durable() -> None:
    _, writer, reader = make()
    for _ in range(SIZE // 64):
        assert writer.put(record(64))
    assert not writer.put(record(8))
    head = writer.publish()
    reader.set_drained(head)
    assert not writer.put(record(8)), "logged and applied is not yet durable"
    assert writer.room() == 0
    reader.set_durable(64)
    assert writer.room() == 64
    assert writer.put(record(64))
    assert not writer.put(record(8))


def test_record_that_does_not_fit_before_the_end_is_preceded_by_a_pad() -> None:
    segment, writer, reader = make()
    for _ in range(3):
        assert writer.put(record(320, 1))
    writer.publish()
    assert len(drain(reader)) == 960
    assert writer.put(record(128, 2))
    assert writer.publish() == SIZE + 128
    at_end = reader.view(960, SIZE)
    assert bytes(at_end[:8]) == struct.pack("<HBBI", layout.REC_PAD, 0, 0, 64)
    assert len(at_end) == 64, "a view ends at the end of the ring"
    assert bytes(reader.view(SIZE, SIZE)) == record(128, 2)
    assert reader.validate(960, SIZE + 128) == 2
    assert segment.length == layout.RING_DATA + SIZE


def test_record_that_ends_exactly_at_the_end_needs_no_pad() -> None:
    _, writer, reader = make()
    assert writer.put(record(512))
    assert writer.put(record(512, 3))
    assert writer.publish() == SIZE
    assert reader.validate(0, SIZE) == 2
    drain(reader)
    assert writer.put(record(16, 4))
    assert writer.publish() == SIZE + 16
    assert bytes(reader.view(SIZE, SIZE)) == record(16, 4)


def test_pad_is_written_only_together_with_the_room_for_its_record() -> None:
    _, writer, reader = make()
    for _ in range(3):
        assert writer.put(record(320))
    writer.publish()
    reader.set_drained(960)
    reader.set_durable(64)
    assert not writer.put(record(128)), "64 bytes at the end and 64 at the beginning are not 128 in one piece"
    assert writer.position() == 960
    assert writer.put(record(64))


def test_view_takes_whole_records_within_its_limit() -> None:
    _, writer, reader = make()
    for count in (1, 2, 3):
        assert writer.put(row(count))
    writer.publish()
    assert [len(row(n)) for n in (1, 2, 3)] == [32, 40, 48]
    assert [len(reader.view(0, limit)) for limit in (32, 71, 72, 119, 120, 999)] == [32, 32, 72, 72, 120, 120]
    with pytest.raises(ValueError, match="shorter than the record"):
        reader.view(0, 31)


def test_view_is_read_only_and_keeps_the_memory_alive() -> None:
    segment, writer, reader = make()
    assert writer.put(record(24, 9))
    writer.publish()
    view = reader.view(0, SIZE)
    assert view.readonly
    del segment, writer, reader
    assert bytes(view) == record(24, 9)


def test_new_writer_continues_at_the_published_head() -> None:
    segment, writer, reader = make()
    assert writer.put(record(24, 1))
    writer.publish()
    assert writer.put(record(40, 2))
    successor = RingWriter(segment)
    assert successor.position() == 24
    assert successor.put(record(16, 3))
    successor.publish()
    assert without_pads(drain(reader)) == [record(24, 1), record(16, 3)]


def test_positions_go_on_counting_past_32_bits() -> None:
    start = 2**40 - 64
    _, writer, reader = make(position=start)
    for fill in range(40):
        while not writer.put(record(48, fill)):
            writer.publish()
            drain(reader)
    writer.publish()
    drain(reader)
    assert reader.durable() == writer.position() > 2**40


@pytest.mark.parametrize("bad", [b"", bytes(7), bytes(SIZE // 2 + 8)])
def test_put_refuses_what_could_never_fit_or_is_not_aligned(bad: bytes) -> None:
    _, writer, _ = make()
    with pytest.raises(ValueError, match="multiple of 8"):
        writer.put(bad)


@pytest.mark.parametrize("ring_bytes", [0, 32, 1000, SIZE * 2, 2**32])
def test_ring_size_must_be_a_power_of_two_that_fits(ring_bytes: int) -> None:
    segment = Segment(bytearray(layout.RING_DATA + SIZE), True)
    with pytest.raises(ValueError, match=r"power of two|cannot hold"):
        create_ring_words(segment, ring_bytes)


@pytest.mark.parametrize("size", [0, 1000, SIZE * 2, 2**63])
def test_damaged_ring_size_is_refused_by_both_sides(size: int) -> None:
    segment, _, _ = make()
    store_u64(segment, layout.RING_SIZE, size)
    for side in (RingWriter, RingReader):
        with pytest.raises(InvariantBroken, match="ring size"):
            side(segment)


def test_damaged_positions_are_refused_and_give_no_room() -> None:
    segment, writer, reader = make()
    assert writer.put(record(64))
    writer.publish()
    store_u64(segment, layout.RING_DURABLE, 128)
    assert writer.room() == 0
    assert not writer.put(record(64))
    with pytest.raises(InvariantBroken, match="ring positions broken"):
        RingWriter(segment)
    with pytest.raises(InvariantBroken, match="ring positions broken"):
        reader.view(0, SIZE)


def test_reader_positions_never_go_back_nor_pass_each_other() -> None:
    _, writer, reader = make()
    assert writer.put(record(64))
    writer.publish()
    with pytest.raises(InvariantBroken, match="drained"):
        reader.set_drained(72)
    with pytest.raises(InvariantBroken, match="durable"):
        reader.set_durable(8)
    reader.set_drained(64)
    with pytest.raises(InvariantBroken, match="drained"):
        reader.set_drained(0)
    reader.set_durable(64)
    assert (reader.drained(), reader.durable()) == (64, 64)


def test_read_only_mapping_can_read_but_not_move_anything() -> None:
    memory = bytearray(layout.RING_DATA + SIZE)
    writable = Segment(memory, True)
    create_ring_words(writable, SIZE)
    writer = RingWriter(writable)
    assert writer.put(record(24))
    writer.publish()
    read_only = Segment(memory, False)
    reader = RingReader(read_only)
    assert bytes(reader.view(0, SIZE)) == record(24)
    with pytest.raises(ValueError, match="read-only"):
        reader.set_drained(24)
    with pytest.raises(ValueError, match="read-only"):
        RingWriter(read_only)
    with pytest.raises(ValueError, match="read-only"):
        create_ring_words(read_only, SIZE)
    with pytest.raises(ValueError, match="read-only"):
        store_u64(read_only, 0, 1)


def test_damaged_record_is_found_by_validate_and_by_a_limited_view() -> None:
    segment, writer, reader = make()
    for _ in range(3):
        assert writer.put(record(24))
    writer.publish()
    store_u64(segment, layout.RING_DATA + 24, 0)
    with pytest.raises(InvariantBroken, match="malformed record at ring position 24"):
        reader.validate(0, 72)
    with pytest.raises(InvariantBroken, match="malformed record at ring position 24"):
        reader.view(0, 64)


def test_pad_in_the_middle_of_the_ring_is_found_by_validate() -> None:
    _, writer, reader = make()
    assert writer.put(struct.pack("<HBBI", layout.REC_PAD, 0, 0, 24) + bytes(16))
    writer.publish()
    with pytest.raises(InvariantBroken, match="PAD"):
        reader.validate(0, 24)


@pytest.mark.parametrize(("start", "stop"), [(8, 4), (0, 32), (4, 24)])
def test_span_outside_the_published_bytes_is_refused(start: int, stop: int) -> None:
    _, writer, reader = make()
    assert writer.put(record(24))
    writer.publish()
    with pytest.raises(InvariantBroken, match="ring positions broken"):
        reader.validate(start, stop)


@pytest.mark.parametrize("offset", [4, layout.RING_DATA + SIZE, layout.RING_DATA + SIZE - 4, 2**40])
def test_word_outside_the_segment_or_across_a_boundary_is_refused(offset: int) -> None:
    segment, _, _ = make()
    with pytest.raises(IndexError):
        load_u64(segment, offset)
    with pytest.raises(IndexError):
        store_u64(segment, offset, 0)
    with pytest.raises(IndexError):
        load_u32(segment, offset | 2)


def test_words_are_stored_and_loaded_alone() -> None:
    segment, _, _ = make()
    last = layout.RING_DATA + SIZE - 8
    store_u64(segment, last, 2**64 - 1)
    store_u32(segment, last, 7)
    assert load_u64(segment, last) == (2**32 - 1) << 32 | 7
    assert load_u32(segment, last + 4) == 2**32 - 1
    assert load_u64(segment, last - 8) == 0


operations = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 64)),
    st.tuples(st.just("put"), st.integers(1, 8)),
    st.tuples(st.just("publish"), st.just(0)),
    st.tuples(st.just("view"), st.integers(8, SIZE)),
    st.tuples(st.just("drain"), st.integers(8, SIZE)),
    st.tuples(st.just("durable"), st.just(0)),
    st.tuples(st.just("kill"), st.just(0)),
)


@given(st.lists(operations, max_size=120), st.integers(0, 2**35).map(lambda n: n * 8))
def test_ring_and_its_naive_twin_agree_byte_for_byte(steps: list[tuple[str, int]], position: int) -> None:
    segment, writer, reader = make(position=position)
    twin = reference_ring.Ring(SIZE, position)
    for number, (what, n) in enumerate(steps):
        if what == "put":
            assert writer.put(record(8 * n, number)) == twin.put(record(8 * n, number))
        elif what == "publish":
            assert writer.publish() == twin.publish()
        elif what in ("view", "drain"):
            outcome = []
            for ring in (reader, twin):
                try:
                    outcome.append(bytes(ring.view(twin.drained, n)))
                except ValueError as error:
                    outcome.append(str(error).encode())
            assert outcome[0] == outcome[1]
            if what == "drain" and not outcome[0].startswith(b"limit"):
                twin.drained += len(outcome[0])
                reader.set_drained(twin.drained)
        elif what == "durable":
            twin.durable = twin.drained
            reader.set_durable(twin.durable)
        else:
            writer = RingWriter(segment)
            twin.abandon()
        assert writer.position() == twin.position
        assert writer.room() == twin.room()
        assert (reader.head(), reader.drained(), reader.durable()) == (twin.head, twin.drained, twin.durable)
        reader.validate(twin.durable, twin.head)
        assert bytes(memoryview(segment_bytes(segment))[layout.RING_DATA :]) == bytes(twin.data)


def segment_bytes(segment: Segment) -> bytes:
    return b"".join(load_u64(segment, at).to_bytes(8, "little") for at in range(0, segment.length, 8))


def test_everything_published_comes_out_once_and_in_order_over_many_wraps(seed: int) -> None:
    rng = random.Random(seed)
    _, writer, reader = make()
    sent: list[bytes] = []
    got: list[bytes] = []
    for number in range(5000):
        made = record(8 * rng.randint(1, 64), number)
        while not writer.put(made):
            writer.publish()
            got += without_pads(drain(reader))
        sent.append(made)
        if rng.random() < 0.3:
            writer.publish()
        if rng.random() < 0.1:
            got += without_pads(drain(reader))
    writer.publish()
    got += without_pads(drain(reader))
    assert got == sent
    assert reader.head() > 100 * SIZE
