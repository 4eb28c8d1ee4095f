"""Records of the reference's log as obviously right Python: what kernels/_ccms_wal.scan must find."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

RECORD_MAGIC = 0xCC1DA7A1
PAYLOAD_BYTES_MAX = 8 + 2 + 0xFFFF + 1 + 255 * 256 + 4
"""What a record with the longest names takes."""
RECORD_BYTES_MIN = 8 + 15 + 4

END, FULL, BAD_MAGIC, BAD_LENGTH, SHORT, BAD_CRC = range(6)

Scan = tuple[
    int, int, NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32],
    NDArray[np.int64], NDArray[np.uint32], int, int,
]  # fmt: skip


def scan(data: bytes | memoryview, start: int, n_max: int) -> Scan:
    """As _ccms_wal.scan."""
    view = memoryview(data)
    times: list[int] = []
    series: list[int] = []
    bits: list[int] = []
    keys: dict[bytes, int] = {}
    key_starts: list[int] = []
    at, n_malformed, first_malformed = start, 0, -1
    status = FULL
    while len(times) < n_max:
        if at == len(view):
            status = END
            break
        payload, status = _payload(view, at)
        if payload is None:
            break
        key = bytes(payload[8:-4])
        if _well_formed(payload):
            if key not in keys:
                keys[key] = len(keys)
                key_starts.append(at + 16)
            times.append(struct.unpack_from("<q", payload)[0])
            series.append(keys[key])
            bits.append(struct.unpack_from("<I", payload, len(payload) - 4)[0])
        else:
            n_malformed += 1
            first_malformed = at if first_malformed < 0 else first_malformed
        at += 12 + len(payload)
        status = FULL
    return (
        at, status, np.array(times, np.int64), np.array(series, np.uint32), np.array(bits, np.uint32),
        np.array(key_starts, np.int64), np.array([len(key) for key in keys], np.uint32),
        n_malformed, first_malformed,
    )  # fmt: skip


def _payload(view: memoryview, at: int) -> tuple[memoryview | None, int]:
    if len(view) - at < 8:
        return None, SHORT
    magic, length = struct.unpack_from("<II", view, at)
    if magic != RECORD_MAGIC:
        return None, BAD_MAGIC
    if length > PAYLOAD_BYTES_MAX:
        return None, BAD_LENGTH
    if len(view) - at < 12 + length:
        return None, SHORT
    payload = view[at + 8 : at + 8 + length]
    (crc,) = struct.unpack_from("<I", view, at + 8 + length)
    return (payload, FULL) if zlib.crc32(payload) == crc else (None, BAD_CRC)


def _well_formed(payload: memoryview) -> bool:
    """The names fill the payload exactly: a length that did not fit its byte does not."""
    if len(payload) < 15:
        return False
    at = 10 + int(struct.unpack_from("<H", payload, 8)[0])
    if at >= len(payload):
        return False
    n_names = payload[at]
    at += 1
    for _ in range(n_names):
        if at >= len(payload):
            return False
        at += 1 + payload[at]
    return at + 4 == len(payload)
