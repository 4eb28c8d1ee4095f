"""A directory in a memfd, for tests: writable for the writer, PROT_READ for readers."""

from __future__ import annotations

import mmap
import os
from types import SimpleNamespace

import numpy as np

from mstore.kernels._segment import Segment
from mstore.shm.directory import DirectoryReader, DirectoryWriter, create_directory, directory_bytes

SEED = 0x5EED


class Rig:
    """One directory; `writer` and a read-only `reader` of the same memory."""

    def __init__(self, max_series: int = 1000, seed: int = SEED) -> None:
        self.max_series, self.seed = max_series, seed
        self.fd = os.memfd_create("directory")
        n = directory_bytes(max(1, max_series))
        os.ftruncate(self.fd, n)
        self.segment_buffer = mmap.mmap(self.fd, n)
        self.segment = Segment(self.segment_buffer, True)
        try:
            create_directory(SimpleNamespace(segment=self.segment, fd=self.fd), max_series, seed)
        except BaseException:
            os.close(self.fd)
            del self.segment, self.segment_buffer
            raise
        self.writer = DirectoryWriter(self.segment, self.fd)
        self.reader = DirectoryReader(Segment(mmap.mmap(self.fd, n, prot=mmap.PROT_READ), False))

    def close(self) -> None:
        """Close the descriptors; the maps go with the last of the objects."""
        os.close(self.fd)
        del self.writer, self.reader, self.segment, self.segment_buffer

    def intern(
        self, keys: list[bytes], t: int = 1000, default: bytes = b"", publish: bool = True
    ) -> tuple[list[int], bytes]:
        """(references, log) of keys first seen at t."""
        return self.intern_at(keys, [t] * len(keys), default, publish)

    def intern_at(
        self, keys: list[bytes], times: list[int], default: bytes = b"", publish: bool = True
    ) -> tuple[list[int], bytes]:
        offsets = np.cumsum([0] + [len(key) for key in keys]).astype("<i8").tobytes()
        packed = np.array(times, "<i8").tobytes()
        refs, types, kinds, log = self.writer.intern(b"".join(keys), offsets, packed, default)
        assert len(types) == len(kinds) == len(keys)
        if publish:
            self.writer.publish()
        return np.frombuffer(refs, "<u8").tolist(), log

    def ref(self, key: bytes, t: int = 1000, default: bytes = b"") -> int:
        return self.intern([key], t, default)[0][0]

    def remove(self, slot: int) -> bytes:
        self.writer.remove_begin(slot)
        log = self.writer.remove_finish(slot)
        self.writer.publish()
        return log

    def era(
        self, slot: int, anchor_s: int, step_s: int = 60, era_start: int = 5000, type_code: int = 1
    ) -> tuple[int, bytes]:
        found = self.writer.begin_era(slot, anchor_s, step_s, era_start, type_code)
        self.writer.publish()
        return found


def contents(reader: DirectoryReader | DirectoryWriter) -> dict[str, object]:
    """What a directory says, whatever the order of its lists: to compare two of them."""
    counts = reader.counts()
    series = [reader.series(slot) for slot in range(counts["n_series"])]
    generations = reader.series_table()["generation"].tolist()
    found: dict[str, object] = {
        "levels": [reader.path(i) for i in range(1, counts["n_levels"])],
        "metrics": [reader.metric(i) for i in range(counts["n_metrics"])],
        "series": series,
        # A slot that a replay had to skip over may never have been used there.
        "free": [max(g, 1) for g, s in zip(generations, series, strict=True) if s is None],
        "newest": sorted((i, slot) for i in range(counts["n_levels"]) for slot in reader.level_series(i)),
    }
    keys: dict[tuple[bytes, int], int] = {}
    region = bytes(memoryview(reader.region_bytes(5)))
    at = 16
    while at < len(region):
        size, cluster = (
            int.from_bytes(region[at + 24 : at + 26], "little"),
            int.from_bytes(region[at + 16 : at + 20], "little"),
        )
        text = region[at + 32 : at + 32 + size]
        word = reader.lookup_key(text, cluster)
        if word & 0xFFFFFFFF != 0xFFFFFFFF and word:
            keys[text, cluster] = word
        at += 32 + (size + 7) // 8 * 8
    found["keys"] = keys
    return found
