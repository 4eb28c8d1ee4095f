"""The twin of _keys and _lines: the same rules in plain Python, slow and obviously right.

Nothing here is shared memory: a directory is a dict (key, default cluster) -> Target, a ring is a list of
records. build_directory() turns such a dict into the bytes of a segment, for tests and benchmarks.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from mstore.limits import (
    BATCH_LINES_MAX,
    KEY_BYTES_MAX,
    LINE_BYTES_MAX,
    LINE_FIELDS_MAX,
    LINE_TAGS_MAX,
    NAME_BYTES_MAX,
    RUN_VALUES_MAX,
    SERIES_SLOTS_MAX,
)  # fmt: skip
from mstore.model import N_REASONS, Precision, Reason

STAMPED = 2
F32, F64, U64 = 1, 2, 3
IGNORE_SLOT = 0xFFFF_FFFF
ROW, STAMPED_ROWS, SCATTER = 1, 3, 4
ROW_MIN = 4
INT64_MAX = 2**63 - 1

TAGS = {
    b"hostname": "host", b"host": "host", b"cluster": "cluster", b"type": "type", b"type-id": "type_id",
    b"stype": "subtype", b"subtype": "subtype", b"stype-id": "subtype_id", b"subtype-id": "subtype_id",
    b"unit": "unit",
}  # fmt: skip

# A separator is escaped by the byte before it, whatever stands before that.
COMMA = re.compile(rb"(?<!\\),")
SPACE = re.compile(rb"(?<!\\) ")
EQUALS = re.compile(rb"(?<!\\)=")
FIELD_KEY = re.compile(rb"((?:[^\\, =]|\\[, =]|\\(?![, =]))+)=", re.DOTALL)
STRING = re.compile(rb'"(?:[^"\\]|\\["\\]|\\(?!["\\]))*"(?=[, ]|\Z)', re.DOTALL)
BARE = re.compile(rb"[^, ]+", re.DOTALL)
DECIMAL = re.compile(rb"([+-]?)(?=\.?[0-9])([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]+))?")
INTEGER = re.compile(rb"[+-]?[0-9]+i|\+?[0-9]+u")
TIME = re.compile(rb" *([0-9]+) *")


class Refused(Exception):
    """The line is not written, for this reason."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Target:
    """What a key entry says: a reference or an ignore word, value type, kind, step."""

    ref: int
    type: int = F32
    kind: int = 1
    step_s: int = 60


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


# ---- keys ----


def check_name(name: bytes) -> None:
    if not name:
        raise Refused(Reason.BAD_SYNTAX)
    if len(name) > NAME_BYTES_MAX:
        raise Refused(Reason.TOO_LONG)
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise Refused(Reason.BAD_ENCODING) from None
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise Refused(Reason.BAD_ENCODING)


def split_key(key: bytes) -> dict[str, bytes]:
    """The names in a key; raises Refused."""
    if len(key) > KEY_BYTES_MAX:
        raise Refused(Reason.TOO_LONG)
    measurement, *tags = COMMA.split(key)
    if SPACE.search(measurement):
        raise Refused(Reason.BAD_SYNTAX)
    parts = {"metric": re.sub(rb"\\([, ])", rb"\1", measurement)}
    check_name(parts["metric"])
    for i, tag in enumerate(tags):
        if i == LINE_TAGS_MAX:
            raise Refused(Reason.TOO_LONG)
        halves = EQUALS.split(tag)
        if len(halves) != 2 or not halves[0] or SPACE.search(tag):
            raise Refused(Reason.BAD_SYNTAX)
        name, value = (re.sub(rb"\\([, =])", rb"\1", half) for half in halves)
        part = TAGS.get(name)
        if part is not None:
            if part != "host" or value:
                check_name(value)
            parts[part] = value
    if parts.get("type") == b"node":
        del parts["type"]
        parts.pop("type_id", None)
    if not parts.get("host"):
        raise Refused(Reason.NO_HOST)
    return parts


def parse_key(key: bytes) -> tuple[int, dict[str, bytes]]:
    try:
        return 0, split_key(key)
    except Refused as refused:
        return int(refused.reason), {}


# ---- numbers and times ----


def is_number(text: bytes) -> bool:
    return bool(DECIMAL.fullmatch(text) or INTEGER.fullmatch(text))


def whole(digits: bytes) -> int:
    """int() of a sign and digits; all beyond 10^30 are the same (Python refuses very long texts)."""
    magnitude = digits.lstrip(b"+-").lstrip(b"0") or b"0"
    value = int(magnitude) if len(magnitude) <= 30 else 10**30
    return -value if digits.startswith(b"-") else value


def exact_integer(text: bytes) -> int:
    """The value of a number if it is a whole one below 10^20 and not negative, else Refused."""
    match = DECIMAL.fullmatch(text)
    if not match:
        value = whole(text[:-1])
        if value < 0 or (text.endswith(b"i") and value > INT64_MAX):
            raise Refused(Reason.OUT_OF_RANGE)
        return value
    sign, before, after, exponent = match.groups()
    digits = (before + after).lstrip(b"0")
    power = whole(exponent or b"0") - len(after) + len(digits) - len(digits.rstrip(b"0"))
    digits = digits.rstrip(b"0")
    if not digits:
        return 0
    if sign == b"-" or power < 0 or len(digits) + power > 20:
        raise Refused(Reason.OUT_OF_RANGE)
    return int(digits) * int(10**power)


def convert(text: bytes, type_: int, kind: int) -> bytes:
    """The bytes of a number's value in a series of this type; raises Refused."""
    if type_ == U64:
        value = exact_integer(text)
        if value >= 2**64 - 1:
            raise Refused(Reason.OUT_OF_RANGE)
        return struct.pack("<Q", value)
    if type_ not in (F32, F64):
        raise Refused(Reason.UNKNOWN_FIELD)
    if INTEGER.fullmatch(text):
        integer = whole(text[:-1])
        if not (-(2**63) <= integer <= INT64_MAX if text.endswith(b"i") else integer < 2**64):
            raise Refused(Reason.OUT_OF_RANGE)
        number = float(integer)
    else:
        number = float(text)
    if number in (float("inf"), float("-inf")):
        raise Refused(Reason.OUT_OF_RANGE)
    if type_ == F64 or kind == STAMPED:
        return struct.pack("<d", number)
    try:
        return struct.pack("<f", number)
    except OverflowError:
        raise Refused(Reason.OUT_OF_RANGE) from None


def parse_time(text: bytes, precision: int, now_s: int) -> int:
    """What follows the fields, as milliseconds; raises Refused."""
    if not text.strip(b" "):
        return now_s * 1000
    match = TIME.fullmatch(text)
    value = whole(match[1]) if match else INT64_MAX + 1
    if value > INT64_MAX:
        raise Refused(Reason.BAD_TIMESTAMP)
    if precision == Precision.AUTO:
        precision = 1 if value < 10**11 else 2 if value < 10**14 else 3 if value < 10**17 else 4
    ms = value * 1000 if precision == 1 else value // 1000 ** (precision - 2)
    if ms > INT64_MAX // 1000 * 1000 and precision == 1:
        raise Refused(Reason.BAD_TIMESTAMP)
    return ms


# ---- lines ----


def parse_fields(text: bytes) -> tuple[list[tuple[bytes, bytes | None]], bytes]:
    """([(raw field key, text of a number or None)], what follows the fields); raises Refused."""
    fields: list[tuple[bytes, bytes | None]] = []
    at = 0
    while True:
        if len(fields) == LINE_FIELDS_MAX:
            raise Refused(Reason.TOO_LONG)
        key = FIELD_KEY.match(text, at)
        if not key:
            raise Refused(Reason.BAD_SYNTAX)
        at = key.end()
        value = STRING.match(text, at) if text[at : at + 1] == b'"' else BARE.match(text, at)
        if not value:
            raise Refused(Reason.BAD_SYNTAX)
        fields.append((key[1], value[0] if is_number(value[0]) else None))
        at = value.end()
        if text[at : at + 1] != b",":
            return fields, text[at:]
        at += 1


def joined_key(key: bytes, field: bytes) -> bytes:
    """`measurement_field,tags`; in a measurement `=` needs no escape, a backslash before it would stay."""
    measurement, *tags = COMMA.split(key, maxsplit=1)
    return b",".join([measurement + b"_" + field.replace(b"\\=", b"="), *tags])


class ReferenceBatch:
    """LineBatch and LineScanner in one."""

    def __init__(self, max_lines: int = BATCH_LINES_MAX) -> None:
        self.max_lines = max_lines
        self.skipping = False
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

    def resolve(self, text: object, refs: bytes, types: bytes, kinds: bytes, steps: bytes) -> None:
        for sample in self.samples:
            if sample.ref is None and not sample.reason:
                (ref,) = struct.unpack_from("<Q", refs, 8 * sample.key)
                (step_s,) = struct.unpack_from("<I", steps, 4 * sample.key)
                self.settle(sample, Target(ref, types[sample.key], kinds[sample.key], step_s))
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
        if target.kind != STAMPED and sample.ms // 1000 < self.newest_s - target.step_s * SERIES_SLOTS_MAX:
            sample.reason = Reason.TOO_LATE
            return
        try:
            sample.value = convert(sample.number, target.type, target.kind)
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
    tombstones: Iterable[tuple[bytes, int]] = (),
) -> bytearray:  # fmt: skip
    """The bytes of a directory segment that holds these key entries, in this order, and their key table.

    layout      the module mstore.shm.layout (handed in: kernels do not import what lies above them)
    tombstones  keys whose table slot is a tombstone: the entry is in the heap, but not to be found
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
    keys_at = 2 * layout.PAGE_BYTES
    table_at = keys_at + len(heap)
    segment = bytearray(table_at + slots.nbytes)
    header = np.frombuffer(segment, dtype=layout.DIRECTORY, count=1, offset=layout.DIRECTORY_AT)[0]
    region = header["regions"][layout.REGION_NAMES.index("keys")]
    region["offset"] = keys_at
    region["reserved"] = region["committed"] = region["used"] = len(heap)
    header["tables"][layout.TABLE_NAMES.index("keys")] = table_at << 8 | log2
    header["hash_seed"], header["generation"], header["n_keys"] = seed, generation, len(entries)
    segment[keys_at:table_at] = heap
    segment[table_at:] = slots.tobytes()
    return segment
