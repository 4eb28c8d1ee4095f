"""The naive twin of _columns.pyx: frames of columns or rows -> records, as a list. For tests only."""

from __future__ import annotations

import math
import struct

ROW, COLUMN, STAMPED, SCATTER = 1, 2, 3, 4
F32, F64, U64 = 1, 2, 3
FORMATS = {F32: "<f", F64: "<d", U64: "<Q"}
RUN_MAX = 8192
ROW_MIN = 4
COLUMN_TIMES_MIN = 16
DT_MAX = 1 << 40
STAMPED_BYTES_MAX = 256 * 1024
U64_MISSING = 2**64 - 1

Encoded = tuple[list[bytes], int, int]
"""(records, samples or rows in them, samples or rows refused)"""


def run_max(ring_bytes: int) -> int:
    return RUN_MAX if ring_bytes // 4 >= RUN_MAX * 16 else ring_bytes // 64


def missing(value: bytes, vtype: int) -> bool:
    number = struct.unpack(FORMATS[vtype], value)[0]
    return number == U64_MISSING if vtype == U64 else not math.isfinite(number)


def encode_columns(
    refs: list[int], times: list[int], values: bytes, vtype: int, ring_bytes: int = 1 << 30
) -> Encoded:
    """Records of values[time][series], in the order they go into the ring."""
    size = struct.calcsize(FORMATS[vtype])
    n = len(refs)
    matrix = [
        [values[(i * n + k) * size :][:size] for k in range(n)]
        for i in range(len(times))
    ]  # fmt: skip
    n_bad = sum(missing(value, vtype) for row in matrix for value in row)
    most = run_max(ring_bytes)
    records: list[bytes] = []
    if len(times) >= COLUMN_TIMES_MIN:
        for k in range(n):
            records += _column(refs[k], times, [row[k] for row in matrix], vtype, most)
    else:
        for t, row in zip(times, matrix, strict=True):
            records += _rows(refs, t, row, vtype, most)
    return records, n * len(times) - n_bad, n_bad


def _header(kind: int, vtype: int, count: int, ref: int, t: int) -> bytes:
    return struct.pack("<HBBIIIq", kind, vtype, 0, count, ref & 0xFFFF_FFFF, ref >> 32, t)


def _padded(payload: bytes) -> bytes:
    return payload + bytes(-len(payload) % 8)


def _rows(refs: list[int], t: int, row: list[bytes], vtype: int, most: int) -> list[bytes]:
    """ROW for runs of at least ROW_MIN consecutive slots and for one that is alone; SCATTER for those between."""
    records, i = [], 0
    while i < len(refs):
        if missing(row[i], vtype):
            i += 1
            continue
        alone = _consecutive(refs, row, i, vtype, most)
        taken = list(range(i, i + alone))
        if alone < ROW_MIN:
            taken = _short_runs(refs, row, i, vtype, most)
        if len(taken) == alone:
            records.append(_header(ROW, vtype, alone, refs[i], t) + _padded(b"".join(row[k] for k in taken)))
            i += alone
            continue
        pairs = b"".join(struct.pack("<Q", refs[k]) for k in taken)
        records.append(
            _header(SCATTER, vtype, len(taken), 0, t) + pairs + _padded(b"".join(row[k] for k in taken))
        )
        i = taken[-1] + 1
    return records


def _consecutive(refs: list[int], row: list[bytes], first: int, vtype: int, most: int) -> int:
    n = 1
    while (
        n < most
        and first + n < len(refs)
        and refs[first + n] == refs[first] + n
        and not missing(row[first + n], vtype)
    ):
        n += 1
    return n


def _short_runs(refs: list[int], row: list[bytes], first: int, vtype: int, most: int) -> list[int]:
    """The series that share a SCATTER with `first`: up to `most`, over missing values, up to a long run."""
    taken: list[int] = []
    i = first
    while i < len(refs) and len(taken) < most:
        if missing(row[i], vtype):
            i += 1
            continue
        length = _consecutive(refs, row, i, vtype, most)
        if length >= ROW_MIN:
            break
        taken += range(i, i + min(length, most - len(taken)))
        i = taken[-1] + 1
    return taken


def _column(ref: int, times: list[int], values: list[bytes], vtype: int, most: int) -> list[bytes]:
    """COLUMN for each run of equally spaced times without a missing value."""
    records, i = [], 0
    while i < len(times):
        if missing(values[i], vtype):
            i += 1
            continue
        n, dt = 1, 0
        if n < most and i + 1 < len(times) and abs(times[i + 1] - times[i]) <= DT_MAX:
            dt = times[i + 1] - times[i]
            while (
                n < most
                and i + n < len(times)
                and times[i + n] == times[i] + n * dt
                and not missing(values[i + n], vtype)
            ):
                n += 1
        payload = b"".join(values[i : i + n])
        spacing = struct.pack("<q", dt if n > 1 else 0)
        records.append(_header(COLUMN, vtype, n, ref, times[i]) + spacing + _padded(payload))
        i += n
    return records


def encode_rows(
    ref: int, stamps: list[int], rows: list[list[int]], types: list[int], ring_bytes: int = 1 << 30
) -> Encoded:
    """STAMPED records of rows of 8-byte words, in the order they go into the ring."""
    width = 8 + 8 * len(types)
    most = max(1, min(RUN_MAX, min(STAMPED_BYTES_MAX, ring_bytes // 4) // width))
    runs: list[list[int]] = [[]]
    for i, row in enumerate(rows):
        if row_refused(row, types):
            runs.append([])
            continue
        if len(runs[-1]) == most:
            runs.append([])
        runs[-1].append(i)
    records = [
        _header(STAMPED, len(types), len(run), ref, stamps[run[0]])
        + b"".join(struct.pack(f"<q{len(types)}Q", stamps[i], *rows[i]) for i in run)
        for run in runs
        if run
    ]
    n_written = sum(map(len, runs))
    return records, n_written, len(rows) - n_written


def row_refused(row: list[int], types: list[int]) -> bool:
    """Whether no column has a value, or one is infinite."""
    numbers = [
        struct.unpack(FORMATS[vtype], struct.pack("<Q", word))[0]
        for word, vtype in zip(row, types, strict=True)
    ]
    if any(vtype != U64 and math.isinf(number) for number, vtype in zip(numbers, types, strict=True)):
        return True
    return all(
        number == U64_MISSING if vtype == U64 else math.isnan(number)
        for number, vtype in zip(numbers, types, strict=True)
    )
