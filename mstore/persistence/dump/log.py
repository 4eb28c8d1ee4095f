"""A log segment, block by block and record by record; blocks.py and tally.py do the reading.

Nothing is left out silently: what is no valid block is a gap with its reason and with the place where reading goes
on, except what every healthy segment has behind its last block: zeros, or blocks of an earlier use of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mstore.kernels._ring import record_fault
from mstore.persistence.blocks import (
    BLOCK_HEADER_BYTES,
    CATALOG,
    SEGMENT_HEADER_BYTES,
    VERSION,
    Block,
    find_segment_id,
    parse,
    parse_segment_header,
    resembles,
    search,
    used_bytes,
)
from mstore.persistence.dump.items import Item, Shown
from mstore.persistence.dump.names import Names
from mstore.persistence.dump.records import RUNS, TYPE_NAMES, decode, words
from mstore.persistence.files import WAL_SUFFIX, Files, number_of
from mstore.persistence.tally import records
from mstore.shm import layout

_NEVER = 1 << 64
_DEFINING = (layout.REC_LEVEL, layout.REC_METRIC, layout.REC_SERIES, layout.REC_ERA)


def log_items(content: memoryview, path: Path, files: Files, shown: Shown, names: Names) -> Iterator[Item]:
    """The items of a segment; `content` is all of the file."""
    first = number_of(path.name, WAL_SUFFIX)
    stop = _NEVER if first is None else _next_segment(files, path.parent, first)
    header = parse_segment_header(content)
    if isinstance(header, str):
        segment_id = find_segment_id(content, first or 0, stop)
        fields: dict[str, Any] = {"bytes": min(len(content), SEGMENT_HEADER_BYTES)}
        if segment_id:
            fields["segment_id_of_its_blocks"] = f"{segment_id:016x}"
        yield Item("header", 0, fields, wrong=header)
    else:
        segment_id = header.segment_id
        wrong = (
            ""
            if len(content) == header.segment_bytes
            else f"the file has {len(content)} bytes instead of {header.segment_bytes}"
        )
        fields = {
            "magic": "MSTWAL01", "version": VERSION, "segment_id": f"{segment_id:016x}",
            "segment_bytes": header.segment_bytes, "created_ns": header.created_ns, "crc32c": "ok",
        }  # fmt: skip
        yield Item("header", 0, fields, wrong=wrong)
    yield from _blocks(content, segment_id, first, stop, shown, names)


def _next_segment(files: Files, folder: Path, first: int) -> int:
    """The first sequence of the segment after this one: blocks from there on are dead here."""
    numbers = (number_of(name, WAL_SUFFIX) for name in files.list(folder))
    return min((number for number in numbers if number is not None and number > first), default=_NEVER)


def _blocks(
    content: memoryview, segment_id: int, first: int | None, stop: int, shown: Shown, names: Names
) -> Iterator[Item]:
    offset, expected = SEGMENT_HEADER_BYTES, first
    found: Block | str = parse(content, offset, segment_id) if segment_id else "no segment id is known"
    while isinstance(found, Block):
        yield from _block(found, expected, stop, shown, names)
        offset, expected = found.end, found.seq + 1
        found = parse(content, offset, segment_id)
    reason = found
    torn = resembles(content, offset, segment_id, expected or 0) if segment_id else True
    for block in search(content, offset, segment_id) if segment_id else ():
        if block.offset > offset:
            missing = (
                {} if expected is None or block.seq <= expected else {"missing": [expected, block.seq - 1]}
            )
            yield Item(
                "gap",
                offset,
                {"bytes": block.offset - offset, "goes_on_at": block.offset, **missing},
                wrong=reason,
            )
            expected = block.seq
        yield from _block(block, expected, stop, shown, names)
        offset, expected = block.end, block.seq + 1
        reason, torn = "no valid block", False
        again = parse(content, offset, segment_id)
        if isinstance(again, str):
            reason, torn = again, resembles(content, offset, segment_id, expected)
    end = used_bytes(content, offset)
    if end > offset and torn:
        yield Item("gap", offset, {"bytes": end - offset}, wrong=f"torn or damaged: {reason}")
    elif end > offset:
        yield Item("rest", offset, {"bytes": end - offset, "holds": "blocks of an earlier use of the file"})
    if len(content) > max(end, offset):
        start = max(end, offset)
        yield Item("unused", start, {"bytes": len(content) - start})


def _block(block: Block, expected: int | None, stop: int, shown: Shown, names: Names) -> Iterator[Item]:
    fields: dict[str, Any] = {
        "seq": block.seq, "ring": "catalog" if block.ring == CATALOG else block.ring, "from": block.start,
        "to": block.stop, "durable": block.durable, "bytes": len(block.payload), "crc32c": "ok",
    }  # fmt: skip
    if block.seq >= stop:
        fields["dead"] = f"the next segment begins with {stop}"
    wrong = "" if expected in (None, block.seq) else f"block {block.seq} stands where {expected} belongs"
    chosen = shown.choice.has_seq(block.seq)
    shown.count("block")
    head = Item("block", block.offset, fields, wrong=wrong)
    payload = record_items(block.payload, block.offset + BLOCK_HEADER_BYTES, shown, names, chosen)
    yield from headed(head, payload, shown, chosen)


def headed(head: Item, records: Iterator[Item], shown: Shown, chosen: bool = True) -> Iterator[Item]:
    """A block's header and its records; where only some types are wanted, no header without a record."""
    told = bool(head.wrong) or (chosen and shown.takes("block"))
    if told:
        yield head
    for item in records:
        if not told:
            yield head
            told = True
        yield item


def record_items(
    payload: memoryview, at: int, shown: Shown, names: Names, chosen: bool = True
) -> Iterator[Item]:
    """The records of a payload that begins at `at`; what makes no sense is a gap."""
    done = 0
    for record in records(payload):
        done = record.stop
        kind = TYPE_NAMES.get(record.kind, f"type_{record.kind}")
        shown.count(kind)
        wanted = chosen and shown.takes(kind)
        content = payload[record.start : record.stop]
        if record.kind in RUNS:
            shown.count("sample", int(np.frombuffer(content, layout.RUN, 1)[0]["count"]))
        wanted = wanted or record.kind not in TYPE_NAMES
        if not wanted and record.kind not in _DEFINING:
            continue
        try:
            fields = decode(record.kind, content)
        except ValueError as error:
            yield Item(kind, at + record.start, {"bytes": len(content)}, 2, str(error))
            continue
        names.learn(record.kind, fields)
        if record.kind == layout.REC_STAMPED and fields["count"]:
            types = names.types_of(int(fields["slots"][0]), int(fields["generations"][0]))
            fields["columns"] = words(fields.pop("rows"), types)
        if wanted:
            unknown = "" if record.kind in TYPE_NAMES else "a newer version of mstore wrote it, or nobody did"
            yield Item(kind, at + record.start, fields, 2, unknown)
    if done < len(payload):
        reason = record_fault(payload[done:]) or "no record begins here"
        yield Item("gap", at + done, {"bytes": len(payload) - done}, 2, reason)
