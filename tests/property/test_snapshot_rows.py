"""Rows of stamped series, copied by the snapshot's helper while the writer appends: a header that fits its rows."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from mstore.kernels._segment import Segment
from mstore.kernels._snapshot import ChunkCopier
from mstore.shm import layout
from tests.samples_rig import Rig, stamped

LOOK_S = 1.5
SLICE_BYTES = 1 << 16


def append_for_ever(rig: Rig, slot: int) -> None:
    writer = rig.open(fresh=True)
    rising = stamped(slot, [(10 * k, [float(k)]) for k in range(1, 251)])
    falling = stamped(slot, [(10 * k, [float(k)]) for k in range(250, 0, -1)])
    while True:
        for rows in (rising, falling):
            writer.apply(rows)
            writer.free_range(slot, 1, 0, 10**9)


def misfits(entries: bytes) -> tuple[int, list[str]]:
    """Chunks in a slice, and what is wrong with those whose header does not fit their rows."""
    at, n, found = 0, 0, []
    while at < len(entries):
        head = np.frombuffer(entries, layout.CHUNK, 1, at)[0]
        n_bytes = int(head["reserved"])
        stamps = np.frombuffer(entries, "<i8", n_bytes // 8, at + layout.CHUNK.itemsize)[::2]
        first, last = int(head["anchor_s"]), int(head["t_max_ms"])
        ordered = bool((np.diff(stamps) > 0).all())
        if len(stamps) != head["count"] or (first, last) != (stamps.min(), stamps.max()):
            found.append(f"{first} to {last}, {head['count']} rows: {stamps}")
        elif ordered != (head["flags"] & layout.CHUNK_UNORDERED == 0):
            found.append(f"flags {head['flags']}: {stamps}")
        at += layout.CHUNK.itemsize + (n_bytes + 7) // 8 * 8
        n += 1
    return n, found


def test_rows_copied_beside_the_writer_lie_in_the_range_that_their_header_names() -> None:
    """A row beyond it would be taken for a missing one, and stored a second time, when the log is replayed."""
    rig = Rig(4, extents=20)
    slot = rig.add(0, type=layout.TYPE_F64)
    pid = os.fork()
    if pid == 0:
        try:
            append_for_ever(rig, slot)
        finally:
            os._exit(1)
    n_copied, wrong = 0, []
    try:
        again = np.full(2000, slot, np.uint32), np.ones(2000, np.uint32)
        scratch = bytearray(SLICE_BYTES)
        deadline = time.monotonic() + LOOK_S
        while time.monotonic() < deadline and not wrong:
            copier = ChunkCopier(Segment(rig.maps[0]), Segment(rig.maps[1]), *again)
            while used := copier.fill(scratch):
                n, found = misfits(bytes(scratch[:used]))
                n_copied, wrong = n_copied + n, wrong + found
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        rig.close()
    assert wrong[:3] == []
    assert n_copied > 100
