"""Stores built by hand from the layout's dtypes, and snapshots of them: no code of the writers is needed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.kernels._segment import Segment
from mstore.persistence.files import Files
from mstore.persistence.snapshot import SnapshotInfo, write_snapshot
from mstore.shm import layout

SERIES_AT = 2 * layout.PAGE_BYTES
N_SERIES = 16
LEVELS_AT = SERIES_AT + N_SERIES * layout.SERIES.itemsize
N_LEVELS = 4  # the root, two clusters, a host of the second


@dataclass
class HandMade:
    """A directory segment with a series table and a samples segment with chunks, written word by word."""

    store: bytearray = field(default_factory=lambda: bytearray(LEVELS_AT + N_LEVELS * layout.LEVEL.itemsize))
    samples: bytearray = field(default_factory=lambda: bytearray(layout.SAMPLES_DATA + 64 * 1024))
    end: int = layout.SAMPLES_DATA
    stamp: int = 0

    def __post_init__(self) -> None:
        words = np.frombuffer(self.store, layout.DIRECTORY, count=1, offset=layout.DIRECTORY_AT)
        words["regions"]["offset"][0, layout.REGION_NAMES.index("series")] = SERIES_AT
        words["regions"]["offset"][0, layout.REGION_NAMES.index("levels")] = LEVELS_AT
        words["n_series"], words["n_levels"] = N_SERIES, N_LEVELS
        levels = np.frombuffer(self.store, layout.LEVEL, count=N_LEVELS, offset=LEVELS_AT)
        levels["cluster"] = [0, 1, 2, 2]
        header = np.frombuffer(self.samples, layout.SEGMENT_HEADER, count=1)
        header["committed_bytes"] = len(self.samples)

    @property
    def series(self) -> NDArray[np.void]:
        return np.frombuffer(self.store, layout.SERIES, count=N_SERIES, offset=SERIES_AT)

    def add_series(
        self,
        slot: int,
        *,
        kind: int = 1,
        vtype: int = 1,
        columns: int = 1,
        generation: int = 1,
        level: int = 1,
    ) -> None:
        entry = self.series[slot : slot + 1]
        entry["generation"], entry["kind"], entry["type"], entry["n_columns"] = (
            generation,
            kind,
            vtype,
            columns,
        )
        entry["level"] = level
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
    """Grid series of each type in cluster 1, stamped and empty ones in cluster 2; and what a snapshot holds of it."""
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
    made.add_series(5, kind=layout.KIND_STAMPED, vtype=0, columns=2, level=3)
    rows = np.array([[5000, 1, 2], [9000, 3, 4], [0, 0, 0]], np.int64)
    link = made.add_chunk(5, 0, rows, size_class=1, count=18)
    made.set_links(5, [(0, link)])
    chunk = np.frombuffer(made.samples, layout.CHUNK, count=1, offset=(link & (1 << 36) - 1) << 6)
    chunk["count"] = 2
    expected[5, 1, 0] = rows[:2].tobytes()
    made.add_series(6, level=2)  # no chunk at all
    made.add_series(7, level=2)
    made.set_links(7, [(0, made.add_chunk(7, 0, np.full(512, np.nan, np.float32)))])
    return made, expected


def random_store(rng: np.random.Generator) -> HandMade:
    """Series of all kinds, types and clusters, some free; chunks of all classes with holes, in a table."""
    made = HandMade(samples=bytearray(layout.SAMPLES_DATA + 600_000))
    dtypes: dict[int, Any] = dict(layout.TYPE_DTYPES)
    for slot in range(N_SERIES):
        kind, vtype = int(rng.integers(1, 3)), int(rng.integers(1, 4))
        made.add_series(
            slot, kind=kind, vtype=vtype, columns=int(rng.integers(1, 4)), level=int(rng.integers(1, 4))
        )
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


WIDE_SERIES, WIDE_CHUNKS = 15, 16


def wide_store(value: float) -> tuple[HandMade, dict[tuple[int, int, int], bytes]]:
    """One cluster of 15 series with 16 full chunks each: a file of four blocks, some series in two of them."""
    made = HandMade(samples=bytearray(layout.SAMPLES_DATA + 1_200_000))
    expected = {}
    for slot in range(WIDE_SERIES):
        made.add_series(slot, vtype=layout.TYPE_F64)
        links = []
        for n in range(WIDE_CHUNKS):
            values = np.full(512, value + 100 * slot + n)
            links.append((n, made.add_chunk(slot, n, values, size_class=3)))
            expected[slot, 1, n] = values.tobytes()
        offset = made.take(layout.CLASS_TABLE_8 + 1)
        words = np.frombuffer(made.samples, np.uint64, count=32, offset=offset)
        for n, word in links:
            words[n] = word
        made.series[slot : slot + 1]["table"] = offset << 8 | 5
    return made, expected


CLUSTERS = {0: 1, 2: 1, 3: 1, 5: 2, 6: 2, 7: 2}
DEFINITIONS = [
    struct.pack("<HBBIQ", 16, 0, 0, 16, 1) + struct.pack("<HBBIQ", 16, 0, 0, 16, 2),
    struct.pack("<HBBIQ", 16, 0, 0, 16, 3),
]


def take(
    directory: Path, made: HandMade, log_seq: int = 77, files: Files | None = None, **more: Any
) -> SnapshotInfo:
    """A snapshot of a store made by hand, with DEFINITIONS."""
    return write_snapshot(
        files or Files(), directory, log_seq, DEFINITIONS, *made.segments(),
        written=lambda: log_seq, durable=lambda: log_seq, **{"pause_s": 0, **more},
    )  # fmt: skip
