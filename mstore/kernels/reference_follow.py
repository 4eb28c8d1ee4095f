"""The naive twin of _follow: records parsed one value at a time."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from mstore.kernels.reference_ring import record_length

_ROW, _COLUMN, _STAMPED, _SCATTER = 1, 2, 3, 4
_DEFINING = (16, 17, 18, 20, 21)
_U64 = 3
_VALUES = {1: "f", 2: "d", _U64: "Q"}
_MISSING_U64 = (1 << 64) - 1

Sample = tuple[int, int, int, tuple[int, ...]]
"""slot, stamp in ms, type, words."""


def pick(payload: bytes, wanted: dict[int, int], limit: int) -> tuple[list[Sample], list[int], bool]:
    """(samples of the wanted slots and generations, stamps of those beyond `limit` words, whether series changed)."""
    found: list[Sample] = []
    left_out: list[int] = []
    n_words = 0
    defines = False
    while payload:
        length = record_length(payload)
        if not length:
            raise ValueError("a malformed record")
        record, payload = payload[:length], payload[length:]
        (kind,) = struct.unpack_from("<H", record)
        defines = defines or kind in _DEFINING
        for slot, generation, stamp_ms, value_type, words in _samples(kind, record):
            if not generation or wanted.get(slot) != generation:
                continue
            if n_words + len(words) > limit:
                left_out.append(stamp_ms)
                continue
            found.append((slot, stamp_ms, value_type, words))
            n_words += len(words)
    return found, left_out, defines


def _samples(kind: int, record: bytes) -> Iterator[tuple[int, int, int, int, tuple[int, ...]]]:
    if kind not in (_ROW, _COLUMN, _STAMPED, _SCATTER):
        return
    _, vtype, _, count, slot, generation, t = struct.unpack_from("<HBBIIIq", record)
    body = record[24:]
    if kind == _STAMPED:
        for i in range(count):
            stamp_ms, *words = struct.unpack_from(f"<q{vtype}Q", body, i * 8 * (1 + vtype))
            yield slot, generation, stamp_ms, 0, tuple(words)
        return
    refs = [(slot + i, generation) if kind == _ROW else (slot, generation) for i in range(count)]
    step = 0
    if kind == _COLUMN:
        (step,) = struct.unpack_from("<q", body)
        body = body[8:]
    elif kind == _SCATTER:
        refs = [struct.unpack_from("<II", body, 8 * i) for i in range(count)]
        body = body[8 * count :]
    values = struct.unpack_from(f"<{count}{_VALUES[vtype]}", body)
    for i, ((at, life), value) in enumerate(zip(refs, values, strict=True)):
        if value == _MISSING_U64 if vtype == _U64 else math.isnan(value):
            continue
        word = value if vtype == _U64 else struct.unpack("<Q", struct.pack("<d", value))[0]
        yield at, life, (t + i * step) * 1000, vtype, (word,)
