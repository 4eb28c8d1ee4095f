"""Files of the reference, made byte by byte from the tables: what they say, and that writing them gives the same bytes."""

from __future__ import annotations

import runpy
import struct
from pathlib import Path

import numpy as np
import pytest

from mstore.compat.bin_snapshot import read_bin, write_bin
from mstore.compat.contents import Checkpoint, Points, Stretch
from mstore.compat.json_checkpoint import read_json, write_json
from mstore.compat.wal import LogReader, write_wal

DATA = Path(__file__).resolve().parents[1] / "data" / "compat"
FROM, TO = 1_700_000_000, 1_700_000_240
GPU = "accelerator00000000:49:00.0"

SNAPSHOT = {
    ((), "cpu_load"): (FROM, 60, [0.5, 0.7, None]),
    ((), "mem_used"): (FROM, 30, [16777216.0, 0.1]),
    (("socket0",), "mem_bw"): (FROM, 60, [100.0, None, 200.5]),
    ((GPU,), "acc_mem"): (FROM + 60, 60, [1e-40, -0.0]),
    ((GPU, "nvlink3"), "nv_link"): (FROM, 60, [7.0]),
}
LOG = {
    ((), "cpu_load"): ([TO, TO + 60], [1.25, 1.5]),
    (("socket0",), "mem_bw"): ([TO + 1], [99.5]),
    ((GPU, "nvlink3"), "nv_link"): ([TO + 2], [8.0]),
}


def bits(values: list[float | None]) -> list[int]:
    raw = (b"\x00\x00\xc0\x7f" if value is None else struct.pack("<f", value) for value in values)
    return [int.from_bytes(one, "little") for one in raw]


def stretch(
    levels: tuple[str, ...], metric: str, start: int, step_s: int, values: list[float | None]
) -> Stretch:
    return Stretch(levels, metric, start, step_s, np.array(bits(values), np.uint32).view(np.float32))


def log_of(name: str) -> tuple[LogReader, dict[tuple[tuple[str, ...], str], tuple[list[int], list[float]]]]:
    reader = LogReader((DATA / name).read_bytes(), name)
    found: dict[tuple[tuple[str, ...], str], tuple[list[int], list[float]]] = {}
    for one in (one for piece in reader.pieces() for one in piece):
        times, values = found.setdefault((one.levels, one.metric), ([], []))
        times += one.times.tolist()
        values += one.values.tolist()
    return reader, found


def test_the_script_makes_the_files_that_lie_beside_it() -> None:
    made = runpy.run_path(str(DATA / "make.py"))["files"]()
    assert {name: (DATA / name).read_bytes() for name in made} == made
    assert sorted(path.name for path in DATA.iterdir() if path.is_file()) == sorted([*made, "make.py"])


def test_a_binary_snapshot_says_what_its_bytes_say() -> None:
    found = read_bin((DATA / f"{FROM}.bin").read_bytes())
    assert (found.start, found.end) == (FROM, TO)
    read = {
        (one.levels, one.metric): (one.start, one.step_s, one.values.view(np.uint32).tolist())
        for one in found.stretches
    }
    assert read == {key: (start, step, bits(values)) for key, (start, step, values) in SNAPSHOT.items()}


def test_a_snapshot_is_written_byte_by_byte_as_the_tables_say_with_names_in_order() -> None:
    given = [stretch(*key, *said) for key, said in SNAPSHOT.items()]
    written = write_bin(Checkpoint(FROM, TO, given))
    assert written == write_bin(Checkpoint(FROM, TO, given[::-1]))
    golden = (DATA / f"{FROM}.bin").read_bytes()
    # The same pieces in another order: the reference's is random.
    assert len(written) == len(golden)
    assert sorted(written) == sorted(golden)
    assert written[:20] == golden[:20]
    assert written[24:26] + written[26:34] == b"\x08\x00cpu_load"
    assert written.index(GPU.encode()) < written.index(b"socket0")


def test_a_checkpoint_in_json_says_what_its_text_says() -> None:
    found = read_json((DATA / "1699999760.json").read_bytes())
    assert (found.start, found.end) == (1_699_999_760, FROM)
    read = {(one.levels, one.metric): (one.start, one.step_s) for one in found.stretches}
    assert read == {((), "cpu_load"): (1_699_999_760, 60), (("socket0",), "mem_bw"): (1_699_999_760, 60)}
    for one, expected in zip(found.stretches, ([0.5, 0.7, np.nan], [100.0, np.nan, 200.0]), strict=True):
        assert np.array_equal(one.values, expected, equal_nan=True)


def test_a_checkpoint_in_json_is_written_in_the_reference_s_form() -> None:
    values = np.array([0.5, 0.1, np.nan, 1024.0, 1e-40], np.float32)
    below = np.array([3], np.uint64)
    written = write_json(
        Checkpoint(100, 400, [Stretch((), "b", 100, 60, values), Stretch(("socket0",), "a", 160, 60, below)])
    )
    assert written.decode() == (
        '{"metrics":{"b":{"frequency":60,"start":100,"data":[0.5,0.1,null,1024.0,1e-40]}},'
        '"children":{"socket0":{"metrics":{"a":{"frequency":60,"start":160,"data":[3]}},"children":{},"from":100,"to":400}},'
        '"from":100,"to":400}'
    )  # fmt: skip


@pytest.mark.parametrize("name", ["current.wal", "without-header.wal"])
def test_a_log_with_or_without_its_header_is_read_whole(name: str) -> None:
    reader, found = log_of(name)
    assert found == LOG
    assert (reader.n_records, reader.n_unusable, reader.damage) == (4, 0, [])


def test_a_log_is_written_byte_by_byte_as_the_tables_say() -> None:
    points = [
        Points(levels, metric, np.array(times, np.int64), np.array(values, np.float32))
        for (levels, metric), (times, values) in LOG.items()
    ]
    assert write_wal(points) == (DATA / "current.wal").read_bytes()


def test_the_torn_record_at_the_end_of_a_log_is_told_and_what_is_before_is_read() -> None:
    reader, found = log_of("torn.wal")
    assert found == LOG | {((), "cpu_load"): ([TO], [1.25])}
    assert [(one.offset, one.n_bytes) for one in reader.damage] == [(150, 25)]


def test_records_behind_a_torn_one_are_read() -> None:
    """The reference goes on writing behind the torn end of a crash, and then reads nothing behind it."""
    reader, found = log_of("torn-and-appended.wal")
    assert found == {key: said for key, said in LOG.items() if key != (("socket0",), "mem_bw")}
    assert [one.n_bytes for one in reader.damage] == [20]


def test_a_record_whose_name_overflowed_its_length_byte_is_counted_and_what_follows_is_read() -> None:
    reader, found = log_of("overflow.wal")
    assert found == {((), "cpu_load"): ([TO, TO + 3], [1.25, 2.0])}
    assert (reader.n_unusable, reader.first_unusable, reader.damage) == (1, 39, [])
