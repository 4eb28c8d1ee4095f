"""The memory of a store in one process: what ingest workers, persister and query workers have, without a name anywhere.

    Engine ──> ring ──> apply.Store ──> directory, samples (anonymous memory) <── Reader
                            └── subscribers: what clients follow

There is no log: what the ring holds is applied at once.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Generator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from mstore import __version__, clock
from mstore.apply.store import Store
from mstore.config import Config
from mstore.errors import InvariantBroken, MstoreError, StoreFull
from mstore.ingest.effects import Effect, NeedPaths, NeedReferences, NeedRoom, NeedTurn, References
from mstore.ingest.engine import Engine
from mstore.ipc import messages as m
from mstore.kernels._lines import LineScanner
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.query import Reader
from mstore.query.gather import replanned
from mstore.shm import layout
from mstore.shm.control import CONTROL_BYTES, Control
from mstore.shm.directory import DirectoryReader, DirectoryWriter, create_directory, directory_bytes
from mstore.workers.answers import Answers
from mstore.workers.definitions import follow_configuration, ingest_rules, set_policy
from mstore.workers.subscriber import Subscriber

SERIES_MAX = 200_000
"""At most, whatever the configuration allows: the table's addresses cost nothing, a test that fills them would."""
SAMPLES_BYTES = 1 << 30
"""Reserved; memory is taken as samples come."""
RING_BYTES = 4 << 20
INSTANCE = 1


class Memory:
    """One store. All of it is used under `lock`."""

    def __init__(self, config: Config) -> None:
        """raises ConfigError, StoreFull when there is no memory"""
        self.config = replace(config, max_series=min(config.max_series, SERIES_MAX))
        self.lock = threading.RLock()
        self.subscribers: list[Subscriber] = []
        self._began_s = clock.now_s()
        self._fds = [os.memfd_create(f"mstore-testing-{name}") for name in ("directory", "samples")]
        self._make()

    def _make(self) -> None:
        config = self.config
        directory, samples = _segments(self._fds, (directory_bytes(config.max_series), SAMPLES_BYTES))
        create_directory(SimpleNamespace(segment=directory, fd=self._fds[0]), config.max_series, seed=1)
        self.directory = DirectoryWriter(directory, self._fds[0])
        self._store = Store(self.directory, Samples(directory, samples, self._fds[1], SAMPLES_BYTES, True))
        control = bytearray(CONTROL_BYTES)
        self.control = Control(SimpleNamespace(segment=Segment(control, True), buffer=memoryview(control)))
        self.control.config_version = 1
        self.control.retention_s = config.retention_s
        self.slot = self.control.worker(1)
        self.slot.claim(layout.WORKER_INGEST, 0, os.getpid())
        self._interner = set_policy(self.directory, config, 1)
        follow_configuration(self)
        ring = Segment(bytearray(layout.RING_DATA + RING_BYTES), True)
        create_ring_words(ring, RING_BYTES)
        self._ring = RingReader(ring)
        self.engine = Engine(
            LineScanner(directory), DirectoryReader(directory), RingWriter(ring), self.slot, ingest_rules(config, 1),
            lambda: None, lambda: False, lambda: False,
        )  # fmt: skip
        self.reader = Reader(
            directory, samples, retention_s=lambda: config.retention_s, config=lambda: config
        )
        self.answers = Answers(self.reader, lambda: config, self._info)

    def append_catalog(self, records: bytes) -> None:
        """Definitions would be logged here."""

    @property
    def is_open(self) -> bool:
        return bool(self._fds)

    def close(self) -> None:
        """Give the memory back; whoever still has parts of an answer keeps copies."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self.subscribers.clear()
        # The maps go with the last object that looks at them.
        for name in ("directory", "engine", "reader", "answers", "_ring", "_store", "_interner"):
            delattr(self, name)

    # --- what workers ask of the processes around them

    def drive(self, steps: Generator[Effect, Any, Any]) -> None:
        """Carry a session's steps to their end, and apply what they put into the ring."""
        try:
            effect = next(steps)
            while True:
                try:
                    answer = self._carried_out(effect)
                except MstoreError as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(answer)
        except StopIteration:
            pass
        self.apply()

    def _carried_out(self, effect: Effect) -> References | None:
        if isinstance(effect, NeedRoom):
            before = self._ring.durable()
            self.apply()
            if self._ring.durable() == before:
                raise InvariantBroken("the ring is full of what was never published")
            return None
        if isinstance(effect, NeedTurn):
            return None
        if isinstance(effect, NeedReferences):
            try:
                found = self.directory.intern(effect.keys, effect.offsets, effect.times, effect.cluster)
            except MemoryError as error:
                raise StoreFull(str(error)) from error
        else:
            assert isinstance(effect, NeedPaths)
            found = self._interner.paths(effect.paths, effect.times, effect.specs)
        self.directory.publish()
        for subscriber in self.subscribers:
            replanned(subscriber.following.refresh)
        return References(*found[:3])

    def apply(self) -> None:
        """Take everything published out of the ring into memory, and to whoever follows it."""
        start, head = self._ring.drained(), self._ring.head()
        while start < head:
            block = bytes(self._ring.view(start, head - start))
            self._store.apply_block(block)
            start += len(block)
            for subscriber in self.subscribers:
                subscriber.take(memoryview(block))
        self._ring.set_drained(head)
        self._ring.set_durable(head)
        for subscriber in self.subscribers:
            while subscriber.work():
                pass

    def _info(self, message: m.Info) -> dict[str, Any]:
        return {
            "version": __version__, "dir": "", "instance": INSTANCE, "state": "ready", "full": False,
            "degraded": False, "unprotected": False, "now_s": clock.now_s(), "started_s": self._began_s,
            "counts": self.directory.counts(), "memory": {"segments": {}}, "log": {},
            "counters": self.slot.snapshot(), "workers": [],
        }  # fmt: skip


def _segments(fds: list[int], lengths: tuple[int, int]) -> list[Segment]:
    found = []
    for fd, length in zip(fds, lengths, strict=True):
        os.ftruncate(fd, length)
        found.append(Segment(mmap.mmap(fd, length), True))
    return found
