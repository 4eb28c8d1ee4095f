"""A shared-memory segment by its header and what stands behind it: control and rings here, the rest in tables.py.

The bytes are read, not mapped: a segment that is damaged, cut short or written by somebody else must not be able to
do harm, and the pages of a running store are not touched where they have no memory yet. A store that runs changes
its segments meanwhile; what is shown is as of the moment when it was read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.kernels._segment import Segment
from mstore.persistence.dump.items import Item, Shown
from mstore.persistence.dump.log import record_items
from mstore.persistence.dump.names import Names
from mstore.persistence.files import Files
from mstore.shm import layout
from mstore.shm.control import CONTROL_BYTES, STATE_NAMES, WORKER_NAMES, Control
from mstore.shm.segment import boot_id

KINDS = {
    layout.SEG_CONTROL: "control", layout.SEG_DIRECTORY: "directory", layout.SEG_SAMPLES: "samples",
    layout.SEG_RING: "ring",
}  # fmt: skip


class Cut(Exception):
    """Bytes were asked for that the segment does not have."""


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of a segment up to what it says it has memory for."""

    files: Files
    fd: int
    size: int

    def bytes(self, at: int, n_bytes: int) -> bytes:
        """raises Cut when they are not all there"""
        if at < 0 or n_bytes < 0 or at + n_bytes > self.size:
            raise Cut(f"bytes {at} to {at + n_bytes} lie outside the {self.size} bytes of the segment")
        found = self.files.pread(self.fd, n_bytes, at)
        if len(found) < n_bytes:
            raise Cut(f"the segment ends at {at + len(found)}")
        return found

    def rows(self, at: int, dtype: np.dtype[Any], n: int = 1) -> NDArray[Any]:
        return np.frombuffer(self.bytes(at, n * dtype.itemsize), dtype)


def header_item(source: Source, size: int) -> tuple[Item, int]:
    """(the header, the kind of segment): 0 when what follows cannot be read."""
    row = source.rows(0, layout.SEGMENT_HEADER)[0]
    kind = int(row["kind"])
    boot = row["boot_id"].tobytes()
    fields: dict[str, Any] = {
        "magic": int(row["magic"]).to_bytes(8, sys.byteorder).decode("latin-1"), "kind": KINDS.get(kind, kind),
        "layout_version": int(row["layout_version"]), "fingerprint": f"{int(row['fingerprint']):#x}",
        "instance": int(row["instance"]), "boot_id": boot.hex(), "reserved_bytes": int(row["reserved_bytes"]),
        "created_ns": int(row["created_ns"]), "committed_bytes": int(row["committed_bytes"]), "ready": int(row["ready"]),
    }  # fmt: skip
    if boot != boot_id():
        fields["note"] = "of another boot"
    wrong = []
    if row["magic"] != layout.MAGIC:
        wrong.append("no segment magic")
    if row["layout_version"] != layout.LAYOUT_VERSION or row["fingerprint"] != layout.FINGERPRINT:
        expected = f"{layout.LAYOUT_VERSION}, {layout.FINGERPRINT:#x}"
        wrong.append(f"another layout (expected {expected}): what follows cannot be read")
        kind = 0
    if fields["kind"] == kind:
        wrong.append("no such kind of segment")
        kind = 0
    if fields["reserved_bytes"] != size:
        wrong.append(f"the file has {size} bytes")
    if fields["committed_bytes"] > size:
        wrong.append("more is committed than there is")
    if fields["ready"] != 1:
        wrong.append("not ready: its creator has not finished")
    return Item("header", 0, fields, wrong="; ".join(wrong)), kind


def control_items(source: Source, shown: Shown) -> Iterator[Item]:
    """The store's words and the workers that are not free."""
    content = bytearray(source.bytes(0, CONTROL_BYTES))
    control = Control(_Copy(content))
    yield Item(
        "store", layout.STORE_STATE,
        {
            "state": STATE_NAMES.get(control.state, control.state), "config_version": control.config_version,
            "retention_s": control.retention_s, "full": bool(control.flags & layout.FLAG_FULL),
            "degraded": bool(control.flags & layout.FLAG_DEGRADED), "written": control.written,
            "applied": control.applied, "durable": control.durable, "log_id": f"{control.log_id:016x}",
        },
    )  # fmt: skip
    for slot in control.workers():
        shown.count("worker")
        if shown.takes("worker"):
            counters = {name: n for name, n in slot.snapshot().items() if n}
            fields = {
                "kind": WORKER_NAMES.get(slot.kind, slot.kind), "index": slot.index, "pid": slot.pid, "state": slot.state,
                "started_ns": slot.started_ns, "epoch": slot.epoch, **counters,
            }  # fmt: skip
            yield Item("worker", layout.WORKERS + slot.number * layout.WORKER.itemsize, fields, 2)


class _Copy:
    """The bytes of a segment as what Control takes."""

    def __init__(self, content: bytearray) -> None:
        self.buffer = memoryview(content)
        self.segment = Segment(content, False)


def ring_items(source: Source, shown: Shown, names: Names) -> Iterator[Item]:
    """Positions, and the records that are published and not yet durable."""
    places = (layout.RING_HEAD, layout.RING_DRAINED, layout.RING_DURABLE, layout.RING_SIZE)
    head, drained, durable, size = (int(source.rows(at, np.dtype("u8"))[0]) for at in places)
    fields = {"head": head, "drained": drained, "durable": durable, "ring_bytes": size}
    fault = ""
    if not size or size & (size - 1) or layout.RING_DATA + size > source.size:
        fault = f"a ring of {size} bytes in a segment of {source.size}"
    elif not durable <= drained <= head <= durable + size:
        fault = "positions broken: expected durable <= drained <= head <= durable + ring_bytes"
    yield Item("positions", layout.RING_HEAD, fields, wrong=fault)
    at = durable
    while not fault and at < head:
        place = at % size
        state, stop = ("logged, not durable", drained) if at < drained else ("not drained", head)
        n_bytes = min(stop - at, size - place)
        start = layout.RING_DATA + place
        yield Item("records", start, {"from": at, "to": at + n_bytes, "state": state})
        yield from record_items(memoryview(source.bytes(start, n_bytes)), start, shown, names)
        at += n_bytes
