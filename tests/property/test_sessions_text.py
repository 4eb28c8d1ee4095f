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
LONG = st.builds(
    lambda fill, extra: (
        b"load,cluster=x,hostname=h value=" + fill * (limits.LINE_BYTES_MAX - 33 + extra) + b"\n"
    ),
    st.sampled_from([b"1", b"x"]),
    st.sampled_from([0, 1, 2, 70_000]),
)
NOISE = st.binary(max_size=30)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.one_of(LINES, LINES, LINES, LINES, NOISE), max_size=60))
    if draw(st.integers(0, 4)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(LONG))
    text = draw(HEADERS) + b"".join(lines)
    return text.removesuffix(b"\n") if draw(st.booleans()) else text


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
@given(text=texts(), seed=st.integers(0, 2**32), n_cuts=st.sampled_from([0, 1, 3, 50]), shared=st.booleans())
def test_text_cut_anywhere_gives_the_samples_and_counts_of_one_piece(
    text: bytes, seed: int, n_cuts: int, shared: bool
) -> None:
    rng = random.Random(seed)
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(n_cuts))
    with mock.patch.object(clock, "now_s", return_value=NOW_S):
        whole = connect(text, [], 1 << 20, shared=False, repeats=2)
        pieces = connect(text, cuts, rng.choice([512, 4096, 1 << 20]), shared, repeats=2)
    assert pieces == whole


@settings(max_examples=40)
@given(text=texts())
def test_written_rejected_and_ignored_add_up_to_the_lines_of_the_text(text: bytes) -> None:
    with mock.patch.object(clock, "now_s", return_value=NOW_S):
        stored, reply = connect(text, [], 1 << 20, shared=False, repeats=1)
    lines = [one.removesuffix(b"\r").strip(b" \t") for one in text.split(b"\n")]
    counted = [one for one in lines if one and not one.startswith(b"#")]
    counts = [int(word.partition(b"=")[2]) for word in reply.split()[:3]]
    assert sum(counts) == len(counted)
    assert counts[0] == len(stored)
