"""`mstore dump` of a small store: every byte told as it was written, every fault in its place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore.cli import main as cli
from mstore.persistence.blocks import encode_header
from mstore.persistence.dump import Choice, Item, Names, dump_file, store_files
from mstore.persistence.dump.records import decode
from mstore.persistence.files import wal_dir, wal_name
from mstore.persistence.tally import records
from mstore.shm import layout
from mstore.shm.segment import SHM_DIR
from tests.dump_rig import COLUMN, COUNTS, ROW, SECONDS, SEGMENT_ID, STAMPS_MS, T0, Small, dumped, faults

Run = Callable[..., tuple[int, str, str]]

GOLDEN = """\
FILE: log segment, 5,744 bytes
           0  header  magic MSTWAL01  version 1  segment_id 1122334455667788  segment_bytes 5744  created 2023-11-14T22:13:20.123Z  crc32c ok
        4096  block  seq 1  ring catalog  from 0  to 0  durable 0  bytes 736  crc32c ok
        4160    level  id 1  parent 0  level_type ""  level_id c  generation 1
        4192    metric  index 0  cluster 1  name power  unit W  kind grid  step_s 10  value_type f64  aggregation sum  n_columns 1  origin configured  retention_s -1
        4240    metric  index 1  cluster 1  name load  unit ""  kind grid  step_s 60  value_type f32  aggregation avg  n_columns 1  origin registered  retention_s -1
        4288    level  id 2  parent 1  level_type ""  level_id h1  generation 1
        4320    series  slot 0  generation 1  level 2  metric 1  kind grid  value_type f32  n_columns 1  flags 1  step_s 60  anchor_s 1699999970  era_start -  prev -  next -
        4384    key  series 0.1  key load,cluster=c,hostname=h1  default_cluster 0  kind grid  value_type f32
        4440    level  id 3  parent 1  level_type ""  level_id h2  generation 1
        4472    series  slot 1  generation 1  level 3  metric 1  kind grid  value_type f32  n_columns 1  flags 1  step_s 60  anchor_s 1699999970  era_start -  prev -  next -
        4536    key  series 1.1  key load,cluster=c,hostname=h2  default_cluster 0  kind grid  value_type f32
        4592    level  id 4  parent 2  level_type socket  level_id 0  generation 1
        4624    series  slot 2  generation 1  level 4  metric 0  kind grid  value_type f64  n_columns 1  flags 1  step_s 10  anchor_s 1699999995  era_start -  prev -  next -
        4688    key  series 2.1  key power,cluster=c,hostname=h1,type=socket,type-id=0  default_cluster 0  kind grid  value_type f64
        4768    metric  index 2  cluster 1  name job  unit ""  kind stamped  step_s 0  value_type several  aggregation none  n_columns 2  origin client  retention_s -1
        4832    series  slot 3  generation 1  level 2  metric 2  kind stamped  value_type several  n_columns 2  flags 1  step_s 0  anchor_s 0  era_start -  prev -  next -
        4896  block  seq 2  ring 0  from 0  to 208  durable 1  bytes 208  crc32c ok
        4960    row  f32  at 2023-11-14T22:13:20Z  2 samples
                  0.1 c/h1 load  1.5
                  1.1 c/h2 load  -2.25
        4992    column  f64  2.1 c/h1/socket0 power  from 2023-11-14T22:13:20Z every 10 s  3 samples
                  2023-11-14T22:13:20Z  100.0
                  2023-11-14T22:13:30Z  101.5
                  2023-11-14T22:13:40Z  0.1
        5048    stamped  3.1 c/h1 job  2 rows
                  2023-11-14T22:13:20.250Z  0.5  7
                  2023-11-14T22:13:21.750Z  1e+300  18446744073709551614
        5120    scatter  f32  at 2023-11-14T22:14:20Z  2 samples
                  1.1 c/h2 load  1.5
                  0.1 c/h1 load  -2.25
        5168  block  seq 3  ring catalog  from 0  to 0  durable 2  bytes 0  crc32c ok
        5232  unused  bytes 512
  3 blocks, 4 levels, 3 metrics, 4 series, 3 keys, 1 row run, 9 samples, 1 column run, 1 stamped run, 1 scatter run: all sound
"""  # noqa: E501  (a line of the dump is a line here)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path / "store")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str, str]:
        status = cli.main(["dump", *argv])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def flipped(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def of(items: list[Item], what: str) -> list[Item]:
    return [item for item in items if item.what == what]


# --- what is there


def test_a_log_segment_is_told_byte_for_byte(small: Small, run: Run) -> None:
    status, out, err = run(str(small.log))
    assert (status, err) == (0, "")
    assert out == GOLDEN.replace("FILE", str(small.log)) + "\n"


def test_a_whole_store_is_told_in_an_order_in_which_names_are_known(small: Small, run: Run) -> None:
    status, out, _ = run("--dir", str(small.directory))
    assert status == 0
    heads = [
        line.split(": ")[0].rsplit(".", 1)[-1]
        for line in out.splitlines()
        if " bytes" in line and line[0] != " "
    ]
    assert heads == ["snapshot", "definitions", "chunks", "wal"]
    assert "chunk  f64  2.1 c/h1/socket0 power  chunk 0  from 2023-11-14T22:13:20Z every 10 s  3 slots" in out
    assert out.count("all sound") == 4


def test_every_part_of_shared_memory_is_told(small: Small) -> None:
    names = Names()
    found = {
        path.name.split("-", 2)[2]: dumped(path, names=names)
        for path in small.files()
        if path.parent == small.shm
    }
    assert not any(faults(items) for items in found.values())
    assert [item.fields["name"] for item in of(found["directory"], "series")] == [
        "c/h1 load", "c/h2 load", "c/h1/socket0 power", "c/h1 job",
    ]  # fmt: skip
    assert len(of(found["directory"], "key")) == 3
    assert [item.fields["name"] for item in of(found["directory"], "region")] == list(layout.REGION_NAMES)
    assert of(found["control"], "store")[0].fields["retention_s"] == 172_800
    assert of(found["control"], "worker")[0].fields["lines"] == 5
    assert [item.fields["values"].tolist() for item in of(found["ring-0"], "row")] == [ROW.tolist()]
    chunks = {item.fields["slot"]: item.fields for item in of(found["samples"], "chunk")}
    assert np.isnan(chunks[0]["values"][2:]).all()
    assert chunks[0]["values"][:2].tolist() == [ROW[0], ROW[1]]
    assert chunks[3]["columns"][1].tolist() == COUNTS.tolist()


def test_samples_without_their_directory_are_found_by_their_headers(small: Small) -> None:
    (small.shm / "mstore-0-directory").unlink()
    items = dumped(small.shm / "mstore-0-samples")
    assert not faults(items)
    assert {item.fields["slot"] for item in of(items, "chunk")} == {0, 1, 2, 3}


def test_a_segment_is_found_by_its_name(small: Small, run: Run) -> None:
    name = f"mstore-test-dump-{os.getpid()}"
    (SHM_DIR / name).write_bytes((small.shm / "mstore-0-control").read_bytes())
    try:
        assert run(name)[0] == 0
        assert run(str(SHM_DIR / name))[0] == 0
    finally:
        (SHM_DIR / name).unlink()


def test_records_of_the_kernels_are_taken_apart_whole(small: Small) -> None:
    payload = memoryview(small.definitions)
    found = [
        (record.kind, decode(record.kind, payload[record.start : record.stop])) for record in records(payload)
    ]
    assert [kind for kind, _ in found] == [16, 17, 17, 16, 18, 19, 16, 18, 19, 16, 18, 19, 17, 18]
    metrics = [fields for kind, fields in found if kind == layout.REC_METRIC]
    assert [(one["name"], one["step_s"], one["columns"]) for one in metrics] == [
        ("power", 10, ""), ("load", 60, ""), ("job", 0, "seconds:f64,bytes:u64"),
    ]  # fmt: skip


def test_a_level_whose_type_is_longer_than_its_name_is_told_as_wrong(small: Small) -> None:
    payload = bytearray(small.definitions)
    first = next(iter(records(memoryview(payload))))
    assert first.kind == layout.REC_LEVEL
    payload[first.start + 16 : first.start + 18] = (200).to_bytes(2, "little")
    with pytest.raises(ValueError, match="a type of 200 bytes in a name of"):
        decode(first.kind, memoryview(payload)[first.start : first.stop])


# --- JSON


def test_json_gives_back_every_sample_that_was_written(small: Small, run: Run) -> None:
    status, out, _ = run("--json", str(small.log))
    assert status == 0
    documents = [json.loads(line) for line in out.splitlines()]
    found: dict[tuple[int, int], list[Any]] = {}
    for one in documents:
        if one["what"] == "stamped":
            for stamp, *row in zip(one["times_ms"], *one["columns"], strict=True):
                found[one["slots"][0], stamp] = row
        elif "values" in one:
            times, slots = one["times"], one["slots"]
            for at, value in enumerate(one["values"]):
                found[slots[at % len(slots)], times[at % len(times)]] = value
    slots = [ref & 0xFFFF_FFFF for ref in small.refs]
    expected: dict[tuple[int, int], Any] = {(slots[i], T0): float(ROW[i]) for i in range(2)}
    expected |= {(slots[1], T0 + 60): float(ROW[0]), (slots[0], T0 + 60): float(ROW[1])}
    expected |= {(slots[2], T0 + 10 * i): float(COLUMN[i]) for i in range(3)}
    expected |= {(slots[3], int(STAMPS_MS[i])): [float(SECONDS[i]), int(COUNTS[i])] for i in range(2)}
    assert found == expected


def test_json_has_no_value_that_json_lacks(small: Small, run: Run) -> None:
    names = [str(path) for path in small.files()]
    status, out, _ = run("--json", *names)
    assert status == 0
    chunks = [
        one
        for line in out.splitlines()
        if (one := json.loads(line))["what"] == "chunk" and "/shm/" in one["file"]
    ]
    assert chunks[0]["values"] == [1.5, -2.25, *[None] * 14]


def test_json_without_values_keeps_their_number(small: Small, run: Run) -> None:
    out = run("--json", "--no-values", "--type", "row", str(small.log))[1]
    (row,) = (one for line in out.splitlines() if (one := json.loads(line))["what"] == "row")
    assert row == {"file": str(small.log), "what": "row", "at": 4960, "count": 2, "value_type": "f32"}


# --- what is chosen


def test_types_sequences_limits_and_values_choose(small: Small, run: Run) -> None:
    def shown(*argv: str) -> list[str]:
        return [line[:40].split()[1] for line in run(*argv, str(small.log))[1].splitlines()[1:-2]]

    assert shown("--type", "level") == ["header", "block", *["level"] * 4, "unused"]
    assert shown("--type", "row,scatter", "--no-values") == ["header", "block", "row", "scatter", "unused"]
    assert shown("--type", "block") == ["header", "block", "block", "block", "unused"]
    assert shown("--seq", "2-", "--no-values") == [
        "header", "block", "row", "column", "stamped", "scatter", "block", "unused",
    ]  # fmt: skip
    assert shown("--seq", "-1", "--type", "key") == ["header", "block", "key", "key", "key", "unused"]
    assert shown("--limit", "2") == ["header", "block", "level", "unused"]
    assert "(19 not shown)" in run("--limit", "2", str(small.log))[1]


def test_many_values_are_shown_only_when_asked_for(small: Small, run: Run) -> None:
    payload = np.array((1, 1, 0, 100, 0, 1, T0), layout.RUN).tobytes() + np.arange(100, dtype="<f4").tobytes()
    block = encode_header(SEGMENT_ID, 4, 0, 208, 208 + len(payload), 3, payload) + payload
    content = bytearray(small.log.read_bytes())
    content[small.log_used : small.log_used + len(block)] = block
    small.log.write_bytes(content)
    out = run("--seq", "4", str(small.log))[1]
    assert "... 92 more (--values shows all)" in out
    whole = run("--seq", "4", "--values", str(small.log))[1].splitlines()
    assert whole[-4].split() == ["99.1", "99.0"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--type", "lines"], "'lines' is no type of record"),
        (["--seq", "9-3"], "9 is after 3"),
        (["--seq", "a"], "expected FROM-TO"),
        (["--limit", "0"], "expected a whole number from 1"),
    ],
)
def test_a_choice_that_makes_no_sense_is_one_line(run: Run, argv: list[str], told: str) -> None:
    status, out, err = run(*argv, "x")
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


# --- damage


def test_a_damaged_block_is_told_in_its_place_and_reading_goes_on(small: Small, run: Run) -> None:
    flipped(small.log, 4900)
    status, out, _ = run(str(small.log), "--no-values")
    assert status == 1
    gap = next(line for line in out.splitlines() if "WRONG" in line)
    assert gap.split(maxsplit=1)[0] == "4896"
    assert "gap  bytes 272  goes_on_at 5168  missing 2  WRONG: block version" in gap
    assert "5168  block  seq 3" in out
    assert out.rstrip().endswith("WRONG: 1 not sound")


def test_a_torn_end_is_told(small: Small) -> None:
    flipped(small.log, 5168 + 60)
    items = dumped(small.log)
    (fault,) = faults(items)
    assert (fault.what, fault.at, fault.fields) == ("gap", 5168, {"bytes": 64})
    assert fault.wrong == "torn or damaged: checksum mismatch"


def test_a_damaged_header_page_leaves_the_blocks_readable(small: Small) -> None:
    flipped(small.log, 100)
    items = dumped(small.log)
    assert [item.wrong for item in faults(items)] == ["checksum mismatch in the header page"]
    assert [item.fields["seq"] for item in of(items, "block")] == [1, 2, 3]


def test_blocks_that_a_later_segment_has_ended_are_told_as_dead(small: Small) -> None:
    (wal_dir(small.directory) / wal_name(3)).write_bytes(b"")
    blocks = of(dumped(small.log), "block")
    assert ["dead" in item.fields for item in blocks] == [False, False, True]


def test_blocks_of_an_earlier_use_of_the_file_are_no_damage(small: Small) -> None:
    old = encode_header(SEGMENT_ID ^ 1, 9, 0, 0, 0, 8, b"")
    content = bytearray(small.log.read_bytes())
    content[small.log_used : small.log_used + len(old)] = old
    small.log.write_bytes(content)
    items = dumped(small.log)
    assert not faults(items)
    assert of(items, "rest")[0].fields == {"bytes": 64, "holds": "blocks of an earlier use of the file"}


def test_a_block_with_a_record_that_makes_no_sense_is_told_up_to_there(small: Small) -> None:
    payload = small.runs[:32] + np.array((99, 0, 0, 3), layout.RECORD).tobytes()
    block = encode_header(SEGMENT_ID, 4, 0, 208, 248, 3, payload) + payload
    content = bytearray(small.log.read_bytes())
    content[small.log_used : small.log_used + len(block)] = block
    small.log.write_bytes(content)
    items = dumped(small.log, Choice(first_seq=4))
    assert [item.what for item in items[2:5]] == ["block", "row", "type_99"]
    assert items[4].wrong == "a newer version of mstore wrote it, or nobody did"
    payload = small.runs[:32] + np.array((1, 9, 0, 3), layout.RECORD).tobytes()
    block = encode_header(SEGMENT_ID, 4, 0, 208, 248, 3, payload) + payload
    content[small.log_used : small.log_used + len(block)] = block
    small.log.write_bytes(content)
    items = dumped(small.log, Choice(first_seq=4))
    assert [item.what for item in items[2:5]] == ["block", "row", "gap"]
    assert items[4].wrong == "type 1 cut short: 8 bytes are left"


def test_a_snapshot_file_that_its_manifest_does_not_name_is_told(small: Small) -> None:
    chunks = next(path for path in small.files() if path.suffix == ".chunks")
    content = chunks.read_bytes()
    chunks.write_bytes(content + b"\0" * 8)
    assert "the file has 560 bytes instead of 552" in faults(dumped(chunks))[0].wrong
    chunks.write_bytes(content[:-8])
    assert faults(dumped(chunks))
    manifest = next(path for path in small.files() if path.suffix == ".snapshot")
    chunks.write_bytes(manifest.read_bytes())
    assert faults(dumped(chunks))


def test_a_snapshot_under_another_name_is_told_all_the_same(small: Small, tmp_path: Path) -> None:
    for path in small.files()[:3]:
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        items = dumped(copy)
        assert not faults(items)
        assert len(items) == len(dumped(path))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.wal", b"", "empty"),
        ("empty", b"", "empty"),
        ("text", b"once upon a time", "not a file of mstore"),
        ("0000000000000001.wal", b"once upon a time", "less than a header page"),
        ("0000000000000003.snapshot", b"once upon a time", "the file ends before its END block"),
        ("x", b"MSTWAL01", "less than a header page"),
        ("x", b"MS01", "the file ends before its END block"),
        ("x", b"MSTORE01", "lie outside the 8 bytes"),
    ],
)
def test_an_empty_or_foreign_file_is_a_clear_line(
    run: Run, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    status, out, err = run(str(tmp_path / name))
    assert (status, err) == (1, "")
    assert told in out
    assert "Traceback" not in out


def test_what_is_no_file_is_one_line(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, told in (
        ("nothing", "No such file"),
        ("pipe", "no regular file"),
        (".", "--dir"),
        ("a\0b", "embedded null"),
    ):
        status, out, err = run(str(tmp_path / name))
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert told in err
    assert run("--dir", str(tmp_path))[2].startswith("mstore: there is no store in ")


def test_one_file_that_cannot_be_read_does_not_hide_the_others(small: Small, run: Run) -> None:
    status, out, err = run(str(small.directory / "nothing"), str(small.log))
    assert (status, err.count("\n")) == (1, 1)
    assert "all sound" in out


def test_a_layout_of_another_version_is_told_and_not_read(small: Small) -> None:
    for path in small.files()[4:]:
        flipped(path, 16)
        items = dumped(path)
        assert [item.what for item in items] == ["file", "header", "end"]
        assert "another layout" in items[1].wrong


def test_text_from_outside_cannot_command_the_terminal(small: Small, run: Run, tmp_path: Path) -> None:
    hostile = tmp_path / "\x1b[31mred"
    hostile.write_bytes(b"x")
    out = run(str(hostile))[1]
    assert "\x1b" not in out
    assert "\\x1b[31mred" in out


def test_dumping_a_store_changes_nothing_in_it(small: Small) -> None:
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in small.directory.rglob("*")
        if path.is_file()
    }
    for path in store_files(small.directory):
        assert list(dump_file(path, Choice(), Names()))
    after = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in small.directory.rglob("*")
        if path.is_file()
    }
    assert before == after
