"""Records as rings, the log and snapshots hold them, taken apart by name; docs/format/wal*.md draws them.

Where a record begins and ends is tally.records()' business; here is what stands in one. The dtypes say what the
kernels write (kernels/_intern.pyx, _directory.pyx): a test takes records of theirs apart again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.kernels._expiry import RANGE
from mstore.persistence.tally import run_of
from mstore.shm import layout
from mstore.shm.protection import FOR_GOOD_S, NOT_S
from mstore.shm.protection import decode as decode_protection

TYPE_NAMES = {
    value: name.removeprefix("REC_").lower()
    for name, value in vars(layout).items()
    if name.startswith("REC_")
}
VALUE_TYPES = {0: "several", **layout.TYPE_NAMES}
RUNS = (layout.REC_ROW, layout.REC_COLUMN, layout.REC_STAMPED, layout.REC_SCATTER)
KINDS = {layout.KIND_GRID: "grid", layout.KIND_STAMPED: "stamped"}
ORIGINS = {
    layout.ORIGIN_CONFIGURED: "configured",
    layout.ORIGIN_REGISTERED: "registered",
    layout.ORIGIN_CLIENT: "client",
}
_FIRST = -(1 << 63)
_SHOWN_BYTES = 64

# Bodies behind the 8 bytes that every record but a run begins with.
_LEVEL = np.dtype(
    [("id", "<u4"), ("parent", "<u4"), ("type_len", "<u2"), ("name_len", "<u2"), ("generation", "<u4")]
)
_METRIC = np.dtype(
    [
        ("index", "<u4"), ("cluster", "<u4"), ("step_s", "<u4"), ("kind", "u1"), ("type", "u1"),
        ("aggregation", "u1"), ("n_columns", "u1"), ("origin", "u1"), ("zero", "u1"), ("name_len", "<u2"),
        ("unit_len", "<u2"), ("columns_len", "<u2"), ("retention_s", "<i8"),
    ]
)  # fmt: skip
_SERIES = np.dtype(
    [
        ("slot", "<u4"), ("generation", "<u4"), ("level", "<u4"), ("metric", "<u4"), ("kind", "u1"), ("type", "u1"),
        ("n_columns", "u1"), ("flags", "u1"), ("step_s", "<u4"), ("anchor_s", "<i8"), ("era_start", "<i8"),
        ("prev", "<u8"), ("next", "<u8"),
    ]
)  # fmt: skip
_KEY = np.dtype(
    [("series", "<u8"), ("default_cluster", "<u4"), ("length", "<u2"), ("type", "u1"), ("kind", "u1")]
)
_REMOVE = np.dtype([("series", "<u8"), ("prev", "<u8"), ("next", "<u8")])
_RECORD_BYTES = layout.RECORD.itemsize


def reference(ref: int) -> str:
    """SLOT.GENERATION; "-" for none."""
    return f"{ref & 0xFFFF_FFFF}.{ref >> 32}" if ref else "-"


def text(part: memoryview | bytes) -> str:
    """Text as it was sent; bytes that are no UTF-8 as \\xNN."""
    return bytes(part).decode("utf-8", "backslashreplace")


def decode(kind: int, record: memoryview) -> dict[str, Any]:
    """The fields of one whole record by name; of a run also the arrays slots, generations, times and values.

    raises  ValueError when its parts do not fit its length
    """
    if kind in RUNS:
        return _run(kind, record)
    taker = _TAKERS.get(kind)
    if taker is not None:
        return taker(record)
    if kind == layout.REC_PAD:
        return {"bytes": len(record)}
    shown = bytes(record[:_SHOWN_BYTES]).hex(" ", 8)
    return {"bytes": len(record), "content": shown + (" ..." if len(record) > _SHOWN_BYTES else "")}


def words(values: NDArray[np.uint64], types: tuple[int, ...]) -> list[NDArray[Any]]:
    """The columns of stamped rows, uint64[rows, columns], each as its type; f64 where that is not known."""
    known = types if len(types) == values.shape[1] else (layout.TYPE_F64,) * values.shape[1]
    columns = (np.ascontiguousarray(values[:, at]) for at in range(values.shape[1]))
    return [
        column if kind == layout.TYPE_U64 else column.view("<f8")
        for column, kind in zip(columns, known, strict=True)
    ]


def _body(record: memoryview, dtype: np.dtype[Any]) -> np.void:
    row: np.void = np.frombuffer(record, dtype, 1, _RECORD_BYTES)[0]
    return row


def _texts(record: memoryview, dtype: np.dtype[Any], *lengths: int) -> list[str]:
    """The texts behind a body."""
    at = _RECORD_BYTES + dtype.itemsize
    if at + sum(lengths) > len(record):
        raise ValueError(f"texts of {sum(lengths)} bytes in a record of {len(record)}")
    found = []
    for length in lengths:
        found.append(text(record[at : at + length]))
        at += length
    return found


def _named(numbers: dict[int, str], value: Any) -> str | int:
    return numbers.get(int(value), int(value))


def _level(record: memoryview) -> dict[str, Any]:
    row = _body(record, _LEVEL)
    type_len, name_len = int(row["type_len"]), int(row["name_len"])
    if type_len > name_len:
        raise ValueError(f"a type of {type_len} bytes in a name of {name_len}")
    kind, name = _texts(record, _LEVEL, type_len, name_len - type_len)
    return {
        "id": int(row["id"]), "parent": int(row["parent"]), "level_type": kind, "level_id": name,
        "generation": int(row["generation"]),
    }  # fmt: skip


def _metric(record: memoryview) -> dict[str, Any]:
    row = _body(record, _METRIC)
    lengths = (int(row[field]) for field in ("name_len", "unit_len", "columns_len"))
    name, unit, columns = _texts(record, _METRIC, *lengths)
    return {
        "index": int(row["index"]), "cluster": int(row["cluster"]), "name": name, "unit": unit,
        "kind": _named(KINDS, row["kind"]), "step_s": int(row["step_s"]),
        "value_type": _named(VALUE_TYPES, row["type"]),
        "aggregation": _named(layout.AGG_NAMES, row["aggregation"]), "n_columns": int(row["n_columns"]),
        "columns": columns, "origin": _named(ORIGINS, row["origin"]), "retention_s": int(row["retention_s"]),
    }  # fmt: skip


def _series(record: memoryview) -> dict[str, Any]:
    row = _body(record, _SERIES)
    start = int(row["era_start"])
    return {
        "slot": int(row["slot"]), "generation": int(row["generation"]), "level": int(row["level"]),
        "metric": int(row["metric"]), "kind": _named(KINDS, row["kind"]),
        "value_type": _named(VALUE_TYPES, row["type"]), "n_columns": int(row["n_columns"]),
        "flags": int(row["flags"]), "step_s": int(row["step_s"]), "anchor_s": int(row["anchor_s"]),
        "era_start": None if start == _FIRST else start, "prev": reference(int(row["prev"])),
        "next": reference(int(row["next"])),
    }  # fmt: skip


def _key(record: memoryview) -> dict[str, Any]:
    row = _body(record, _KEY)
    (key,) = _texts(record, _KEY, int(row["length"]))
    return {
        "series": reference(int(row["series"])), "key": key, "default_cluster": int(row["default_cluster"]),
        "kind": _named(KINDS, row["kind"]), "value_type": _named(VALUE_TYPES, row["type"]),
    }  # fmt: skip


def _remove(record: memoryview) -> dict[str, Any]:
    row = _body(record, _REMOVE)
    return {field: reference(int(row[field])) for field in ("series", "prev", "next")}


def _ranges(record: memoryview) -> dict[str, Any]:
    length = int(np.frombuffer(record, layout.RECORD, 1)[0]["length"])
    found = np.frombuffer(record[_RECORD_BYTES:length], RANGE)
    return {
        "count": len(found),
        "ranges": [[int(row[field]) for field in ("slot", "generation", "first", "last")] for row in found],
    }


def _protect(record: memoryview) -> dict[str, Any]:
    said = decode_protection(record)
    until = {FOR_GOOD_S: "for good", NOT_S: "no more"}.get(said.until_s, said.until_s)
    return {
        "source": said.source.name.lower(), "until_s": until, "cluster": said.cluster, "count": len(said.hosts),
        "hosts": list(said.hosts),
    }  # fmt: skip


_TAKERS = {
    layout.REC_LEVEL: _level, layout.REC_METRIC: _metric, layout.REC_SERIES: _series, layout.REC_ERA: _series,
    layout.REC_KEY: _key, layout.REC_REMOVE: _remove, layout.REC_FREE: _ranges, layout.REC_EVICT: _ranges,
    layout.REC_PROTECT: _protect,
}  # fmt: skip


def _run(kind: int, record: memoryview) -> dict[str, Any]:
    head = np.frombuffer(record, layout.RUN, 1)[0]
    count, vtype = int(head["count"]), int(head["vtype"])
    refs, times = run_of(record)
    fields: dict[str, Any] = {"count": count}
    at = layout.RUN.itemsize
    if kind == layout.REC_STAMPED:
        rows = np.frombuffer(record, "<u8", count * (1 + vtype), at).reshape(count, 1 + vtype)
        fields |= {"n_columns": vtype, "times_ms": rows[:, 0].view("<i8"), "rows": rows[:, 1:]}
    else:
        if kind == layout.REC_COLUMN:
            fields["dt_s"] = int(np.frombuffer(record, "<i8", 1, at)[0])
        at += {layout.REC_COLUMN: 8, layout.REC_SCATTER: 8 * count}.get(kind, 0)
        dtype: Any = layout.TYPE_DTYPES[vtype]
        fields["value_type"] = layout.TYPE_NAMES[vtype]
        fields |= {"times": times, "values": np.frombuffer(record, dtype, count, at)}
    fields["slots"] = (refs & np.uint64(0xFFFF_FFFF)).astype(np.uint32)
    fields["generations"] = (refs >> np.uint64(32)).astype(np.uint32)
    return fields
