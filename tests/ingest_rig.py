"""An ingest worker's engine over real memory, and a persister in the test that answers its effects.

Nothing has a name in /dev/shm, there is no socket, no process and no loop: a test drives a session's generator
itself, and may do what it likes between an effect and its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from mstore.errors import MstoreError
from mstore.ingest.effects import Effect, NeedPaths, NeedReferences, NeedRoom, NeedTurn, References
from mstore.ingest.engine import Engine, Rules
from mstore.kernels._lines import LineScanner
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words
from mstore.kernels._segment import Segment
from mstore.kernels.reference_samples import parse
from mstore.model import MetricSpec
from mstore.shm import layout
from mstore.shm.control import CONTROL_BYTES, Control
from mstore.workers.path_interning import PathInterner
from tests import directory_rig

NOW_S = 1_700_000_000
SPECS = {
    "flops": MetricSpec("flops", 60, "sum", "f64", "GFlops/s"),
    "ops": MetricSpec("ops", 10, "sum", "u64"),
    "beat": MetricSpec("beat", 0, "none", "u64"),
    "scrape": MetricSpec("scrape", 0, "none", "f64", "", (("reads", "u64"), ("seconds", "f64"))),
}
"""Configured metrics; all others are registered as f32 with a step of 60 s, unless the rig ignores them."""


Steps = Generator[Effect, Any, Any]


@dataclass(frozen=True)
class Stored:
    """One sample or row that reached the persister."""

    name: str
    """cluster/host/type+id/...:metric"""
    t: int
    """Seconds (grid) or milliseconds (stamped)."""
    value: Any


def own_retentions_of(specs: dict[str, MetricSpec]) -> frozenset[int]:
    return frozenset(spec.retention_s for spec in specs.values() if spec.retention_s >= 0)


class IngestRig:
    """Engine, ring, directory and the persister's side of them."""

    def __init__(
        self, *, ring_bytes: int = 1 << 20, max_series: int = 2000, register: bool = True,
        retention_s: int = 48 * 3600, max_future_s: int = 3600, join: bool = False,
        specs: dict[str, MetricSpec] = SPECS,
    ) -> None:  # fmt: skip
        self.specs = specs
        self.directory = directory_rig.Rig(max_series)
        self.max_series = max_series
        self.control = _control()
        self.control.config_version = 1
        self.slot = self.control.worker(1)
        self.slot.claim(layout.WORKER_INGEST, 0, 1)
        self.ring = Segment(bytearray(layout.RING_DATA + ring_bytes), True)
        create_ring_words(self.ring, ring_bytes)
        self.reader = RingReader(self.ring)
        self.is_full = self.is_held = False
        self.bells = 0
        self.stored: list[Stored] = []
        """Everything published so far, in the order of the ring."""
        self.effects: list[Effect] = []
        """Every effect that was answered."""
        self._unanswered: dict[Steps, Effect] = {}
        self.engine = Engine(
            LineScanner(self.directory.reader.segment), self.directory.reader, RingWriter(self.ring),
            self.slot, Rules(retention_s, max_future_s, join, 1, own_retentions_of(specs)), self._bell,
            lambda: self.is_full, lambda: self.is_held,
        )  # fmt: skip
        self.interner: PathInterner
        self.set_policy(register, 1)

    def _bell(self) -> None:
        self.bells += 1

    def set_policy(self, register: bool, version: int) -> None:
        """A configuration, in force for the persister and for the worker."""
        writer = self.directory.writer
        writer.set_policy(register, 60, version, self.max_series, 4 * self.max_series)
        writer.set_metric_source(lambda cluster, metric: self.specs.get(metric.decode()))
        self.interner = PathInterner(writer, lambda cluster, metric: self.specs.get(metric), register, 60)
        self.control.config_version = version
        self.engine.rules = replace(self.engine.rules, config_version=version)

    # --- the persister

    def answer(self, effect: Effect) -> References | None:
        """What the persister would do and say."""
        if isinstance(effect, NeedRoom):
            assert self.reader.head() > self.reader.durable(), "the ring is full of what was never published"
            self.drain()
            return None
        if isinstance(effect, NeedTurn):
            return None
        writer = self.directory.writer
        if isinstance(effect, NeedReferences):
            found = writer.intern(effect.keys, effect.offsets, effect.times, effect.cluster)
        else:
            assert isinstance(effect, NeedPaths)
            found = self.interner.paths(effect.paths, effect.times, effect.specs)
        writer.publish()
        return References(*found[:3])

    def drain(self) -> None:
        """Take everything published out of the ring, durably."""
        start, head = self.reader.drained(), self.reader.head()
        self.reader.validate(start, head)
        while start < head:
            records = bytes(self.reader.view(start, head - start))
            start += len(records)
            self.stored += map(self._stored, parse(records))
        self.reader.set_drained(head)
        self.reader.set_durable(head)

    def _stored(self, sample: tuple[int, int, int, int, int, bytes]) -> Stored:
        kind, slot, generation, t, vtype, value = sample
        series = self.directory.writer.series(slot)
        assert series is not None
        assert series.generation == generation, f"slot {slot}: {generation} is not {series.generation}"
        name = self.name(slot)
        if kind == layout.REC_STAMPED:
            words = np.frombuffer(value, "<u8")
            assert len(words) == 1 + vtype == 1 + series.n_columns
            return Stored(name, int(words[0].astype(np.int64)), tuple(words[1:].tolist()))
        assert vtype == series.type
        return Stored(name, t, np.frombuffer(value, layout.TYPE_DTYPES[vtype])[0].item())

    def name(self, slot: int) -> str:
        series = self.directory.writer.series(slot)
        assert series is not None
        path = self.directory.writer.path(series.level)
        levels = [path.cluster, *(kind + name for kind, name in path.levels())]
        return f"{'/'.join(levels)}:{self.directory.writer.metric(series.metric).name}"

    # --- driving a session

    def run(self, steps: Steps, before: Callable[[Effect], None] | None = None) -> Any:
        """Drive a session's steps to their end and return their value. `before` sees each effect unanswered."""
        try:
            self._drive(steps, next(steps), before)
        except StopIteration as done:
            return done.value

    def run_until(self, steps: Steps, kind: type[Effect]) -> Effect:
        """Drive a session's steps to the first effect of this kind, and leave it unanswered."""
        effect = next(steps)
        while not isinstance(effect, kind):
            effect = steps.send(self.answer(effect))
        self._unanswered[steps] = effect
        return effect

    def run_on(self, steps: Steps) -> Any:
        """Answer the effect that run_until() left, and drive the steps to their end."""
        try:
            self._drive(steps, self._unanswered.pop(steps))
        except StopIteration as done:
            return done.value

    def _drive(self, steps: Steps, effect: Effect, before: Callable[[Effect], None] | None = None) -> None:
        while True:
            self.effects.append(effect)
            if before is not None:
                before(effect)
            try:
                answer = self.answer(effect)
            except MstoreError as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(answer)

    def finish(self) -> list[Stored]:
        """Everything that was stored; nothing may be left unpublished or busy."""
        assert self.engine.ring.head() == self.engine.ring.position(), "encoded and never published"
        assert self.slot.epoch % 2 == 0, "references are still held"
        self.drain()
        self.directory.writer.validate()
        self.control.validate()
        return self.stored

    def counter(self, name: str) -> int:
        return self.slot.snapshot()[name]

    def close(self) -> None:
        self.directory.close()
        vars(self.engine).clear()  # sessions that still exist must not keep the memory
        vars(self.interner).clear()
        del self.reader


def _control() -> Control:
    memory = bytearray(CONTROL_BYTES)
    return Control(SimpleNamespace(segment=Segment(memory, True), buffer=memoryview(memory)))


def line(metric: str, host: str, value: object, t: int | None = NOW_S, **tags: str) -> bytes:
    """One line; tags with `_` for `-` in their names."""
    more = "".join(f",{name.replace('_', '-')}={tag}" for name, tag in tags.items())
    stamp = "" if t is None else f" {t}"
    return f"{metric},hostname={host}{more} value={value}{stamp}\n".encode()
