"""Snapshots of stores built by hand from the layout's dtypes: no code of the writers is needed here."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mstore.errors import CorruptRecord, InvariantBroken, LayoutMismatch, StorageError
from mstore.kernels import reference_snapshot
from mstore.kernels._segment import Segment
from mstore.kernels._snapshot import ChunkCopier
from mstore.persistence import snapshot as snapshots
from mstore.persistence.blocks import Payload
from mstore.persistence.files import Files, snapshot_dir, snapshot_name
from mstore.persistence.snapshot import (
    LOADED,
    STALE,
    SnapshotInfo,
    check_snapshot,
    list_snapshots,
    load_snapshot,
    write_snapshot,
)
from mstore.shm import layout

SERIES_AT = 2 * layout.PAGE_BYTES
N_SERIES = 16


@dataclass
class HandMade:
    """A directory segment with a series table and a samples segment with chunks, written word by word."""

    store: bytearray = field(default_factory=lambda: bytearray(SERIES_AT + N_SERIES * layout.SERIES.itemsize))
    samples: bytearray = field(default_factory=lambda: bytearray(layout.SAMPLES_DATA + 64 * 1024))
    end: int = layout.SAMPLES_DATA
    stamp: int = 0

    def __post_init__(self) -> None:
        words = np.frombuffer(self.store, layout.DIRECTORY, count=1, offset=layout.DIRECTORY_AT)
        words["regions"]["offset"][0, layout.REGION_NAMES.index("series")] = SERIES_AT
        words["n_series"] = N_SERIES
        header = np.frombuffer(self.samples, layout.SEGMENT_HEADER, count=1)
        header["committed_bytes"] = len(self.samples)

    @property
    def series(self) -> NDArray[np.void]:
        return np.frombuffer(self.store, layout.SERIES, count=N_SERIES, offset=SERIES_AT)

    def add_series(
        self, slot: int, *, kind: int = 1, vtype: int = 1, columns: int = 1, generation: int = 1
    ) -> None:
        entry = self.series[slot : slot + 1]
        entry["generation"], entry["kind"], entry["type"], entry["n_columns"] = (
            generation,
            kind,
            vtype,
            columns,
        )
        entry["flags"], entry["anchor_s"], entry["step_s"] = layout.SERIES_LIVE, 1000, 10

    def take(self, size_class: int) -> int:
        offset = self.end
        self.end += layout.SIZE_CLASS_BYTES[size_class]
        return offset

    def link(self, offset: int, size_class: int) -> int:
        self.stamp += 1
        return offset >> 6 | size_class << 36 | self.stamp << 40

    def add_chunk(
        self, slot: int, n: int, values: NDArray[np.generic], size_class: int = 2, count: int = 512
    ) -> int:
        """Write a chunk and return its link word; `values` are the whole payload."""
        entry = self.series[slot]
        offset = self.take(size_class)
        chunk = np.frombuffer(self.samples, layout.CHUNK, count=1, offset=offset)
        for name in ("generation", "anchor_s", "step_s", "kind", "type", "n_columns"):
            chunk[name] = entry[name]
        chunk["series"], chunk["n"], chunk["size_class"] = slot, n, size_class
        chunk["capacity"], chunk["count"] = count, count
        if entry["kind"] == layout.KIND_STAMPED:
            chunk["anchor_s"], chunk["t_max_ms"] = 5000, 9000
        raw = values.tobytes()
        assert len(raw) <= layout.SIZE_CLASS_BYTES[size_class] - 64
        self.samples[offset + 64 : offset + 64 + len(raw)] = raw
        return self.link(offset, size_class)

    def set_links(self, slot: int, links: Sequence[tuple[int, int]]) -> None:
        """(n, link word) of all chunks, through a table unless there is one."""
        if len(links) == 1:
            self.series[slot : slot + 1]["link0"] = links[0][1]
            return
        offset = self.take(layout.CLASS_TABLE_8)
        words = np.frombuffer(self.samples, np.uint64, count=8, offset=offset)
        words[:] = 0
        for n, word in links:
            words[n % 8] = word
        self.series[slot : slot + 1]["table"] = offset << 8 | 3

    def segments(self) -> tuple[Segment, Segment]:
        return Segment(self.store), Segment(self.samples)


def small_store() -> tuple[HandMade, dict[tuple[int, int, int], bytes]]:
    """Grid series of each type, a stamped one, negative chunk numbers; and what a snapshot holds of it."""
    made = HandMade()
    expected: dict[tuple[int, int, int], bytes] = {}
    made.add_series(0)
    first = np.full(16, np.nan, np.float32)
    first[3:6] = [1.5, 2.5, 3.5]
    made.set_links(0, [(0, made.add_chunk(0, 0, first, size_class=0, count=16))])
    expected[0, 1, 0] = first[:6].tobytes()
    made.add_series(2, vtype=layout.TYPE_F64, generation=7)
    links = []
    for n in (-1, 0, 2):
        values = np.arange(512, dtype=np.float64) + n
        values[-1] = np.nan
        links.append((n, made.add_chunk(2, n, values, size_class=3)))
        expected[2, 7, n] = values[:-1].tobytes()
    made.set_links(2, links)
    made.add_series(3, vtype=layout.TYPE_U64)
    counts = np.full(512, layout.U64_MISSING, np.uint64)
    counts[0] = 12
    made.set_links(3, [(0, made.add_chunk(3, 0, counts, size_class=3))])
    expected[3, 1, 0] = counts[:1].tobytes()
    made.add_series(5, kind=layout.KIND_STAMPED, vtype=0, columns=2)
    rows = np.array([[5000, 1, 2], [9000, 3, 4], [0, 0, 0]], np.int64)
    link = made.add_chunk(5, 0, rows, size_class=1, count=18)
    made.set_links(5, [(0, link)])
    chunk = np.frombuffer(made.samples, layout.CHUNK, count=1, offset=(link & (1 << 36) - 1) << 6)
    chunk["count"] = 2
    expected[5, 1, 0] = rows[:2].tobytes()
    made.add_series(6)  # no chunk at all
    made.add_series(7)
    made.set_links(7, [(0, made.add_chunk(7, 0, np.full(512, np.nan, np.float32)))])
    return made, expected


def definition(number: int) -> bytes:
    return struct.pack("<HBBIQ", 16, 0, 0, 16, number)


def take(
    directory: Path, made: HandMade, log_seq: int = 77, files: Files | None = None, **more: object
) -> SnapshotInfo:
    store, samples = made.segments()
    blocks = [definition(1) + definition(2), definition(3)]
    return write_snapshot(
        files or Files(),
        directory,
        log_seq,
        blocks,
        store,
        samples,
        written=lambda: log_seq,
        durable=lambda: log_seq,
        pause_s=0,
        verify=bool(more.get("verify")),
    )


def load(
    path: Path, log_seq: int = 77
) -> tuple[list[bytes], dict[tuple[int, int, int], bytes], SnapshotInfo]:
    definitions: list[bytes] = []
    chunks: dict[tuple[int, int, int], bytes] = {}

    def load_chunk(slot: int, generation: int, n: int, header: memoryview, payload: memoryview) -> int:
        assert len(header) == 64
        chunks[slot, generation, n] = bytes(payload)
        return LOADED

    info, loaded = load_snapshot(
        Files(), path, log_seq, lambda record: definitions.append(bytes(record)), load_chunk
    )
    assert loaded.n_chunks == len(chunks) == info.n_chunks
    return definitions, chunks, info


def test_a_snapshot_gives_back_every_definition_and_chunk(tmp_path: Path) -> None:
    made, expected = small_store()
    info = take(tmp_path, made, verify=True)
    definitions, chunks, read = load(info.path)
    assert definitions == [definition(1) + definition(2), definition(3)]
    assert chunks == expected
    assert read == info
    assert (info.n_series, info.n_chunks, info.log_seq, info.definition_bytes) == (6, 6, 77, 48)
    assert info.t_min == 1000 + 5 - 512 * 10
    assert info.t_max == 1000 + 5 + (2 * 512 + 510) * 10


def test_the_copied_header_tells_kind_type_grid_and_stamps(tmp_path: Path) -> None:
    made, _ = small_store()
    headers: dict[int, NDArray[np.void]] = {}

    def load_chunk(slot: int, generation: int, n: int, header: memoryview, payload: memoryview) -> int:
        headers[slot] = np.frombuffer(bytes(header), layout.CHUNK)[0]
        return STALE

    info = take(tmp_path, made)
    _, loaded = load_snapshot(Files(), info.path, 77, lambda record: None, load_chunk)
    assert loaded.n_stale == 6
    stamped: Any = headers[5]
    grid: Any = headers[2]
    assert (grid["anchor_s"], grid["step_s"], grid["count"]) == (1000, 10, 511)
    assert (stamped["kind"], stamped["n_columns"], stamped["count"]) == (2, 2, 2)
    assert (stamped["anchor_s"], stamped["t_max_ms"], stamped["seq"]) == (5000, 9000, 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, set[bytes]]:
    """(bytes of a small snapshot, payloads in it)"""
    made, expected = small_store()
    for slot in (2, 3):
        made.series[slot : slot + 1]["flags"] = 0
    info = take(tmp_path_factory.mktemp("snapshot"), made)
    assert info.n_bytes < 1200
    return info.path.read_bytes(), set(expected.values())


class Image(Files):
    """One file whose bytes are given."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, path: Path, *, writable: bool = False) -> int:
        return 0

    def close(self, fd: int) -> None:
        pass

    def size(self, fd: int) -> int:
        return len(self.content)

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        return self.content[offset : offset + n_bytes]


def refuses(content: bytes) -> str:
    handed_on: list[int] = []

    def load_chunk(slot: int, generation: int, n: int, header: memoryview, payload: memoryview) -> int:
        handed_on.append(slot)
        return LOADED

    with pytest.raises(CorruptRecord) as caught:
        load_snapshot(Image(content), Path("s"), 77, lambda record: handed_on.append(0), load_chunk)
    assert handed_on == [], "nothing is handed on from a file that is not sound"
    return caught.value.message


def test_every_flipped_byte_of_a_snapshot_is_detected(written: tuple[bytes, set[bytes]]) -> None:
    content, _ = written
    for offset in range(len(content)):
        for mask in (0x01, 0xFF):
            image = bytearray(content)
            image[offset] ^= mask
            assert refuses(bytes(image)), offset


def test_every_truncation_of_a_snapshot_is_detected(written: tuple[bytes, set[bytes]]) -> None:
    content, _ = written
    for length in range(len(content)):
        assert refuses(content[:length]), length


def test_bytes_after_the_end_and_blocks_left_out_are_detected(written: tuple[bytes, set[bytes]]) -> None:
    content, _ = written
    assert "follows END" in refuses(content + b"\0")
    begin = 40 + 16
    assert refuses(content[begin:])
    assert refuses(content[:begin] + content[begin + 40 + 32 :]), "the first block of definitions is missing"


def test_a_snapshot_under_the_name_of_another_sequence_is_refused(tmp_path: Path) -> None:
    info = take(tmp_path, small_store()[0])
    with pytest.raises(CorruptRecord, match="as of block 78"):
        check_snapshot(Files(), info.path, 78)


def test_a_sound_snapshot_of_a_newer_version_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "VERSION", 2)
    info = take(tmp_path, small_store()[0])
    monkeypatch.undo()
    with pytest.raises(LayoutMismatch, match="version 2"):
        check_snapshot(Files(), info.path, 77)


def test_two_generations_are_kept_and_the_older_one_bounds_retirement(tmp_path: Path) -> None:
    made, _ = small_store()
    assert take(tmp_path, made, 10).oldest_kept_seq == 0
    assert take(tmp_path, made, 20).oldest_kept_seq == 10
    assert take(tmp_path, made, 30).oldest_kept_seq == 20
    assert [seq for seq, _ in list_snapshots(Files(), snapshot_dir(tmp_path))] == [30, 20]


def test_a_snapshot_gets_its_name_only_when_the_log_is_durable_behind_it(tmp_path: Path) -> None:
    made, _ = small_store()
    store, samples = made.segments()
    asked: list[bool] = []

    def durable() -> int:
        asked.append((snapshot_dir(tmp_path) / snapshot_name(5)).exists())
        return 4 + len(asked)

    write_snapshot(Files(), tmp_path, 5, [], store, samples, written=lambda: 9, durable=durable, pause_s=0)
    assert asked == [False] * 5
    assert (snapshot_dir(tmp_path) / snapshot_name(5)).exists()


class Failing(Files):
    """Fails the n-th operation that touches the disk; records which were done."""

    def __init__(self, fail_at: int) -> None:
        self.left = fail_at
        self.done: list[str] = []

    def _count(self, what: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise StorageError(f"injected into {what}")
        self.done.append(what)

    def pwritev(self, fd: int, buffers: Sequence[Payload], offset: int) -> None:
        self._count("write")
        super().pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        self._count("fdatasync")
        super().fdatasync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        super().rename(source, target)

    def sync_path(self, path: Path) -> None:
        self._count("sync_path")
        super().sync_path(path)

    def unlink(self, path: Path) -> None:
        self._count("unlink")
        super().unlink(path)


def test_whatever_operation_fails_the_older_snapshot_stays_and_nothing_half_done_has_a_name(
    tmp_path: Path,
) -> None:
    made, expected = small_store()
    take(tmp_path, made, 10)
    take(tmp_path, made, 20)
    complete = Failing(0)
    take(tmp_path, made, 30, complete)
    order = [what for what in complete.done if what != "write"]
    assert order == ["unlink", "fdatasync", "rename", "sync_path", "unlink"], "names only after contents"
    for fail_at in range(1, len(complete.done) + 1):
        with pytest.raises(StorageError, match="injected"):
            take(tmp_path, made, 40, Failing(fail_at))
        for seq, path in list_snapshots(Files(), snapshot_dir(tmp_path)):
            assert load(path, seq)[1] == expected
        assert 30 in [seq for seq, _ in list_snapshots(Files(), snapshot_dir(tmp_path))]


def test_a_link_that_leads_nowhere_is_refused_not_followed() -> None:
    made, _ = small_store()
    made.series[0:1]["link0"] = made.link(1 << 40, 2)
    copier = ChunkCopier(*made.segments())
    with pytest.raises(InvariantBroken, match="series 0"):
        copier.fill(bytearray(8192))


def test_a_link_table_that_leads_nowhere_is_refused_not_followed() -> None:
    made, _ = small_store()
    made.series[2:3]["table"] = (1 << 45) << 8 | 3
    copier = ChunkCopier(*made.segments())
    with pytest.raises(InvariantBroken, match="series 2"):
        copier.fill(bytearray(4160))


def test_slices_of_any_size_give_the_same_entries() -> None:
    made, _ = small_store()
    found = []
    for size in (4160, 5000, 256 * 1024):
        copier = ChunkCopier(*made.segments())
        out = bytearray(size)
        parts = []
        while used := copier.fill(out):
            parts.append(bytes(out[:used]))
        found.append(b"".join(parts))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 5000


def test_the_kernel_copies_what_the_reference_copies() -> None:
    seed = int(os.environ.get("MSTORE_SEED", "1"))
    rng = np.random.default_rng(seed)
    for round_ in range(20):
        made = random_store(rng)
        copier = ChunkCopier(*made.segments())
        out = bytearray(4160)
        parts = []
        while used := copier.fill(out):
            parts.append(bytes(out[:used]))
        expected = reference_snapshot.copy_chunks(made.store, made.samples)
        assert b"".join(parts) == expected, f"seed {seed}, round {round_}"


def random_store(rng: np.random.Generator) -> HandMade:
    """Series of all kinds and types, some free; chunks of all classes with holes, in a table."""
    made = HandMade(samples=bytearray(layout.SAMPLES_DATA + 600_000))
    dtypes: dict[int, Any] = dict(layout.TYPE_DTYPES)
    for slot in range(N_SERIES):
        kind, vtype = int(rng.integers(1, 3)), int(rng.integers(1, 4))
        made.add_series(slot, kind=kind, vtype=vtype, columns=int(rng.integers(1, 4)))
        width = 4 if vtype == layout.TYPE_F32 else 8
        links = []
        for n in rng.permutation(8)[: rng.integers(0, 8)].tolist():
            size_class = int(rng.integers(0, 4))
            room = layout.SIZE_CLASS_BYTES[size_class] - 64
            if kind == layout.KIND_GRID:
                count = min(room // width, 512)
                values = rng.integers(0, 255, count).astype(dtypes[vtype])
                missing = layout.U64_MISSING if vtype == layout.TYPE_U64 else np.nan
                values[rng.random(count) < rng.random()] = missing
                values[count - rng.integers(0, count + 1) :] = missing
            else:
                columns = int(made.series[slot]["n_columns"])
                count = int(rng.integers(0, room // (8 + 8 * columns) + 1))
                values = rng.integers(0, 1 << 40, (count, 1 + columns))
            links.append((n, made.add_chunk(slot, n, values, size_class, count)))
        if links:
            made.set_links(slot, links)
        if rng.random() < 0.2:
            made.series[slot : slot + 1]["flags"] = 0
    return made


def test_a_slice_too_small_for_a_chunk_is_refused() -> None:
    copier = ChunkCopier(*small_store()[0].segments())
    with pytest.raises(ValueError, match="4160"):
        copier.fill(bytearray(4159))


def test_a_paced_snapshot_syncs_every_slice(tmp_path: Path) -> None:
    made = HandMade(samples=bytearray(layout.SAMPLES_DATA + 2_000_000))
    for slot in range(N_SERIES):
        made.add_series(slot, vtype=layout.TYPE_F64)
        links = []
        for n in range(8):
            links.append((n, made.add_chunk(slot, n, np.arange(512.0), size_class=3)))
        made.set_links(slot, links)
    files = Failing(0)
    store, samples = made.segments()
    write_snapshot(files, tmp_path, 1, [], store, samples, written=lambda: 1, durable=lambda: 1, pause_s=1e-6)
    assert files.done.count("fdatasync") == 3, "two slices of chunks, and the end"
    assert load(snapshot_dir(tmp_path) / snapshot_name(1), 1)[2].n_slots == N_SERIES * 8 * 512
