"""The files of one snapshot generation, as bytes: blocks in their order (docs/format/snapshot.md); what a manifest says
of them is in snapshot_manifest.py.

    SEQ.snapshot                 [BEGIN][FILES] .. [AGES][END]            the manifest, written last
    SEQ.ID.definitions           [BEGIN][DEFINITIONS] .. [END]
    SEQ.ID.CLUSTER.chunks        [BEGIN][CHUNKS] .. [END]                 one for each cluster that has series

A file is valid iff
    1. every block is: magic, version, the generation's id, the cluster, its place as index, crc32c of header and payload,
    2. the first block is BEGIN with the sequence, role and cluster that its name says, the last END, and nothing
       follows,
    3. END's crc32c equals that of the headers of all blocks before it (each holds the crc32c of its payload), and its
       sequence is BEGIN's,
    4. its length and the crc32c of all its headers are what the manifest says.
A generation is valid iff its manifest and every file that it names are.

So every block says itself whose it is, and no name is believed: a block of another generation or cluster is none of
this file's, and a file that stands under another's name is known by what it says (identity). In version 1 a block says
the generation, and only BEGIN the cluster.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from crc32c import crc32c

from mstore.errors import CorruptRecord, LayoutMismatch
from mstore.limits import KIB, MIB
from mstore.persistence.files import (
    SNAPSHOT_SUFFIX,
    Files,
    chunks_name,
    definitions_name,
    generation_of,
    number_of,
)

MAGIC = 0x3130_534D  # "MS01"
VERSION = 2
_VERSION_WITHOUT_CLUSTER = 1
"""Its blocks do not say their cluster, only BEGIN does; all else is as in version 2."""
BEGIN, DEFINITIONS, CHUNKS, END, FILES, AGES = 1, 2, 3, 4, 5, 6

ROLE_DEFINITIONS, ROLE_CHUNKS, ROLE_MANIFEST = 1, 2, 3
_CONTENT = {ROLE_DEFINITIONS: (DEFINITIONS,), ROLE_CHUNKS: (CHUNKS,), ROLE_MANIFEST: (FILES, AGES)}
_ROLE_NAMES = {ROLE_DEFINITIONS: "definitions", ROLE_CHUNKS: "chunks", ROLE_MANIFEST: "a manifest"}

SLICE_BYTES = 256 * KIB
BLOCK_BYTES_MAX = 4 * MIB

# magic, version, kind, length, entries, generation id, index, cluster; then the crc
_HEADER = struct.Struct("<IHHIIQQI")
_CRC = struct.Struct("<I")
BLOCK_HEADER_BYTES = _HEADER.size + _CRC.size
_BEGIN = struct.Struct("<QII")  # log sequence, role, cluster
# log sequence, created_ns, series, chunks, slots, definition bytes, t_min, t_max, crc of all before, reserved
_END = struct.Struct("<QQQQQQqqII")
_SEARCH_BYTES = 1 * MIB

assert BLOCK_HEADER_BYTES == 40
assert (_BEGIN.size, _END.size) == (16, 72)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a file holds."""

    n_series: int = 0
    n_chunks: int = 0
    n_slots: int = 0
    definition_bytes: int = 0
    t_min: int = (1 << 63) - 1
    """Seconds of the oldest slot; > t_max without chunks."""
    t_max: int = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a generation, as its manifest names it."""

    role: int
    cluster: int
    """Level id of the cluster; 0 of the definitions."""
    n_bytes: int
    crc: int
    totals: Totals


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must be; 0 and -1 where nobody knows."""

    log_seq: int
    role: int
    cluster: int = 0
    id: int = 0
    n_bytes: int = -1
    crc: int = -1


class Identity(NamedTuple):
    """Which file of which generation."""

    log_seq: int
    id: int
    role: int
    cluster: int


@dataclass(frozen=True, slots=True)
class Block:
    kind: int
    payload: memoryview
    end: int
    """Offset behind it."""
    owner: int
    """The generation's id."""
    cluster: int | None
    """Level id of the cluster; 0 in definitions and manifests; None: of version 1, which does not say it."""
    n_entries: int
    index: int
    """0, 1, 2 ... in its file."""

    def is_of(self, owner: int, cluster: int | None) -> bool:
        """Whether it can stand in a file of that generation and cluster."""
        return self.owner == owner and self.cluster in (None, cluster)


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes without a valid block of the file."""

    offset: int
    n_bytes: int
    reason: str
    sound: bool = False
    """It is a valid block of another file: nothing of this one's was here."""


def part_name(log_seq: int, generation_id: int, role: int, cluster: int) -> str:
    if role == ROLE_DEFINITIONS:
        return definitions_name(log_seq, generation_id)
    return chunks_name(log_seq, generation_id, cluster)


class BlockWriter:
    """One file of blocks, paced so that the log's own syncs stay quick.

    pause_s  after each slice, which is fdatasynced first; 0: never, only close() syncs
    """

    def __init__(self, files: Files, path: Path, expected: Expected, created_ns: int, pause_s: float) -> None:
        self._files = files
        self._expected = expected
        self._created_ns = created_ns
        self._pause_s = pause_s
        self._index = 0
        self._unsynced = 0
        self.offset = 0
        self.crc = 0
        self.fd = files.create(path)

    def begin(self) -> None:
        found = self._expected
        self.block(BEGIN, _BEGIN.pack(found.log_seq, found.role, found.cluster))

    def block(self, kind: int, payload: bytes | memoryview, n_entries: int = 0) -> None:
        assert len(payload) <= BLOCK_BYTES_MAX, "a block has 4 MiB at most"
        found = self._expected
        head = _HEADER.pack(
            MAGIC, VERSION, kind, len(payload), n_entries, found.id, self._index, found.cluster
        )
        head += _CRC.pack(crc32c(payload, crc32c(head)))
        self._files.pwritev(self.fd, (head, payload), self.offset)
        self.crc = crc32c(head, self.crc)  # the header holds the payload's
        self.offset += len(head) + len(payload)
        self._index += 1
        self._unsynced += len(payload)
        if self._unsynced >= SLICE_BYTES // 2 and self._pause_s > 0:
            self._files.fdatasync(self.fd)
            self._unsynced = 0
            time.sleep(self._pause_s)

    def finish(self, totals: Totals) -> Part:
        """END and fdatasync; what the manifest says of this file."""
        found = self._expected
        end = _END.pack(
            found.log_seq,
            self._created_ns,
            totals.n_series,
            totals.n_chunks,
            totals.n_slots,
            totals.definition_bytes,
            totals.t_min,
            totals.t_max,
            self.crc,
            0,
        )
        self.block(END, end)
        self._files.fdatasync(self.fd)
        return Part(found.role, found.cluster, self.offset, self.crc, totals)

    def close(self) -> None:
        self._files.close(self.fd)


def total(several: Iterator[Totals]) -> Totals:
    """The sums, and the whole span of time."""
    found = Totals()
    for one in several:
        found = Totals(
            found.n_series + one.n_series,
            found.n_chunks + one.n_chunks,
            found.n_slots + one.n_slots,
            found.definition_bytes + one.definition_bytes,
            min(found.t_min, one.t_min),
            max(found.t_max, one.t_max),
        )
    return found


def read_blocks(files: Files, path: Path, expected: Expected) -> Iterator[Block]:
    """Each block, every rule checked on the way; END comes last, and only behind it all of the file is known sound.

    raises  CorruptRecord with path and offset; LayoutMismatch for a sound block of a newer version
    """
    fd = _open(files, path)
    try:
        size = files.size(fd)
        if expected.n_bytes not in (-1, size):
            raise corrupt(path, 0, f"the file has {size} bytes instead of {expected.n_bytes}")
        offset = crc = index = kind = owner = 0
        owner = expected.id
        while kind != END:
            head, block = _read_block(files, fd, path, offset, size)
            kind, owner = block.kind, owner or block.owner
            _check_place(path, offset, block, index, owner, expected)
            if kind == END and (len(block.payload) != _END.size or _END.unpack(block.payload)[-2] != crc):
                raise corrupt(path, offset, "END does not fit what stands before it")
            crc = crc32c(head, crc)
            offset, index = block.end, index + 1
            if kind == END and offset != size:
                raise corrupt(path, offset, "something follows END")
            if kind == END and expected.crc not in (-1, crc):
                raise corrupt(path, 0, "it is not the file that the manifest names")
            yield block
    finally:
        files.close(fd)


def read_sound_blocks(files: Files, path: Path, expected: Expected, gaps: list[Gap]) -> Iterator[Block]:
    """Of a damaged file: every block that is sound, its own and in its order; `gaps` gets what lies between them.

    expected  id and cluster tell the blocks of this file from those of another; id 0: those of the first sound one
    """
    try:
        fd = _open(files, path)
    except CorruptRecord as failure:
        gaps.append(Gap(0, 0, failure.details["reason"]))
        return
    try:
        size = files.size(fd)
        offset, index, kind = 0, 0, 0
        owner: tuple[int, int | None] | None = (expected.id, expected.cluster) if expected.id else None
        while kind != END and offset < size:
            try:
                _, block = _read_block(files, fd, path, offset, size)
            except CorruptRecord as failure:
                stop = _next_magic(files, fd, offset + 8, size)
                gaps.append(Gap(offset, stop - offset, failure.details["reason"]))
                offset = stop
                continue
            owner = owner or (block.owner, block.cluster)
            if not block.is_of(*owner) or block.index < index:
                why = "a block of another file, or out of its order"
                gaps.append(Gap(offset, block.end - offset, why, sound=True))
                offset = block.end
                continue
            kind, offset, index = block.kind, block.end, block.index + 1
            yield block
        if kind != END and not gaps:
            gaps.append(Gap(offset, 0, "the file ends before its END block"))
    finally:
        files.close(fd)


def read_end(files: Files, path: Path, expected: Expected) -> tuple[Totals, int]:
    """(what a file holds, its bytes) as its own END says, for who has no manifest; nothing before END is looked at.

    raises  CorruptRecord; LayoutMismatch for a sound END of a newer version
    """
    fd = _open(files, path)
    try:
        size = files.size(fd)
        offset = max(0, size - BLOCK_HEADER_BYTES - _END.size)
        _, block = _read_block(files, fd, path, offset, size)
    finally:
        files.close(fd)
    is_end = block.kind == END and len(block.payload) == _END.size
    if not is_end or not block.is_of(expected.id, expected.cluster):
        raise corrupt(path, offset, "no END of this file")
    log_seq, _, n_series, n_chunks, n_slots, definition_bytes, t_min, t_max, _, _ = _END.unpack(block.payload)
    if log_seq != expected.log_seq:
        raise corrupt(path, offset, f"an END as of block {log_seq}")
    return Totals(n_series, n_chunks, n_slots, definition_bytes, t_min, t_max), size


def identity(files: Files, path: Path) -> Identity | None:
    """Which file it is, as its sound BEGIN says; None when there is none."""
    with contextlib.suppress(CorruptRecord, LayoutMismatch):
        fd = _open(files, path)
        try:
            block = _read_block(files, fd, path, 0, files.size(fd))[1]
        finally:
            files.close(fd)
        if block.kind == BEGIN and len(block.payload) == _BEGIN.size:
            log_seq, role, cluster = _BEGIN.unpack(block.payload)
            return Identity(log_seq, block.owner, role, cluster)
    return None


def named_identity(name: str) -> Identity | None:
    """Which file a name belongs to, id 0 of a manifest; None for a name of no snapshot."""
    if (log_seq := number_of(name, SNAPSHOT_SUFFIX)) is not None:
        return Identity(log_seq, 0, ROLE_MANIFEST, 0)
    if (generation := generation_of(name)) is None:
        return None
    if name.endswith(".chunks"):
        return Identity(*generation, ROLE_CHUNKS, int(name.split(".")[2], 16))
    return Identity(*generation, ROLE_DEFINITIONS, 0)


def block_length(header: memoryview, room: int) -> int:
    """Bytes of payload behind a damaged block's header, as far as it can be believed; `room` when it cannot."""
    kind, length = _HEADER.unpack_from(header)[2:4]
    return int(length) if kind == CHUNKS and length <= room else room


def fields_of(block: Block) -> dict[str, int]:
    """What a BEGIN or an END says, by name; empty for all others.

    raises  ValueError for a payload of another length
    """
    layouts = {
        BEGIN: (_BEGIN, ("log_seq", "role", "cluster")),
        END: (_END, (
            "log_seq", "created_ns", "n_series", "n_chunks", "n_slots", "definition_bytes", "t_min", "t_max",
            "crc_before",
        )),
    }  # fmt: skip
    if block.kind not in layouts:
        return {}
    payload, names = layouts[block.kind]
    try:
        return dict(zip(names, payload.unpack(block.payload), strict=False))
    except struct.error as error:
        raise ValueError(str(error)) from error


def _next_magic(files: Files, fd: int, offset: int, size: int) -> int:
    """Offset of the next word that may begin a block; blocks begin at multiples of 8."""
    while offset < size:
        text = files.pread(fd, _SEARCH_BYTES, offset)
        words = np.frombuffer(text, "<u4", len(text) // 8 * 2)[::2]
        found = np.flatnonzero(words == MAGIC)
        if len(found):
            return offset + 8 * int(found[0])
        if len(text) < _SEARCH_BYTES:
            break
        offset += _SEARCH_BYTES
    return size


def _open(files: Files, path: Path) -> int:
    if path.name not in files.list(path.parent):
        raise corrupt(path, 0, "there is no such file")
    return files.open(path)


def _check_place(path: Path, offset: int, block: Block, index: int, owner: int, expected: Expected) -> None:
    if block.index != index:
        raise corrupt(path, offset, f"block {block.index} stands where {index} belongs")
    allowed = (BEGIN,) if index == 0 else (*_CONTENT[expected.role], END)
    if not block.is_of(owner, expected.cluster) or block.kind not in allowed:
        raise corrupt(path, offset, "a block of another kind or file stands here")
    if block.kind == BEGIN:
        if len(block.payload) != _BEGIN.size:
            raise corrupt(path, offset, "a BEGIN of another length")
        log_seq, role, cluster = _BEGIN.unpack(block.payload)
        if (log_seq, role, cluster) != (expected.log_seq, expected.role, expected.cluster):
            what = _ROLE_NAMES[expected.role] + (
                f" of cluster {expected.cluster}" if expected.cluster else ""
            )
            raise corrupt(path, offset, f"it does not hold {what} as of block {expected.log_seq}")


def _read_block(files: Files, fd: int, path: Path, offset: int, size: int) -> tuple[bytes, Block]:
    head = files.pread(fd, BLOCK_HEADER_BYTES, offset)
    if len(head) < BLOCK_HEADER_BYTES:
        raise corrupt(path, offset, "the file ends before its END block")
    magic, version, kind, length, n_entries, owner, index, cluster = _HEADER.unpack_from(head)
    if magic != MAGIC:
        raise corrupt(path, offset, "no block magic")
    if length > min(BLOCK_BYTES_MAX, size - offset - BLOCK_HEADER_BYTES):
        raise corrupt(path, offset, f"a block of {length} bytes")
    payload = memoryview(files.pread(fd, length, offset + BLOCK_HEADER_BYTES))
    if crc32c(payload, crc32c(head[: _HEADER.size])) != _CRC.unpack_from(head, _HEADER.size)[0]:
        raise corrupt(path, offset, "checksum mismatch")
    if version not in (VERSION, _VERSION_WITHOUT_CLUSTER):
        raise LayoutMismatch(
            f"{path} has snapshot version {version}; this mstore reads versions up to {VERSION}"
        )
    end = offset + BLOCK_HEADER_BYTES + length
    said = None if version == _VERSION_WITHOUT_CLUSTER else cluster
    return head, Block(kind, payload, end, owner, said, n_entries, index)


def corrupt(path: Path, offset: int, reason: str) -> CorruptRecord:
    return CorruptRecord(f"{path} at {offset}: {reason}", path=str(path), offset=offset, reason=reason)
