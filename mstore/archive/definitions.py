"""Definition records made by hand: what a small store of its own is defined by; docs/format/wal-definitions.md."""

from __future__ import annotations

import numpy as np

from mstore.archive.lives import Life
from mstore.shm import layout
from mstore.shm.directory import MetricInfo

_AGGREGATIONS = {name: code for code, name in layout.AGG_NAMES.items()}
_TYPES = {name: code for code, name in layout.TYPE_NAMES.items()}
_LEVEL = np.dtype(
    [("id", "<u4"), ("parent", "<u4"), ("type_len", "<u2"), ("name_len", "<u2"), ("generation", "<u4")]
)
_METRIC = np.dtype(
    [
        ("index", "<u4"), ("cluster", "<u4"), ("step_s", "<u4"), ("kind", "u1"), ("type", "u1"), ("aggregation", "u1"),
        ("n_columns", "u1"), ("origin", "u1"), ("pad", "u1"), ("name_len", "<u2"), ("unit_len", "<u2"),
        ("columns_len", "<u2"), ("retention_s", "<i8"),
    ]
)  # fmt: skip
_SERIES = np.dtype(
    [
        ("slot", "<u4"), ("generation", "<u4"), ("level", "<u4"), ("metric", "<u4"), ("kind", "u1"), ("type", "u1"),
        ("n_columns", "u1"), ("flags", "u1"), ("step_s", "<u4"), ("anchor_s", "<i8"), ("era_start", "<i8"),
        ("prev", "<u8"), ("next", "<u8"),
    ]
)  # fmt: skip

assert (_LEVEL.itemsize, _METRIC.itemsize, _SERIES.itemsize) == (16, 32, 56)


def _record(kind: int, body: bytes) -> bytes:
    padded = body + bytes(-len(body) % 8)
    return np.array((kind, 0, 0, layout.RECORD.itemsize + len(padded)), layout.RECORD).tobytes() + padded


def level_record(number: int, parent: int, type: str, name: str) -> bytes:
    """Level `number` below `parent`; its name is the type, then the id."""
    head = np.array((number, parent, len(type.encode()), len((type + name).encode()), 1), _LEVEL)
    return _record(layout.REC_LEVEL, head.tobytes() + (type + name).encode())


def metric_record(index: int, cluster: int, info: MetricInfo) -> bytes:
    """The definition, as metric `index` of the level `cluster`."""
    text = ",".join(f"{name}:{kind}" for name, kind in info.columns).encode()
    name, unit = info.name.encode(), info.unit.encode()
    head = np.array(
        (
            index, cluster, info.step_s, info.kind, _TYPES.get(info.type, 0), _AGGREGATIONS[info.aggregation],
            info.n_columns, info.origin, 0, len(name), len(unit), len(text), -1,
        ),
        _METRIC,
    )  # fmt: skip
    return _record(layout.REC_METRIC, head.tobytes() + name + unit + text)


def series_record(
    slot: int, level: int, metric: int, life: Life, start: int, before: int | None, after: int | None
) -> bytes:
    """A life as the series of `slot`, generation 1, between those of the slots `before` and `after`.

    start  of the life in its chain; FIRST for the first
    """
    flags = layout.SERIES_LIVE | (0 if after is None else layout.SERIES_ENDED)
    head = np.array(
        (
            slot, 1, level, metric, life.kind, life.type, life.n_columns, flags, life.step_s, life.anchor_s, start,
            0 if before is None else reference(before), 0 if after is None else reference(after),
        ),
        _SERIES,
    )  # fmt: skip
    return _record(layout.REC_SERIES, head.tobytes())


def reference(slot: int) -> int:
    """Of a slot in its first generation."""
    return 1 << 32 | slot
