"""A persister for an IngestRig that follows its configuration and applies what arrives; the test decides when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from mstore.config import parse as parse_config
from mstore.errors import StorageError
from mstore.ingest.text import TextSession
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.shm import chunks, layout
from tests.ingest_rig import IngestRig

HEADER = b"# mstore cluster=c\n"


class Persister:
    """What the machine needs of the persister, and its samples; the test decides when the ring is drained."""

    def __init__(self, rig: IngestRig) -> None:
        self.rig = rig
        self.directory = rig.directory.writer
        self.control = rig.control
        self.rings = [rig.reader]
        self.slot = rig.slot
        self.spec = SimpleNamespace(ack_fds=())
        self.config = parse_config('unknown_metrics = "register"')
        self.refusal: StorageError | None = None
        self.unlogged: list[bytes] = []
        self.memory = np.zeros(layout.SAMPLES_DATA + 4 * layout.EXTENT_BYTES, np.uint8)
        self.samples = Samples(rig.directory.segment, Segment(self.memory, True), -1, 0, True)
        self.stale = 0

    def configure(self, text: str) -> None:
        self.config = parse_config('unknown_metrics = "register"\n' + text)

    def append_catalog(self, records: bytes) -> None:
        self.unlogged.append(records)
        self.log_the_unlogged()

    def log_the_unlogged(self) -> None:
        if not self.unlogged:
            return
        if self.refusal is not None:
            raise self.refusal
        self.unlogged.clear()
        self.directory.publish()

    def drain(self) -> None:
        start, head = self.rig.reader.drained(), self.rig.reader.head()
        while start < head:
            records = self.rig.reader.view(start, head - start)
            self.stale += self.samples.apply(records).n_stale
            start += len(records)
        self.rig.reader.set_drained(head)
        self.rig.reader.set_durable(head)

    def values(self, host: str) -> list[tuple[str, list[Any]]]:
        """(type, values in order of time) of each era of c/HOST:load, the oldest first."""
        found = []
        for slot, series in enumerate(self.directory.series_table()):
            if not series["flags"] & layout.SERIES_LIVE:
                continue
            if self.directory.path(int(series["level"])).host == host:
                values = [value.item() for _, value in sorted(chunks.read_grid(series, self.memory).items())]
                found.append((int(series["era_start"]), slot, layout.TYPE_NAMES[int(series["type"])], values))
        return [(name, values) for _, _, name, values in sorted(found)]


def send(rig: IngestRig, text: bytes) -> bytes:
    session = TextSession(rig.engine)
    rig.run(session.consume(HEADER + text))
    return session.reply(True)
