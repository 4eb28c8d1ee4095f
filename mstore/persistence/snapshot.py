"""Snapshots: all definitions and chunks as of one log sequence in one file; docs/format/snapshot.md draws it.

    [BEGIN][DEFINITIONS] .. [CHUNKS] .. [END]         blocks of a 40-byte header and a payload

A snapshot is valid iff
    1. every block is: magic, version, this snapshot's id, its place as index, crc32c of header and payload
    2. the first block is BEGIN and the last END, and nothing follows,
    3. END's crc32c equals that of all bytes before the END block, and its sequence is BEGIN's and the name's.

It is fuzzy and exact: the store goes on while it is written, so it may hold samples from behind its sequence,
but replaying the log from the next sequence on gives the store as it was, because replaying is idempotent.

Nothing is retired before the file, its name and the directory are durable, and the file gets its name only
when the log is durable up to everything it may hold: a snapshot never knows more than the log after a crash.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from crc32c import crc32c

from mstore.clock import monotonic_s, now_ns
from mstore.errors import CorruptRecord, LayoutMismatch, StorageError
from mstore.kernels._segment import Segment
from mstore.kernels._snapshot import ChunkCopier
from mstore.limits import KIB, MIB
from mstore.persistence.files import (
    SNAPSHOT_SUFFIX,
    TMP_SUFFIX,
    Files,
    number_of,
    snapshot_dir,
    snapshot_name,
)

MAGIC = 0x3130_534D  # "MS01"
VERSION = 1
BEGIN, DEFINITIONS, CHUNKS, END = 1, 2, 3, 4

SLICE_BYTES = 256 * KIB
BLOCK_BYTES_MAX = 4 * MIB
KEEP = 2
PAUSE_S = 0.0005
DURABLE_S_MAX = 30.0

# magic, version, kind, length, entries, snapshot id, index, reserved; then the crc
_HEADER = struct.Struct("<IHHIIQQI")
_CRC = struct.Struct("<I")
_BLOCK_BYTES = _HEADER.size + _CRC.size
_BEGIN = struct.Struct("<QQ")  # log sequence, reserved
# log sequence, created_ns, series, chunks, slots, definition bytes, t_min, t_max, crc of all before, reserved
_END = struct.Struct("<QQQQQQqqII")
_ENTRY = struct.Struct("<IIq40xQ")  # series, generation, n, ..., payload bytes
ENTRY_HEADER_BYTES = 64

assert _BLOCK_BYTES == 40
assert _ENTRY.size == ENTRY_HEADER_BYTES

LOADED, STALE, NO_ROOM = 1, 0, 2

LoadChunk = Callable[[int, int, int, memoryview, memoryview], int]
ApplyDefinition = Callable[[memoryview], object]


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a snapshot holds, from its END block."""

    path: Path
    log_seq: int
    """Replay from the next sequence on."""
    created_ns: int
    n_bytes: int
    n_series: int
    n_chunks: int
    n_slots: int
    definition_bytes: int
    t_min: int
    """Seconds of the oldest slot; > t_max without chunks."""
    t_max: int
    oldest_kept_seq: int = 0
    """Of the oldest of KEEP generations on disk, 0 while there are fewer: retire the log up to here."""


@dataclass(slots=True)
class Loaded:
    """What loading one put into the store."""

    definition_bytes: int = 0
    n_chunks: int = 0
    n_stale: int = 0
    """Chunks of series that were removed or replaced while the snapshot was written; the log has the rest."""
    n_no_room: int = 0
    """Chunks left out because the memory is smaller than it was."""


class _Writer:
    """One file of blocks, paced so that the log's own syncs stay quick."""

    def __init__(self, files: Files, path: Path, pause_s: float) -> None:
        self._files = files
        self._id = secrets.randbits(63) | 1
        self._pause_s = pause_s
        self._index = 0
        self._unsynced = 0
        self.offset = 0
        self.crc = 0
        self.fd = files.create(path)

    def block(self, kind: int, payload: bytes | memoryview, n_entries: int = 0) -> None:
        head = _HEADER.pack(MAGIC, VERSION, kind, len(payload), n_entries, self._id, self._index, 0)
        head += _CRC.pack(crc32c(payload, crc32c(head)))
        self._files.pwritev(self.fd, (head, payload), self.offset)
        self.crc = crc32c(payload, crc32c(head, self.crc))
        self.offset += len(head) + len(payload)
        self._index += 1
        self._unsynced += len(payload)
        if self._unsynced >= SLICE_BYTES // 2 and self._pause_s > 0:
            self._files.fdatasync(self.fd)
            self._unsynced = 0
            time.sleep(self._pause_s)


def write_snapshot(
    files: Files,
    directory: Path,
    log_seq: int,
    definitions: Iterable[bytes],
    store: Segment,
    samples: Segment,
    *,
    written: Callable[[], int],
    durable: Callable[[], int],
    pause_s: float = PAUSE_S,
    verify: bool = False,
) -> SnapshotInfo:
    """Write DIR/snapshots/<log_seq>.snapshot, then remove generations beyond KEEP.

    log_seq           everything up to here is applied to memory; the caller saw that before calling
    definitions       blocks of whole log records, parents first: DirectoryReader.dump_definitions()
    store, samples    the directory's and the samples' segment; read-only is enough
    written, durable  the control segment's words: last sequence written, last one durable
    pause_s           after each slice, which is fdatasynced; 0 = as fast as possible, with one fdatasync
    verify            read the file back and check it before it gets its name
    raises            StorageError; nothing but a *.tmp is left, which the next start removes
    """
    folder = snapshot_dir(directory)
    files.mkdir(folder)
    path = folder / snapshot_name(log_seq)
    tmp = path.with_name(path.name + TMP_SUFFIX)
    files.unlink(tmp)
    writer = _Writer(files, tmp, pause_s)
    try:
        info = _write_blocks(writer, path, log_seq, definitions, store, samples)
        files.fdatasync(writer.fd)
    finally:
        files.close(writer.fd)
    if verify:
        check_snapshot(files, tmp, log_seq)
    _wait_durable(written(), durable)
    files.rename(tmp, path)
    files.sync_path(folder)
    return replace(info, oldest_kept_seq=_remove_old(files, folder))


def _write_blocks(
    writer: _Writer, path: Path, log_seq: int, definitions: Iterable[bytes], store: Segment, samples: Segment
) -> SnapshotInfo:
    writer.block(BEGIN, _BEGIN.pack(log_seq, 0))
    definition_bytes = 0
    for records in definitions:
        assert len(records) <= BLOCK_BYTES_MAX, "definitions come in blocks of whole records"
        writer.block(DEFINITIONS, records)
        definition_bytes += len(records)
    copier = ChunkCopier(store, samples)
    scratch = bytearray(SLICE_BYTES)
    view = memoryview(scratch)
    before = 0
    while used := copier.fill(scratch):
        writer.block(CHUNKS, view[:used], copier.n_chunks - before)
        before = copier.n_chunks
    end = _END.pack(
        log_seq,
        now_ns(),
        copier.n_series,
        copier.n_chunks,
        copier.n_slots,
        definition_bytes,
        copier.t_min,
        copier.t_max,
        writer.crc,
        0,
    )
    writer.block(END, end)
    return _info(path, end, writer.offset)


def _wait_durable(seq: int, durable: Callable[[], int]) -> None:
    """Until the log is durable up to `seq`: a snapshot may hold what was written while it was copied."""
    deadline = monotonic_s() + DURABLE_S_MAX
    while durable() < seq:
        if monotonic_s() > deadline:
            raise StorageError(
                f"no snapshot: the log is not durable up to block {seq} after {DURABLE_S_MAX:g} s"
            )
        time.sleep(0.001)


def _remove_old(files: Files, folder: Path) -> int:
    kept = list_snapshots(files, folder)
    for _, path in kept[KEEP:]:
        files.unlink(path)
    return kept[KEEP - 1][0] if len(kept) >= KEEP else 0


def list_snapshots(files: Files, folder: Path) -> list[tuple[int, Path]]:
    """(log sequence, path) of all snapshots in a folder, newest first; nothing is read."""
    numbers = ((number_of(name, SNAPSHOT_SUFFIX), folder / name) for name in files.list(folder))
    return sorted(((number, path) for number, path in numbers if number is not None), reverse=True)


def check_snapshot(files: Files, path: Path, log_seq: int) -> SnapshotInfo:
    """Read all of a snapshot and check every rule; returns what its END says.

    raises  CorruptRecord with path and offset; LayoutMismatch for a sound file of a newer version
    """
    *_, (_, end, n_bytes) = _read(files, path, log_seq)
    return _info(path, end, n_bytes)


def load_snapshot(
    files: Files, path: Path, log_seq: int, apply_definition: ApplyDefinition, load_chunk: LoadChunk
) -> tuple[SnapshotInfo, Loaded]:
    """Hand on a snapshot's definitions, block by block, and then its chunks; all of it is checked before.

    apply_definition  whole log records, up to 1 MiB at once, parents first
    load_chunk        (slot, generation, n, 64-byte header, payload) -> LOADED, STALE or NO_ROOM
    raises            CorruptRecord before anything was handed on
    """
    info = check_snapshot(files, path, log_seq)
    loaded = Loaded()
    for kind, payload, _ in _read(files, path, log_seq):
        if kind == DEFINITIONS:
            apply_definition(payload)
            loaded.definition_bytes += len(payload)
        elif kind == CHUNKS:
            _each_chunk(payload, load_chunk, loaded)
    return info, loaded


def _each_chunk(payload: memoryview, load_chunk: LoadChunk, loaded: Loaded) -> None:
    offset, size = 0, len(payload)
    unpack = _ENTRY.unpack_from
    counts = [0, 0, 0]
    while offset < size:
        slot, generation, n, n_bytes = unpack(payload, offset)
        body = offset + ENTRY_HEADER_BYTES
        stop = body + n_bytes
        if stop > size:
            raise CorruptRecord(f"a chunk of {n_bytes} bytes inside a sound block: a bug in its writer")
        counts[load_chunk(slot, generation, n, payload[offset:body], payload[body:stop])] += 1
        offset = stop + (-n_bytes & 7)
    loaded.n_stale += counts[STALE]
    loaded.n_chunks += counts[LOADED]
    loaded.n_no_room += counts[NO_ROOM]


def _read(files: Files, path: Path, log_seq: int) -> Iterator[tuple[int, memoryview, int]]:
    """(kind, payload, offset behind it) of each block, every rule checked on the way; END comes last."""
    fd = files.open(path)
    try:
        size = files.size(fd)
        offset = crc = index = kind = snapshot_id = 0
        while kind != END:
            kind, owner, head, payload = _read_block(files, fd, path, offset, size, index)
            snapshot_id = snapshot_id or owner
            expected = (BEGIN,) if index == 0 else (DEFINITIONS, CHUNKS, END)
            if owner != snapshot_id or kind not in expected:
                raise _corrupt(
                    path, offset, f"kind {kind} stands where {expected} belongs, or a block of another file"
                )
            if kind == BEGIN and (len(payload) != _BEGIN.size or _BEGIN.unpack(payload)[0] != log_seq):
                raise _corrupt(path, offset, f"it does not hold the store as of block {log_seq}")
            if kind == END and (len(payload) != _END.size or _END.unpack(payload)[-2] != crc):
                raise _corrupt(path, offset, "END does not fit what stands before it")
            crc = crc32c(payload, crc32c(head, crc))
            offset += len(head) + len(payload)
            index += 1
            if kind == END and offset != size:
                raise _corrupt(path, offset, "something follows END")
            yield kind, payload, offset
    finally:
        files.close(fd)


def _read_block(
    files: Files, fd: int, path: Path, offset: int, size: int, index: int
) -> tuple[int, int, bytes, memoryview]:
    head = files.pread(fd, _BLOCK_BYTES, offset)
    if len(head) < _BLOCK_BYTES:
        raise _corrupt(path, offset, "the file ends before its END block")
    magic, version, kind, length, _, owner, place, reserved = _HEADER.unpack_from(head)
    if magic != MAGIC:
        raise _corrupt(path, offset, "no block magic")
    if length > min(BLOCK_BYTES_MAX, size - offset - _BLOCK_BYTES):
        raise _corrupt(path, offset, f"a block of {length} bytes")
    payload = memoryview(files.pread(fd, length, offset + _BLOCK_BYTES))
    if crc32c(payload, crc32c(head[: _HEADER.size])) != _CRC.unpack_from(head, _HEADER.size)[0]:
        raise _corrupt(path, offset, "checksum mismatch")
    if version != VERSION:
        raise LayoutMismatch(f"{path} has snapshot version {version}; this mstore reads version {VERSION}")
    if place != index or reserved:
        raise _corrupt(path, offset, f"block {place} stands where {index} belongs")
    return kind, owner, head, payload


def _info(path: Path, end: bytes | memoryview, n_bytes: int) -> SnapshotInfo:
    log_seq, created_ns, n_series, n_chunks, n_slots, definition_bytes, t_min, t_max, _, _ = _END.unpack(end)
    return SnapshotInfo(
        path, log_seq, created_ns, n_bytes, n_series, n_chunks, n_slots, definition_bytes, t_min, t_max
    )


def _corrupt(path: Path, offset: int, reason: str) -> CorruptRecord:
    return CorruptRecord(f"{path} at {offset}: {reason}", path=str(path), offset=offset, reason=reason)
