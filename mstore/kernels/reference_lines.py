"""The twin of _lines and _lines_batch: the same rules in plain Python, slow and obviously right.

Nothing here is shared memory: a directory is a dict (key, default cluster) -> Target, a ring is a list of
records. build_directory() turns such a dict into the bytes of a segment, for tests and benchmarks. What a line consists
of is taken apart in reference_lines_text.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from mstore.kernels.reference_eras import INT64_MIN, Chain, Era, era_at, latest_change, too_late
from mstore.kernels.reference_lines_text import (
    COMMA,
    F32,
    SPACE,
    STAMPED,
    Refused,
    convert,
    joined_key,
    parse_fields,
    parse_time,
    split_key,
)
from mstore.limits import BATCH_LINES_MAX, LINE_BYTES_MAX, RUN_VALUES_MAX
from mstore.model import N_REASONS, Reason

IGNORE_SLOT = 0xFFFF_FFFF
ROW, STAMPED_ROWS, SCATTER = 1, 3, 4
ROW_MIN = 4


@dataclass(frozen=True, slots=True)
class Target:
    """What a key entry says: a reference or an ignore word, value type, kind, step. And what its series was before."""

    ref: int
    type: int = F32
    kind: int = 1
    step_s: int = 60
    start_s: int = INT64_MIN
    older: tuple[Era, ...] = ()
    """The eras before, the newest first."""

    @property
    def chain(self) -> Chain:
        return (Era(self.type, self.step_s, self.start_s), *self.older)


Directory = Mapping[tuple[bytes, int], Target]


@dataclass(slots=True)
class Sample:
    """One field of one line. While `ref` is None it waits for unknown key number `key`."""

    line: int
    ms: int
    number: bytes
    ref: int | None = None
    key: int = 0
    type: int = 0
    kind: int = 0
    value: bytes = b""
    reason: int = 0

    @property
    def t(self) -> int:
        return self.ms if self.kind == STAMPED else self.ms // 1000


class ReferenceBatch:
    """LineBatch and LineScanner in one."""

    def __init__(self, max_lines: int = BATCH_LINES_MAX) -> None:
        self.max_lines = max_lines
        self.skipping = False
        self.changed_s = 0
        """The directory's grids_changed_s, as the test has it."""
        self.clear()

    def clear(self) -> None:
        self.n_lines = 0
        self.samples: list[Sample] = []
        self.refused: list[int] = []
        self.keys: dict[bytes, int] = {}

    @property
    def n_samples(self) -> int:
        return sum(not sample.reason for sample in self.samples)

    @property
    def n_unknown(self) -> int:
        return len(self.keys)

    def lines(self) -> dict[int, list[Sample]]:
        found: dict[int, list[Sample]] = {}
        for sample in self.samples:
            found.setdefault(sample.line, []).append(sample)
        return found

    def counts(self) -> NDArray[np.int64]:
        counts = np.bincount(np.array(self.refused, dtype=np.int64), minlength=N_REASONS)
        for fields in self.lines().values():
            if all(field.ref is not None or field.reason for field in fields):
                written = any(not field.reason for field in fields)
                counts[0 if written else fields[0].reason] += 1
        return counts.astype(np.int64)

    def unknown(self) -> tuple[bytes, bytes, bytes]:
        offsets = np.cumsum([0, *(len(key) for key in self.keys)], dtype=np.int64)
        times = np.array(list(self.keys.values()), dtype=np.int64)
        return b"".join(self.keys), offsets.tobytes(), times.tobytes()

    def resolve(self, targets: Sequence[Target]) -> None:
        for sample in self.samples:
            if sample.ref is None and not sample.reason:
                self.settle(sample, targets[sample.key])
        self.keys = {}

    def late(self, before_s: int) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.int64]]:
        found = [(i, one.ref, one.ms // 1000) for i, one in enumerate(self.samples) if not one.reason]
        old = [one for one in found if one[2] < before_s]
        return (
            np.array([place for place, _, _ in old], np.uint32),
            np.array([ref for _, ref, _ in old], np.uint64),
            np.array([t_s for _, _, t_s in old], np.int64),
        )

    def refuse(self, places: NDArray[np.uint32]) -> None:
        for place in places.tolist():
            self.samples[place].reason = Reason.TOO_LATE

    def settle(self, sample: Sample, target: Target) -> None:
        sample.ref, sample.type, sample.kind = target.ref, target.type, target.kind
        if target.ref & IGNORE_SLOT == IGNORE_SLOT:
            sample.reason = (target.ref >> 56) % N_REASONS or Reason.UNKNOWN_METRIC
            return
        t, chain = sample.ms // 1000, target.chain
        if target.kind != STAMPED:
            era, last_s = era_at(chain, t, self.newest_s) if t < self.changed_s else (chain[0], self.newest_s)
            if era is None or too_late(era, t, last_s):
                sample.reason = Reason.TOO_LATE
                return
            sample.type = era.type
        try:
            sample.value = convert(sample.number, sample.type, target.kind)
        except Refused as refused:
            sample.reason = refused.reason

    def scan(
        self, directory: Directory, text: bytes, start: int, stop: int, *, final: bool, cluster_id: int,
        precision: int, now_s: int, oldest_s: int, newest_s: int, config_version: int, join: bool,
    ) -> int:  # fmt: skip
        self.directory, self.cluster_id = directory, cluster_id
        self.config_version, self.newest_s = config_version & 0xFFFFFF, newest_s
        at = start
        while at < stop and (self.skipping or not self.full()):
            newline = text.find(b"\n", at, stop)
            end = stop if newline < 0 else newline
            whole = newline >= 0 or final
            if not self.skipping:
                if end - at > LINE_BYTES_MAX:
                    if not text[at : at + LINE_BYTES_MAX + 1].lstrip(b" \t").startswith(b"#"):
                        self.n_lines += 1
                        self.refused.append(Reason.TOO_LONG)
                    self.skipping = True
                elif not whole:
                    break
                else:
                    try:
                        self.line(text[at:end], precision, now_s, oldest_s, newest_s, join)
                    except Refused as refused:
                        self.refused.append(refused.reason)
            if whole:
                self.skipping = False
            at = end if newline < 0 else newline + 1
        return at

    def full(self) -> bool:
        return self.n_lines >= self.max_lines or len(self.samples) >= self.max_lines

    def line(self, line: bytes, precision: int, now_s: int, oldest_s: int, newest_s: int, join: bool) -> None:
        line = line.removesuffix(b"\r").lstrip(b" \t")
        if not line or line.startswith(b"#"):
            return
        self.n_lines += 1
        space = SPACE.search(line)
        if not space:
            raise Refused(Reason.BAD_SYNTAX)
        key, rest = line[: space.start()], line[space.start() :].lstrip(b" ")
        if join and COMMA.split(key)[0] == b"":
            raise Refused(Reason.BAD_SYNTAX)
        target = None if join else self.find(key)
        fields, rest = parse_fields(rest)
        if join:
            wanted = [(joined_key(key, name), number) for name, number in fields if number is not None]
            if not wanted:
                raise Refused(Reason.BAD_VALUE)
        else:
            if any(name != b"value" for name, _ in fields):
                raise Refused(Reason.UNKNOWN_FIELD)
            if fields[-1][1] is None:
                raise Refused(Reason.BAD_VALUE)
            wanted = [(key, fields[-1][1])]
        ms = parse_time(rest, precision, now_s)
        if ms // 1000 < oldest_s:
            raise Refused(Reason.TOO_LATE)
        if ms // 1000 > newest_s:
            raise Refused(Reason.TOO_FAR_AHEAD)
        if join:
            self.samples += [self.joined_sample(name, ms, number or b"") for name, number in wanted]
            return
        sample = self.sample(key, ms, wanted[0][1] or b"", target)
        if sample.reason:
            raise Refused(sample.reason)
        self.samples.append(sample)

    def joined_sample(self, key: bytes, ms: int, number: bytes) -> Sample:
        try:
            return self.sample(key, ms, number, self.find(key))
        except Refused as refused:
            return Sample(self.n_lines, ms, number, reason=refused.reason)

    def sample(self, key: bytes, ms: int, number: bytes, target: Target | None) -> Sample:
        sample = Sample(self.n_lines, ms, number)
        if target is None:
            self.keys.setdefault(key, ms // 1000)
            sample.key = list(self.keys).index(key)
        else:
            self.settle(sample, target)
        return sample

    def find(self, key: bytes) -> Target | None:
        """What the key stands for, None = unknown and worth asking for; raises Refused."""
        for cluster in (0, self.cluster_id):
            target = self.directory.get((key, cluster))
            if target is None or target.ref == 0 or target.ref & ~(0xFFFFFF << 32) == IGNORE_SLOT:
                continue  # an ignore word without a reason: not published
            if target.ref & IGNORE_SLOT != IGNORE_SLOT:
                return target
            if target.ref >> 32 & 0xFFFFFF == self.config_version:
                raise Refused((target.ref >> 56) % N_REASONS or Reason.UNKNOWN_METRIC)
        split_key(key)
        return None

    def encode(self, run_values_max: int = RUN_VALUES_MAX) -> list[bytes]:
        """All records, in the order of the lines."""
        left = [sample for sample in self.samples if not sample.reason]
        records = []
        while left:
            taken = next_run(left[:run_values_max])
            records.append(record(left[:taken]))
            left = left[taken:]
        return records


# ---- records ----


def consecutive(samples: list[Sample]) -> int:
    """How many samples are the next slots of the first one's generation, at its time and of its type."""
    n = 1
    first = samples[0].ref or 0
    while n < len(samples) and same_record(samples[0], samples[n]) and samples[n].ref == first + n:
        n += 1
    return n


def same_record(a: Sample, b: Sample) -> bool:
    return (a.t, a.type, a.kind) == (b.t, b.type, b.kind)


def next_run(samples: list[Sample]) -> int:
    """How many samples the next record takes."""
    if samples[0].kind == STAMPED:
        series = (samples[0].ref, STAMPED)
        others = (i for i, sample in enumerate(samples) if (sample.ref, sample.kind) != series)
        return next(others, len(samples))
    taken = consecutive(samples)
    if taken >= ROW_MIN:
        return taken
    while taken < len(samples) and same_record(samples[0], samples[taken]):
        run = consecutive(samples[taken:])
        if run >= ROW_MIN:
            break
        taken += run
    return taken


def record(samples: list[Sample]) -> bytes:
    """The ROW, SCATTER or STAMPED record of samples that share one (see next_run)."""
    first = samples[0]
    ref = first.ref or 0
    if first.kind == STAMPED:
        rows = b"".join(struct.pack("<q", sample.ms) + sample.value for sample in samples)
        return struct.pack("<HBBIQq", STAMPED_ROWS, 1, 0, len(samples), ref, first.t) + rows
    values = b"".join(sample.value for sample in samples)
    values += bytes(-len(values) % 8)
    if consecutive(samples) == len(samples):
        return struct.pack("<HBBIQq", ROW, first.type, 0, len(samples), ref, first.t) + values
    refs = b"".join(struct.pack("<Q", sample.ref) for sample in samples)
    return struct.pack("<HBBIQq", SCATTER, first.type, 0, len(samples), 0, first.t) + refs + values


# ---- a directory segment with nothing but keys ----


def hash64(data: bytes, seed: int) -> int:
    """ms_hash of hash.h."""
    mask = 2**64 - 1
    odd1, odd2 = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03

    def fold(a: int, b: int) -> int:
        product = a * b
        return (product ^ product >> 64) & mask

    def word(at: int) -> int:
        return int.from_bytes(data[at : at + 8], "little")

    h, at, left = seed ^ len(data) * odd1 & mask, 0, len(data)
    while left > 16:
        h = fold(word(at) ^ odd1 ^ h, word(at + 8) ^ odd2)
        at, left = at + 16, left - 16
    a = word(at) if left else 0
    b = word(len(data) - 8) if left >= 8 else 0
    return fold(a ^ odd1 ^ h, b ^ odd2 ^ h)


def build_directory(
    layout: ModuleType, entries: Mapping[tuple[bytes, int], Target], seed: int = 0, *, generation: int = 0,
    tombstones: Iterable[tuple[bytes, int]] = (), others: Iterable[Target] = (),
) -> bytearray:  # fmt: skip
    """The bytes of a directory segment that holds these key entries, in this order, their key table, and their series.

    layout      the module mstore.shm.layout (handed in: kernels do not import what lies above them)
    tombstones  keys whose table slot is a tombstone: the entry is in the heap, but not to be found
    others      series that no key leads to
    """
    log2 = max(4, (2 * len(entries)).bit_length())
    slots = np.zeros(1 << log2, dtype=np.uint64)
    heap = bytearray(8)  # offset 0 is never a key
    removed = set(tombstones)
    for index, ((key, cluster), target) in enumerate(entries.items(), start=1):
        h = hash64(key, seed)
        i = h & (len(slots) - 1)
        while slots[i]:
            i = (i + 1) & (len(slots) - 1)
        slots[i] = 1 if (key, cluster) in removed else h >> 32 << 32 | len(heap) // 8
        entry = np.zeros((), dtype=layout.KEY)
        entry["ref"], entry["hash"], entry["index"] = target.ref, h >> 32, index
        entry["default_cluster"] = cluster
        entry["len"], entry["type"], entry["kind"] = len(key), target.type, target.kind
        entry["step_s"] = target.step_s
        heap += entry.tobytes() + key + bytes(-len(key) % 8)
    targets = [*entries.values(), *others]
    series = series_rows(layout, targets)
    keys_at = 2 * layout.PAGE_BYTES
    table_at = keys_at + len(heap)
    series_at = table_at + slots.nbytes
    segment = bytearray(series_at + series.nbytes)
    header = np.frombuffer(segment, dtype=layout.DIRECTORY, count=1, offset=layout.DIRECTORY_AT)[0]
    region = header["regions"][layout.REGION_NAMES.index("keys")]
    region["offset"] = keys_at
    region["reserved"] = region["committed"] = region["used"] = len(heap)
    header["tables"][layout.TABLE_NAMES.index("keys")] = table_at << 8 | log2
    header["hash_seed"], header["generation"], header["n_keys"] = seed, generation, len(entries)
    header["regions"][layout.REGION_NAMES.index("series")]["offset"] = series_at
    header["n_series"], header["grids_changed_s"] = len(series), latest_change(one.chain for one in targets)
    segment[keys_at:table_at] = heap
    segment[table_at:series_at] = slots.tobytes()
    segment[series_at:] = series.tobytes()
    return segment


def series_rows(layout: ModuleType, targets: Sequence[Target]) -> NDArray[np.void]:
    """The series table: none if no series has older eras, for then nobody looks at it."""
    found = [one for one in targets if one.ref & IGNORE_SLOT != IGNORE_SLOT and one.ref]
    if not any(one.older for one in found):
        return np.zeros(0, dtype=layout.SERIES)
    free = 1 + max(one.ref & IGNORE_SLOT for one in found)
    rows = np.zeros(free + sum(len(one.older) for one in found), dtype=layout.SERIES)
    for one in found:
        slot = one.ref & IGNORE_SLOT
        rows[slot]["generation"] = one.ref >> 32
        for k, era in enumerate(one.chain):
            row = rows[slot]
            row["kind"], row["type"], row["step_s"], row["era_start"] = (
                one.kind,
                era.type,
                era.step_s,
                era.start_s,
            )
            row["flags"] = layout.SERIES_LIVE | (layout.SERIES_ENDED if k else 0)
            row["flags"] |= layout.SERIES_REMOVING if era.going else 0
            if k < len(one.older):
                row["prev_slot"], row["prev_generation"] = free + 1, 1
                rows[free]["generation"] = 1
                slot, free = free, free + 1
    return rows
