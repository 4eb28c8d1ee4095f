"""A directory's series table and a samples segment laid out by hand, which the gather kernels and their twins read."""

from __future__ import annotations

import mmap
import random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mstore.kernels import reference_query
from mstore.kernels._directory import DirectoryReader
from mstore.kernels._gather import Gatherer
from mstore.kernels._segment import Segment
from mstore.shm import layout

I64_MIN = -(2**63)
LIMIT = 10_000_000
DIRECTORY_BYTES = 256 * 1024
SAMPLES_BYTES = 1024 * 1024


class Memory:
    """A directory with only a series table and a samples segment, filled by plain stores."""

    def __init__(self, samples: mmap.mmap | None = None) -> None:
        self.directory = bytearray(DIRECTORY_BYTES)
        self.samples = bytearray(SAMPLES_BYTES) if samples is None else samples
        self.head = np.frombuffer(self.directory, layout.DIRECTORY, 1, layout.DIRECTORY_AT)[0]
        regions = self.head["regions"]
        for i, (offset, size) in enumerate(
            [
                (8192, 8192),
                (16384, 65536),
                (81920, 8192),
                (90112, 4096),
                (94208, 8192),
                (102400, 8192),
                (110592, 8192),
            ]
        ):
            regions[i]["offset"], regions[i]["reserved"], regions[i]["committed"] = offset, size, size
        self.series = np.frombuffer(self.directory, layout.SERIES, 512, 16384)
        self.header = np.frombuffer(self.samples, layout.SEGMENT_HEADER, 1, 0)[0]
        self.header["committed_bytes"] = SAMPLES_BYTES
        self.free = layout.SAMPLES_DATA
        self.stamp = 1

    def gatherer(self) -> Gatherer:
        return Gatherer(DirectoryReader(Segment(self.directory)), Segment(self.samples))

    def twin(self) -> reference_query.Memory:
        return reference_query.Memory(self.series, np.frombuffer(self.samples, np.uint8), layout.CHUNK)

    def add_series(self, **fields: Any) -> int:
        slot = int(self.head["n_series"])
        entry = self.series[slot]
        entry["generation"] = 1
        entry["flags"] = layout.SERIES_LIVE
        entry["kind"], entry["type"], entry["n_columns"] = layout.KIND_GRID, layout.TYPE_F32, 1
        entry["era_start"], entry["first_n"], entry["last_n"] = I64_MIN, 0, -1
        entry["last_t"] = I64_MIN
        for name, value in fields.items():
            entry[name] = value
        self.head["n_series"] = slot + 1
        return slot

    def ref(self, slot: int) -> int:
        return int(self.series[slot]["generation"]) << 32 | slot

    def next_era(self, old: int, era_start: int, **fields: Any) -> int:
        new = self.add_series(era_start=era_start, prev_slot=old + 1, prev_generation=1, **fields)
        self.series[old]["next_slot"], self.series[old]["next_generation"] = new + 1, 1
        self.series[old]["flags"] |= layout.SERIES_ENDED
        return new

    def allocate(self, size_class: int) -> int:
        offset = self.free
        self.free += layout.SIZE_CLASS_BYTES[size_class]
        assert self.free <= SAMPLES_BYTES
        return offset

    def add_chunk(self, slot: int, n: int, size_class: int, **fields: Any) -> tuple[int, int]:
        """Header of a chunk that is not yet linked: (its offset, its link word)."""
        offset = self.allocate(size_class)
        entry = self.series[slot]
        header = np.frombuffer(self.samples, layout.CHUNK, 1, offset)[0]
        for name in ("generation", "anchor_s", "step_s", "kind", "type", "n_columns"):
            header[name] = entry[name]
        header["series"], header["n"], header["size_class"] = slot, n, size_class
        for name, value in fields.items():
            header[name] = value
        self.stamp += 1
        return offset, offset >> 6 | size_class << 36 | self.stamp << 40

    def link(self, slot: int, n: int, word: int) -> None:
        entry = self.series[slot]
        if not entry["table"]:
            entry["table"] = self.allocate(6) << 8 | 7  # 128 words
        table = np.frombuffer(self.samples, "<u8", 128, int(entry["table"]) >> 8)
        table[n % 128] = word
        empty = entry["first_n"] > entry["last_n"]
        entry["first_n"] = n if empty else min(n, int(entry["first_n"]))
        entry["last_n"] = n if empty else max(n, int(entry["last_n"]))

    def put(self, slot: int, values: dict[int, float], size_class: int | None = None) -> None:
        """Values by slot number into full chunks (or all into one of `size_class`, for chunk 0, link0)."""
        entry = self.series[slot]
        dtype = layout.TYPE_DTYPES[int(entry["type"])]
        if values:
            newest = int(entry["anchor_s"]) + int(entry["step_s"]) // 2 + max(values) * int(entry["step_s"])
            entry["last_t"] = max(int(entry["last_t"]), newest)
        missing = layout.U64_MISSING if dtype.kind == "u" else np.nan
        full = 2 if dtype.itemsize == 4 else 3
        for n in sorted({k // 512 for k in values}):
            cls = full if size_class is None else size_class
            capacity = (layout.SIZE_CLASS_BYTES[cls] - 64) // dtype.itemsize
            offset, word = self.add_chunk(slot, n, cls, capacity=capacity)
            array = np.frombuffer(self.samples, dtype, capacity, offset + 64)
            array[:] = missing
            for k, value in values.items():
                if k // 512 == n:
                    array[k % 512] = value
            if size_class is None:
                self.link(slot, n, word)
            else:
                entry["link0"], entry["first_n"], entry["last_n"] = word, 0, 0


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    nan_a, nan_b = a != a, b != b
    return bool(
        a.dtype == b.dtype
        and a.shape == b.shape
        and (nan_a == nan_b).all()
        and (a[~nan_a] == b[~nan_b]).all()
    )


@st.composite
def stores(draw: st.DrawFn) -> tuple[Memory, list[int]]:
    """Up to four series of up to three eras, with random grids, types and holes."""
    memory = Memory()
    newest = []
    for _ in range(draw(st.integers(1, 4))):
        slot = -1
        for i_era in range(draw(st.integers(1, 3))):
            fields = {
                "anchor_s": draw(st.integers(-40_000, 40_000)),
                "step_s": draw(st.sampled_from([1, 7, 10, 30, 60])),
                "type": draw(st.sampled_from([1, 1, 1, 2, 3])),
            }
            begin = -60_000 + 30_000 * i_era + draw(st.integers(0, 25_000))
            slot = memory.add_series(**fields) if i_era == 0 else memory.next_era(slot, begin, **fields)
            seed = draw(st.integers(0, 2**32))
            rng = random.Random(seed)
            middle = draw(st.integers(-3000, 3000))
            keys = [middle + rng.randrange(-1200, 1200) for _ in range(draw(st.integers(0, 400)))]
            memory.put(slot, {k: float(rng.randrange(0, 2**24)) for k in keys})
        newest.append(slot)
    return memory, [memory.ref(slot) for slot in newest]
