"""Makes the files beside it from the tables of docs/format/ccms-files.md, by nothing but struct, zlib and text.

    python tests/data/compat/make.py DIRECTORY

They stand for files that the reference wrote; nothing of mstore is used. tests/unit/test_compat_golden.py has what
they say, and that this script makes them.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

FROM, TO = 1_700_000_000, 1_700_000_240
NAN = b"\x00\x00\xc0\x7f"
GPU = b"accelerator00000000:49:00.0"


def name(text: bytes) -> bytes:
    return struct.pack("<H", len(text)) + text


def metric(text: bytes, step: int, start: int, *values: bytes) -> bytes:
    return (
        name(text)
        + struct.pack("<q", step)
        + struct.pack("<q", start)
        + struct.pack("<I", len(values))
        + b"".join(values)
    )


def f32(value: float) -> bytes:
    return struct.pack("<f", value)


def snapshot() -> bytes:
    """Host with two metrics, below it a socket and an accelerator with a link. The window's order, not the names'."""
    link = struct.pack("<I", 1) + metric(b"nv_link", 60, FROM, f32(7.0)) + struct.pack("<I", 0)
    gpu = struct.pack("<I", 1) + metric(b"acc_mem", 60, FROM + 60, f32(1e-40), f32(-0.0))
    gpu += struct.pack("<I", 1) + name(b"nvlink3") + link
    socket = (
        struct.pack("<I", 1) + metric(b"mem_bw", 60, FROM, f32(100.0), NAN, f32(200.5)) + struct.pack("<I", 0)
    )
    host = struct.pack("<I", 2)
    host += metric(b"mem_used", 30, FROM, f32(16777216.0), f32(0.1))
    host += metric(b"cpu_load", 60, FROM, f32(0.5), f32(0.7), NAN)
    host += struct.pack("<I", 2) + name(b"socket0") + socket + name(GPU) + gpu
    return struct.pack("<I", 0xCC5B0001) + struct.pack("<q", FROM) + struct.pack("<q", TO) + host


def record(t: int, text: bytes, levels: list[bytes], value: bytes) -> bytes:
    payload = struct.pack("<q", t) + name(text) + struct.pack("<B", len(levels))
    for level in levels:
        payload += struct.pack("<B", len(level)) + level
    payload += value
    return (
        b"\xa1\xa7\x1d\xcc"
        + struct.pack("<I", len(payload))
        + payload
        + struct.pack("<I", zlib.crc32(payload))
    )


def records() -> list[bytes]:
    return [
        record(TO, b"cpu_load", [], f32(1.25)),
        record(TO + 1, b"mem_bw", [b"socket0"], f32(99.5)),
        record(TO + 2, b"nv_link", [GPU, b"nvlink3"], f32(8.0)),
        record(TO + 60, b"cpu_load", [], f32(1.5)),
    ]


CHECKPOINT = (
    '{"metrics":{"cpu_load":{"frequency":60,"start":1699999760,"data":[0.5,0.7,null]}},'
    '"children":{"socket0":{"metrics":{"mem_bw":{"frequency":60,"start":1699999760,"data":[100.0,null,200.0]}},'
    '"children":{},"from":1699999760,"to":1700000000}},"from":1699999760,"to":1700000000}\n'
)


def files() -> dict[str, bytes]:
    whole = b"\x01\xa7\x1d\xcc" + b"".join(records())
    first, second, third, fourth = records()
    overflowing = record(TO + 3, b"cpu_load", [], f32(2.0))
    long_level = (
        struct.pack("<q", TO) + name(b"cpu_load") + struct.pack("<B", 1) + struct.pack("<B", 300 % 256)
    )
    long_level += b"x" * 300 + f32(3.0)
    broken = b"\xa1\xa7\x1d\xcc" + struct.pack("<I", len(long_level)) + long_level
    broken += struct.pack("<I", zlib.crc32(long_level))
    return {
        f"{FROM}.bin": snapshot(),
        "1699999760.json": CHECKPOINT.encode(),
        "current.wal": whole,
        "without-header.wal": b"".join(records()),
        "torn.wal": whole[:-10],
        "torn-and-appended.wal": b"\x01\xa7\x1d\xcc" + first + second[:20] + third + fourth,
        "overflow.wal": b"\x01\xa7\x1d\xcc" + first + broken + overflowing,
    }


if __name__ == "__main__":
    for file_name, content in files().items():
        (Path(sys.argv[1]) / file_name).write_bytes(content)
