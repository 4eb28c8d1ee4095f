"""A store filled by the persister's own kernels in one process, and a Reader over it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from mstore.frames import Series
from mstore.kernels._samples import Samples
from mstore.model import MetricSpec
from mstore.query import Reader
from mstore.shm import layout, segment
from mstore.shm.directory import DirectoryWriter, create_directory, directory_bytes

MAX_SERIES = 4096
SAMPLES_BYTES = 64 << 20
INSTANCE = 77
T0 = 1_700_000_000
SPECS = {
    "load": MetricSpec("load", 60, "avg", "f32", "procs"),
    "flops": MetricSpec("flops", 60, "sum", "f64", "GFlops/s"),
    "ops": MetricSpec("ops", 10, "sum", "u64"),
    "clock": MetricSpec("clock", 10, "none", "f32", "MHz"),
    "scrape": MetricSpec("scrape", 0, "none", "f64", "", (("reads", "u64"), ("seconds", "f64"))),
    "beat": MetricSpec("beat", 0, "none", "u64"),
}


class Store:
    """Directory and samples as the persister would fill them, in one process."""

    def __init__(self, name: str) -> None:
        self.directory_map = segment.create(
            f"{name}-directory",
            layout.SEG_DIRECTORY,
            directory_bytes(MAX_SERIES),
            INSTANCE,
            commit_bytes=8192,
        )
        self.samples_map = segment.create(
            f"{name}-samples", layout.SEG_SAMPLES, SAMPLES_BYTES, INSTANCE, commit_bytes=layout.SAMPLES_DATA
        )
        create_directory(self.directory_map, MAX_SERIES, seed=1)
        self.writer = DirectoryWriter(self.directory_map.segment, self.directory_map.fd)
        self.writer.set_policy(True, 60, 1, MAX_SERIES, 10_000)
        self.writer.set_metric_source(lambda cluster, metric: SPECS.get(metric.decode()))
        self.samples = Samples(
            self.directory_map.segment, self.samples_map.segment, self.samples_map.fd, SAMPLES_BYTES, True
        )
        self.directory_map.mark_ready()
        self.samples_map.mark_ready()
        self.reader = Reader(self.directory_map.segment, self.samples_map.segment)

    def open(self, metric: str, host: str = "f1", *levels: str, t: int = T0, cluster: str = "fritz") -> int:
        """Reference of the series; levels: type, type_id, subtype, subtype_id."""
        path = (cluster, host, *levels, *[""] * (4 - len(levels)), metric)
        refs, _, _, _ = self.writer.intern_paths([path], np.array([t], np.int64).tobytes())
        self.writer.publish()
        return int(np.frombuffer(refs, np.uint64)[0])

    def put(self, ref: int, t: int, values: list[float], step: int = 60) -> None:
        """A COLUMN record: values at t, t + step, ..."""
        info = self.writer.series(ref & 0xFFFF_FFFF)
        assert info is not None
        raw = np.array(values, layout.TYPE_DTYPES[info.type]).tobytes()
        self.apply(layout.REC_COLUMN, info.type, len(values), ref, t, struct.pack("<q", step) + raw)

    def rows(self, ref: int, rows: list[tuple[int, ...]], dtypes: str) -> None:
        """A STAMPED record: rows of a stamp in ms and columns; dtypes: "Q" or "d" each."""
        raw = b"".join(struct.pack(f"<q{dtypes}", *row) for row in rows)
        self.apply(layout.REC_STAMPED, len(dtypes), len(rows), ref, rows[0][0], raw)

    def apply(self, kind: int, vtype: int, count: int, ref: int, t: int, payload: bytes) -> None:
        header = np.array([(kind, vtype, 0, count, ref & 0xFFFF_FFFF, ref >> 32, t)], layout.RUN).tobytes()
        record = header + payload + bytes(-len(payload) % 8)
        result = self.samples.apply(record)
        assert (result.n_samples, result.n_stale, result.stopped_at) == (count, 0, len(record))

    def close(self) -> None:
        for mapping in (self.directory_map, self.samples_map):
            segment.unlink(mapping.name)
        del self.writer, self.samples, self.reader
        self.directory_map.close()
        self.samples_map.close()


def one(answer: Series | list[Series]) -> Series:
    assert isinstance(answer, Series)
    return answer


def several(answer: Series | list[Series]) -> list[Series]:
    assert isinstance(answer, list)
    return answer


def plain(values: np.ndarray[Any, Any]) -> list[Any]:
    return [None if value != value else value for value in values.tolist()]
