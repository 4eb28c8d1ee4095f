"""Frames and messages against arbitrary bytes, cuts and values."""

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from mstore.errors import ProtocolError
from mstore.ipc import checks, framing
from mstore.ipc import messages as m

NAMES = st.text(max_size=20)
COUNTS = st.integers(0, 2**63)
U32 = st.integers(0, 2**32 - 1)
PATHS = st.lists(st.lists(NAMES, min_size=7, max_size=7), max_size=5)
BINS = st.one_of(
    st.binary(max_size=50),
    st.builds(bytes.__mul__, st.binary(min_size=1, max_size=1), st.integers(65_500, 65_600)),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
IDS = st.none() | NAMES | st.lists(NAMES, max_size=4)

MESSAGES = st.one_of(
    st.builds(
        m.Hello, st.integers(1, 9), st.sampled_from(m.ROLES), st.sampled_from(m.ACKS), NAMES,
        st.sampled_from(m.PRECISIONS), NAMES, U32,
    ),
    st.builds(m.Lines, BINS, st.sampled_from(m.PRECISIONS), U32),
    st.builds(m.Written, COUNTS, COUNTS, COUNTS, st.dictionaries(NAMES, COUNTS, max_size=3), st.booleans()),
    st.builds(m.Open, PATHS, st.none(), U32),
    st.builds(m.Opened, BINS, BINS, st.lists(st.tuples(U32, NAMES).map(list), max_size=3)),
    st.builds(m.Columns, BINS, BINS, BINS, st.integers(1, 3), U32),
    st.builds(m.Rows, U32, BINS, BINS, U32),
    st.builds(
        m.Query, NAMES, NAMES, NAMES, st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62),
        st.none() | NAMES, IDS, st.none() | NAMES, IDS, st.booleans(), st.integers(0, 2**31 - 1), U32,
    ),
    st.builds(m.Done, st.dictionaries(NAMES, PLAIN, max_size=4)),
    st.builds(m.Intern, BINS, BINS, BINS, BINS, U32),
)  # fmt: skip


@given(MESSAGES, st.integers(0, 2**64 - 1))
def test_any_message_survives_a_round_trip(message: m.Message, request_id: int) -> None:
    data = b"".join(m.encode_parts(message, request_id))
    assert data == m.encode(message, request_id)
    (frame,) = framing.FrameDecoder(tags=m.TAGS).feed(data)
    assert frame.request_id == request_id
    assert m.decode_frame(frame) == message


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(1, 70), min_size=1), st.booleans())
def test_frames_do_not_depend_on_how_their_bytes_are_cut(
    bodies: list[bytes], cuts: list[int], own: bool
) -> None:
    data = b"".join(framing.encode_frame(1 + i % 255, i, body) for i, body in enumerate(bodies))
    decoder = framing.FrameDecoder()
    found: list[tuple[int, int, bytes]] = []
    position = 0
    for i in range(len(data)):
        n = min(cuts[i % len(cuts)], len(data) - position)
        if own:
            space = decoder.receive_buffer()
            space[:n] = data[position : position + n]
            frames = decoder.received(n)
        else:
            frames = decoder.feed(data[position : position + n])
        found += [(tag, request_id, bytes(body)) for tag, request_id, body in frames]
        position += n
    assert position == len(data)
    assert found == [(1 + i % 255, i, body) for i, body in enumerate(bodies)]
    assert decoder.pending_bytes == 0
    assert decoder.pending_since is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_frames_or_a_protocol_error(data: bytes) -> None:
    decoder = framing.FrameDecoder(limit=1000)
    try:
        n = sum(len(frame.body) + framing.HEADER_BYTES for frame in decoder.feed(data))
    except ProtocolError:
        return
    assert n + decoder.pending_bytes == len(data)


@given(st.sampled_from(sorted(m.TAGS)), st.binary(max_size=80) | PLAIN.map(msgpack.packb))
def test_arbitrary_bodies_are_messages_or_a_protocol_error(tag: int, body: bytes) -> None:
    try:
        message = m.decode(tag, body)
    except ProtocolError:
        return
    assert m.decode(tag, m.encode_body(message)) == message


@given(st.lists(st.integers(0, 2**64 - 1) | BINS | st.text(max_size=40), max_size=15))
def test_quick_splitter_agrees_with_msgpack(values: list[object]) -> None:
    body = msgpack.packb(values)
    found = checks.split_bulk(body)
    if found is not None:
        assert found == values


@given(st.binary(max_size=60))
def test_quick_splitter_never_reads_what_msgpack_refuses(body: bytes) -> None:
    found = checks.split_bulk(body)
    if found is not None:
        assert msgpack.unpackb(body) == found
