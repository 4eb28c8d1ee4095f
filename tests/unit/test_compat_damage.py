"""What the readers of the reference's files refuse, each with the place in the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from mstore import limits
from mstore.compat.bin_snapshot import read_bin, stretches, write_bin
from mstore.compat.contents import LEVELS_MAX, Checkpoint, Points, Stretch
from mstore.compat.json_checkpoint import read_json, write_json
from mstore.compat.wal import LogReader, write_wal
from mstore.errors import CorruptRecord, InvalidRequest

HEAD = struct.pack("<Iqq", 0xCC5B0001, 100, 200)
ONE = struct.pack("<I", 1) + b"\x01\x00m"


def grid(step_s: int, start: int, n: int) -> bytes:
    return struct.pack("<qqI", step_s, start, n)


def refused(read: Callable[[bytes, str], object], data: bytes) -> tuple[int, str]:
    with pytest.raises(CorruptRecord) as caught:
        read(data, "the file")
    assert caught.value.details["path"] == "the file"
    assert "the file" in caught.value.message
    return caught.value.details["offset"], caught.value.message


@pytest.mark.parametrize(
    ("data", "offset", "said"),
    [
        (b"", 0, "0 bytes"),
        (HEAD[:19], 0, "19 bytes"),
        (b"{" + HEAD[1:] + b"\0" * 8, 0, "it begins with"),
        (struct.pack("<Iqq", 0xCC5B0001, 200, 100) + b"\0" * 8, 12, "ends at 100"),
        (HEAD, 20, "ends after 0 of 4 bytes"),
        (HEAD + b"\xff\xff\xff\xff", 20, "4294967295 metrics announced, 0 bytes are left"),
        (HEAD + b"\0\0\0\0\xff\xff\xff\x7f" + b"\0" * 99, 24, "levels announced"),
        (HEAD + struct.pack("<I", 1) + b"\xff\xffm" + b"\0" * 24, 24, "a name of 65535 bytes"),
        (HEAD + struct.pack("<I", 1) + b"\x01\x00\xff" + grid(60, 0, 0) + b"\0" * 4, 24, "not UTF-8"),
        (HEAD + ONE + grid(60, 0, 0xFFFFFFFF) + b"\0" * 4, 43, "4294967295 values announced"),
        (HEAD + ONE + grid(0, 0, 0) + b"\0" * 4, 27, "frequency of 0"),
        (HEAD + ONE + grid(-60, 0, 0) + b"\0" * 4, 27, "frequency of -60"),
        (HEAD + ONE + grid(60, 1 << 61, 0) + b"\0" * 4, 27, "leave the years"),
        (HEAD + b"\0" * 8 + b"more", 28, "4 bytes behind the end"),
    ],
)
def test_a_binary_snapshot_that_cannot_be_is_refused_with_its_place(
    data: bytes, offset: int, said: str
) -> None:
    found, message = refused(read_bin, data)
    assert found == offset
    assert said in message


def test_snapshots_of_the_earlier_form_are_read_with_their_f64_values() -> None:
    head = b"CCMS" + struct.pack("<Iqq", 1, 100, 200)
    whole = head + ONE + grid(60, 100, 2) + struct.pack("<dd", 0.1, 2.5) + b"\0" * 4
    found = read_bin(whole)
    assert (found.start, found.end) == (100, 200)
    assert [(one.metric, one.start, one.values.tolist()) for one in found.stretches] == [
        ("m", 100, [0.1, 2.5])
    ]
    assert "values announced" in refused(read_bin, whole[:-8])[1]
    assert "it begins with" in refused(read_bin, b"CCMS" + struct.pack("<Iqq", 2, 100, 200))[1]


def test_levels_without_end_are_refused() -> None:
    level = b"\0\0\0\0" + struct.pack("<I", 1) + b"\x01\x00x"
    assert "levels below" in refused(read_bin, HEAD + level * 50_000 + b"\0" * 8)[1]
    nested = '{"children":{"x":' * 50_000 + "{}" + "}}" * 50_000
    assert "levels below" in refused(read_json, nested.encode())[1]
    just = '{"from":0,"to":0,"children":{"x":' * (LEVELS_MAX + 1) + "{}" + "}}" * (LEVELS_MAX + 1)
    assert "levels below" in refused(read_json, just.encode())[1]


def test_what_a_snapshot_holds_before_its_damage_can_be_had() -> None:
    values = np.arange(4, dtype=np.float32)
    whole = write_bin(Checkpoint(0, 240, [Stretch((), name, 0, 60, values) for name in "abc"]))
    reading = stretches(whole[:-30])
    assert [next(reading).metric, next(reading).metric] == ["a", "b"]
    with pytest.raises(CorruptRecord):
        next(reading)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ('{"metrics":{}', "Expecting"),
        ("[]", "expected an object"),
        ('{"metrics":[]}', "metrics: expected an object"),
        ('{"metrics":{"m":7}}', "m: expected an object"),
        ('{"from":"0"}', "from: expected a whole number"),
        ('{"from":true}', "from: expected a whole number"),
        ('{"from":9,"to":8}', "ends at 8"),
        ('{"metrics":{"m":{"start":0,"data":[]}}}', "m.frequency: expected a whole number"),
        ('{"metrics":{"m":{"frequency":60,"start":0.5,"data":[]}}}', "m.start: expected a whole number"),
        ('{"metrics":{"m":{"frequency":0,"start":0,"data":[]}}}', "frequency of 0"),
        ('{"metrics":{"m":{"frequency":60,"start":0,"data":["1"]}}}', "m.data: expected an array of numbers"),
        ('{"metrics":{"m":{"frequency":60,"start":0,"data":[true]}}}', "m.data: expected an array of numbers"),
        ('{"metrics":{"m":{"frequency":60,"start":0,"data":[NaN]}}}', "NaN is no JSON"),
        ('{"metrics":{"m":{"frequency":60,"start":0,"data":[1' + "0" * 400 + "]}}}", "too large"),
        ('{"metrics":{"m":{"frequency":60,"start":0,"data":[1' + "0" * 5000 + "]}}}", "damaged"),
        ('{"metrics":{"m":{"frequency":60,"start":999999999999,"data":[]}}}', "leave the years"),
    ],
)  # fmt: skip
def test_a_json_checkpoint_that_cannot_be_is_refused(text: str, said: str) -> None:
    assert said in refused(read_json, text.encode())[1]


def test_json_that_is_cut_short_tells_where() -> None:
    assert refused(read_json, '{"ä":'.encode())[0] == 6
    assert refused(read_json, b'{"a":\xff')[0] == 5


def test_keys_that_are_not_known_and_data_that_is_null_are_no_damage() -> None:
    found = read_json(b'{"metrics":{"m":{"frequency":60,"start":0,"data":null,"unit":"B"}},"more":[1]}')
    assert [(one.metric, len(one.values)) for one in found.stretches] == [("m", 0)]


def test_files_beyond_their_bound_are_refused_before_they_are_taken_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CHECKPOINT_BYTES_MAX", 100)
    monkeypatch.setattr(limits, "CHECKPOINT_JSON_BYTES_MAX", 100)
    for read in (read_bin, read_json, lambda data, path: list(LogReader(data, path).pieces())):
        assert "at most 100" in refused(read, b"x" * 101)[1]


@pytest.mark.parametrize("data", [b"x", b"\x01\xa7\x1d\xccrubbish", b"\xa1\xa7\x1d\xcc", b"rubbish" * 1000])
def test_a_log_without_a_sound_record_is_refused(data: bytes) -> None:
    reader = LogReader(data, "the file")
    with pytest.raises(CorruptRecord, match=r"the file: damaged at \d+: there is no sound record"):
        list(reader.pieces())


@pytest.mark.parametrize("data", [b"", b"\x01\xa7\x1d\xcc"])
def test_a_log_that_nothing_was_written_to_is_sound(data: bytes) -> None:
    reader = LogReader(data)
    assert [one for piece in reader.pieces() for one in piece] == []
    assert reader.damage == []


def test_a_log_full_of_what_only_looks_like_records_is_given_up() -> None:
    sound = write_wal([Points((), "m", np.array([60]), np.array([1.0]))])
    reader = LogReader(sound + b"\xa1\xa7\x1d\xcc" * 5000 + sound[4:])
    assert sum(len(one.times) for piece in reader.pieces() for one in piece) == 1
    assert [one.offset for one in reader.damage] == [len(sound)]


def test_a_record_with_a_name_that_is_no_text_is_counted() -> None:
    payload = struct.pack("<qH", 60, 1) + b"\xff\x00" + struct.pack("<f", 1.0)
    record = struct.pack("<II", 0xCC1DA7A1, len(payload)) + payload + struct.pack("<I", zlib.crc32(payload))
    reader = LogReader(record)
    assert [one for piece in reader.pieces() for one in piece] == []
    assert reader.n_unusable == 1


def test_names_that_a_format_cannot_hold_are_refused_by_its_writer() -> None:
    one = np.ones(1, np.float32)
    with pytest.raises(InvalidRequest, match="level names of 255 bytes"):
        write_wal([Points(("x" * 256,), "m", np.array([60]), one)])
    with pytest.raises(InvalidRequest, match="a name of 65536 bytes"):
        write_bin(Checkpoint(0, 0, [Stretch((), "x" * 65536, 0, 60, one)]))
    for write in (write_bin, write_json):
        with pytest.raises(InvalidRequest, match="m twice at socket0"):
            write(Checkpoint(0, 0, [Stretch(("socket0",), "m", 0, 60, one)] * 2))
