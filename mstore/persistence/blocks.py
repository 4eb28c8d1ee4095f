"""The bytes of a log segment: header page and blocks. docs/format/wal.md draws them.

    segment   [header page, 4096 bytes][block][block] ... [zeros, or blocks of an earlier use]
    block     [header, 64 bytes][payload, a multiple of 8 bytes]

A block at offset o of a segment is valid iff
    1. its magic, version and flags are ours,
    2. its segment id is that of the segment's header page (a recycled file's old blocks carry the old id),
    3. its payload length is a multiple of 8, at most WAL_BLOCK_BYTES_MAX, and ends inside the file,
    4. its durable sequence is below its own sequence,
    5. crc32c over the first 60 header bytes and the payload equals the last header word.

It is live iff it is valid, its sequence is the one expected at that place (previous + 1; the segment's name
for the first one), and that is below the first sequence of every later segment.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from crc32c import crc32c

from mstore.errors import UnsupportedPlatform
from mstore.limits import WAL_BLOCK_BYTES_MAX, WAL_SEGMENT_BYTES

if sys.byteorder != "little":
    raise UnsupportedPlatform("the log and snapshots are little endian; this machine is not")

Payload = bytes | bytearray | memoryview

BLOCK_MAGIC = 0x4B42_574D  # "MWBK"
SEGMENT_MAGIC = 0x3130_4C41_5754_534D  # "MSTWAL01"
VERSION = 1

CATALOG = 0xFFFF_FFFF
"""The ring number of blocks that come from the persister itself, not from a ring."""

SEGMENT_HEADER_BYTES = 4096
BLOCK_HEADER_BYTES = 64

# magic, version, flags, length, ring, segment id, sequence, from, to, durable, reserved; then the crc
_HEADER = struct.Struct("<IHHIIQQQQQI")
_CRC = struct.Struct("<I")
# magic, version, flags, reserved, segment id, segment bytes, created_ns; zeros; the crc ends the page
_SEGMENT = struct.Struct("<QHHIQQQ")

_FIRST_WORD = BLOCK_MAGIC | VERSION << 32  # magic, version, flags 0 as one little-endian word

assert _HEADER.size + _CRC.size == BLOCK_HEADER_BYTES
assert BLOCK_HEADER_BYTES % 8 == 0
assert SEGMENT_HEADER_BYTES % 8 == 0
assert SEGMENT_HEADER_BYTES + BLOCK_HEADER_BYTES + WAL_BLOCK_BYTES_MAX <= WAL_SEGMENT_BYTES


@dataclass(frozen=True, slots=True)
class Block:
    """A valid block and where it stands."""

    seq: int
    ring: int
    start: int
    """Position in the ring before the block; 0 for the catalog."""
    stop: int
    durable: int
    """The last sequence known durable when the block was written."""
    payload: memoryview
    offset: int
    """Of its header in the file."""

    @property
    def end(self) -> int:
        return self.offset + BLOCK_HEADER_BYTES + len(self.payload)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    segment_id: int
    segment_bytes: int
    created_ns: int


def encode_header(
    segment_id: int, seq: int, ring: int, start: int, stop: int, durable: int, payload: Payload
) -> bytes:
    """The 64 bytes before `payload`; the checksum covers both."""
    head = _HEADER.pack(BLOCK_MAGIC, VERSION, 0, len(payload), ring, segment_id, seq, start, stop, durable, 0)
    return head + _CRC.pack(crc32c(payload, crc32c(head)))


def parse(text: memoryview, offset: int, segment_id: int) -> Block | str:
    """The valid block at `offset`, or why there is none."""
    body = offset + BLOCK_HEADER_BYTES
    if body > len(text):
        return "the file ends in a block header"
    fields = _HEADER.unpack_from(text, offset)
    magic, version, flags, length, ring, owner, seq, start, stop, durable, reserved = fields
    if magic != BLOCK_MAGIC:
        return "no block magic"
    if version != VERSION or flags or reserved:
        return f"block version {version}, flags {flags:#x} (this program writes version {VERSION})"
    if owner != segment_id:
        return "a block of an earlier use of the file"
    if length % 8 or length > WAL_BLOCK_BYTES_MAX or body + length > len(text):
        return f"payload length {length}"
    payload = text[body : body + length]
    (wanted,) = _CRC.unpack_from(text, offset + _HEADER.size)
    if crc32c(payload, crc32c(text[offset : offset + _HEADER.size])) != wanted:
        return "checksum mismatch"
    if durable >= seq:
        return f"block {seq} says that block {durable} was durable before it"
    return Block(seq, ring, start, stop, durable, payload, offset)


def skip(text: memoryview, offset: int, segment_id: int, seq: int, upto_seq: int) -> tuple[int, int]:
    """(offset, sequence) of the last block up to `upto_seq`, from block `seq` at `offset` on, by headers alone.

    What nobody needs is not read through. The next header where a length says that it is, with the segment's id and the
    next sequence, vouches for that length; the last block has none behind it, so it is left to parse().
    """
    at = offset, seq
    while seq <= upto_seq:
        length = payload_bytes(text[offset : offset + BLOCK_HEADER_BYTES], segment_id, seq)
        if length is None or offset + BLOCK_HEADER_BYTES + length > len(text):
            break
        at = offset, seq
        offset, seq = offset + BLOCK_HEADER_BYTES + length, seq + 1
    return at


def payload_bytes(head: Payload, segment_id: int, seq: int) -> int | None:
    """Length of the payload of block `seq`, as its header alone says; None when that is not such a header."""
    if len(head) < BLOCK_HEADER_BYTES:
        return None
    magic, version, _, length, _, owner, found, *_ = _HEADER.unpack_from(head)
    if magic != BLOCK_MAGIC or version != VERSION or owner != segment_id or found != seq:
        return None
    return length if length % 8 == 0 and length <= WAL_BLOCK_BYTES_MAX else None


def said_by(head: Payload) -> tuple[int, int]:
    """(sequence, payload length) as a damaged block's header reads; neither is to be believed."""
    fields = _HEADER.unpack_from(head)
    return fields[6], fields[3]


def resembles(text: memoryview, offset: int, segment_id: int, seq: int) -> bool:
    """Whether somebody began to write block `seq` of this segment here: tells a torn block from a clean end.

    Magic and sequence, or the segment id (random, 64 bits), are enough: no single damaged byte hides a block.
    """
    if offset + BLOCK_HEADER_BYTES > len(text):
        return any(text[offset:])
    fields = _HEADER.unpack_from(text, offset)
    return bool(fields[5] == segment_id or (fields[0] == BLOCK_MAGIC and fields[6] == seq))


def search(text: memoryview, offset: int, segment_id: int) -> Iterator[Block]:
    """All valid blocks at or after `offset`, found by their first word: used only after an invalid one."""
    stop = offset
    for block_id, at in _first_words(text, offset):
        # Not inside a block already found: a payload may hold anything.
        if block_id == segment_id and at >= stop and isinstance(found := parse(text, at, segment_id), Block):
            stop = found.end
            yield found


def encode_segment_header(segment_id: int, segment_bytes: int, created_ns: int) -> bytes:
    page = bytearray(SEGMENT_HEADER_BYTES)
    _SEGMENT.pack_into(page, 0, SEGMENT_MAGIC, VERSION, 0, 0, segment_id, segment_bytes, created_ns)
    _CRC.pack_into(page, SEGMENT_HEADER_BYTES - _CRC.size, crc32c(memoryview(page)[: -_CRC.size]))
    return bytes(page)


def parse_segment_header(text: memoryview) -> SegmentHeader | str:
    """The header page of a segment, or why it cannot be believed."""
    if len(text) < SEGMENT_HEADER_BYTES:
        return f"the file has {len(text)} bytes, less than a header page"
    magic, version, flags, reserved, segment_id, segment_bytes, created_ns = _SEGMENT.unpack_from(text, 0)
    if magic != SEGMENT_MAGIC:
        return "no segment magic"
    (wanted,) = _CRC.unpack_from(text, SEGMENT_HEADER_BYTES - _CRC.size)
    if crc32c(text[: SEGMENT_HEADER_BYTES - _CRC.size]) != wanted:
        return "checksum mismatch in the header page"
    if version != VERSION or flags or reserved:
        return f"segment version {version}, flags {flags:#x} (this program reads version {VERSION})"
    return SegmentHeader(segment_id, segment_bytes, created_ns)


def find_segment_id(text: memoryview, first_seq: int, stop_seq: int) -> int:
    """The segment id of a file whose header page is hurt, from any valid block that may be in it; else 0.

    Safe because a recycled file's new header page is durable before the file gets its name: a missing page
    means a fresh file, and older blocks in a recycled one have lower sequences.
    """
    for block_id, at in _first_words(text, 0):
        found = parse(text, at, block_id)
        if isinstance(found, Block) and first_seq <= found.seq < stop_seq:
            return block_id
    return 0


def used_bytes(text: memoryview, offset: int) -> int:
    """End of the last 8 bytes at or after `offset` that are not all zero; `offset` when all are."""
    offset += -offset % 8
    words = np.frombuffer(text[offset:], dtype="<u8", count=max(0, len(text) - offset) // 8)
    filled = np.flatnonzero(words)
    tail = offset + 8 * len(words)
    if any(text[tail:]):
        return len(text)
    return offset + 8 * (int(filled[-1]) + 1) if len(filled) else min(offset, len(text))


def _first_words(text: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """(segment id, offset) of everything at or after `offset` that begins like a block."""
    offset += -offset % 8
    words = np.frombuffer(text[offset:], dtype="<u8", count=max(0, len(text) - offset) // 8)
    for place in np.flatnonzero(words == _FIRST_WORD).tolist():
        if place + 2 < len(words):
            yield int(words[place + 2]), offset + 8 * place
