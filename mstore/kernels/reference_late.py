"""The naive twin of _late: one record, one sample at a time."""

from __future__ import annotations

import struct

from mstore.kernels.reference_ring import record_length

ROW, COLUMN, STAMPED, SCATTER = 1, 2, 3, 4
_RUN = struct.Struct("<HBBIIIq")


def late_marks(records: bytes, before_s: int) -> list[tuple[int, int, int]]:
    """(slot, generation, time in ms) of the samples before a second, in the order of the records."""
    found: list[tuple[int, int, int]] = []
    at = 0
    while at < len(records):
        length = record_length(records[at:])
        if not length:
            break
        kind = int.from_bytes(records[at : at + 2], "little")
        if ROW <= kind <= SCATTER:
            found += [one for one in _samples(records[at : at + length]) if one[2] < before_s * 1000]
        at += length
    return found


def _samples(record: bytes) -> list[tuple[int, int, int]]:
    kind, vtype, _, count, slot, generation, t = _RUN.unpack_from(record)
    body = record[_RUN.size :]
    if kind == ROW:
        return [(slot + i, generation, t * 1000) for i in range(count)]
    if kind == SCATTER:
        refs = [struct.unpack_from("<II", body, 8 * i) for i in range(count)]
        return [(one, other, t * 1000) for one, other in refs]
    if kind == COLUMN:
        (step,) = struct.unpack_from("<q", body)
        return [(slot, generation, (t + i * step) * 1000) for i in range(count)]
    stamps = [struct.unpack_from("<q", body, i * 8 * (1 + vtype))[0] for i in range(count)]
    return [(slot, generation, stamp) for stamp in stamps]
