"""A small store's files with known contents, made by the store's own writers but without any process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mstore.kernels._ring import RingWriter, create_ring_words
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.model import MetricSpec
from mstore.persistence.blocks import CATALOG, encode_header, encode_segment_header
from mstore.persistence.dump import Choice, Item, Names, dump_file
from mstore.persistence.files import Files, wal_dir, wal_name
from mstore.persistence.snapshot import write_snapshot
from mstore.shm import layout
from mstore.shm.control import CONTROL_BYTES, Control
from mstore.shm.segment import boot_id
from tests.directory_rig import Rig

T0 = 1_700_000_000
SEGMENT_ID = 0x1122334455667788
CREATED_NS = 1_700_000_000_123_456_789
KEYS = [
    b"load,cluster=c,hostname=h1",
    b"load,cluster=c,hostname=h2",
    b"power,cluster=c,hostname=h1,type=socket,type-id=0",
]
ROW = np.array([1.5, -2.25], "<f4")
COLUMN = np.array([100.0, 101.5, 0.1], "<f8")
STAMPS_MS = np.array([T0 * 1000 + 250, T0 * 1000 + 1750], "<i8")
SECONDS = np.array([0.5, 1e300], "<f8")
COUNTS = np.array([7, 2**64 - 2], "<u8")


def run_record(
    kind: int, vtype: int, count: int, slot: int, generation: int, t: int, payload: bytes
) -> bytes:
    head = np.array((kind, vtype, 0, count, slot, generation, t), layout.RUN).tobytes()
    return head + payload + bytes(-len(payload) % 8)


class Small:
    """DIR with a log of three blocks and a snapshot, and DIR/shm with copies of four segments of memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shm = directory / "shm"
        self.shm.mkdir(parents=True)
        rig = Rig(max_series=100)
        try:
            self._make(rig)
        finally:
            rig.close()

    def _make(self, rig: Rig) -> None:
        self.definitions = rig.writer.define_metric("c", MetricSpec("power", 10, "sum", "f64", "W"))
        self.refs, log = rig.intern(KEYS, T0)
        columns = (("seconds", "f64"), ("bytes", "u64"))
        spec = MetricSpec("job", 0, "none", "f64", columns=columns)
        path = ("c", "h1", "", "", "", "", "job")
        found, _, _, more = rig.writer.intern_paths([path], np.array([T0], "<i8").tobytes(), [spec])
        rig.writer.publish()
        self.refs.append(int(np.frombuffer(found, "<u8")[0]))
        self.definitions += log + more
        self.runs = b"".join(self._runs())
        self._write_log()
        samples = bytearray(layout.SAMPLES_DATA + 16 * layout.EXTENT_BYTES)
        fd = os.memfd_create("samples")
        os.ftruncate(fd, len(samples))
        mapped = mmap.mmap(fd, len(samples))
        segment = Segment(mapped, True)
        kernel = Samples(rig.segment, segment, fd, 0, True)
        kernel.apply(self.runs)
        write_snapshot(
            Files(), self.directory, 3, rig.reader.dump_definitions(), rig.segment, segment,
            written=lambda: 3, durable=lambda: 3, pause_s=0,
        )  # fmt: skip
        self._write_segment("directory", layout.SEG_DIRECTORY, rig.segment_buffer, 8192)
        self._write_segment("samples", layout.SEG_SAMPLES, mapped, kernel.committed_bytes)
        del kernel, segment
        os.close(fd)
        self._write_ring_and_control()

    def _runs(self) -> Iterator[bytes]:
        slots = [ref & 0xFFFF_FFFF for ref in self.refs]
        yield run_record(layout.REC_ROW, layout.TYPE_F32, 2, slots[0], 1, T0, ROW.tobytes())
        column = np.array([10], "<i8").tobytes() + COLUMN.tobytes()
        yield run_record(layout.REC_COLUMN, layout.TYPE_F64, 3, slots[2], 1, T0, column)
        rows = np.column_stack([STAMPS_MS.view("<u8"), SECONDS.view("<u8"), COUNTS])
        yield run_record(layout.REC_STAMPED, 2, 2, slots[3], 1, 0, np.ascontiguousarray(rows).tobytes())
        pairs = np.array([[slots[1], 1], [slots[0], 1]], "<u4").tobytes()
        yield run_record(layout.REC_SCATTER, layout.TYPE_F32, 2, 0, 0, T0 + 60, pairs + ROW.tobytes())

    def _write_log(self) -> None:
        payloads = [(CATALOG, self.definitions), (0, self.runs), (CATALOG, b"")]
        parts = []
        for seq, (ring, payload) in enumerate(payloads, 1):
            span = (0, 0) if ring == CATALOG else (0, len(payload))
            parts += [encode_header(SEGMENT_ID, seq, ring, *span, seq - 1, payload), payload]
        body = b"".join(parts) + bytes(512)
        Files().mkdir(wal_dir(self.directory))
        self.log = wal_dir(self.directory) / wal_name(1)
        self.log.write_bytes(encode_segment_header(SEGMENT_ID, 4096 + len(body), CREATED_NS) + body)
        self.log_used = 4096 + len(body) - 512

    def _write_ring_and_control(self) -> None:
        ring = bytearray(layout.RING_DATA + 4096)
        segment = Segment(ring, True)
        create_ring_words(segment, 4096)
        writer = RingWriter(segment)
        writer.put(self.runs[: 24 + 8])
        writer.publish()
        self._write_segment("ring-0", layout.SEG_RING, ring, len(ring))
        control = bytearray(CONTROL_BYTES)
        words = Control(_Mapped(control))
        words.state, words.written, words.retention_s = layout.STATE_READY, 3, 172_800
        words.worker(1).claim(layout.WORKER_INGEST, 0, 77)
        words.worker(1).add("lines", 5)
        self._write_segment("control", layout.SEG_CONTROL, control, len(control))

    def _write_segment(self, role: str, kind: int, content: Any, committed: int) -> None:
        """A sparse copy with a header, as it lies in /dev/shm."""
        whole = memoryview(content)
        head = np.zeros(1, layout.SEGMENT_HEADER)
        head["magic"], head["kind"], head["layout_version"] = layout.MAGIC, kind, layout.LAYOUT_VERSION
        head["fingerprint"], head["boot_id"], head["ready"] = layout.FINGERPRINT, np.void(boot_id()), 1
        head["reserved_bytes"], head["committed_bytes"], head["created_ns"] = (
            len(whole),
            committed,
            CREATED_NS,
        )
        with (self.shm / f"mstore-0-{role}").open("wb") as file:
            file.truncate(len(whole))
            for at in range(0, len(whole), 1 << 16):
                piece = bytes(whole[at : at + (1 << 16)])
                if piece.count(0) < len(piece):
                    file.seek(at)
                    file.write(piece)
            file.seek(0)
            file.write(head.tobytes())
        whole.release()

    def files(self) -> list[Path]:
        """Every file, names first."""
        order = ("directory", "control", "ring-0", "samples")
        parts = sorted(
            (self.directory / "snapshots").iterdir(), key=lambda path: "definitions" not in path.name
        )
        return [*parts, self.log, *(self.shm / f"mstore-0-{role}" for role in order)]


class _Mapped:
    def __init__(self, content: bytearray) -> None:
        self.segment = Segment(content, True)
        self.buffer = memoryview(content)


def dumped(path: Path, choice: Choice | None = None, names: Names | None = None) -> list[Item]:
    return list(dump_file(path, choice or Choice(), names or Names()))


def faults(items: list[Item]) -> list[Item]:
    """What is not sound, the summary left out."""
    return [item for item in items if item.wrong and item.what != "end"]
