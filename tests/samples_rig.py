"""What the sample kernels need: a directory of nothing but series records, written by hand, and samples."""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import Any

import numpy as np

from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.shm import layout

DATA_AT = layout.PAGE_BYTES * 2
TIMES = np.dtype("<i8")


class Rig:
    """Room for `n_series` records; `add` makes them. Nothing has a name in /dev/shm."""

    def __init__(
        self, n_series: int = 64, extents: int = 32, cap_extents: int = 0, commit: bool = True
    ) -> None:
        self.directory_bytes = DATA_AT + n_series * layout.SERIES.itemsize
        self.samples_bytes = layout.SAMPLES_DATA + extents * layout.EXTENT_BYTES
        self.fds = [os.memfd_create(name) for name in ("directory", "samples")]
        os.ftruncate(self.fds[0], self.directory_bytes)
        os.ftruncate(self.fds[1], self.samples_bytes)
        self.maps = [mmap.mmap(fd, os.fstat(fd).st_size) for fd in self.fds]
        self.directory = np.frombuffer(self.maps[0], np.uint8)
        self.samples = np.frombuffer(self.maps[1], np.uint8)
        self.words = self.directory[layout.DIRECTORY_AT :][: layout.DIRECTORY.itemsize].view(
            layout.DIRECTORY
        )[0]
        for region in self.words["regions"]:  # the other regions are empty
            region["offset"] = DATA_AT
        region = self.words["regions"][layout.REGION_NAMES.index("series")]
        region["reserved"] = region["used"] = n_series * layout.SERIES.itemsize
        self.series = self.directory[DATA_AT:].view(layout.SERIES)
        self.header = self.samples[: layout.PAGE_BYTES].view(layout.SEGMENT_HEADER)[0]
        self.cap_bytes = (layout.SAMPLES_DATA + cap_extents * layout.EXTENT_BYTES) if cap_extents else 0
        self.commit = commit
        self.kernel = self.open(fresh=True)

    def open(self, *, fresh: bool) -> Samples:
        segments = Segment(self.maps[0], writable=True), Segment(self.maps[1], writable=True)
        return Samples(*segments, self.fds[1] if self.commit else -1, self.cap_bytes, fresh)

    def add(
        self,
        step_s: int = 60,
        *,
        type: int = layout.TYPE_F32,
        anchor_s: int = 0,
        generation: int = 1,
        n_columns: int = 1,
        count: int = 1,
    ) -> int:
        """Slots of `count` new series, the first of them; step 0 = stamped."""
        first = int(self.words["n_series"])
        for slot in range(first, first + count):
            row = self.series[slot]
            row["generation"], row["kind"] = generation, layout.KIND_GRID if step_s else layout.KIND_STAMPED
            row["type"], row["n_columns"], row["flags"] = type, n_columns, layout.SERIES_LIVE
            row["anchor_s"], row["step_s"], row["era_start"] = anchor_s, step_s, np.iinfo(np.int64).min
            row["last_t"], row["last_n"] = np.iinfo(np.int64).min, -1
        self.words["n_series"] = first + count
        return first

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pad(payload: bytes) -> bytes:
    return payload + bytes(-len(payload) % 8)


def _run(kind: int, vtype: int, count: int, slot: int, generation: int, t: int) -> bytes:
    return np.array((kind, vtype, 0, count, slot, generation, t), layout.RUN).tobytes()


def row(slot: int, t: int, values: Any, *, type: int = layout.TYPE_F32, generation: int = 1) -> bytes:
    block = np.asarray(values, layout.TYPE_DTYPES[type])
    return _run(layout.REC_ROW, type, len(block), slot, generation, t) + _pad(block.tobytes())


def column(
    slot: int, t: int, dt: int, values: Any, *, type: int = layout.TYPE_F32, generation: int = 1
) -> bytes:
    block = np.asarray(values, layout.TYPE_DTYPES[type])
    head = _run(layout.REC_COLUMN, type, len(block), slot, generation, t)
    return head + np.array([dt], TIMES).tobytes() + _pad(block.tobytes())


def scatter(refs: Any, t: int, values: Any, *, type: int = layout.TYPE_F32) -> bytes:
    block = np.asarray(values, layout.TYPE_DTYPES[type])
    pairs = np.asarray(refs, "<u4")
    assert pairs.shape == (len(block), 2)
    return _run(layout.REC_SCATTER, type, len(block), 0, 0, t) + pairs.tobytes() + _pad(block.tobytes())


def stamped(slot: int, rows: Any, *, generation: int = 1) -> bytes:
    """rows: list of (stamp_ms, [columns as uint64 or float])."""
    words = []
    for stamp, columns in rows:
        words.append(np.array([stamp], TIMES).tobytes())
        words.extend(np.array([v], "<f8" if isinstance(v, float) else "<u8").tobytes() for v in columns)
    n_columns = len(rows[0][1])
    return _run(layout.REC_STAMPED, n_columns, len(rows), slot, generation, 0) + b"".join(words)


def pad(length: int) -> bytes:
    return np.array((layout.REC_PAD, 0, 0, length), layout.RECORD).tobytes() + bytes(length - 8)
