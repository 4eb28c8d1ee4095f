"""Frames from bytes: whole, in pieces, broken."""

import struct
from collections.abc import Container

import pytest

from mstore import errors, limits
from mstore.ipc import framing


def _frames(*bodies: bytes) -> bytes:
    return b"".join(framing.encode_frame(3, i, body) for i, body in enumerate(bodies))


def test_header_is_sixteen_little_endian_bytes() -> None:
    assert framing.header(7, 0x01020304, 0x1122334455667788) == bytes.fromhex(
        "c107000004030201 8877665544332211"
    )
    assert framing.HEADER_BYTES == 16


def test_frames_in_one_piece_are_views_of_it() -> None:
    data = _frames(b"", b"a", b"bc" * 1000)
    found = list(framing.FrameDecoder().feed(data))
    assert [(frame.tag, frame.request_id, bytes(frame.body)) for frame in found] == [
        (3, 0, b""),
        (3, 1, b"a"),
        (3, 2, b"bc" * 1000),
    ]
    assert all(frame.body.obj is data for frame in found)


def test_frame_byte_by_byte_is_delivered_once_at_its_last_byte() -> None:
    decoder = framing.FrameDecoder()
    data = _frames(b"hello", b"world")
    found = [(i, bytes(frame.body)) for i in range(len(data)) for frame in decoder.feed(data[i : i + 1])]
    assert found == [(20, b"hello"), (41, b"world")]
    assert decoder.pending_bytes == 0


def test_body_in_pieces_survives_reuse_of_the_callers_buffer() -> None:
    decoder = framing.FrameDecoder()
    buffer = bytearray(_frames(b"x" * 100))
    assert list(decoder.feed(memoryview(buffer)[:50])) == []
    rest = bytes(buffer[50:])
    buffer[:] = bytes(len(buffer))
    (frame,) = decoder.feed(rest)
    assert bytes(frame.body) == b"x" * 100


def test_large_body_is_received_in_place() -> None:
    decoder = framing.FrameDecoder()
    body = bytes(range(256)) * 4096
    data = memoryview(_frames(body, b"next"))
    position, found, direct = 0, [], 0
    while position < len(data):
        space = decoder.receive_buffer()
        n = min(len(space), len(data) - position, 200_000)
        space[:n] = data[position : position + n]
        direct += isinstance(space.obj, bytearray) and len(space.obj) >= len(body)
        position += n
        found += [bytes(frame.body) for frame in decoder.received(n)]
    assert found == [body, b"next"]
    assert direct >= 4


def test_recycled_body_is_used_for_the_next_frame_of_that_size() -> None:
    decoder = framing.FrameDecoder()
    data = _frames(b"a" * 100_000)
    first = next(frame for part in (data[:50], data[50:]) for frame in decoder.feed(part))
    storage = first.body.obj
    decoder.recycle(first.body)
    second = next(frame for part in (data[:50], data[50:]) for frame in decoder.feed(part))
    assert second.body.obj is storage
    assert bytes(second.body) == b"a" * 100_000


def test_spares_are_shared_and_fit_frames_of_about_the_same_size() -> None:
    spares: list[bytearray] = []
    one, other = (framing.FrameDecoder(spares=spares) for _ in range(2))

    def receive(decoder: framing.FrameDecoder, body: bytes) -> framing.Frame:
        data = _frames(body)
        return next(frame for part in (data[:50], data[50:]) for frame in decoder.feed(part))

    first = receive(one, b"a" * 100_000)
    one.recycle(first.body)
    one.recycle(first.body)
    assert len(spares) == 1, "a body is given back once"
    second = receive(other, b"b" * 100_050)
    assert second.body.obj is first.body.obj
    assert bytes(second.body) == b"b" * 100_050
    assert not spares
    other.recycle(second.body)
    small = receive(other, b"c" * 1000)
    assert small.body.obj is not second.body.obj


def test_body_that_is_a_view_of_the_callers_bytes_is_not_recycled() -> None:
    spares: list[bytearray] = []
    decoder = framing.FrameDecoder(spares=spares)
    frame = next(decoder.feed(bytearray(_frames(b"abc"))))
    decoder.recycle(frame.body)
    assert not spares


def test_unfinished_frame_remembers_when_it_began() -> None:
    decoder = framing.FrameDecoder()
    data = _frames(b"ab", b"cd")
    assert list(decoder.feed(data[:5], now_s=1.0)) == []
    assert decoder.pending_since == 1.0
    assert list(decoder.feed(data[5:10], now_s=2.0)) == []
    assert (decoder.pending_since, decoder.pending_bytes) == (1.0, 10)
    assert len(list(decoder.feed(data[10:20], now_s=3.0))) == 1
    assert decoder.pending_since == 3.0, "another frame began with these bytes"
    assert len(list(decoder.feed(data[20:], now_s=4.0))) == 1
    assert decoder.pending_since is None


@pytest.mark.parametrize("first", [0x00, 0x63, 0x81, 0xFF])
def test_wrong_first_byte_is_refused_with_one_byte_seen(first: int) -> None:
    with pytest.raises(errors.ProtocolError, match=f"{first:#04x}"):
        list(framing.FrameDecoder().feed(bytes([first])))


def test_length_beyond_the_limit_is_refused_before_anything_is_allocated() -> None:
    decoder = framing.FrameDecoder(limit=1000)
    with pytest.raises(errors.FrameTooLarge, match="1001 bytes; at most 1000") as caught:
        list(decoder.feed(framing.header(3, 1001, 9)))
    assert caught.value.details == {"length": 1001, "limit": 1000, "request_id": 9}
    assert decoder.pending_bytes == 0


def test_default_limit_is_that_of_limits() -> None:
    assert list(framing.FrameDecoder().feed(framing.header(3, limits.FRAME_BYTES_MAX, 0))) == []
    with pytest.raises(errors.FrameTooLarge):
        list(framing.FrameDecoder().feed(framing.header(3, limits.FRAME_BYTES_MAX + 1, 0)))


@pytest.mark.parametrize(("tags", "tag"), [(framing.ALL_TAGS, 0), (frozenset({1, 3}), 2)])
def test_unknown_tag_is_refused_at_the_header(tags: Container[int], tag: int) -> None:
    with pytest.raises(errors.UnknownMessage, match=f"tag {tag}"):
        list(framing.FrameDecoder(tags=tags).feed(framing.header(tag, 10, 0)))


def test_flags_are_refused_in_this_version() -> None:
    with pytest.raises(errors.ProtocolError, match="flags 0x0001"):
        list(framing.FrameDecoder().feed(struct.pack("<BBHIQ", 0xC1, 3, 1, 0, 0)))


def test_frames_before_a_broken_one_are_delivered_and_the_decoder_stays_broken() -> None:
    decoder = framing.FrameDecoder()
    steps = decoder.feed(_frames(b"good") + b"cpu value=1")
    assert bytes(next(steps).body) == b"good"
    with pytest.raises(errors.ProtocolError):
        next(steps)
    with pytest.raises(errors.ProtocolError):
        list(decoder.feed(_frames(b"good")))
    assert decoder.pending_since is None


def test_body_too_long_for_the_length_field_is_refused() -> None:
    with pytest.raises(errors.FrameTooLarge):
        framing.header(3, 1 << 32, 0)
