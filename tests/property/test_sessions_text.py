"""A text connection stores and counts the same, however its bytes arrive and however small the ring is."""

from __future__ import annotations

import random
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from mstore import clock, limits
from mstore.ingest.text import TextSession
from tests.ingest_rig import NOW_S, IngestRig, Stored

HEADERS = st.sampled_from(
    [
        b"",
        b"# mstore cluster=c\n",
        b"# mstore precision=s cluster=d ack=memory\r\n",
        b"# mstores\n",
        b"# mstore\n",
    ]
)
KEYS = st.builds(
    lambda metric, cluster, host, more: b"%b%b%b%b" % (metric, cluster, host, more),
    st.sampled_from([b"load", b"mem\\ used", b"flops", b"ops", b"beat", b"a\\,b", b"#no"]),
    st.sampled_from([b",cluster=x", b",cluster=y", b""]),
    st.sampled_from([b",hostname=h1", b",host=h2", b",hostname=h\\=3", b"", b",hostname="]),
    st.sampled_from(
        [b"", b",type=node", b",type=core,type-id=1", b",type=core,type-id=1,stype=s,stype-id=2", b",x"]
    ),
)
VALUES = st.sampled_from(
    [b"value=1", b"value=-2.5e3", b"value=7i", b"value=8u", b"value=1e39", b"value=t", b'value="a b\\"c"', b"other=1",
     b"value=1,other=2", b"value=", b"value=NaN", b"value=18446744073709551615u"]
)  # fmt: skip
TIMES = st.sampled_from(
    [
        b"",
        b" %d" % NOW_S,
        b"  %d " % (NOW_S - 60),
        b" %d" % (1000 * NOW_S),
        b" 1",
        b" -1",
        b" x",
        b" %d" % (NOW_S + 7200),
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n# comment\n", b"\n \t\n"])
LINES = st.builds(lambda *parts: parts[0] + b" " + b"".join(parts[1:]), KEYS, VALUES, TIMES, ENDS)
LONG = st.tuples(st.sampled_from([b"1", b"x", b" "]), st.sampled_from([0, 1, 2, 70_000]))
"""What fills a line up to the longest allowed and beyond: a byte, and how many of them too many."""
NOISE = st.binary(max_size=30)
Piece = bytes | tuple[bytes, int]


@st.composite
def texts(draw: st.DrawFn) -> list[Piece]:
    """Pieces that whole() joins; long ones are shown as short."""
    pieces: list[Piece] = [*draw(st.lists(st.one_of(LINES, LINES, LINES, LINES, NOISE), max_size=60))]
    if draw(st.integers(0, 4)) == 0:
        pieces.insert(draw(st.integers(0, len(pieces))), draw(LONG))
    pieces.insert(0, draw(HEADERS))
    if draw(st.booleans()):
        pieces.append(b"load,cluster=x,hostname=h value=1")
    return pieces


def whole(pieces: list[Piece]) -> bytes:
    start = b"load,cluster=x,hostname=h value="
    return b"".join(
        one
        if isinstance(one, bytes)
        else start + one[0] * (limits.LINE_BYTES_MAX - len(start) + one[1]) + b"\n"
        for one in pieces
    )


def connect(
    text: bytes, cuts: list[int], ring_bytes: int, shared: bool, repeats: int
) -> tuple[list[Stored], bytes]:
    """What some connections that send the same text store, and the replies they get."""
    rig = IngestRig(ring_bytes=ring_bytes)
    buffer = bytearray(len(text) + 1)
    try:
        replies = b""
        for _ in range(repeats):
            session = TextSession(rig.engine)
            rest, start = b"", 0
            for cut in [*cuts, len(text)]:
                data: bytes | memoryview = rest + text[start:cut]
                if shared:
                    buffer[: len(data)] = data
                    data = memoryview(buffer)[: len(data)]

                def scribble(_effect: object) -> None:
                    buffer[:] = bytes(len(buffer))

                rest, start = rig.run(session.consume(data), before=scribble), cut
            assert rig.run(session.finish(rest)) == b""
            replies += session.reply(True)
        return rig.finish(), replies
    finally:
        rig.close()


@settings(max_examples=60)
@given(
    pieces=texts(), seed=st.integers(0, 2**32), n_cuts=st.sampled_from([0, 1, 3, 50]), shared=st.booleans()
)
def test_text_cut_anywhere_gives_the_samples_and_counts_of_one_piece(
    pieces: list[Piece], seed: int, n_cuts: int, shared: bool
) -> None:
    text = whole(pieces)
    rng = random.Random(seed)
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(n_cuts))
    with mock.patch.object(clock, "now_s", return_value=NOW_S):
        at_once = connect(text, [], 1 << 20, shared=False, repeats=2)
        cut_up = connect(text, cuts, rng.choice([512, 4096, 1 << 20]), shared, repeats=2)
    assert cut_up == at_once


@settings(max_examples=40)
@given(pieces=texts())
def test_written_rejected_and_ignored_add_up_to_the_lines_of_the_text(pieces: list[Piece]) -> None:
    text = whole(pieces)
    with mock.patch.object(clock, "now_s", return_value=NOW_S):
        stored, reply = connect(text, [], 1 << 20, shared=False, repeats=1)
    counts = [int(word.partition(b"=")[2]) for word in reply.split()[:3]]
    assert sum(counts) == sum(map(is_line, text.split(b"\n")))
    assert counts[0] == len(stored)


def is_line(line: bytes) -> bool:
    """Whether it counts: neither blank nor a comment, or too long to tell."""
    rest = line.removesuffix(b"\r").strip(b" \t")
    return len(line) > limits.LINE_BYTES_MAX or (bool(rest) and not rest.startswith(b"#"))
