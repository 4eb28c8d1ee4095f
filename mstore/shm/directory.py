"""The directory as the rest of mstore uses it: made, looked up, written, dumped and checked.

One segment holds seven regions, reserved for the largest store and committed as they fill:

    header | words | levels 48 B | series 128 B | metrics 64 B | lives 32 B | names | keys | hash tables

    reader = DirectoryReader(mapping.segment)           any process, read-only mapping
    writer = DirectoryWriter(mapping.segment, fd)       the persister alone

    refs, types, kinds, log = writer.intern(keys, offsets, times, b"fritz")
    ... append log to the write-ahead log ...
    writer.publish()                                    now readers see it

Look-ups and the writing itself are compiled (kernels/_directory.pyx says how the tables work,
kernels/_intern.pyx how a change becomes visible); this module adds sizes, the describing dataclasses and
typed errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.errors import ConfigError, CorruptRecord, InvariantBroken, StoreFull
from mstore.kernels import _directory, _replay
from mstore.kernels._segment import Segment
from mstore.model import MetricSpec, SeriesPath
from mstore.shm import layout

MISSING_CLUSTER, MISSING_HOST, MISSING_METRIC, MISSING_LEVEL, MISSING_SERIES = -1, -2, -3, -4, -5

KEYS_START = 16  # first entry of the key region: no slot word of the key table is then 0 or 1
DUMP_BYTES = 1024 * 1024
TABLE_LOG2_FIRST = 10
KEEP_ALL_S = int(np.iinfo(np.int64).min)
"""As the first second that is kept: nothing is too old."""

_TYPES = {name: code for code, name in layout.TYPE_NAMES.items()}
_AGGREGATIONS = {name: code for code, name in layout.AGG_NAMES.items()}

Definition = tuple[int, int, int, int, int, int, int, bytes, bytes]
MetricSource = Callable[[bytes, bytes], MetricSpec | None]
Interned = tuple[bytes, bytes, bytes, bytes]
PathItem = tuple[str, str, str, str, str, str, str]


class Mapped(Protocol):
    """What create_directory needs of a mapping."""

    @property
    def segment(self) -> Segment: ...
    @property
    def fd(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LevelInfo:
    id: int
    parent: int
    type: str
    type_id: str
    """What follows the type in the name; the whole name of clusters, hosts and levels without a type."""
    depth: int
    """0 root, 1 cluster, 2 host, 3 and 4 below."""
    cluster: int
    """Level id of the cluster above; itself for a cluster; 0 for the root."""
    n_series: int
    """All eras counted."""
    n_children: int

    @property
    def name(self) -> str:
        return self.type + self.type_id


@dataclass(frozen=True, slots=True)
class MetricInfo:
    index: int
    cluster: int
    """Level id of the cluster the definition belongs to."""
    name: str
    step_s: int
    """0 for stamped metrics."""
    unit: str
    aggregation: str
    """none, sum or avg."""
    type: str
    """f32, f64, u64; "" for several columns."""
    kind: int
    """layout.KIND_GRID or KIND_STAMPED."""
    columns: tuple[tuple[str, str], ...]
    """(name, type) of each column of a stamped metric that has several; else empty."""
    n_columns: int
    origin: int
    """layout.ORIGIN_*."""
    retention_s: int
    """-1 = the store's."""


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    slot: int
    generation: int
    kind: int
    type: int
    """layout.TYPE_* of the values; 0 for several columns."""
    n_columns: int
    anchor_s: int
    step_s: int
    level: int
    metric: int
    prev: int
    """Reference of the era before, 0 = none. May be stale: compare generations."""
    next: int
    """Reference of the era after, 0 = none."""
    era_start: int
    """Samples from this time on belong here (grid s, stamped ms); INT64_MIN = the first era."""
    last_t: int
    """Newest sample (grid nominal s, stamped ms), INT64_MIN = none yet."""
    first_n: int
    last_n: int
    n_chunks: int
    ended: bool

    @property
    def ref(self) -> int:
        return self.generation << 32 | self.slot


def _round(n_bytes: int) -> int:
    return -(-n_bytes // layout.EXTENT_BYTES) * layout.EXTENT_BYTES


def region_bytes(max_series: int) -> dict[str, int]:
    """Address space of each region for at most max_series series; memory is only used as it fills."""
    slots = max(1 << TABLE_LOG2_FIRST, max_series)
    table_bytes = 8 << (slots * 2).bit_length()
    return {
        "levels": _round(layout.LEVEL.itemsize * (2 * max_series + 65_536)),
        "series": _round(layout.SERIES.itemsize * max_series),
        "metrics": _round(layout.METRIC.itemsize * limits.METRICS_MAX),
        "lives": _round(layout.LIFE.itemsize * max_series),
        "names": _round(48 * max_series + 16 * limits.MIB),
        "keys": _round(min(512 * max_series + 16 * limits.MIB, 8 * limits.GIB)),
        "tables": _round(16 * table_bytes + limits.MIB),
    }


def directory_bytes(max_series: int) -> int:
    """Length of a directory segment for at most max_series series."""
    return 2 * layout.PAGE_BYTES + sum(region_bytes(max_series).values())


def create_directory(mapping: Mapped, max_series: int, seed: int) -> None:
    """Initialise an empty directory in a zeroed, writable mapping of directory_bytes(max_series) bytes.

    seed    of all hashes, 64 bits; secret, so that nobody outside can choose names that collide
    raises  StoreFull when the first pages cannot be had
    """
    if not 1 <= max_series <= limits.SERIES_MAX:
        raise ConfigError(f"max_series must be 1 to {limits.SERIES_MAX}, not {max_series}")
    if mapping.segment.length < directory_bytes(max_series):
        raise ConfigError(f"a directory of {max_series} series needs {directory_bytes(max_series)} bytes")
    sizes = region_bytes(max_series)
    try:
        _replay.create(
            mapping.segment, mapping.fd, [sizes[name] for name in layout.REGION_NAMES], max_series, seed
        )
    except MemoryError as error:
        raise StoreFull("no room in shared memory for an empty directory") from error


def definition(spec: MetricSpec, origin: int) -> Definition:
    """A MetricSpec as the kernel takes it. Stamped: f32 means f64. Raises ConfigError."""
    columns = spec.columns
    if len(columns) > limits.STAMPED_COLUMNS_MAX or (columns and spec.step_s):
        raise ConfigError(
            f"metric {spec.name}: columns are for stamped metrics, at most {limits.STAMPED_COLUMNS_MAX}"
        )
    if spec.type not in _TYPES or any(kind not in ("f64", "u64") for _, kind in columns):
        raise ConfigError(
            f"metric {spec.name}: type must be one of {', '.join(_TYPES)}; of columns f64 or u64"
        )
    if spec.aggregation not in _AGGREGATIONS or not 0 <= spec.step_s < 2**31:
        raise ConfigError(
            f"metric {spec.name}: aggregation {spec.aggregation!r} or step {spec.step_s} is impossible"
        )
    if any(not name or "," in name or ":" in name for name, _ in columns):
        raise ConfigError(f"metric {spec.name}: column names must not be empty or contain , or :")
    kind = layout.KIND_STAMPED if spec.stamped else layout.KIND_GRID
    type_code = _TYPES[spec.type]
    if len(columns) == 1:
        type_code = _TYPES[columns[0][1]]
    if spec.stamped and type_code == layout.TYPE_F32:
        type_code = layout.TYPE_F64
    text = ",".join(f"{name}:{column_type}" for name, column_type in columns).encode()
    return (
        spec.step_s, 0 if len(columns) > 1 else type_code, kind, _AGGREGATIONS[spec.aggregation],
        max(1, len(columns)), origin, spec.retention_s, spec.unit.encode(), text,
    )  # fmt: skip


class _Described(_directory.DirectoryReader):
    """The dataclass and numpy views of a directory: what reader and writer have in common."""

    def level(self, level_id: int) -> LevelInfo:
        """IndexError when there is no such level."""
        parent, kind, name, depth, cluster, n_series, n_children, _ = self.level_fields(level_id)
        return LevelInfo(level_id, parent, kind.decode(), name.decode(), depth, cluster, n_series, n_children)

    def path(self, level_id: int, metric: str = "") -> SeriesPath:
        """The names from the cluster down to a level of depth 2 to 4."""
        parts: list[tuple[str, str]] = []
        while level_id:
            level = self.level(level_id)
            parts.append((level.type, level.type_id))
            level_id = level.parent
        parts.reverse()
        below = [*parts[2:], ("", ""), ("", "")]
        host = parts[1][1] if len(parts) > 1 else ""
        return SeriesPath(parts[0][1] if parts else "", host, metric, *below[0], *below[1])

    def metric(self, index: int) -> MetricInfo:
        """IndexError when there is no such metric."""
        fields = self.metric_fields(index)
        cluster, name, step_s, unit, aggregation, type_code, kind, text, n_columns, origin, _, retention_s = (
            fields
        )
        columns = tuple(_column(part) for part in text.decode().split(",")) if text else ()
        return MetricInfo(
            index, cluster, name.decode(), step_s, unit.decode(), layout.AGG_NAMES[aggregation],
            layout.TYPE_NAMES.get(type_code, ""), kind, columns, n_columns, origin, retention_s,
        )  # fmt: skip

    def series(self, slot: int) -> SeriesInfo | None:
        """None when the slot is free or was never used."""
        fields = self.series_fields(slot)
        return None if fields is None else SeriesInfo(*fields)

    def _view(self, region: str, dtype: np.dtype[Any]) -> NDArray[np.void]:
        found = np.frombuffer(self.region_bytes(layout.REGION_NAMES.index(region)), np.uint8)
        return found[: found.size // dtype.itemsize * dtype.itemsize].view(dtype)

    def levels(self) -> NDArray[np.void]:
        """layout.LEVEL[n_levels], read-only, live: row i is level i."""
        return self._view("levels", layout.LEVEL)

    def series_table(self) -> NDArray[np.void]:
        """layout.SERIES[n_series], read-only, live: row i is slot i; free where flags has no SERIES_LIVE."""
        return self._view("series", layout.SERIES)

    def metrics_table(self) -> NDArray[np.void]:
        """layout.METRIC[n_metrics], read-only, live."""
        return self._view("metrics", layout.METRIC)

    def kept_from_s(self, now_s: int, retention_s: int) -> NDArray[np.int64]:
        """int64[n_metrics]: the first second of each metric that retention keeps, KEEP_ALL_S = every one.

        retention_s  of metrics that have none of their own; 0 = for ever
        """
        periods_s = self.metrics_table()["retention_s"].copy()
        periods_s[periods_s < 0] = retention_s
        return np.where(periods_s == 0, KEEP_ALL_S, now_s - periods_s)

    def dump_definitions(self, block_bytes: int = DUMP_BYTES) -> Iterator[bytes]:
        """LEVEL, METRIC, SERIES, REMOVE and KEY records of the directory in blocks of block_bytes at most.

        Parents come before children. The writer may go on meanwhile: what it adds may be missing or
        present, and the log from the position held before this call started makes the result exact.
        """
        n_levels, n_metrics, n_series, key_bytes = self.dump_bounds()
        limit = max(
            1, block_bytes - 16 * 1024
        )  # a record more than the limit may be begun: the longest is a key of 8 KiB
        at = 0
        while at < n_levels:
            block, at = self.dump_levels(at, n_levels, limit)
            yield from (block,) if block else ()
        at = 0
        while at < n_metrics:
            block, at = self.dump_metrics(at, n_metrics, max(1, block_bytes - 72 * 1024))
            yield from (block,) if block else ()
        at = 0
        while at < n_series:
            block, at = self.dump_series(at, n_series, n_levels, n_metrics, limit)
            yield from (block,) if block else ()
        at = KEYS_START
        while at < key_bytes:
            block, at = self.dump_keys(at, key_bytes, n_series, n_levels, limit)
            yield from (block,) if block else ()

    def validate(self) -> None:
        """Check every rule, while nothing is unpublished. InvariantBroken names the first fault."""
        from mstore.shm.directory_check import check  # only tests and `mstore check` need it

        faults = check(self)
        if faults:
            raise InvariantBroken(f"directory: {faults[0]}", faults=faults[:20])


def _column(part: str) -> tuple[str, str]:
    name, _, kind = part.partition(":")
    return name, kind


class DirectoryReader(_Described):
    """Look-ups, listings and dumps over a mapped directory; kernels/_directory.pyi has the compiled part."""


class DirectoryWriter(_Described, _replay.DirectoryWriter):
    """The one writer of a directory; see kernels/_intern.pyi and _replay.pyi for the compiled part."""

    def set_metric_source(self, source: MetricSource | None) -> None:
        """source(cluster, metric) is asked once for each unknown metric; None = not configured."""
        if source is None:
            self.set_source(None)
            return
        ask = source

        def definition_of(cluster: bytes, metric: bytes) -> Definition | None:
            spec = ask(cluster, metric)
            return None if spec is None else definition(spec, layout.ORIGIN_CONFIGURED)

        self.set_source(definition_of)

    def define_metric(self, cluster: str, spec: MetricSpec, origin: int = layout.ORIGIN_CONFIGURED) -> bytes:
        """Create or change a metric of a cluster: records for the log, b"" if it is so already.

        Existing series keep the step and type they were made with until new_era(). Raises StoreFull.
        """
        try:
            return self.define(cluster, spec.name, definition(spec, origin))
        except MemoryError as error:
            raise StoreFull(f"metric {spec.name}: {error}") from error

    def intern_paths(
        self, paths: list[PathItem], times: bytes, specs: list[MetricSpec | None] | None = None
    ) -> Interned:
        """References of (cluster, host, type, type_id, subtype, subtype_id, metric), without key entries.

        times    int64[n] as bytes, first time of each, s
        specs    the client's definitions, used where nothing else defines the metric
        returns  (uint64[n] references or ignore words, uint8[n] types, uint8[n] kinds, log records)
        """
        made: dict[MetricSpec, Definition] = {}
        found: list[Definition | None] | None = None
        if specs is not None:
            for spec in specs:
                if spec is not None and spec not in made:
                    made[spec] = definition(spec, layout.ORIGIN_CLIENT)
            found = [None if spec is None else made[spec] for spec in specs]
        return self.intern_items(paths, times, found)

    def begin_era(
        self, slot: int, anchor_s: int, step_s: int, era_start: int, type_code: int
    ) -> tuple[int, bytes]:
        """new_era() with StoreFull instead of MemoryError."""
        try:
            return self.new_era(slot, anchor_s, step_s, era_start, type_code)
        except MemoryError as error:
            raise StoreFull(str(error)) from error

    def apply_definition(self, records: bytes | bytearray | memoryview) -> int:
        """Replay one or more concatenated definition records: how many. CorruptRecord, StoreFull.

        Applying a record again, or one that a later state has overtaken, changes nothing.
        """
        try:
            return self.apply(records)
        except ValueError as error:
            raise CorruptRecord(f"definition log: {error}") from error
        except MemoryError as error:
            raise StoreFull(f"definition log: {error}") from error
