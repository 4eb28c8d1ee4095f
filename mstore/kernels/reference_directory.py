"""The directory's naive twin: dicts and lists, no tables. Says what the compiled writer must answer and log.

It gives the same references and log records, bit for bit, for any sequence of intern, intern_items, define,
publish, new_era and removal. Space never runs out here. Keys are taken apart by kernels/_keys.parse, which
has a twin of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from mstore.kernels._keys import parse

Definition = tuple[int, int, int, int, int, int, int, bytes, bytes]
Source = Callable[[bytes, bytes], Definition | None]
Path = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""cluster, host, type, type_id, subtype, subtype_id, metric"""

LEVEL, METRIC, SERIES, KEY, REMOVE, ERA = 16, 17, 18, 19, 20, 21
IGNORE_SLOT = 0xFFFF_FFFF
LIVE, ENDED = 1, 2
INT64_MIN = -(1 << 63)
UNKNOWN_FIELD, NO_CLUSTER, UNKNOWN_METRIC, TOO_LONG, SERIES_LIMIT = 6, 8, 9, 12, 13


def record(kind: int, body: bytes) -> bytes:
    """Header {u16 type, u8, u8, u32 length} and body, zero-padded to a multiple of 8."""
    padded = body + bytes(-len(body) % 8)
    return struct.pack("<HBBI", kind, 0, 0, 8 + len(padded)) + padded


@dataclass
class Series:
    generation: int
    level: int
    metric: int
    kind: int
    type: int
    n_columns: int
    step_s: int
    anchor_s: int
    era_start: int = INT64_MIN
    prev: int = 0
    next: int = 0
    keys: list[tuple[bytes, int]] = field(default_factory=list)

    def body(self, slot: int) -> bytes:
        flags = LIVE | (ENDED if self.next else 0)
        head = struct.pack("<IIII", slot, self.generation, self.level, self.metric)
        grid = struct.pack(
            "<BBBBIqq",
            self.kind,
            self.type,
            self.n_columns,
            flags,
            self.step_s,
            self.anchor_s,
            self.era_start,
        )
        return head + grid + struct.pack("<QQ", self.prev, self.next)


class ReferenceDirectory:
    """The model. Lookups see what is published, as a reader would; the log is returned by every change."""

    def __init__(self, max_series: int = 1 << 20) -> None:
        self.levels: list[tuple[int, bytes, bytes]] = [(0, b"", b"")]
        self.level_ids: dict[tuple[int, bytes, bytes], int] = {}
        self.metrics: list[tuple[int, bytes, Definition]] = []
        self.metric_ids: dict[tuple[int, bytes], int] = {}
        self.slots: list[Series | None] = []
        self.generations: list[int] = []
        self.newest: dict[tuple[int, int], int] = {}
        self.keys: dict[tuple[bytes, int], int] = {}
        self.pending: list[tuple[bytes, int, int]] = []
        self.eras: list[tuple[int, int]] = []
        self.free: list[int] = []
        self.removing: set[int] = set()
        self.max_series = max_series
        self.register, self.step_s, self.version = True, 60, 1
        self.source: Source | None = None
        self.log = b""

    # ---- look-ups ----

    def cluster_id(self, name: bytes) -> int:
        return self.level_ids.get((0, b"", name), 0)

    def lookup_key(self, key: bytes, cluster: int) -> int:
        return self.keys.get((key, 0)) or self.keys.get((key, cluster), 0)

    def ignore(self, reason: int) -> int:
        return (reason << 24 | self.version) << 32 | IGNORE_SLOT

    def live(self) -> int:
        return sum(series is not None for series in self.slots)

    # ---- making ----

    def _level(self, parent: int, kind: bytes, name: bytes, create: bool) -> int:
        found = self.level_ids.get((parent, kind, name), -1)
        if found < 0 and create:
            found = len(self.levels)
            self.levels.append((parent, kind, name))
            self.level_ids[parent, kind, name] = found
            text = kind + name
            self.log += record(LEVEL, struct.pack("<IIHHI", found, parent, len(kind), len(text), 1) + text)
        return found

    def _log_metric(self, index: int) -> None:
        cluster, name, (step, type_code, kind, aggregation, n_columns, origin, retention, unit, columns) = (
            self.metrics[index]
        )
        head = struct.pack(
            "<IIIBBBBBB", index, cluster, step, kind, type_code, aggregation, n_columns, origin, 0
        )
        lengths = struct.pack("<HHHq", len(name), len(unit), len(columns), retention)
        self.log += record(METRIC, head + lengths + name + unit + columns)

    def _metric(
        self, cluster: int, path: Path, unit: bytes, spec: Definition | None, create: bool
    ) -> tuple[int, int, int]:
        """(cluster, metric index, reason): index is -1 when there is a reason."""
        index = self.metric_ids.get((cluster, path[6]), -1)
        if index >= 0:
            known = self.metrics[index]
            if unit and not known[2][7]:
                self.metrics[index] = (known[0], known[1], (*known[2][:7], unit, known[2][8]))
                self._log_metric(index)
            return cluster, index, 0
        configured = self.source(path[0], path[6]) if self.source else None
        made = configured or spec
        if made is None:
            if not self.register:
                return cluster, -1, UNKNOWN_METRIC
            made = (self.step_s, 1, 1, 2, 1, 2, -1, b"", b"")
        if not create:
            return cluster, -1, SERIES_LIMIT
        cluster = self._level(0, b"", path[0], True)
        index = len(self.metrics)
        self.metrics.append((cluster, path[6], (*made[:7], made[7] or unit, made[8])))
        self.metric_ids[cluster, path[6]] = index
        self._log_metric(index)
        return cluster, index, 0

    def _take_slot(self) -> int:
        if self.free:
            return self.free.pop()
        self.slots.append(None)
        self.generations.append(1)
        return len(self.slots) - 1

    def _resolve(
        self, path: Path, unit: bytes, t: int, spec: Definition | None, text: bool
    ) -> tuple[int, int]:
        """(reference, 0) or (0, reason)."""
        if not path[0]:
            return 0, NO_CLUSTER
        create = self.live() < self.max_series
        cluster, index, reason = self._metric(
            self.level_ids.get((0, b"", path[0]), -1), path, unit, spec, create
        )
        if reason:
            return 0, reason
        step, type_code, kind, _, n_columns, *_ = self.metrics[index][2]
        if text and n_columns > 1:
            return 0, UNKNOWN_FIELD
        level = self._level(cluster, b"", path[1], create)
        for part, name in ((path[2], path[3]), (path[4], path[5])):
            if level >= 0 and (part or name):
                level = self._level(level, part, name, create)
        slot = self.newest.get((level, index), -1)
        if slot < 0:
            if not create:
                return 0, SERIES_LIMIT
            slot = self._take_slot()
            anchor = t - step // 2 if kind == 1 else 0
            made = Series(self.generations[slot], level, index, kind, type_code, n_columns, step, anchor)
            self.slots[slot] = made
            self.newest[level, index] = slot
            self.log += record(SERIES, made.body(slot))
        self.remove_abort(slot)
        return self.generations[slot] << 32 | slot, 0

    # ---- the writer's verbs ----

    def define(self, cluster: bytes, name: bytes, spec: Definition) -> bytes:
        level = self._level(0, b"", cluster, True)
        index = self.metric_ids.get((level, name), -1)
        if index < 0:
            index = len(self.metrics)
            self.metrics.append((level, name, spec))
            self.metric_ids[level, name] = index
        else:
            spec = (*spec[:7], spec[7] or self.metrics[index][2][7], spec[8])
            if self.metrics[index][2] == spec:
                return self._take_log()
            self.metrics[index] = (level, name, spec)
        self._log_metric(index)
        return self._take_log()

    def intern(self, keys: list[bytes], times: list[int], default: bytes) -> tuple[list[int], bytes]:
        refs = [self._intern(key, t, default) for key, t in zip(keys, times, strict=True)]
        return refs, self._take_log()

    def _intern(self, key: bytes, t: int, default: bytes) -> int:
        if len(key) > 8192:
            return self.ignore(TOO_LONG)
        known = self.lookup_key(key, self.cluster_id(default))
        if known and (known & IGNORE_SLOT != IGNORE_SLOT or (known >> 32) & 0xFFFFFF == self.version):
            return known
        reason, parts = parse(key)
        if reason:
            return self.ignore(reason)
        defaulted = "cluster" not in parts
        names = [
            parts.get(name, b"") for name in ("host", "type", "type_id", "subtype", "subtype_id", "metric")
        ]
        path: Path = (parts.get("cluster", default), *names)  # type: ignore[assignment]  # six names make seven with it
        ref, reason = self._resolve(path, parts.get("unit", b""), t, None, True)
        if reason:
            ref = self.ignore(reason)
            if reason not in (UNKNOWN_METRIC, UNKNOWN_FIELD):
                return ref
        cluster = self._level(0, b"", default, True) if defaulted else 0
        if not reason:
            series = self.slots[ref & IGNORE_SLOT]
            assert series is not None
            self.log += record(
                KEY, struct.pack("<QIHBB", ref, cluster, len(key), series.type, series.kind) + key
            )
        self.pending.append((key, cluster, ref))
        return ref

    def intern_items(
        self, paths: list[Path], times: list[int], specs: list[Definition | None]
    ) -> tuple[list[int], bytes]:
        """Paths with well-formed names only: check_text has unit tests."""
        found = []
        for path, t, spec in zip(paths, times, specs, strict=True):
            plain = (*path[:2], b"", b"", *path[4:]) if path[2] == b"node" else path
            ref, reason = self._resolve(plain, b"", t, spec, False)
            found.append(self.ignore(reason) if reason else ref)
        return found, self._take_log()

    def publish(self) -> None:
        for old, new in self.eras:
            before, after = self.slots[old], self.slots[new]
            assert before is not None
            assert after is not None
            before.next = after.generation << 32 | new
            self.newest[after.level, after.metric] = new
            for key in before.keys:
                self.keys[key] = before.next
            after.keys, before.keys = before.keys + after.keys, []
        self.eras = []
        for text, cluster, ref in self.pending:
            self._publish_key((text, cluster), ref)
        self.pending = []

    def _publish_key(self, key: tuple[bytes, int], ref: int) -> None:
        slot = ref & IGNORE_SLOT
        if slot != IGNORE_SLOT:
            while (series := self.slots[slot]) is not None and series.generation == ref >> 32 and series.next:
                ref = series.next
                slot = ref & IGNORE_SLOT
            if series is None or series.generation != ref >> 32:
                return
            if key not in series.keys:
                series.keys.append(key)
        elif self.keys.get(key, IGNORE_SLOT) & IGNORE_SLOT != IGNORE_SLOT:
            return
        self.keys[key] = ref

    def new_era(
        self, slot: int, anchor_s: int, step_s: int, era_start: int, type_code: int
    ) -> tuple[int, bytes]:
        old = self.slots[slot]
        assert old is not None
        made = self._take_slot()
        kind, generation = (1 if step_s else 2), self.generations[made]
        new = Series(
            generation, old.level, old.metric, kind, type_code, old.n_columns, step_s, anchor_s, era_start
        )
        new.prev = old.generation << 32 | slot
        self.slots[made] = new
        self.eras.append((slot, made))
        self.log += record(ERA, new.body(made))
        return generation << 32 | made, self._take_log()

    def remove_begin(self, slot: int) -> None:
        series = self.slots[slot]
        assert series is not None
        self.removing.add(slot)
        for key in series.keys:
            self.keys[key] = 0

    def remove_abort(self, slot: int) -> None:
        if slot in self.removing:
            self.removing.discard(slot)
            series = self.slots[slot]
            assert series is not None
            for key in series.keys:
                self.keys[key] = series.generation << 32 | slot

    def remove_finish(self, slot: int) -> bytes:
        if slot not in self.removing:
            return b""
        self.removing.discard(slot)
        series = self.slots[slot]
        assert series is not None
        ref = series.generation << 32 | slot
        self.log += record(REMOVE, struct.pack("<QQQ", ref, series.prev, series.next))
        for key in series.keys:
            del self.keys[key]
        self.slots[slot] = None
        self.generations[slot] += 1
        self.free.append(slot)
        before = self._at(series.prev)
        after = self._at(series.next)
        if before is not None and before.next == ref:
            before.next = series.next
        if after is not None and after.prev == ref:
            after.prev = series.prev
        if self.newest.get((series.level, series.metric)) == slot:
            del self.newest[series.level, series.metric]
            if before is not None:
                self.newest[series.level, series.metric] = series.prev & IGNORE_SLOT
        return self._take_log()

    def _at(self, ref: int) -> Series | None:
        series = self.slots[ref & IGNORE_SLOT] if ref else None
        return series if series is not None and series.generation == ref >> 32 else None

    def _take_log(self) -> bytes:
        log, self.log = self.log, b""
        return log
