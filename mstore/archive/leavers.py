"""Early leavers: what must leave memory at once is put into a file first, and from there goes into the archive.

At the memory cap, and by an operator's command, chunks go that no pass has archived yet, and nobody can wait for one.
So the persister copies them as they are, some MiB a second at most, into DIR/leaving; the next pass archives them with
the rest, and meanwhile questions find them there. Samples of a time that is archived already are noted there, too: the
next pass archives them again, from memory or from these files.

    DIR/leaving/9f3c6a0e51d2b748.leavers    [block][block] ...      one file from one pass to the next

    block   magic, kind, flags, length, log sequence, span of seconds, crc32c; then the payload
    CHUNKS  entries as in a snapshot: 64 bytes of header, the slots or rows (docs/format/snapshot.md)
    MARKS   {slot, generation, time in ms}: a sample of that series and time was stored after it was archived

The file survives every process of the store. Against a power cut it is not hurried to the disk: then the last of it may
be missing. The next start cuts what belongs to blocks of the log that were lost with it: they are in memory again.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from mstore.persistence.files import LEAVERS_SUFFIX, Files, leaving_dir, leaving_name
from mstore.shm import layout

CHUNKS, MARKS = 1, 2
DURING = 1
"""Flag: a pass was under way, which may have archived some of it."""
FILES_PER_PASS = 256
"""Their names are in the argument of its process, which the system limits to 128 KiB: an archive that failed for weeks
has more of them."""
_MAGIC = 0x3130_564C  # "LV01"
BLOCK = np.dtype(
    [
        ("magic", "<u4"), ("kind", "u1"), ("flags", "u1"), ("pad", "<u2"), ("length", "<u4"), ("entries", "<u4"),
        ("seq", "<u8"), ("first_s", "<i8"), ("last_s", "<i8"), ("reserved", "<u4"), ("crc", "<u4"),
    ]
)  # fmt: skip
MARK = np.dtype([("slot", "<u4"), ("generation", "<u4"), ("t_ms", "<i8")])

assert BLOCK.itemsize == 48
assert MARK.itemsize == 16

Buffers = Sequence[bytes | bytearray | memoryview]


@dataclass(frozen=True, slots=True)
class Block:
    """A sound block and where its payload stands."""

    kind: int
    flags: int
    seq: int
    """Of the log's block that frees this, or that stored it."""
    first_s: int
    last_s: int
    offset: int
    n_bytes: int


class LeaversFile:
    """The file that is written to; the persister has one from each pass to the next.

    limit_bytes   of all files together: beyond, nothing is taken any more
    """

    def __init__(self, files: Files, store_dir: Path, limit_bytes: int) -> None:
        self._files = files
        self._store_dir = store_dir
        self._limit = limit_bytes
        self._path: Path | None = None
        self._fd = -1
        self._at = 0
        self._closed = self._found()

    def _found(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in leavers_files(self._files, self._store_dir)}

    def cut_behind(self, last_seq: int) -> None:
        """At a start, before anything is put: see the function of this name. raises StorageError"""
        assert self._fd < 0
        cut_behind(self._files, self._store_dir, last_seq)
        self._closed = self._found()

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return self._at + sum(self._closed.values())

    def put(
        self, kind: int, payload: Buffers, entries: int, seq: int, span: tuple[int, int], flags: int = 0
    ) -> bool:
        """Append a block; False when there is no room for it. raises StorageError"""
        content = b"".join(payload)  # the system takes a thousand buffers at a time, a block has more
        length = len(content)
        if self.n_bytes + length > self._limit:
            return False
        if self._fd < 0:
            folder = leaving_dir(self._store_dir)
            self._files.mkdir(folder)
            self._path = folder / leaving_name(secrets.randbits(63) | 1)
            self._fd, self._at = self._files.create(self._path), 0
        head = np.array((_MAGIC, kind, flags, 0, length, entries, seq, *span, 0, 0), BLOCK)
        head["crc"] = _checksum(head, content)
        self._files.pwritev(self._fd, [head.tobytes(), content], self._at)
        self._at += BLOCK.itemsize + length
        return True

    def close(self) -> list[Path]:
        """Begin a new file with the next block; files that are complete, as many as one pass takes."""
        if self._fd >= 0:
            assert self._path is not None
            self._files.close(self._fd)
            self._closed[self._path] = self._at
            self._fd, self._at, self._path = -1, 0, None
        return list(self._closed)[:FILES_PER_PASS]

    def remove(self, paths: Sequence[Path]) -> None:
        """Their content is in the archive."""
        for path in paths:
            self._files.unlink(path)
            self._closed.pop(path, None)


def _checksum(head: NDArray[np.void] | np.void, payload: bytes | memoryview) -> int:
    return int(crc32c(payload, crc32c(head.tobytes()[: BLOCK.itemsize - 4])))


def leavers_files(files: Files, store_dir: Path) -> list[Path]:
    """All files of early leavers, in no order."""
    folder = leaving_dir(store_dir)
    return [folder / name for name in files.list(folder) if name.endswith(LEAVERS_SUFFIX)]


def blocks(files: Files, path: Path) -> Iterator[tuple[Block, memoryview]]:
    """The sound blocks of a file and their payloads, up to its end or to the first that is not whole.

    raises  StorageError
    """
    fd = files.open(path)
    try:
        for offset, head in _headers(files, fd):
            length = int(head["length"])
            payload = memoryview(files.pread(fd, length, offset))
            if int(head["crc"]) != _checksum(head, payload):
                return
            block = Block(
                int(head["kind"]), int(head["flags"]), int(head["seq"]), int(head["first_s"]), int(head["last_s"]),
                offset, length,
            )  # fmt: skip
            yield block, payload
    finally:
        files.close(fd)


def _headers(files: Files, fd: int) -> Iterator[tuple[int, np.void]]:
    """(offset of the payload, header) of each block that the file is long enough for."""
    at, size = 0, files.size(fd)
    while at + BLOCK.itemsize <= size:
        head = np.frombuffer(files.pread(fd, BLOCK.itemsize, at), BLOCK)[0]
        at += BLOCK.itemsize
        if head["magic"] != _MAGIC or at + int(head["length"]) > size:
            return
        yield at, head
        at += int(head["length"])


def cut_behind(files: Files, store_dir: Path, last_seq: int) -> None:
    """At a start: drop what belongs to blocks of the log that do not exist any more, and torn ends. raises StorageError"""
    for path in leavers_files(files, store_dir):
        end = 0
        for block, _ in blocks(files, path):
            if block.seq > last_seq:
                break
            end = block.offset + block.n_bytes
        if not end:
            files.unlink(path)
        elif end < path.stat().st_size:
            files.truncate(path, end)


# --- entries of a CHUNKS block


def entry(head: np.void, payload: bytes | memoryview) -> list[bytes | memoryview]:
    """A chunk as snapshots have it: its header with the payload's length, the payload, zeros up to 8 bytes."""
    saved = head.copy()
    saved["reserved"] = len(payload)
    saved["size_class"], saved["capacity"], saved["seq"] = 0, 0, 0
    return [saved.tobytes(), payload, bytes(-len(payload) % 8)]


def entries(payload: memoryview) -> Iterator[tuple[np.void, memoryview]]:
    """(header, slots or rows) of each entry; the views are valid as long as the payload."""
    at = 0
    while at + layout.CHUNK.itemsize <= len(payload):
        head = np.frombuffer(payload, layout.CHUNK, 1, at)[0]
        at += layout.CHUNK.itemsize
        n_bytes = int(head["reserved"])
        yield head, payload[at : at + n_bytes]
        at += (n_bytes + 7) // 8 * 8


@dataclass(frozen=True, slots=True)
class Kept:
    """A chunk in a file of early leavers."""

    path: Path
    head: np.void
    offset: int
    n_bytes: int
    during: bool


class EarlyLeavers:
    """What the files hold, by series; the samples stay in the files until they are asked for.

    raises  StorageError
    """

    def __init__(self, files: Files, paths: Sequence[Path]) -> None:
        self._files = files
        self.paths = list(paths)
        self.chunks: dict[int, list[Kept]] = {}
        """By reference, in the order in which they left."""
        self.marks: dict[int, list[int]] = {}
        """By reference: times in ms of samples that came after their time was archived."""
        found: list[tuple[int, int, Kept]] = []
        for path in paths:
            for block, payload in blocks(files, path):  # one at a time: together they may be a GiB
                if block.kind == MARKS:
                    self._mark(np.frombuffer(payload, MARK))
                    continue
                at = block.offset
                for head, values in entries(payload):
                    at += layout.CHUNK.itemsize
                    ref = int(head["generation"]) << 32 | int(head["series"])
                    kept = Kept(path, head.copy(), at, len(values), bool(block.flags & DURING))
                    found.append((block.seq, ref, kept))
                    at += (len(values) + 7) // 8 * 8
        found.sort(key=lambda one: one[0])
        for _, ref, kept in found:
            self.chunks.setdefault(ref, []).append(kept)

    def without(self, done: Collection[str]) -> EarlyLeavers:
        """Those of the other files; done: names of files."""
        left = [path for path in self.paths if path.name not in done]
        return self if len(left) == len(self.paths) else EarlyLeavers(self._files, left)

    def _mark(self, marks: NDArray[np.void]) -> None:
        for slot, generation, t_ms in marks.tolist():
            self.marks.setdefault(generation << 32 | slot, []).append(t_ms)

    def payload(self, kept: Kept) -> memoryview:
        """The slots or rows of a chunk. raises StorageError"""
        fd = self._files.open(kept.path)
        try:
            return memoryview(self._files.pread(fd, kept.n_bytes, kept.offset))
        finally:
            self._files.close(fd)


def spans(files: Files, store_dir: Path) -> list[tuple[int, int]]:
    """(first, last) second of each block of chunks, by their headers alone: 48 bytes of each are read.

    A block whose payload is damaged is told, too: then a question looks for more than there is.
    raises  StorageError
    """
    found = []
    for path in leavers_files(files, store_dir):
        fd = files.open(path)
        try:
            found += [
                (int(head["first_s"]), int(head["last_s"]))
                for _, head in _headers(files, fd)
                if head["kind"] == CHUNKS
            ]
        finally:
            files.close(fd)
    return found
