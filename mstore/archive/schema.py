"""The columns of the archive's tables.

Samples: the eight columns of ClusterCockpit's Parquet archive first, in its order, names and types. `value` is there
for every row; what a float32 cannot hold stands beside it, by the metric's type:

    f32   value
    f64   value (rounded)   value_f64
    u64   value (rounded)                value_u64

Rows of one file are in ascending order of SORTED_BY, and the file says so.
"""

from __future__ import annotations

from mstore.archive import names
from mstore.archive.arrow import pa, pq

VERSION = 1
"""Of the columns and what they mean; in every file's metadata."""
SORTED_BY = ("cluster", "hostname", "metric", "timestamp")

SAMPLES = pa.schema(
    [
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("hostname", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        # node, socket, memoryDomain, core, hwthread, accelerator; of other levels their whole name
        pa.field("scope", pa.string(), nullable=False),
        pa.field("scope_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),  # nominal time of the slot, Unix seconds
        pa.field("frequency", pa.int64(), nullable=False),  # seconds between slots; 0 = stamped
        pa.field("value", pa.float32(), nullable=False),
        pa.field("value_f64", pa.float64()),
        pa.field("value_u64", pa.uint64()),
        pa.field("parent_scope", pa.string()),  # of the level above; null at the host
        pa.field("parent_scope_id", pa.string()),
        pa.field("stamp_ms", pa.int64()),  # of a stamped row, Unix milliseconds; null on a grid
        pa.field("column", pa.string()),  # which of a stamped row's several columns this is; else null
        pa.field("series", pa.uint64(), nullable=False),  # the store's reference, as in the table of series
    ]
)

SERIES = pa.schema(
    [
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("hostname", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),  # the path, as queries name it
        pa.field("type_id", pa.string(), nullable=False),
        pa.field("subtype", pa.string(), nullable=False),
        pa.field("subtype_id", pa.string(), nullable=False),
        pa.field("series", pa.uint64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # grid, stamped
        pa.field("value_type", pa.string(), nullable=False),  # f32, f64, u64; "" = several columns
        pa.field("n_columns", pa.int64(), nullable=False),
        pa.field("anchor", pa.int64(), nullable=False),  # start of slot 0, Unix seconds
        pa.field("frequency", pa.int64(), nullable=False),
        # Samples from here on belong to it (grid s, stamped ms); null = the first of its path.
        pa.field("life_start", pa.int64()),
        pa.field("life_end", pa.int64()),  # where the next one begins; null = it was the newest
        pa.field("n_samples", pa.int64(), nullable=False),  # in the part of the same number
        pa.field(
            "first", pa.int64(), nullable=False
        ),  # time of the first and the last of these, Unix seconds
        pa.field("last", pa.int64(), nullable=False),
    ]
)

METRICS = pa.schema(
    [
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("frequency", pa.int64(), nullable=False),  # seconds; 0 = stamped
        pa.field("aggregation", pa.string(), nullable=False),
        pa.field("value_type", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("columns", pa.string(), nullable=False),  # "reads:u64,seconds:f64", or ""
        pa.field("origin", pa.string(), nullable=False),  # configured, registered, client
    ]
)

TASK_EVENTS = pa.schema(
    [
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("attempt", pa.int64(), nullable=False),
        pa.field("time_ns", pa.int64(), nullable=False),
        pa.field("sequence", pa.uint64(), nullable=False),
        pa.field("status", pa.string()),
        pa.field("progress", pa.float64()),
        pa.field("engine", pa.string()),
        pa.field("error_code", pa.int64()),
        pa.field("error", pa.string()),
        pa.field("extra", pa.string()),  # JSON
    ]
)

BY_TABLE = {
    names.SAMPLES: SAMPLES, names.SERIES: SERIES, names.METRICS: METRICS, names.TASK_EVENTS: TASK_EVENTS,
}  # fmt: skip


def sorting_columns() -> list[pq.SortingColumn]:
    """What a file of samples says of its order."""
    return [pq.SortingColumn(SAMPLES.get_field_index(name)) for name in SORTED_BY]
