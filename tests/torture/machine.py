"""Directory and samples in private memory, small, with the real kernels; and what can be compared of them."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np

from mstore.apply.store import Store
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.kernels._snapshot import ChunkCopier
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader, DirectoryWriter, create_directory, directory_bytes
from tests.directory_rig import contents

MAX_SERIES = 64
SAMPLES_BYTES = layout.SAMPLES_DATA + 6 * layout.EXTENT_BYTES
STEP_S = 10

Entries = dict[tuple[int, int, int], bytes]
"""(slot, generation, chunk number) -> header and values of one chunk, as a snapshot holds them."""
Values = dict[tuple[int, int, int], float]
"""(slot, generation, slot of the grid counted from its anchor) -> value."""


@dataclass
class _Memory:
    segment: Segment
    fd: int = -1


class Machine:
    """One store's memory. Nothing has a name in /dev/shm; no descriptor is held."""

    def __init__(self) -> None:
        # Anonymous maps: pages that are never touched cost nothing, and thousands of machines are made.
        self.directory_words = mmap.mmap(-1, directory_bytes(MAX_SERIES))
        self.samples_words = mmap.mmap(-1, SAMPLES_BYTES)
        np.frombuffer(self.samples_words, layout.SEGMENT_HEADER, count=1)["committed_bytes"] = SAMPLES_BYTES
        memory = _Memory(Segment(self.directory_words, True))
        create_directory(memory, MAX_SERIES, 12345)
        self.samples_segment = Segment(self.samples_words, True)
        self.directory_segment = memory.segment
        self.store = Store(
            DirectoryWriter(memory.segment), Samples(memory.segment, self.samples_segment, -1, 0, True)
        )
        self.store.directory.set_policy(True, STEP_S, 1, MAX_SERIES, 4 * MAX_SERIES)

    def reader(self) -> DirectoryReader:
        return DirectoryReader(Segment(self.directory_words))

    def intern(self, names: list[str], t_s: int) -> tuple[list[int], bytes]:
        """(references, records for the log) of metrics of host h; not published yet."""
        keys = [f"{name},cluster=c,hostname=h".encode() for name in names]
        offsets = np.cumsum([0] + [len(key) for key in keys]).astype(np.int64).tobytes()
        times = np.full(len(keys), t_s, np.int64).tobytes()
        refs, _, _, log = self.store.directory.intern(b"".join(keys), offsets, times, b"")
        return [int(ref) for ref in np.frombuffer(refs, np.uint64)], log

    def entries(self) -> Entries:
        scratch = bytearray(1 << 20)
        copier = ChunkCopier(Segment(self.directory_words), Segment(self.samples_words))
        text = b"".join(bytes(memoryview(scratch)[:used]) for used in iter(lambda: copier.fill(scratch), 0))
        found, offset = {}, 0
        while offset < len(text):
            header = np.frombuffer(text, layout.CHUNK, count=1, offset=offset)[0]
            size = 64 + (int(header["reserved"]) + 7) // 8 * 8
            key = int(header["series"]), int(header["generation"]), int(header["n"])
            found[key] = text[offset : offset + size]
            offset += size
        return found

    def everything(self) -> tuple[Entries, dict[str, object]]:
        """To compare two machines: all samples and all definitions."""
        series = contents(self.reader())
        return self.entries(), {**series, "series": [_lasting(one) for one in series["series"]]}  # type: ignore[attr-defined]


def _lasting(series: object) -> object:
    """Without the fields that are hints: a replay that finds less to overwrite leaves other ones."""
    if series is None:
        return None
    hints = ("last_t", "first_n", "last_n", "n_chunks")
    return {name: getattr(series, name) for name in series.__slots__ if name not in hints}  # type: ignore[attr-defined]


def values_of(entries: Entries) -> Values:
    """Every f32 sample of a machine's entries."""
    found: Values = {}
    for (slot, generation, n), text in entries.items():
        values = np.frombuffer(text, "<f4", offset=64)
        for place in np.flatnonzero(~np.isnan(values[: int.from_bytes(text[36:40], "little")])):
            found[slot, generation, n * layout.CHUNK_SLOTS + int(place)] = float(values[place])
    return found


def scatter(refs: list[int], values: list[float], t_s: int) -> bytes:
    """One record: a value for each of these series at one time."""
    head = np.zeros(1, layout.RUN)
    head["type"], head["vtype"], head["count"], head["t"] = (
        layout.REC_SCATTER, layout.TYPE_F32, len(refs), t_s,
    )  # fmt: skip
    pairs = np.array([[ref & 0xFFFF_FFFF, ref >> 32] for ref in refs], np.uint32)
    body = np.array(values, np.float32).tobytes()
    return head.tobytes() + pairs.tobytes() + body + bytes(-len(body) % 8)
