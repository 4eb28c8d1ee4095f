"""Copying all chunks of a store at rest, in plain Python: what kernels/_snapshot must give."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence

# Offsets of kernels/layout.h: directory words, series entry, chunk header.
_LEVELS_REGION_AT = 4096
_SERIES_REGION_AT = 4096 + 32
_N_SERIES_AT = 4096 + 344
_CHUNK = struct.Struct("<IIqqIBBBBIIIIqQ")
_GRID, _F32, _U64 = 1, 1, 3

assert _CHUNK.size == 64


def series_by_cluster(store: bytes | bytearray) -> tuple[list[int], list[int], list[int]]:
    """Slots, generations and clusters of the live series, in order of slot."""
    (levels_at,) = struct.unpack_from("<Q", store, _LEVELS_REGION_AT)
    (at,) = struct.unpack_from("<Q", store, _SERIES_REGION_AT)
    (n_series,) = struct.unpack_from("<Q", store, _N_SERIES_AT)
    found: tuple[list[int], list[int], list[int]] = [], [], []
    for slot in range(n_series):
        generation, _, _, _, flags = struct.unpack_from("<IBBBB", store, at + 128 * slot)
        if flags & 1:
            (level,) = struct.unpack_from("<I", store, at + 128 * slot + 64)
            (cluster,) = struct.unpack_from("<I", store, levels_at + 48 * level + 28)
            for column, value in zip(found, (slot, generation, cluster), strict=True):
                column.append(value)
    return found


def copy_chunks(
    store: bytes | bytearray, samples: bytes | bytearray, slots: Sequence[int] | None = None
) -> bytes:
    """All entries of these series, or of all, one after the other: in the order of series and then of links."""
    (at,) = struct.unpack_from("<Q", store, _SERIES_REGION_AT)
    (n_series,) = struct.unpack_from("<Q", store, _N_SERIES_AT)
    parts = []
    for slot in range(n_series) if slots is None else slots:
        (flags,) = struct.unpack_from("<B", store, at + 128 * slot + 7)
        table, link0 = struct.unpack_from("<QQ", store, at + 128 * slot + 40)
        if flags & 1:
            parts += [_entry(samples, link) for link in _links(samples, table, link0) if link]
    return b"".join(parts)


def _links(samples: bytes | bytearray, table: int, link0: int) -> Iterator[int]:
    if not table:
        yield link0
        return
    for i in range(1 << (table & 255)):
        yield struct.unpack_from("<Q", samples, (table >> 8) + 8 * i)[0]


def _entry(samples: bytes | bytearray, link: int) -> bytes:
    offset = (link & (1 << 36) - 1) << 6
    fields = list(_CHUNK.unpack_from(samples, offset))
    series, generation, n, anchor, step, kind, vtype, _, columns, capacity, count, _, flags, t_max, _ = fields
    if kind == _GRID:
        width = 4 if vtype == _F32 else 8
        payload = samples[offset + 64 : offset + 64 + min(capacity, 512) * width]
        count = _used(payload, vtype)
        payload = payload[: count * width]
    else:
        count = min(count, capacity)
        payload = samples[offset + 64 : offset + 64 + count * (1 + columns) * 8]
    if not count:
        return b""
    if kind != _GRID:
        stamps = [stamp for stamp, *_ in struct.iter_unpack(f"<q{columns}Q", payload)]
        anchor, t_max = min(stamps), max(stamps)
        flags = int(any(now <= max(stamps[:i]) for i, now in enumerate(stamps) if i))
    header = _CHUNK.pack(
        series, generation, n, anchor, step, kind, vtype, 0, columns, 0, count, 0, flags, t_max, len(payload)
    )
    return header + bytes(payload) + bytes(-len(payload) % 8)


def _used(payload: bytes | bytearray, vtype: int) -> int:
    """Slots up to the last one that holds a sample."""
    code = {_F32: "<f", _U64: "<Q"}.get(vtype, "<d")
    values = [value for (value,) in struct.iter_unpack(code, payload)]
    missing = (lambda value: value == (1 << 64) - 1) if vtype == _U64 else math.isnan
    while values and missing(values[-1]):
        values.pop()
    return len(values)
