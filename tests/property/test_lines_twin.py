"""The line kernels and their plain Python twin say the same about any bytes, however the bytes arrive.

A fast path skips work whose result is known; it never is another algorithm.
"""

from __future__ import annotations

import importlib.util
import random
import struct
import sys
from pathlib import Path
from types import ModuleType

from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.kernels.reference_lines_text import Refused, convert, is_number


def load_fuzzer() -> ModuleType:
    """The fuzzer's Lockstep drives these tests, too; fuzz/ is no package."""
    path = Path(__file__).resolve().parents[2] / "fuzz" / "fuzz_lines.py"
    spec = importlib.util.spec_from_file_location("fuzz_lines", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_lines"] = module
    spec.loader.exec_module(module)
    return module


fuzz = load_fuzzer()

DIGITS = st.text("0123456789", max_size=25)
NUMBERS = st.one_of(
    st.builds(
        lambda sign, whole, point, part, power: f"{sign}{whole}{point}{part}{power}".encode(),
        st.sampled_from(["", "-", "+"]), DIGITS, st.sampled_from(["", "."]), DIGITS,
        st.sampled_from(["", "e5", "E-3", "e+22", "e-27", "e300", "e-310", "e309", "e", "i", "u", "f"]),
    ),
    st.floats(allow_nan=True).map(lambda x: repr(x).encode()),
    st.integers(-(2**64), 2**65).map(lambda n: b"%di" % n),
    st.integers(0, 2**65).map(lambda n: b"%du" % n),
)  # fmt: skip
KEYS = st.sampled_from([key.encode() for key in fuzz.KEYS])
FIELDS = st.one_of(
    st.sampled_from([field.encode() for field in fuzz.FIELDS]), NUMBERS.map(lambda n: b"value=" + n)
)
STAMPS = st.one_of(
    st.sampled_from([stamp.encode() for stamp in fuzz.STAMPS]),
    st.integers(0, 10**20).map(lambda n: b" %d" % n),
)
ENDS = st.sampled_from([end.encode() for end in fuzz.ENDS])
NOISE = st.one_of(st.just(b""), st.binary(max_size=3))
LINES = st.builds(lambda *parts: b"".join(parts), KEYS, NOISE, st.just(b" "), FIELDS, STAMPS, NOISE, ENDS)
ANYTHING = st.one_of(st.lists(LINES, max_size=30).map(b"".join), st.binary(max_size=200))


@settings(max_examples=150)
@given(
    text=ANYTHING, cuts=st.lists(st.integers(0, 2000), max_size=5), repeats=st.integers(1, 3),
    max_lines=st.sampled_from([1, 2, 7, 8192]), precision=st.integers(0, 4), join=st.booleans(),
    cluster_id=st.sampled_from([0, 5]), back_s=st.sampled_from([10**6, 2 * 10**9]),
    kept_s=st.sampled_from([0, 5, 10**5]),
)  # fmt: skip
def test_kernel_and_twin_agree_on_any_text_cut_anywhere(
    text: bytes, cuts: list[int], max_lines: int, precision: int, join: bool, cluster_id: int, repeats: int,
    back_s: int, kept_s: int,
) -> None:  # fmt: skip
    lockstep = fuzz.Lockstep(
        max_lines, precision=precision, join=join, cluster_id=cluster_id, ring_bytes=4096, back_s=back_s,
        kept_s=kept_s,
    )  # fmt: skip
    for _ in range(repeats):  # the second time the keys are known, the third time their order is
        start = 0
        for cut in sorted(min(cut, len(text)) for cut in cuts):
            lockstep.feed(text[start:cut])
            start = cut
        lockstep.feed(text[start:] + b"\n")
    lockstep.feed(b"", final=True)
    assert lockstep.pending == b""


@settings(max_examples=300)
@given(number=NUMBERS, type_=st.integers(0, 3), kind=st.integers(1, 2))
def test_numbers_are_what_python_reads(number: bytes, type_: int, kind: int) -> None:
    """Through the whole kernel: one known key of that type, once the long way and once the fast way."""
    key = b"m,host=h,cluster=c"
    lockstep = fuzz.Lockstep()
    lockstep.known[key, 0] = fuzz.Target(1 << 32 | 5, type_, kind)
    lockstep.publish()
    line = key + b" value=" + number + b" %d\n" % fuzz.NOW_S
    lockstep.feed((line * 3) + b"#" * 100)
    lockstep.finish_batch()
    try:
        expected = 3 * bool(is_number(number) and convert(number, type_, kind))
    except Refused:
        expected = 0
    assert lockstep.written == expected


def doubles_read(texts: list[bytes]) -> list[float]:
    """What the kernel makes of these numbers in a series of doubles, all in one batch."""
    key = b"m,host=h,cluster=c"
    lockstep = fuzz.Lockstep()
    lockstep.known[key, 0] = fuzz.Target(1 << 32 | 5, 2, 1)
    lockstep.publish()
    lines = b"".join(key + b" value=" + text + b" %d\n" % fuzz.NOW_S for text in texts)
    at = lockstep.scanner.scan(lockstep.batch, lines, 0, len(lines), final=True, **lockstep.arguments)
    assert at == len(lines)
    assert lockstep.batch.encode(lockstep.writer)
    return doubles_of(lockstep.drain())


def test_decimals_round_correctly_to_doubles(seed: int) -> None:
    """All ways of conversion: eight digits at once, exact doubles, 128-bit integers, strtod."""
    rng = random.Random(seed)
    for digits, low, high in (
        (8, -9, 9),
        (17, -22, 22),
        (19, -27, 27),
        (19, -27, 8),
        (19, -27, 27),
        (30, -350, 270),
    ):
        texts = []
        for _ in range(8000):
            text = b"%d" % rng.randrange(10 ** rng.randint(1, digits))
            at = rng.randrange(len(text) + 1)
            text = rng.choice((text, text[:at] + b"." + text[at:]))
            exponent = rng.randint(low, high)
            texts.append(rng.choice((text + b"e%d" % exponent, text + b"e%d" % exponent, b"-" + text)))
        assert doubles_read(texts) == [float(text) for text in texts]


def test_quotients_just_above_a_tie_round_up(seed: int) -> None:
    """One in 2,048 nineteen-digit quotients, cut to 64 bits, looks like a tie: the remainder must tell."""
    rng = random.Random(seed)
    for _ in range(5):
        texts = [b"%de-%d" % (rng.randrange(10**18, 10**19), rng.randint(1, 27)) for _ in range(8000)]
        assert doubles_read(texts) == [float(text) for text in texts]


def test_a_digit_far_behind_decides_a_tie() -> None:
    tie = b"9007199254740993"
    far = b"0" * 900
    texts = [
        tie,
        tie + b"." + far,
        tie + b"." + far + b"1",
        tie + far + b"1e-901",
        b"0." + far + tie + far + b"1e916",
    ]
    texts += [b"1" + far * 3 + b"e-2700", b"%d" % (10**25 + 1), b"9" * 20, b"9" * 19, b"9" * 18]
    assert doubles_read(texts) == [float(text) for text in texts]
    assert doubles_read(texts)[:4] == [2.0**53, 2.0**53, 2.0**53 + 2, 2.0**53 + 2]


def doubles_of(records: bytes) -> list[float]:
    """The values of ROW and SCATTER records of doubles, in order."""
    found: list[float] = []
    at = 0
    while at < len(records):
        kind, _, _, count = struct.unpack_from("<HBBI", records, at)
        at += 24 + (8 * count if kind == 4 else 0)
        found += struct.unpack_from(f"<{count}d", records, at)
        at += 8 * count
    return found


def test_a_seeded_round_of_the_fuzzer_finds_no_difference(seed: int) -> None:
    rounds = random.Random(seed)
    lines = sum(fuzz.one_round(rounds.randrange(2**31)) for _ in range(100))
    assert lines > 1000
