"""What binds the files of a generation together: their names, lengths and checksums, and what they hold.

SEQ.snapshot    [BEGIN][FILES] .. [AGES][END]    written last, when every file that it names is durable
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mstore.persistence.files import Files
from mstore.persistence.snapshot_files import (
    AGES,
    BLOCK_BYTES_MAX,
    END,
    FILES,
    ROLE_CHUNKS,
    ROLE_DEFINITIONS,
    ROLE_MANIFEST,
    Block,
    BlockWriter,
    Expected,
    Part,
    Totals,
    corrupt,
    fields_of,
    part_name,
    read_blocks,
    total,
)

# role, cluster, file bytes, file crc, reserved, series, chunks, slots, t_min, t_max
_FILE = struct.Struct("<IIQIIQQQqq")
_AGES = struct.Struct("<qII")  # now_s, age_s, n; then n x u64
_FILES_PER_BLOCK = BLOCK_BYTES_MAX // _FILE.size

assert (_FILE.size, _AGES.size) == (64, 16)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What binds the files of a generation together."""

    path: Path
    log_seq: int
    id: int
    created_ns: int
    n_bytes: int
    """Of the manifest itself."""
    parts: tuple[Part, ...]
    now_s: int
    age_s: int
    memory_by_age: tuple[int, ...]
    """Bytes of memory that the chunks take, by their age at now_s in steps of age_s; the last one: all older."""
    moved: Mapping[tuple[int, int], Path] = field(default_factory=dict)
    """Where the file of a (role, cluster) lies that is not under its own name."""

    def path_of(self, part: Part) -> Path:
        """Where it is read."""
        return self.moved.get((part.role, part.cluster)) or self.name_of(part)

    def name_of(self, part: Part) -> Path:
        """Where it belongs."""
        return self.path.with_name(part_name(self.log_seq, self.id, part.role, part.cluster))

    def definitions(self) -> Part:
        return self.parts_of_definitions()[0]

    def parts_of_definitions(self) -> tuple[Part, ...]:
        """One; none when the manifest is damaged and nobody names the file."""
        return tuple(part for part in self.parts if part.role == ROLE_DEFINITIONS)

    def chunks(self) -> dict[int, Part]:
        """The files of chunks, by cluster."""
        return {part.cluster: part for part in self.parts if part.role == ROLE_CHUNKS}

    def expect(self, part: Part) -> Expected:
        return Expected(self.log_seq, part.role, part.cluster, self.id, part.n_bytes, part.crc)


def write_manifest(writer: BlockWriter, manifest: Manifest) -> int:
    """All blocks of a manifest; the bytes of the file."""
    parts = manifest.parts
    for first in range(0, len(parts), _FILES_PER_BLOCK):
        some = parts[first : first + _FILES_PER_BLOCK]
        writer.block(FILES, b"".join(map(_pack_part, some)), len(some))
    ages = np.array(manifest.memory_by_age, "<u8")
    writer.block(AGES, _AGES.pack(manifest.now_s, manifest.age_s, len(ages)) + ages.tobytes(), len(ages))
    return writer.finish(total(part.totals for part in parts)).n_bytes


def _pack_part(part: Part) -> bytes:
    held = part.totals
    return _FILE.pack(
        part.role, part.cluster, part.n_bytes, part.crc, 0, held.n_series, held.n_chunks,
        held.definition_bytes if part.role == ROLE_DEFINITIONS else held.n_slots, held.t_min, held.t_max,
    )  # fmt: skip


def _unpack_part(fields: tuple[int, ...]) -> Part:
    role, cluster, n_bytes, crc, _, n_series, n_chunks, n_of_it, t_min, t_max = fields
    sized = (0, n_of_it) if role == ROLE_DEFINITIONS else (n_of_it, 0)
    return Part(role, cluster, n_bytes, crc, Totals(n_series, n_chunks, *sized, t_min, t_max))


def read_manifest(files: Files, path: Path, log_seq: int) -> Manifest:
    """raises CorruptRecord with path and offset; LayoutMismatch for a sound file of a newer version"""
    parts: list[Part] = []
    now_s, age_s, ages = 0, 1, ()
    owner = created_ns = n_bytes = 0
    for block in read_blocks(files, path, Expected(log_seq, ROLE_MANIFEST)):
        owner, n_bytes = block.owner, block.end
        if block.kind == FILES:
            if len(block.payload) % _FILE.size:
                raise corrupt(path, block.end, "half an entry of a file")
            parts += parts_in(block)
        elif block.kind == AGES:
            if len(block.payload) < _AGES.size or len(block.payload) % 8:
                raise corrupt(path, block.end, "ages of another length")
            now_s, age_s, _ = _AGES.unpack_from(block.payload)
            ages = tuple(np.frombuffer(block.payload, "<u8", offset=_AGES.size).tolist())
        elif block.kind == END:
            created_ns = fields_of(block)["created_ns"]
    if sum(part.role == ROLE_DEFINITIONS for part in parts) != 1:
        raise corrupt(path, 0, "it does not name one file of definitions")
    return Manifest(path, log_seq, owner, created_ns, n_bytes, tuple(parts), now_s, age_s, ages)


def parts_in(block: Block) -> list[Part]:
    """What a FILES block names."""
    whole = block.payload[: len(block.payload) // _FILE.size * _FILE.size]
    return [_unpack_part(fields) for fields in _FILE.iter_unpack(whole)]


def named_in(block: Block) -> dict[str, Any]:
    """What a FILES or AGES block says, by name; empty for all others.

    raises  ValueError for a payload of another length
    """
    try:
        if block.kind == FILES:
            return {"files": [asdict(_unpack_part(fields)) for fields in _FILE.iter_unpack(block.payload)]}
        if block.kind == AGES:
            now_s, age_s, n = _AGES.unpack_from(block.payload)
            ages = np.frombuffer(block.payload, "<u8", n, _AGES.size).tolist()
            return {"now_s": now_s, "age_s": age_s, "memory_by_age": ages}
    except struct.error as error:
        raise ValueError(str(error)) from error
    return {}
