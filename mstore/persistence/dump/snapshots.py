"""The files of a snapshot generation, block by block; snapshot_files.py does the reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mstore.errors import CorruptRecord, LayoutMismatch, MstoreError
from mstore.persistence.dump.items import Item, Shown
from mstore.persistence.dump.log import headed, record_items
from mstore.persistence.dump.names import Names
from mstore.persistence.dump.records import KINDS, VALUE_TYPES, words
from mstore.persistence.files import (
    SNAPSHOT_SUFFIX,
    TMP_SUFFIX,
    Files,
    generation_of,
    number_of,
    snapshot_name,
)
from mstore.persistence.snapshot_files import (
    AGES,
    BEGIN,
    BLOCK_HEADER_BYTES,
    CHUNKS,
    DEFINITIONS,
    END,
    FILES,
    ROLE_CHUNKS,
    ROLE_DEFINITIONS,
    ROLE_MANIFEST,
    Block,
    Expected,
    Gap,
    fields_of,
    read_blocks,
    read_sound_blocks,
)
from mstore.persistence.snapshot_manifest import named_in, read_manifest
from mstore.shm import layout

ROLES = {ROLE_DEFINITIONS: "definitions", ROLE_CHUNKS: "chunks", ROLE_MANIFEST: "manifest"}
_BLOCKS = {
    BEGIN: "begin", DEFINITIONS: "definitions", CHUNKS: "chunks", END: "end_block", FILES: "files", AGES: "ages"
}  # fmt: skip


def snapshot_items(path: Path, files: Files, shown: Shown, names: Names) -> Iterator[Item]:
    """The items of one file of a generation, then whether it is the one that its name and manifest say."""
    expected = _expected(files, path)
    gaps: list[Gap] = []
    n_told = 0
    try:
        for block in read_sound_blocks(files, path, replace(expected, n_bytes=-1, crc=-1), gaps):
            yield from map(_gap, gaps[n_told:])
            n_told = len(gaps)
            if block.kind == BEGIN and not expected.role:
                expected = _of_begin(block, expected)
            yield from _block(block, shown, names)
        yield from map(_gap, gaps[n_told:])
        if not gaps and expected.role:
            for _ in read_blocks(files, path, expected):
                pass
    except CorruptRecord as error:
        at = int(error.details.get("offset", 0))
        yield Item("gap", at, {}, wrong=str(error.details.get("reason", error.message)))
    except LayoutMismatch as error:
        yield Item("gap", 0, {}, wrong=error.message)


def _expected(files: Files, path: Path) -> Expected:
    """What the file must be by its name and, for a part, by the manifest beside it; role 0 when nobody knows."""
    name = path.name.removesuffix(TMP_SUFFIX)
    log_seq = number_of(name, SNAPSHOT_SUFFIX)
    if log_seq is not None:
        return Expected(log_seq, ROLE_MANIFEST)
    part = generation_of(name)
    if part is None:
        return Expected(0, 0)
    log_seq, owner = part
    role = ROLE_DEFINITIONS if name.endswith(ROLES[ROLE_DEFINITIONS]) else ROLE_CHUNKS
    cluster = 0 if role == ROLE_DEFINITIONS else int(name.split(".")[2], 16)
    try:
        manifest = read_manifest(files, path.with_name(snapshot_name(log_seq)), log_seq)
    except MstoreError:  # it has a dump of its own
        return Expected(log_seq, role, cluster, owner)
    for one in manifest.parts:
        if manifest.id == owner and (one.role, one.cluster) == (role, cluster):
            return manifest.expect(one)
    return Expected(log_seq, role, cluster, owner)


def _of_begin(block: Block, expected: Expected) -> Expected:
    try:
        said = fields_of(block)
    except ValueError:
        return expected
    role = said["role"] if said["role"] in ROLES else 0
    return Expected(said["log_seq"], role, said["cluster"], block.owner)


def _gap(gap: Gap) -> Item:
    return Item(
        "gap", gap.offset, {"bytes": gap.n_bytes, "goes_on_at": gap.offset + gap.n_bytes}, wrong=gap.reason
    )


def _block(block: Block, shown: Shown, names: Names) -> Iterator[Item]:
    start = block.end - len(block.payload)
    fields: dict[str, Any] = {
        "bytes": len(block.payload),
        "snapshot_id": f"{block.owner:016x}",
        "crc32c": "ok",
    }
    if block.n_entries:
        fields["entries"] = block.n_entries
    wrong = "" if block.kind in _BLOCKS else f"block kind {block.kind} does not exist"
    said: dict[str, Any]
    try:
        said = {**fields_of(block), **named_in(block)}
    except ValueError as error:
        said, wrong = {}, str(error)
    if "role" in said:
        said["role"] = ROLES.get(said["role"], said["role"])
    parts = said.pop("files", ())
    what = _BLOCKS.get(block.kind, f"kind_{block.kind}")
    shown.count("block")
    head = Item(what, start - BLOCK_HEADER_BYTES, fields | _spanned(said), wrong=wrong)
    content: Iterator[Item] = _parts(parts, start, len(block.payload))
    if block.kind == DEFINITIONS:
        content = record_items(block.payload, start, shown, names)
    elif block.kind == CHUNKS:
        content = _chunks(block.payload, start, shown, names)
    yield from headed(head, content, shown)


def _parts(parts: Sequence[dict[str, Any]], start: int, n_bytes: int) -> Iterator[Item]:
    for at, part in enumerate(parts):
        totals = part.pop("totals")
        told = {"role": ROLES.get(part["role"], part["role"]), "crc32c": f"{part.pop('crc'):08x}"}
        yield Item("part", start + at * n_bytes // len(parts), part | told | _spanned(totals), 2)


def _spanned(fields: dict[str, Any]) -> dict[str, Any]:
    """Without a chunk there is no first and no last time."""
    empty = "t_min" in fields and fields["t_min"] > fields["t_max"]
    return fields | {"t_min": None, "t_max": None} if empty else fields


def _chunks(payload: memoryview, start: int, shown: Shown, names: Names) -> Iterator[Item]:
    """The entries of a block: a chunk's header with the length of its values, and the values."""
    at = 0
    while at < len(payload):
        left = len(payload) - at
        head = np.frombuffer(payload, layout.CHUNK, 1, at)[0] if left >= layout.CHUNK.itemsize else None
        n_bytes = 0 if head is None else int(head["reserved"])
        if head is None or n_bytes > left - layout.CHUNK.itemsize:
            yield Item("gap", start + at, {"bytes": left}, 2, "a chunk that does not fit its block")
            return
        body = at + layout.CHUNK.itemsize
        shown.count("chunk")
        if shown.takes("chunk"):
            yield chunk_item(head, payload[body : body + n_bytes], start + at, names)
        at = body + (n_bytes + 7) // 8 * 8


def chunk_item(head: np.void, content: memoryview, at: int, names: Names) -> Item:
    """A chunk by its layout.CHUNK header and the bytes of its values or rows."""
    slot, generation, count = int(head["series"]), int(head["generation"]), int(head["count"])
    fields: dict[str, Any] = {
        "slot": slot, "generation": generation, "n": int(head["n"]),
        "kind": KINDS.get(int(head["kind"]), int(head["kind"])),
        "value_type": VALUE_TYPES.get(int(head["type"]), int(head["type"])), "bytes": len(content),
    }  # fmt: skip
    if head["kind"] == layout.KIND_GRID:
        dtype: Any = layout.TYPE_DTYPES.get(int(head["type"]))
        if dtype is None or head["step_s"] == 0:
            return Item("chunk", at, fields, 2, f"values of type {head['type']} every {head['step_s']} s")
        step_s, first = int(head["step_s"]), int(head["n"]) * layout.CHUNK_SLOTS
        start = int(head["anchor_s"]) + step_s // 2 + first * step_s
        values = np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype)
        fields |= {
            "anchor_s": int(head["anchor_s"]),
            "step_s": step_s,
            "first_t": start,
            "count": len(values),
        }
        return Item("chunk", at, fields | {"values": values}, 2)
    width = 1 + int(head["n_columns"])
    rows = np.frombuffer(content[: len(content) // (8 * width) * 8 * width], "<u8").reshape(-1, width)
    wrong = "" if len(rows) == count else f"{len(rows)} rows instead of {count}"
    fields |= {
        "n_columns": width - 1, "flags": int(head["flags"]), "count": len(rows), "times_ms": rows[:, 0].view("<i8"),
        "columns": words(rows[:, 1:], names.types_of(slot, generation)),
    }  # fmt: skip
    return Item("chunk", at, fields, 2, wrong)
