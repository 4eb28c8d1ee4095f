"""The chunks of series, counted in plain Python: the twin of _sizes.pyx, for segments at rest."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = tuple[int, int, int, int, int, int, int]
"""As _sizes.ROW."""


def chunk_rows(
    layout: ModuleType, table: NDArray[np.void], samples: NDArray[np.uint8], refs: Iterable[int]
) -> list[Row]:
    """
    layout   mstore.shm.layout
    table    layout.SERIES of the whole store
    samples  the whole segment, bytes
    refs     generation << 32 | slot of each series
    """
    found: list[Row] = []
    for place, ref in enumerate(refs):
        slot, generation = ref & 0xFFFF_FFFF, ref >> 32
        series = table[slot] if slot < len(table) else None
        if (
            series is None
            or int(series["generation"]) != generation
            or not series["flags"] & layout.SERIES_LIVE
        ):
            continue
        rows = [
            _row(layout, place, series, header, samples, at)
            for header, at in _chunks(layout, series, samples)
        ]
        rows.sort(key=lambda row: row[2])
        if rows and series["table"]:
            first = rows[0]
            rows[0] = (*first[:6], first[6] + (8 << (int(series["table"]) & 255)))
        found += rows
    return found


def _chunks(layout: ModuleType, series: np.void, samples: NDArray[np.uint8]) -> Iterable[tuple[np.void, int]]:
    """(header, offset) of every linked chunk."""
    word = int(series["table"])
    links = np.array([series["link0"]], "<u8")
    if word:
        start, n_words = word >> 8, 1 << (word & 255)
        links = samples[start : start + 8 * n_words].view("<u8")
    for link in links[links != 0].tolist():
        at = (link & (1 << layout.LINK_OFFSET_BITS) - 1) << 6
        yield samples[at : at + layout.CHUNK_HEADER_BYTES].view(layout.CHUNK)[0], at


def _row(
    layout: ModuleType, place: int, series: np.void, header: np.void, samples: NDArray[np.uint8], at: int
) -> Row:
    n, n_bytes = int(header["n"]), layout.SIZE_CLASS_BYTES[int(header["size_class"])]
    if int(series["kind"]) == layout.KIND_STAMPED:
        count = int(header["count"])
        return place, count, n, int(header["anchor_s"]), int(header["t_max_ms"]), count, n_bytes
    dtype: Any = layout.TYPE_DTYPES[int(series["type"])]
    body = samples[at + layout.CHUNK_HEADER_BYTES : at + n_bytes]
    values = body[: int(header["capacity"]) * dtype.itemsize].view(dtype)
    there = values != layout.U64_MISSING if dtype.kind == "u" else ~np.isnan(values)
    used = np.flatnonzero(there)
    length = int(used[-1]) + 1 if len(used) else 0
    step_s = int(series["step_s"])
    start = int(series["anchor_s"]) + n * layout.CHUNK_SLOTS * step_s
    return place, length, n, start, start + length * step_s, len(used), n_bytes
