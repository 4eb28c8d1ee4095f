"""THE bytes of shared memory: layout 2. Nobody else writes an offset.

Segments are transient: they live in /dev/shm, are native-endian and die with the machine. The log and the
snapshots are not, and have formats of their own (docs/format). kernels/layout.h says the same in C;
tests/unit/test_layout.py holds the two together and fails when a dtype changes without a new LAYOUT_VERSION.

    control     [header][store words][worker 0][worker 1] ... [worker 63]
    directory   [header][words, regions, tables][levels..][series..][metrics..][lives..][names..][keys..][hash tables..]
    samples     [header][-][extent 0: 256 KiB of one size class][extent 1] ...
    ring-k      [header][head | drained | durable | size, 128 bytes apart][ring_bytes of records]

A segment is valid iff
    1. magic, kind and layout_version are ours,
    2. fingerprint equals that of the dtypes below (same field names, types and offsets),
    3. instance is that of the store in DIR and boot_id that of this boot,
    4. reserved_bytes equals the length of the file,
    5. ready is 1 (it is stored last, after everything above).

How the pieces find each other:

    key "cpu_user,cluster=fritz,hostname=f0201,type=hwthread,type-id=12"
      |  hash -> key table -> KEY entry (the spelling, its reference, its type)
      v
    (slot, generation) -> SERIES[slot] ---- level ---> LEVEL hwthread12 -> f0201 -> fritz -> root
      |  cur_link / link0 / table             metric -> METRIC (name, step, unit, aggregation, type)
      v
    link word (offset, size class, stamp) -> CHUNK header {series, generation, n, anchor, step} + values

    slot of a sample = (t - anchor) // step;  chunk number n = slot // 512;  place in the chunk = slot % 512
    nominal time of a slot = anchor + step // 2 + slot * step

A reference is (slot, generation). Generation 0 was never used; freeing a slot bumps it, so that an old
reference can be told from a new one. A key entry's ref may instead be an ignore word: slot 0xFFFFFFFF and
generation = reason << 24 | configuration version & 0xFFFFFF.

Hash tables are open-addressed, linear, a power of two of slots, and grow in place. A slot is 0 (empty), 1 (taken
away), or leads to an entry: of the key table (8 bytes) by hash >> 32 in the high and offset / 8 in the key region
in the low half; of the others (4 bytes) by id + 2 in the low b bits, below the hash's highest 32 - b bits, where b
is the least >= 16 with 2^b - 1 >= 2 * max_series + 131072.

A chunk's payload has one slot of 4 (f32) or 8 bytes (f64, u64) a step, holding a value or the missing value
(NaN; 2^64-1), or rows of (1 + n_columns) * 8 bytes for stamped series. Sizes with their 64-byte header:
class 0: 128, 1: 512, 2: 2112, 3: 4160, 4: 64, 5: 256, 6: 1024, 7: 4096, 8: 16384, 9: 65536, 10: 262144.
A grid series starts in class 0, moves to 1 and then to the full chunk (class 2 for f32, 3 for 8-byte types)
by copy and one link store; only its chunk 0 does so, every other chunk is full from the start. Classes 4 to 10
are link tables of 2^3 .. 2^15 words.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

LAYOUT_VERSION = 2
MAGIC = 0x31304552_4F54534D  # "MSTORE01" little endian

PAGE_BYTES = 4096
LINE_BYTES = 128

SEG_CONTROL, SEG_DIRECTORY, SEG_SAMPLES, SEG_RING = 1, 2, 3, 4

KIND_GRID, KIND_STAMPED = 1, 2
TYPE_F32, TYPE_F64, TYPE_U64 = 1, 2, 3
AGG_NONE, AGG_SUM, AGG_AVG = 0, 1, 2
ORIGIN_CONFIGURED, ORIGIN_REGISTERED, ORIGIN_CLIENT = 1, 2, 3

TYPE_NAMES = {TYPE_F32: "f32", TYPE_F64: "f64", TYPE_U64: "u64"}
TYPE_DTYPES = {TYPE_F32: np.dtype("<f4"), TYPE_F64: np.dtype("<f8"), TYPE_U64: np.dtype("<u8")}
AGG_NAMES = {AGG_NONE: "none", AGG_SUM: "sum", AGG_AVG: "avg"}
U64_MISSING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

SERIES_LIVE, SERIES_ENDED, SERIES_REMOVING = 1, 2, 4
LEVEL_PROTECTED, LEVEL_EMPTY = 1, 2
CHUNK_UNORDERED = 1
CHUNK_SLOTS = 512
CHUNK_HEADER_BYTES = 64
SIZE_CLASS_BYTES = (128, 512, 2112, 4160, 64, 256, 1024, 4096, 16384, 65536, 262144)
CLASS_FIRST, CLASS_MIDDLE, CLASS_FULL_4, CLASS_FULL_8, CLASS_TABLE_8 = 0, 1, 2, 3, 4
EXTENT_BYTES = 256 * 1024
SAMPLES_DATA = 2 * PAGE_BYTES

NO_LEVEL = 0xFFFF_FFFF  # SERIES.level of a free slot
IGNORE_SLOT = 0xFFFF_FFFF

# Store states and flags in the control segment.
STATE_STARTING, STATE_REPLAYING, STATE_READY, STATE_STOPPING = 0, 1, 2, 3
FLAG_FULL, FLAG_DEGRADED = 1, 2
FLAG_HOLD = 4  # ingest workers begin no batch: grids of series are being changed

WORKER_SUPERVISOR, WORKER_PERSISTER, WORKER_INGEST, WORKER_QUERY = 1, 2, 3, 4

SEGMENT_HEADER = np.dtype(
    {
        "names": [
            "magic", "kind", "layout_version", "fingerprint", "instance", "boot_id", "reserved_bytes",
            "created_ns", "committed_bytes", "ready",
        ],
        "formats": ["u8", "u4", "u4", "u8", "u8", "V16", "u8", "u8", "u8", "u4"],
        "offsets": [0, 8, 12, 16, 24, 32, 48, 56, 128, 256],
        "itemsize": PAGE_BYTES,
    }
)  # fmt: skip

RING_HEAD = PAGE_BYTES  # ingest worker: bytes published
RING_DRAINED = PAGE_BYTES + LINE_BYTES  # persister: bytes logged and applied
RING_DURABLE = PAGE_BYTES + 2 * LINE_BYTES  # committer: bytes fdatasynced; the ring's tail
RING_SIZE = PAGE_BYTES + 3 * LINE_BYTES  # constant
RING_DATA = 2 * PAGE_BYTES

STORE_STATE = PAGE_BYTES
STORE_CONFIG_VERSION = PAGE_BYTES + 8
STORE_RETENTION = PAGE_BYTES + 16
STORE_FLAGS = PAGE_BYTES + LINE_BYTES
STORE_WRITTEN = PAGE_BYTES + 2 * LINE_BYTES
STORE_APPLIED = STORE_WRITTEN + 8  # the persister's, like the one before
STORE_LOG_ID = STORE_WRITTEN + 16
STORE_LEFT = STORE_WRITTEN + 24
STORE_DURABLE = PAGE_BYTES + 3 * LINE_BYTES
WORKERS = 2 * PAGE_BYTES
WORKER = np.dtype(
    {
        "names": ["kind", "index", "pid", "state", "started_ns", "epoch", "counters"],
        "formats": ["u4", "u4", "u4", "u4", "u8", "u8", ("u8", (96,))],
        "offsets": [0, 4, 8, 12, 16, 128, 256],
        "itemsize": 1024,
    }
)

REGION_NAMES = ("levels", "series", "metrics", "lives", "names", "keys", "tables")
TABLE_NAMES = ("keys", "levels", "series", "metrics")
DIRECTORY_AT = PAGE_BYTES
REGION = np.dtype([("offset", "u8"), ("reserved", "u8"), ("committed", "u8"), ("used", "u8")])
DIRECTORY = np.dtype(
    {
        "names": [
            "regions", "tables", "table_used", "hash_seed", "generation", "max_series", "n_levels", "n_series",
            "n_metrics", "n_keys", "free_series", "live_series", "critical", "lapses",
            "grids_changed_s",
        ],
        "formats": [
            (REGION, (7,)), ("u8", (4,)), ("u8", (4,)), "u8", "u4", "u4", "u8", "u8", "u8", "u8", "u8", "u8", "u8", "u8",
            "i8",
        ],
        "offsets": [0, 256, 288, 320, 328, 332, 336, 344, 352, 360, 368, 376, 384, 392, 400],
        "itemsize": 512,
    }
)  # fmt: skip

LEVEL = np.dtype(
    [
        ("parent", "u4"), ("first_child", "u4"), ("next_sibling", "u4"), ("first_series", "u4"), ("name", "u8"),
        ("name_len", "u2"), ("type_len", "u2"), ("cluster", "u4"), ("n_series", "u4"), ("n_children", "u4"),
        ("metadata", "u4"), ("generation", "u2"), ("depth", "u1"), ("flags", "u1"),
    ]
)  # fmt: skip

METRIC = np.dtype(
    [
        ("cluster", "u4"), ("step_s", "u4"), ("name", "u8"), ("unit", "u8"), ("columns", "u8"), ("name_len", "u2"),
        ("unit_len", "u2"), ("columns_len", "u2"), ("kind", "u1"), ("type", "u1"), ("aggregation", "u1"),
        ("n_columns", "u1"), ("origin", "u1"), ("pad", "u1"), ("generation", "u4"), ("retention_s", "i8"),
        ("reserved", "u8"),
    ]
)  # fmt: skip

SERIES = np.dtype(
    [
        ("generation", "u4"), ("kind", "u1"), ("type", "u1"), ("n_columns", "u1"), ("flags", "u1"),
        ("anchor_s", "i8"), ("step_s", "u4"), ("n_seen", "u2"), ("n_edge", "u2"), ("cur_n", "i8"),
        ("cur_link", "u8"), ("table", "u8"), ("link0", "u8"), ("last_t", "i8"),
        ("level", "u4"), ("metric", "u4"), ("next_series", "u4"), ("prev_slot", "u4"), ("prev_generation", "u4"),
        ("next_slot", "u4"), ("next_generation", "u4"), ("first_key", "u4"), ("era_start", "i8"),
        ("first_n", "i8"), ("last_n", "i8"), ("n_chunks", "u4"), ("idle_n", "u4"),
    ]
)  # fmt: skip

LIFE = np.dtype(
    [("start_ms", "i8"), ("end_ms", "i8"), ("why", "u4"), ("generation", "u4"), ("reserved", "u8")]
)

KEY = np.dtype(
    [
        ("ref", "u8"), ("hash", "u4"), ("index", "u4"), ("default_cluster", "u4"), ("next_key", "u4"), ("len", "u2"),
        ("type", "u1"), ("kind", "u1"), ("step_s", "u4"),
    ]
)  # fmt: skip

CHUNK = np.dtype(
    [
        ("series", "u4"), ("generation", "u4"), ("n", "i8"), ("anchor_s", "i8"), ("step_s", "u4"), ("kind", "u1"),
        ("type", "u1"), ("size_class", "u1"), ("n_columns", "u1"), ("capacity", "u4"), ("count", "u4"),
        ("seq", "u4"), ("flags", "u4"), ("t_max_ms", "i8"), ("reserved", "u8"),
    ]
)  # fmt: skip

# Records in rings and in the log: docs/format/wal.md.
REC_PAD, REC_ROW, REC_COLUMN, REC_STAMPED, REC_SCATTER = 0, 1, 2, 3, 4
REC_LEVEL, REC_METRIC, REC_SERIES, REC_KEY, REC_REMOVE, REC_ERA = 16, 17, 18, 19, 20, 21
REC_FREE, REC_EVICT, REC_PROTECT = 24, 25, 26
REC_LIFE, REC_METADATA, REC_TASK_REPORT, REC_METRIC_CHANGE = 32, 33, 34, 36
RUN = np.dtype(
    [
        ("type", "u2"),
        ("vtype", "u1"),
        ("flags", "u1"),
        ("count", "u4"),
        ("slot", "u4"),
        ("generation", "u4"),
        ("t", "i8"),
    ]
)
RECORD = np.dtype([("type", "u2"), ("vtype", "u1"), ("flags", "u1"), ("length", "u4")])

LINK_OFFSET_BITS, LINK_CLASS_BITS = 36, 4

_ALL = (SEGMENT_HEADER, WORKER, REGION, DIRECTORY, LEVEL, METRIC, SERIES, LIFE, KEY, CHUNK, RUN, RECORD)


def describe() -> str:
    """Every dtype with names, formats and offsets: what the fingerprint is taken of."""
    names = (
        "header",
        "worker",
        "region",
        "directory",
        "level",
        "metric",
        "series",
        "life",
        "key",
        "chunk",
        "run",
        "record",
    )
    lines = []
    for name, dtype in zip(names, _ALL, strict=True):
        fields: Mapping[str, Any] = dtype.fields or {}
        text = " ".join(f"{field}:{fields[field][0].str}@{fields[field][1]}" for field in dtype.names or ())
        lines.append(f"{name}[{dtype.itemsize}] {text}")
    return "\n".join(lines)


FINGERPRINT = LAYOUT_VERSION << 32 | zlib.crc32(describe().encode())

assert SEGMENT_HEADER.itemsize == PAGE_BYTES
assert (LEVEL.itemsize, METRIC.itemsize, SERIES.itemsize, LIFE.itemsize, KEY.itemsize) == (
    48,
    64,
    128,
    32,
    32,
)
assert CHUNK.itemsize == CHUNK_HEADER_BYTES
assert SIZE_CLASS_BYTES[CLASS_FULL_4] == CHUNK_HEADER_BYTES + CHUNK_SLOTS * 4
assert SIZE_CLASS_BYTES[CLASS_FULL_8] == CHUNK_HEADER_BYTES + CHUNK_SLOTS * 8
assert all(size % 64 == 0 and size <= EXTENT_BYTES for size in SIZE_CLASS_BYTES)
assert RUN.itemsize == 24
assert RECORD.itemsize == 8
assert len({RING_HEAD, RING_DRAINED, RING_DURABLE, RING_SIZE}) == 4
