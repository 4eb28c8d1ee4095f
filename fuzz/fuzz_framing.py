"""Throw mutated frames at the decoder and the codec.

    python fuzz/fuzz_framing.py [--runs N] [--seconds S] [--seed N]

Holds when nothing but ProtocolError (and its kinds) comes out, no frame is larger than the limit, and what is
accepted encodes to itself again. Prints its seed first; the same seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import random
import time

import msgpack

from mstore.errors import ProtocolError
from mstore.ipc import framing
from mstore.ipc import messages as m

LIMIT = 1 << 16

SEEDS: list[m.Message] = [
    m.Hello(1, "ingest"),
    m.Lines(b"cpu,hostname=a value=1 1700000000\n" * 200, "s"),
    m.Open([["c", "h", "m", "core", "1", "", ""]] * 20),
    m.Opened(bytes(80), bytes(20), [[3, "series_limit"]]),
    m.Columns(bytes(8), bytes(16), bytes(16), 1),
    m.Rows(3, bytes(16), bytes(32)),
    m.Query("c", "h", "m", 0, 3600, "core", ["1", "2"]),
    m.Answer(True, [[{"unit": "W"}, bytes(40), "<f4", 0, 60, bytes(40), None]]),
    m.Written(1, 2, 3, {"bad_syntax": 2}, True),
    m.InfoReply({"a": {"b": [1, 2.0, None]}}),
    m.Intern(b"c", b"abc", bytes(16), bytes(8)),
    m.Error("timeout", "late"),
]


def mutate(data: bytearray, rng: random.Random) -> None:
    """One to six changes: bytes set, cut, copied or inserted; often early, where the lengths are."""
    for _ in range(rng.randint(1, 6)):
        if not data:
            return
        at = rng.randrange(min(len(data), rng.choice((4, 20, 64, len(data)))))
        match rng.randrange(5):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + rng.randint(1, 8)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 40)]


def one_run(rng: random.Random) -> int:
    """Feed one mutated stream in random pieces; how many messages were accepted."""
    stream = bytearray(
        b"".join(m.encode(rng.choice(SEEDS), rng.randrange(9)) for _ in range(rng.randint(1, 4)))
    )
    mutate(stream, rng)
    decoder = framing.FrameDecoder(LIMIT, m.TAGS if rng.random() < 0.8 else framing.ALL_TAGS)
    accepted, position = 0, 0
    while position < len(stream):
        n = rng.choice((1, 7, 16, 100, len(stream)))
        piece = bytes(stream[position : position + n])
        position += n
        try:
            for frame in decoder.feed(piece, 0.0):
                assert len(frame.body) <= LIMIT
                accepted += check_body(frame)
        except ProtocolError:
            return accepted
    return accepted


def check_body(frame: framing.Frame) -> bool:
    try:
        message = m.decode_frame(frame)
    except ProtocolError:
        return False
    again = m.decode(frame.tag, m.encode_body(message))
    # NaN is not equal to itself: compare what is sent.
    assert msgpack.packb(m.encode_body(again)) == msgpack.packb(m.encode_body(message))
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    args = parser.parse_args()
    print(f"seed {args.seed}")
    rng = random.Random(args.seed)
    began = time.monotonic()
    runs = accepted = 0
    while runs < args.runs and time.monotonic() - began < args.seconds:
        accepted += one_run(rng)
        runs += 1
    print(f"{runs} streams, {accepted} messages accepted, {runs / (time.monotonic() - began):.0f} streams/s")


if __name__ == "__main__":
    main()
