"""Line protocol in, counts and records out: the rules one by one, against a small directory built by hand."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typing_extensions import Buffer

from mstore import limits
from mstore.errors import InvariantBroken
from mstore.kernels._lines import LineBatch, LineScanner
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words
from mstore.kernels._segment import Segment
from mstore.kernels.reference_eras import Era
from mstore.kernels.reference_lines import Target, build_directory
from mstore.model import Precision, Reason
from mstore.shm import layout

NOW_S = 1_725_827_464
KEY = b"cpu_load,cluster=alex,hostname=a0603,type=node"
GENERATION = 3 << 32
STEP = struct.pack("<I", 60)


class Bench:
    """A scanner over some known keys, one batch and one ring."""

    def __init__(
        self,
        known: dict[tuple[bytes, int], Target],
        max_lines: int = 8192,
        ring_bytes: int = 1 << 20,
        **more: Any,
    ) -> None:
        self.directory = build_directory(layout, known, **more)
        self.segment = Segment(self.directory)
        self.scanner = LineScanner(self.segment)
        self.batch = LineBatch(max_lines)
        ring = Segment(bytearray(layout.RING_DATA + ring_bytes), writable=True)
        create_ring_words(ring, ring_bytes)
        self.writer, self.reader = RingWriter(ring), RingReader(ring)

    def scan(self, text: Buffer, start: int = 0, **changed: Any) -> int:
        arguments = {
            "final": True, "cluster_id": 0, "precision": Precision.AUTO, "now_s": NOW_S,
            "oldest_s": NOW_S - 86400, "newest_s": NOW_S + 3600, "config_version": 7, "join": False,
        }  # fmt: skip
        return self.scanner.scan(self.batch, text, start, len(memoryview(text)), **(arguments | changed))

    def resolve(self, refs: bytes, types: bytes, kinds: bytes, steps: bytes) -> None:
        self.batch.resolve(self.segment, refs, types, kinds, steps)

    def counts(self) -> dict[str, int]:
        counts = self.batch.counts()
        return {Reason(i).public if i else "written": int(n) for i, n in enumerate(counts) if n}

    def records(self) -> list[tuple[Any, ...]]:
        """(type, vtype, count, slot, generation, t, payload) of each record."""
        assert self.batch.encode(self.writer)
        return self.drain()

    def drain(self) -> list[tuple[Any, ...]]:
        start, stop = self.reader.drained(), self.writer.publish()
        found = []
        while start < stop:
            view = bytes(self.reader.view(start, 1 << 20))
            start += len(view)
            while view:
                type_, vtype, _, count, slot, generation, t = struct.unpack_from("<HBBIIIq", view)
                if type_ == layout.REC_PAD:
                    break
                width = 4 if vtype == layout.TYPE_F32 else 8
                size = 24 + (count * width + 7) // 8 * 8
                if type_ != layout.REC_ROW:
                    size = 24 + 16 * count if type_ == layout.REC_STAMPED else size + 8 * count
                found.append((type_, vtype, count, slot, generation, t, view[24:size]))
                view = view[size:]
        self.reader.set_drained(stop)
        self.reader.set_durable(stop)
        return found


def one_key(type_: int = layout.TYPE_F32, kind: int = layout.KIND_GRID) -> Bench:
    return Bench({(KEY, 0): Target(GENERATION | 5, type_, kind)})


def grid(n: int, type_: int = layout.TYPE_F32) -> Bench:
    return Bench({(series_key(i), 0): Target(GENERATION | i, type_) for i in range(n)})


def series_key(i: int) -> bytes:
    return b"cpu_user,cluster=alex,hostname=a%03d,type=hwthread,type-id=%d" % (i // 8, i % 8)


def line(i: int, value: float = 1.5, t_s: int = NOW_S) -> bytes:
    return series_key(i) + b" value=%r %d\n" % (value, t_s)


def test_limits_and_numbers_in_c_are_those_of_the_python_modules() -> None:
    folder = Path(layout.__file__).parents[1] / "kernels"
    text = "".join(
        (folder / name).read_text() for name in ("_keys.pyx", "_lines_text.pxd", "_lines_batch.pyx")
    )
    numbers = {
        name: int(value) for name, value in re.findall(r"^    ([A-Z0-9_]+) = (\d+)", text, re.MULTILINE)
    }
    for name in (
        "NAME_BYTES_MAX",
        "LINE_TAGS_MAX",
        "KEY_BYTES_MAX",
        "LINE_BYTES_MAX",
        "LINE_FIELDS_MAX",
        "RUN_VALUES_MAX",
        "SERIES_SLOTS_MAX",
    ):
        assert numbers[name] == getattr(limits, name)
    assert numbers["PRECISION_AUTO"] == Precision.AUTO


def test_a_known_line_becomes_one_row_of_one_value() -> None:
    bench = one_key()
    text = KEY + b" value=1.25 %d\n" % NOW_S
    assert bench.scan(text) == len(text)
    assert (bench.batch.n_lines, bench.batch.n_samples, bench.batch.n_unknown) == (1, 1, 0)
    assert bench.records() == [(layout.REC_ROW, 1, 1, 5, 3, NOW_S, struct.pack("<ff", 1.25, 0))]


def test_blank_lines_and_comments_are_no_lines() -> None:
    bench = one_key()
    bench.scan(b"\n \t\n# value=1\n\r\n  # x\n" + b" \t" + KEY + b" value=1\n")
    assert bench.counts() == {"written": 1}
    assert bench.batch.n_lines == 1


def test_carriage_returns_spaces_and_a_missing_last_newline_are_accepted() -> None:
    for tail in (b"\r\n", b" \n", b"", b"\r", b"  \r\n"):
        bench = one_key()
        text = KEY + b"  value=2  %d" % NOW_S + tail
        assert bench.scan(text) == len(text)
        assert bench.counts() == {"written": 1}


def test_a_line_without_newline_waits_for_the_rest_unless_final() -> None:
    bench = one_key()
    text = KEY + b" value=2 %d" % NOW_S
    assert bench.scan(text, final=False) == 0
    assert bench.batch.n_lines == 0
    assert bench.scan(text + b"0\n", final=False) == len(text) + 2
    assert bench.counts() == {"too_far_ahead": 1}


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"", Reason.BAD_SYNTAX), (b" ", Reason.BAD_SYNTAX), (b" value", Reason.BAD_SYNTAX),
        (b" value=", Reason.BAD_SYNTAX),
        (b" =1", Reason.BAD_SYNTAX), (b" value=1,", Reason.BAD_SYNTAX), (b" value=1, a=2", Reason.BAD_SYNTAX),
        (b' value="x', Reason.BAD_SYNTAX), (b' value="x"y', Reason.BAD_SYNTAX),
        (b" other=1", Reason.UNKNOWN_FIELD), (b" value=1,other=2", Reason.UNKNOWN_FIELD),
        (b' value="1"', Reason.BAD_VALUE), (b" value=true", Reason.BAD_VALUE),
        (b" value=NaN", Reason.BAD_VALUE),
        (b" value=inf", Reason.BAD_VALUE), (b" value=1_0", Reason.BAD_VALUE),
        (b" value=0x10", Reason.BAD_VALUE),
        (b" value=1.5i", Reason.BAD_VALUE), (b" value=-5u", Reason.BAD_VALUE),
        (b" value=1e", Reason.BAD_VALUE),
        (b" value=1e39", Reason.OUT_OF_RANGE), (b" value=-3.5e38", Reason.OUT_OF_RANGE),
        (b" value=1e999", Reason.OUT_OF_RANGE),
        (b" value=1 -5", Reason.BAD_TIMESTAMP), (b" value=1 12ab", Reason.BAD_TIMESTAMP),
        (b" value=1 1 2", Reason.BAD_TIMESTAMP),
        (b" value=1 9223372036854775808", Reason.BAD_TIMESTAMP),
        (b" value=1 +1725827464", Reason.BAD_TIMESTAMP),
        (b" value=1 %d" % (NOW_S - 86401), Reason.TOO_LATE),
        (b" value=1 %d" % (NOW_S + 3601), Reason.TOO_FAR_AHEAD),
    ],
)  # fmt: skip
def test_bad_lines_are_counted_by_reason_and_their_neighbours_stored(rest: bytes, reason: Reason) -> None:
    bench = one_key()
    good = KEY + b" value=1 %d\n" % NOW_S
    bench.scan(good + KEY + rest + b"\n" + good)
    assert bench.counts() == {"written": 2, reason.public: 1}
    assert bench.batch.n_samples == 2


def test_the_borders_of_the_time_window_are_inside() -> None:
    bench = one_key()
    bench.scan(b"".join(KEY + b" value=1 %d\n" % t for t in (NOW_S - 86400, NOW_S + 3600)))
    assert bench.counts() == {"written": 2}
    bench.batch.clear()
    bench.scan(KEY + b" value=1 %d\n" % (NOW_S - 10**9), oldest_s=-(2**63))
    assert bench.counts() == {"written": 1}


def test_the_last_of_several_value_fields_wins() -> None:
    bench = one_key()
    bench.scan(KEY + b' value="x",value=1,value=2.5\n')
    assert bench.records()[0][-1] == struct.pack("<ff", 2.5, 0)


@pytest.mark.parametrize(
    ("precision", "stamp", "ms"),
    [
        (Precision.AUTO, NOW_S, NOW_S * 1000), (Precision.AUTO, NOW_S * 1000 + 7, NOW_S * 1000 + 7),
        (Precision.AUTO, NOW_S * 10**6 + 7999, NOW_S * 1000 + 7),
        (Precision.AUTO, NOW_S * 10**9 + 999, NOW_S * 1000),
        (Precision.S, NOW_S, NOW_S * 1000), (Precision.MS, NOW_S * 1000 + 999, NOW_S * 1000 + 999),
        (Precision.US, NOW_S * 10**6, NOW_S * 1000), (Precision.NS, NOW_S * 10**9, NOW_S * 1000),
    ],
)  # fmt: skip
def test_timestamps_of_every_precision_give_seconds_for_grid_and_ms_for_stamped(
    precision: Precision, stamp: int, ms: int
) -> None:
    bench = one_key()
    bench.scan(KEY + b" value=1 %d\n" % stamp, precision=precision)
    assert bench.records()[0][5] == ms // 1000
    stamped = one_key(layout.TYPE_F64, layout.KIND_STAMPED)
    stamped.scan(KEY + b" value=1 %d\n" % stamp, precision=precision)
    assert stamped.records() == [(layout.REC_STAMPED, 1, 1, 5, 3, ms, struct.pack("<qd", ms, 1.0))]


def test_a_missing_timestamp_is_now_and_not_that_of_the_line_before() -> None:
    bench = one_key()
    bench.scan(KEY + b" value=1 %d\n" % (NOW_S - 60) + KEY + b" value=2\n")
    assert [record[5] for record in bench.records()] == [NOW_S - 60, NOW_S]


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (b"7", 7), (b"7i", 7), (b"7u", 7), (b"+7", 7), (b"7.0", 7), (b"1.5e1", 15), (b"-0", 0),
        (b"-0.0e5", 0), (b"10e-1", 1),
        (b"18446744073709551614", 2**64 - 2), (b"18446744073709551614u", 2**64 - 2),
        (b"1.8446744073709551614e19", 2**64 - 2),
        (b"9223372036854775807i", 2**63 - 1), (b"0e99999999999", 0),
    ],
)  # fmt: skip
def test_whole_numbers_enter_u64_exactly(number: bytes, value: int) -> None:
    bench = one_key(layout.TYPE_U64)
    bench.scan(KEY + b" value=" + number + b"\n")
    assert bench.records()[0][-1] == struct.pack("<Q", value)


@pytest.mark.parametrize(
    "number",
    [
        b"-1",
        b"-1i",
        b"1.5",
        b"1e-1",
        b"18446744073709551615",
        b"18446744073709551615u",
        b"9223372036854775808i",
        b"1e20",
    ],
)
def test_negative_fractional_too_large_and_missing_values_do_not_enter_u64(number: bytes) -> None:
    bench = one_key(layout.TYPE_U64)
    bench.scan(KEY + b" value=" + number + b" %d\n" % NOW_S)
    assert bench.counts() == {"out_of_range": 1}


def test_f32_is_the_double_rounded_once_more() -> None:
    bench = one_key()
    texts = [b"0.1", b"16777217", b"3.4028235e38", b"1e-46", b"0.30000001192092896", b"-12.375"]
    bench.scan(b"".join(KEY + b" value=" + text + b" %d\n" % NOW_S for text in texts))
    payload = b"".join(
        record[-1][8 * record[2] if record[0] == layout.REC_SCATTER else 0 :] for record in bench.records()
    )
    assert np.frombuffer(payload, dtype="<f4").tolist() == [float(np.float32(float(text))) for text in texts]


def test_a_single_value_cannot_be_a_row_of_several_columns() -> None:
    bench = one_key(0, layout.KIND_STAMPED)
    bench.scan(KEY + b" value=1\n")
    assert bench.counts() == {"unknown_field": 1}


def test_a_key_without_cluster_belongs_to_the_default_cluster_of_its_connection() -> None:
    key = b"cpu_load,hostname=a0603"
    bench = Bench({(key, 4): Target(GENERATION | 1), (key, 9): Target(GENERATION | 2)})
    bench.scan(key + b" value=1\n", cluster_id=9)
    bench.scan(key + b" value=1\n", cluster_id=4)
    bench.scan(key + b" value=1\n", cluster_id=4)
    assert [(record[2], record[-1][:4]) for record in bench.records()] == [(3, struct.pack("<I", 2))]
    bench.batch.clear()
    bench.scan(key + b" value=1\n", cluster_id=5)
    assert bench.batch.unknown()[0] == key


def test_ignored_keys_are_counted_without_a_look_at_the_rest_of_the_line() -> None:
    word = (Reason.UNKNOWN_METRIC << 24 | 7) << 32 | layout.IGNORE_SLOT
    bench = Bench({(KEY, 0): Target(word)})
    bench.scan((KEY + b' event="broken\n') * 3)
    assert bench.counts() == {"unknown_metric": 3}


def test_an_ignored_key_ignores_no_longer_key() -> None:
    word = (Reason.UNKNOWN_METRIC << 24 | 7) << 32 | layout.IGNORE_SLOT
    bench = Bench({(series_key(0), 0): Target(GENERATION | 1), (b"m,host=a", 0): Target(word)})
    bench.scan((line(0) + b"m,host=a value=1\n") * 20 + line(0) + b"m,host=ab value=1%s\n" % (b" " * 80))
    assert bench.counts() == {"written": 21, "unknown_metric": 20}
    assert bench.batch.unknown()[0] == b"m,host=ab"


def test_a_timestamp_that_begins_like_the_last_one_is_read_anew() -> None:
    bench = one_key()
    stamps = (
        b"%d" % NOW_S,
        b"%d" % NOW_S,
        b"%d0" % NOW_S,
        b"%d0" % NOW_S,
        b"%d" % NOW_S,
        b"%d " % NOW_S,
        b"%dx" % NOW_S,
    )
    bench.scan(b"".join(KEY + b" value=1 " + stamp + b"\n" for stamp in stamps) + b"#" * 100)
    assert bench.counts() == {"written": 4, "too_far_ahead": 2, "bad_timestamp": 1}


def test_minus_zero_is_kept_as_a_decimal_and_not_as_an_integer() -> None:
    bench = one_key(layout.TYPE_F64)
    for text, sign in ((b"-0", -1), (b"-0.0", -1), (b"-0i", 1), (b"0", 1)):
        bench.scan((KEY + b" value=" + text + b" %d\n" % NOW_S) * 3 + b"#" * 100)
        (record,) = bench.records()
        assert np.sign(1 / np.copysign(1, np.frombuffer(record[-1][24:], dtype="<f8"))).tolist() == [sign] * 3
        bench.batch.clear()


def test_ignore_words_of_another_configuration_and_unpublished_keys_are_asked_for() -> None:
    for word in ((9 << 24 | 6) << 32 | layout.IGNORE_SLOT, 7 << 32 | layout.IGNORE_SLOT, 0):
        bench = Bench({(KEY, 0): Target(word)})
        bench.scan((KEY + b" value=1 %d\n" % NOW_S) * 2)
        assert bench.batch.unknown() == (KEY, struct.pack("<qq", 0, len(KEY)), struct.pack("<q", NOW_S))


def test_unknown_keys_are_listed_once_with_their_first_time_in_seconds() -> None:
    bench = Bench({})
    bench.scan(
        line(0, t_s=NOW_S - 60)
        + line(1)
        + line(0)
        + b"bad,host=\xff value=1\n"
        + line(2).replace(b"value", b"event")
    )
    keys, offsets, times = bench.batch.unknown()
    assert keys == series_key(0) + series_key(1)
    assert struct.unpack("<3q", offsets) == (0, len(series_key(0)), len(keys))
    assert struct.unpack("<2q", times) == (NOW_S - 60, NOW_S)
    assert (bench.batch.n_unknown, bench.batch.n_lines) == (2, 5)
    assert bench.counts() == {"bad_encoding": 1, "unknown_field": 1}


def test_waiting_lines_keep_their_place_before_later_lines_of_the_same_series() -> None:
    other = series_key(0) + b",unit=x"  # another spelling, not known yet
    bench = grid(1)
    bench.scan(other + b" value=1 %d\n" % NOW_S + line(0, 2.0))
    with pytest.raises(ValueError, match="wait"):
        bench.batch.encode(bench.writer)
    bench.resolve(struct.pack("<Q", GENERATION | 0), b"\x01", b"\x01", STEP)
    assert bench.counts() == {"written": 2}
    (record,) = bench.records()
    assert record[:3] == (layout.REC_SCATTER, 1, 2)
    assert record[-1][16:] == struct.pack("<ff", 1.0, 2.0)


def test_answers_may_refuse_keys_and_types_decide_late() -> None:
    bench = Bench({})
    bench.scan(line(0, -1.0) + line(1) + line(2))
    full = (Reason.SERIES_LIMIT << 24) << 32 | layout.IGNORE_SLOT
    bench.resolve(
        struct.pack("<3Q", GENERATION | 8, full, GENERATION | 9),
        b"\x03\x00\x01",
        b"\x01\x00\x01",
        3 * STEP,
    )
    assert bench.counts() == {"out_of_range": 1, "series_limit": 1, "written": 1}
    assert bench.batch.n_samples == 1
    assert len(bench.records()) == 1


def test_wrong_answers_change_nothing() -> None:
    bench = Bench({})
    bench.scan(line(0))
    for refs, types in ((b"", b"\x01"), (struct.pack("<Q", 1), b""), (struct.pack("<Q", 0), b"\x01")):
        with pytest.raises(ValueError, match="reference"):
            bench.resolve(refs, types, b"\x01", STEP)
    with pytest.raises(ValueError, match="0 steps"):
        bench.resolve(struct.pack("<Q", 1), b"\x01", b"\x01", b"")
    assert bench.batch.n_unknown == 1


def test_consecutive_slots_become_rows_and_short_runs_share_a_scatter() -> None:
    bench = grid(20)
    order = [0, 1, 2, 3, 4, 9, 12, 13, 7, 14, 15, 16, 17, 18]
    bench.scan(b"".join(line(i, float(i)) for i in order))
    rows = [(record[0], record[2], record[3]) for record in bench.records()]
    assert rows == [(layout.REC_ROW, 5, 0), (layout.REC_SCATTER, 4, 0), (layout.REC_ROW, 5, 14)]


def test_other_times_types_and_generations_start_other_records() -> None:
    known = {(series_key(i), 0): Target((3 + (i == 3)) << 32 | i, 2 if i == 4 else 1) for i in range(5)}
    bench = Bench(known)
    bench.scan(line(0) + line(1) + line(2, t_s=NOW_S - 60) + line(3) + line(4))
    found = [(record[0], record[1], record[2], record[5]) for record in bench.records()]
    assert found == [(1, 1, 2, NOW_S), (1, 1, 1, NOW_S - 60), (1, 1, 1, NOW_S), (1, 2, 1, NOW_S)]


def test_encode_stops_at_a_full_ring_and_goes_on_where_it_stopped() -> None:
    small = Bench({(series_key(i), 0): Target(GENERATION | i) for i in range(500)}, ring_bytes=1024)
    small.scan(b"".join(line(i, float(i)) for i in range(500)))
    found, calls = [], 1
    while not small.batch.encode(small.writer):
        found += small.drain()
        calls += 1
    found += small.drain()
    assert calls > 2
    slots = [record[3] + i for record in found for i in range(record[2])]
    assert slots == list(range(500))


def test_a_full_batch_leaves_the_rest_of_the_text() -> None:
    bench = Bench({(series_key(i), 0): Target(GENERATION | i) for i in range(10)}, max_lines=4)
    text = b"".join(line(i) for i in range(10))
    at, lines = 0, []
    while at < len(text):
        at = bench.scan(text, at)
        lines.append(bench.batch.n_lines)
        bench.batch.clear()
    assert lines == [4, 4, 2]


def test_over_long_lines_are_skipped_to_their_newline_even_over_several_scans() -> None:
    bench = one_key()
    long = b"x" * (limits.LINE_BYTES_MAX + 1)
    good = KEY + b" value=1 %d\n" % NOW_S
    assert bench.scan(long, final=False) == len(long)
    states = [bench.batch.skipping]
    bench.batch.clear()
    assert bench.scan(b"y" * 1000, final=False) == 1000
    assert bench.scan(b"z\n" + good, final=False) == len(good) + 2
    assert [*states, bench.batch.skipping] == [True, False]
    assert bench.counts() == {"written": 1}
    bench.batch.clear()
    bench.scan(long + b"\n" + good + b"#" + long[1:-1] + b"\n")
    assert bench.counts() == {"too_long": 1, "written": 1}


@pytest.mark.parametrize("before", [b"", b" \t ", b" " * (limits.LINE_BYTES_MAX)])
def test_a_comment_is_no_line_however_long_it_is_and_however_it_comes(before: bytes) -> None:
    bench = one_key()
    long = before + b"#" + b"x" * (3 * limits.LINE_BYTES_MAX)
    good = KEY + b" value=1 %d\n" % NOW_S
    bench.scan(good + long + b"\n" + good)
    assert (bench.counts(), bench.batch.n_lines) == ({"written": 2}, 2)
    bench.batch.clear()
    first = limits.LINE_BYTES_MAX + 1
    assert bench.scan(long[:first], final=False) == first, "an endless comment is not kept"
    assert bench.scan(long[first:], final=False) == len(long) - first
    assert bench.scan(b"still it\n" + good, final=False) == 9 + len(good)
    assert (bench.counts(), bench.batch.n_lines) == ({"written": 1}, 1)


def test_blanks_without_end_are_one_line_that_is_too_long() -> None:
    bench = one_key()
    bench.scan(b" " * (2 * limits.LINE_BYTES_MAX) + b"# too late\n")
    assert bench.counts() == {"too_long": 1}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("step_s", "kind"), [(1, 1), (60, 1), (0, 2)])
def test_a_sample_older_than_its_series_can_reach_is_too_late(known: bool, step_s: int, kind: int) -> None:
    target = Target(GENERATION | 5, layout.TYPE_F64, kind, step_s)
    bench = Bench({(KEY, 0): target} if known else {})
    newest = 3 * 10**9
    reach = newest - step_s * limits.SERIES_SLOTS_MAX if step_s else 10**8
    text = b"".join(KEY + b" value=1 %d\n" % t for t in (reach, reach - 1, reach - 1, reach, newest))
    for _ in range(3):  # the long way first, then predicted; then with room behind, for the fast way
        bench.scan(text + b"#" * 100, oldest_s=-(2**63), newest_s=newest, precision=Precision.S)
        if not known:
            bench.resolve(
                struct.pack("<Q", target.ref),
                bytes([target.type]),
                bytes([kind]),
                struct.pack("<I", step_s),
            )
        expected = {"written": 3, "too_late": 2} if step_s else {"written": 5}
        assert bench.counts() == expected
        bench.records()
        bench.batch.clear()


@pytest.mark.parametrize("old_type", [layout.TYPE_F32, layout.TYPE_F64, layout.TYPE_U64])
def test_a_late_line_has_the_type_of_its_era_on_every_way(old_type: int) -> None:
    """The long way first, then predicted; then with room behind, for the fast way."""
    older = (Era(old_type, 60),)
    known = {
        (series_key(0), 0): Target(GENERATION | 5, layout.TYPE_F32, start_s=NOW_S - 30, older=older),
        (series_key(1), 0): Target(GENERATION | 6, layout.TYPE_F32),
        (series_key(2), 0): Target(GENERATION | 7, layout.TYPE_F64, layout.KIND_STAMPED),
    }
    bench = Bench(known)
    text = b"".join(line(i, 7.0, t).replace(b"7.0", b"7") for t in (NOW_S - 31, NOW_S - 30) for i in range(3))
    for _ in range(3):
        bench.scan(text + b"#" * 100)
        assert bench.counts() == {"written": 6}
        found = [record for record in bench.records() if record[0] != layout.REC_STAMPED]
        types = [(record[5] - NOW_S, record[1]) for record in found for _ in range(record[2])]
        assert types == [
            (-31, old_type),
            (-31, layout.TYPE_F32),
            (-30, layout.TYPE_F32),
            (-30, layout.TYPE_F32),
        ]
        late = np.frombuffer(found[0][-1], layout.TYPE_DTYPES[old_type], 1)
        assert late == 7
        bench.batch.clear()


def test_join_makes_a_metric_of_every_numeric_field() -> None:
    keys = (b"cpu_user,host=a", b"cpu_sys,host=a")
    bench = Bench({(key, 0): Target(GENERATION | i) for i, key in enumerate(keys)})
    bench.scan(b'cpu,host=a user=1,sys=2i,ok=t,name="x" %d\n' % NOW_S, join=True)
    assert bench.counts() == {"written": 1}
    assert bench.batch.n_samples == 2
    (record,) = bench.records()
    assert record[:6] == (layout.REC_ROW, 1, 2, 0, 3, NOW_S)


def test_join_undoes_the_escapes_a_measurement_does_not_have() -> None:
    bench = Bench({})
    bench.scan(rb"m\,x,host=a f\=\ \,g=1" + b"\n", join=True)
    assert bench.batch.unknown()[0] == rb"m\,x_f=\ \,g,host=a"


def test_a_joined_line_is_written_if_one_field_is_and_else_refused_for_its_first() -> None:
    ignored = (Reason.UNKNOWN_METRIC << 24 | 7) << 32 | layout.IGNORE_SLOT
    bench = Bench(
        {(b"m_a,host=h", 0): Target(ignored), (b"m_b,host=h", 0): Target(GENERATION | 1, layout.TYPE_U64)}
    )
    bench.scan(
        b"m,host=h a=1,b=2\nm,host=h b=-1,a=1\nm,host=h a=1,b=-1\nm,host=h c=t\n,host=h a=1\n", join=True
    )
    assert bench.counts() == {
        "written": 1,
        "out_of_range": 1,
        "unknown_metric": 1,
        "bad_value": 1,
        "bad_syntax": 1,
    }
    bench.batch.clear()
    bench.scan(b"m,host=h b=-1,new=1\n", join=True)
    assert bench.counts() == {}
    bench.resolve(struct.pack("<Q", GENERATION | 7), b"\x01", b"\x01", STEP)
    assert bench.counts() == {"written": 1}
    assert bench.batch.n_samples == 1


def test_steady_order_is_predicted_and_a_new_order_learnt() -> None:
    bench = grid(200)
    for order in (range(200), [(7 * i) % 200 for i in range(200)]):
        text = b"".join(line(i) for i in order)
        for _ in range(3):
            hashed = bench.scanner.n_hashed
            bench.scan(text)
            assert bench.counts() == {"written": 200}
            bench.batch.clear()
        assert bench.scanner.n_hashed - hashed <= 2


def test_a_rebuilt_directory_makes_the_scanner_forget_its_hints() -> None:
    bench = grid(50)
    text = b"".join(line(i) for i in reversed(range(50)))
    bench.scan(text)
    bench.batch.clear()
    known = {(series_key(i), 0): Target(GENERATION | 100 + i) for i in reversed(range(50))}
    bench.directory[:] = build_directory(layout, known, generation=1)
    bench.scan(text)
    assert bench.counts() == {"written": 50}
    assert bench.records()[0][-1][:4] == struct.pack("<I", 149)


def test_tombstoned_keys_are_unknown_to_the_table_but_not_in_the_way() -> None:
    keys = [(series_key(i), 0) for i in range(40)]
    bench = Bench(
        {key: Target(GENERATION | i if i % 2 else 0) for i, key in enumerate(keys)}, tombstones=keys[::2]
    )
    bench.scan(b"".join(line(i) for i in range(40)))
    assert bench.batch.n_unknown == 20
    assert bench.counts() == {"written": 20}


def test_a_damaged_directory_header_is_refused() -> None:
    for field, value in (("tables", 1 << 60 | 10), ("regions", 1 << 60)):
        bench = grid(3)
        header = np.frombuffer(bench.directory, dtype=layout.DIRECTORY, count=1, offset=layout.DIRECTORY_AT)
        if field == "tables":
            header["tables"][0][layout.TABLE_NAMES.index("keys")] = value
        else:
            header["regions"][0]["used"][layout.REGION_NAMES.index("keys")] = value
        with pytest.raises(InvariantBroken, match="not inside"):
            bench.scan(line(0))
    with pytest.raises(InvariantBroken, match="no room"):
        LineScanner(Segment(bytearray(100)))


def test_positions_outside_the_text_and_unknown_precisions_are_refused() -> None:
    bench = one_key()
    with pytest.raises(ValueError, match="not a part"):
        bench.scan(b"abc", 4)
    with pytest.raises(ValueError, match="precision"):
        bench.scan(b"abc", precision=5)
    with pytest.raises(ValueError, match="max_lines"):
        LineBatch(0)


def test_any_contiguous_buffer_can_be_scanned() -> None:
    text = KEY + b" value=1 %d\n" % NOW_S
    for buffer in (text, bytearray(text), memoryview(b"##" + text)[2:]):
        bench = one_key()
        assert bench.scan(buffer) == len(text)
        assert bench.counts() == {"written": 1}
