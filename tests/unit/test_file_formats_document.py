"""The pages of the log and of snapshots in docs/format against the code: offsets, types, names, numbers of records."""

from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mstore import limits
from mstore.kernels._expiry import RANGE
from mstore.persistence import blocks, snapshot_files, snapshot_manifest
from mstore.shm import layout

ROOT = Path(__file__).parents[2]
CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q", "ref": "Q"}
BYTES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8, "ref": 8}


class Field(NamedTuple):
    offset: int
    type: str
    name: str


def page(name: str) -> str:
    return (ROOT / "docs" / "format" / f"{name}.md").read_text()


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table behind this text."""
    lines = text[text.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    behind = lines[first + 1 :]
    end = next((i for i, line in enumerate(behind) if not line.startswith("|")), len(behind))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in behind[:end]]


def fields(text: str, heading: str) -> list[Field]:
    """Of a table offset, type, field; `u8 x 4` and `u32, u32` are as many fields."""
    found = []
    for offset, kinds, names, *_ in rows(text, heading):
        many = re.fullmatch(r"(\w+) x (\d)", kinds)
        types = [many[1]] * int(many[2]) if many else kinds.split(", ")
        at = int(offset)
        for kind, name in zip(types, names.split(", ") if len(types) > 1 else [names], strict=True):
            found.append(Field(at, kind, name))
            at += BYTES.get(kind, 0)
    return found


def drawing(text: str, heading: str) -> list[Field]:
    """Of the first drawing behind this text: a line of offsets, and boxes with a name and, for most, a type."""
    lines = text[text.index(heading) :].split("```")[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.lstrip().startswith("|"))
    offsets = next(line for line in lines[:first] if re.match(r"\s*\d", line)).split()
    more = (i for i in range(first, len(lines)) if not lines[i].lstrip().startswith("|"))
    stop = next(more, len(lines))
    bars: list[int | None] = [i for i, c in enumerate(lines[first]) if c == "|"] + [
        None
    ]  # the last box may be open
    cells = [
        " ".join(line[(a or 0) + 1 : b].strip() for line in lines[first:stop])
        for a, b in itertools.pairwise(bars)
    ]
    found = []
    for offset, cell in zip(offsets, cells, strict=False):
        kind = re.search(r"\b(u8|u16|u32|u64|i64|ref)\b", cell)
        found.append(Field(int(offset), kind[1] if kind else "", re.split(r"[ (]", cell.strip())[0]))
    return found


def is_laid_out_as(found: list[Field], form: str) -> None:
    """Types are those of a struct format, and every field begins where the one before ends."""
    assert "<" + "".join(CODES[one.type] for one in found) == form
    ends = [one.offset + BYTES[one.type] for one in found]
    assert [one.offset for one in found] == [0, *ends[:-1]]


def read(found: list[Field], data: bytes) -> dict[str, int]:
    return {one.name: struct.unpack_from("<" + CODES[one.type], data, one.offset)[0] for one in found}


# --- wal.md


def test_the_header_page_of_a_segment_is_read_by_the_table() -> None:
    found = [one for one in fields(page("wal"), "## Header page") if one.name != "zeros"]
    assert found[-1] == Field(blocks.SEGMENT_HEADER_BYTES - 4, "u32", "crc32c")
    is_laid_out_as(found[:-1], blocks._SEGMENT.format)
    data = blocks.encode_segment_header(11, 12, 13)
    told = read(found, data)
    assert struct.pack("<Q", told["magic"]) == b"MSTWAL01"
    assert (told["version"], told["flags"], told["reserved"]) == (blocks.VERSION, 0, 0)
    assert (told["segment id"], told["segment bytes"], told["created"]) == (11, 12, 13)
    assert told["crc32c"] == blocks.crc32c(data[:-4])


def test_a_block_of_the_log_is_read_by_the_table() -> None:
    text = page("wal")
    *found, payload = fields(text, "## Block")
    assert (payload.offset, payload.name) == (blocks.BLOCK_HEADER_BYTES, "payload")
    is_laid_out_as(found, blocks._HEADER.format + blocks._CRC.format.lstrip("<"))
    head = blocks.encode_header(11, 12, 13, 14, 15, 9, bytes(24))
    told = read(found, head)
    assert struct.pack("<I", told["magic"]) == b"MWBK"
    assert (told["version"], told["flags"], told["reserved"], told["length"]) == (blocks.VERSION, 0, 0, 24)
    names = ("segment id", "sequence", "ring", "from", "to", "durable")
    assert [told[name] for name in names] == [11, 12, 13, 14, 15, 9]
    assert told["crc32c"] == blocks.crc32c(bytes(24), blocks.crc32c(head[:-4]))
    assert f"at most {limits.WAL_BLOCK_BYTES_MAX // limits.MIB} MiB" in text
    assert f"0x{blocks.CATALOG:X} = catalog" in text


def test_every_run_of_samples_is_listed_by_its_number() -> None:
    listed = {int(row[0]): row[1] for row in rows(page("wal"), "payload ...")}
    assert listed == {
        number: name.removeprefix("REC_")
        for name, number in vars(layout).items()
        if name.startswith("REC_") and number < 16
    }


# --- wal.md and wal-samples.md: records


@pytest.mark.parametrize(
    ("name", "heading"), [("wal", "## Records in a payload"), ("wal-samples", "## Runs")]
)
def test_the_head_of_a_run_is_drawn_as_it_is(name: str, heading: str) -> None:
    *found, payload = drawing(page(name), heading)
    assert (payload.name.strip(","), payload.offset) == ("payload", layout.RUN.itemsize)
    of_dtype = layout.RUN.fields or {}
    assert {one.name: one.offset for one in found} == {key: field[1] for key, field in of_dtype.items()}
    typed = {one.name: BYTES[one.type] for one in found if one.type}
    assert typed == {key: of_dtype[key][0].itemsize for key in typed}
    assert len(typed) == (len(found) if name == "wal-samples" else 1)


def test_runs_types_and_counts_of_the_page_of_samples_are_those_in_force() -> None:
    text = page("wal-samples")
    listed = {name: int(number) for number, name in re.findall(r"^ (\d+) ([A-Z]+) ", text, re.MULTILINE)}
    assert listed == {
        name: getattr(layout, f"REC_{name}")
        for name in ("ROW", "COLUMN", "STAMPED", "SCATTER", "FREE", "EVICT")
    }
    told = re.search(
        r"vtype +1 (\w+) \((\d) bytes a value\), 2 (\w+), 3 (\w+) \((\d) bytes\) +count 1 to (\d+)", text
    )
    assert told is not None
    assert {1: told[1], 2: told[3], 3: told[4]} == layout.TYPE_NAMES
    assert [layout.TYPE_DTYPES[number].itemsize for number in (1, 2, 3)] == [
        int(told[2]),
        int(told[5]),
        int(told[5]),
    ]
    assert int(told[6]) == limits.RUN_VALUES_MAX


def test_a_range_of_a_free_record_is_as_the_page_says() -> None:
    text = page("wal-samples")
    told = re.search(r"\{(u32 slot, [^}]*)\}\.?$", text[text.index("## Frees") :], re.MULTILINE)
    assert told is not None
    listed = [tuple(part.split()) for part in told[1].split(", ")]
    assert "<" + "".join(CODES[kind] for kind, _ in listed) == "<IIqq"
    assert [name for _, name in listed] == list(RANGE.names or ())
    assert [BYTES[kind] for kind, _ in listed] == [RANGE[name].itemsize for _, name in listed]
    assert f"ranges of {RANGE.itemsize} bytes" in text


# --- wal-definitions.md


def packed_struct(name: str) -> list[Field]:
    """The body of a record as the kernels declare it, behind the 8 bytes that every record begins with."""
    text = (ROOT / "mstore" / "kernels" / "_directory.pxd").read_text()
    body = text[text.index(f"cdef packed struct {name}:\n") :].split("\n\n")[0]
    found, at = [], layout.RECORD.itemsize
    for sign, bits, field in re.findall(r"(u?)int(\d+)_t (\w+)", body):
        kind = f"{sign or 'i'}{bits}"
        found.append(Field(at, kind, field))
        at += BYTES[kind]
    return [*found, Field(at, "", "end")]


def test_definition_records_are_listed_by_their_numbers() -> None:
    listed = {row[1]: int(row[0]) for row in rows(page("wal-definitions"), "A **reference**")}
    assert listed == {name: getattr(layout, f"REC_{name}") for name in listed}
    assert set(listed) == {"LEVEL", "METRIC", "SERIES", "KEY", "REMOVE", "ERA"}


def test_the_head_of_a_definition_is_drawn_as_it_is() -> None:
    *found, body = drawing(page("wal-definitions"), "All numbers are little endian")
    assert (body.name, body.offset) == ("body,", layout.RECORD.itemsize)
    of_dtype = list((layout.RECORD.fields or {}).values())
    assert [one.offset for one in found] == [field[1] for field in of_dtype]
    assert [BYTES[one.type] for one in found] == [field[0].itemsize for field in of_dtype]


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("## LEVEL (16)", "rec_level"),
        ("## METRIC (17)", "rec_metric"),
        ("## SERIES (18) and ERA (21)", "rec_series"),
        ("## KEY (19)", "rec_key"),
        ("## REMOVE (20)", "rec_remove"),
    ],
)
def test_a_definition_is_drawn_as_the_kernels_have_it(heading: str, name: str) -> None:
    text = page("wal-definitions")
    *expected, end = packed_struct(name)
    other = {"reference": "ref", "length": "len", "0": "pad"}
    found = [
        Field(one.offset, one.type.replace("ref", "u64"), other.get(one.name, one.name))
        for one in drawing(text, heading)
    ]
    assert found[: len(expected)] == expected
    told = re.search(rf"^{re.escape(heading)}: (\d+) bytes", text, re.MULTILINE)
    assert told is not None
    assert int(told[1]) == end.offset


# --- snapshot.md


def test_a_block_of_a_snapshot_is_read_by_the_table() -> None:
    text = page("snapshot")
    *found, payload = fields(text, "## Block")
    assert (payload.offset, payload.name) == (snapshot_files.BLOCK_HEADER_BYTES, "payload")
    is_laid_out_as(found, snapshot_files._HEADER.format + snapshot_files._CRC.format.lstrip("<"))
    kept = ROOT / "tests" / "data" / f"format-{snapshot_files.VERSION}" / "snapshots"
    (file,) = kept.glob("*.00000001.chunks")
    data = file.read_bytes()
    first = read(found, data)
    assert struct.pack("<I", first["magic"]) == b"MS01"
    assert (first["version"], first["kind"]) == (snapshot_files.VERSION, snapshot_files.BEGIN)
    assert (first["index"], first["entries"], first["cluster"]) == (0, 0, 1)
    assert file.name.split(".")[1] == f"{first['generation id']:016x}"
    second = read(found, data[payload.offset + first["length"] :])
    assert (second["kind"], second["index"]) == (snapshot_files.CHUNKS, 1)
    assert second["entries"] > 0
    assert second["cluster"] == 1
    assert f"at most {snapshot_files.BLOCK_BYTES_MAX // limits.MIB} MiB" in text


def test_kinds_and_roles_of_a_snapshot_are_listed_by_their_numbers() -> None:
    text = page("snapshot")
    (told,) = (row[3] for row in rows(text, "## Block") if row[2] == "kind")
    kinds = {name: int(number) for number, name in re.findall(r"(\d) ([A-Z]+)", told)}
    assert kinds == {name: getattr(snapshot_files, name) for name in kinds}
    assert [row[0] for row in rows(text, "| kind | payload |")] == [
        "BEGIN",
        "DEFINITIONS",
        "CHUNKS",
        "FILES",
        "AGES",
        "END",
    ]
    assert set(kinds) == {"BEGIN", "DEFINITIONS", "CHUNKS", "END", "FILES", "AGES"}
    begin = snapshot_files
    roles = (
        f"{begin.ROLE_DEFINITIONS} definitions, {begin.ROLE_CHUNKS} chunks, {begin.ROLE_MANIFEST} manifest"
    )
    assert f"u32 role ({roles})" in text


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("BEGIN", snapshot_files._BEGIN.format),
        ("END", snapshot_files._END.format),
        ("FILES", snapshot_manifest._FILE.format),
        ("AGES", snapshot_manifest._AGES.format),
    ],
)
def test_the_payload_of_a_block_of_a_snapshot_has_the_types_that_the_page_says(kind: str, form: str) -> None:
    (told,) = (row[1] for row in rows(page("snapshot"), "| kind | payload |") if row[0] == kind)
    told = told.split(", u64[n]")[0]
    told = re.sub(r"^an entry of \d+ bytes for each file: ", "", told)
    types: list[str] = []
    for part in re.split(r"[,;] (?![^(]*\))", told):
        named = re.match(r"[ui]\d+", part)
        types += [named[0] if named else types[-1]] * (2 if "first and last" in part else 1)
    assert "<" + "".join(CODES[one] for one in types) == form


def test_a_chunk_of_a_snapshot_is_laid_out_as_the_table_says() -> None:
    *found, payload = fields(page("snapshot"), "## Chunk entry")
    assert payload.offset == layout.CHUNK.itemsize
    other = {
        "anchor": "anchor_s", "step": "step_s", "columns": "n_columns", "largest stamp": "t_max_ms", "bytes": "reserved",
    }  # fmt: skip
    of_dtype = layout.CHUNK.fields or {}
    named = [
        (other.get(one.name, one.name), one.offset, BYTES[one.type]) for one in found if one.name not in "0"
    ]
    assert named == [(name, of_dtype[name][1], of_dtype[name][0].itemsize) for name, _, _ in named]
    assert [one.offset for one in found] == [field[1] for field in of_dtype.values()]
    assert np.dtype("<i8") == layout.CHUNK["n"]
