"""Every bound in one place, with their relations asserted. Units are in the names."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Names: after unescaping, in UTF-8 bytes.
NAME_BYTES_MAX = 255

PATH_DEPTH_MAX = 4  # cluster, host, type, subtype

# A line, and the key in it (measurement and tags up to the first unescaped space).
LINE_BYTES_MAX = 64 * KIB
KEY_BYTES_MAX = 8 * KIB
LINE_TAGS_MAX = 64
LINE_FIELDS_MAX = 256

# Frames on a socket.
FRAME_BYTES_MAX = 16 * MIB
CONTROL_FRAME_BYTES_MAX = 64 * MIB
UNFINISHED_FRAME_S_MAX = 30
STALLED_READER_S_MAX = 30
SOCKET_PATH_BYTES_MAX = 107  # sun_path is 108 bytes with its final NUL

# Ingest.
RECEIVE_BYTES = 1 * MIB
BATCH_LINES_MAX = 8192
INTERN_KEYS_MAX = 256
HANDLES_PER_CONNECTION_MAX = 4_000_000
COLUMNS_VALUES_MAX = 4_000_000
STAMPED_COLUMNS_MAX = 63

# Hosts whose data outlives retention.
PROTECTED_HOSTS_MAX = 200_000

# Shared memory.
RING_BYTES = 8 * MIB
RUN_VALUES_MAX = 8192
WORKERS_MAX = 64
METRICS_MAX = 65_536
# From the oldest sample of a grid series to the newest that may come: what its link table holds, without two chunks
# for rounding. 194 days at 1 s, 31 years at 60 s.
SERIES_SLOTS_MAX = 16_776_192
SERIES_MAX_DEFAULT = 4_000_000
SERIES_MAX = 1 << 30
EXTENT_BYTES = 256 * KIB

# What the supervisor and those that it starts need at least, each of descriptors (measured: 38, 7 and 4; the rest is for
# connections), all together of processes and threads (measured: 9 with a helper, and one for each worker).
DESCRIPTORS_MIN = 48
DESCRIPTORS_AN_INGEST_WORKER = 8
DESCRIPTORS_A_QUERY_WORKER = 4
PROCESSES_MIN = 10

# Write-ahead log.
WAL_SEGMENT_BYTES = 64 * MIB
WAL_BLOCK_BYTES_MAX = 4 * MIB
# How long it may be held for somebody who copies it: it grows meanwhile.
HOLD_S_DEFAULT = 3600
HOLD_S_MAX = 86_400

# Files of ClusterCockpit's metric store: one host's, of half a day. JSON costs 8 to 20 times its size while it is read.
CHECKPOINT_BYTES_MAX = 1 * GIB
CHECKPOINT_JSON_BYTES_MAX = 256 * MIB

# Queries.
QUERY_SAMPLES_MAX = 2_000_000_000
QUERY_SERIES_MAX = 1_000_000
FETCH_QUERIES_MAX = 100_000  # of one batch request; to read so many takes half a second
QUERY_MANY_MAX = FETCH_QUERIES_MAX  # of one call, whatever messages it takes
QUESTIONS_MAX = 65_536  # of one message
QUERY_SECONDS_DEFAULT = 30.0
ANSWER_BYTES_MAX = 512 * MIB
PERCENTILES_MAX = 100
PERCENTILE_SAMPLES_MAX = 20_000_000  # of one row: 160 MB while they are sorted
QUERY_SPAN_S_MAX = 2**31 - 1  # a resolution, a window, a gap
FUNCTION_SLOTS_MAX = (
    4_000_000  # of one series: some 100 bytes each while a rate or a moving average is worked out
)
SELECTOR_BYTES_MAX = 1 * MIB
SELECTOR_NAMES_MAX = 65_536  # written out or by ranges, each step

# Following.
FOLLOW_SERIES_MAX = 1_000_000
FOLLOWS_PER_CONNECTION_MAX = 64
# Samples that wait for a subscriber who does not take them; beyond it they are counted and not delivered.
FOLLOW_QUEUE_BYTES = 8 * MIB

# Of memory and archive together, brought together for one question: 8 bytes each, and twice that on the way.
ARCHIVE_SAMPLES_MAX = 50_000_000
# Of what left memory before it was archived and waits for the next pass; a pass begins at a part of it.
LEAVERS_BYTES_MAX = 1 * GIB
LEAVERS_BYTES_DUE = 128 * MIB
# Questions that wait for one query worker's reader of the archive.
ARCHIVE_QUESTIONS_MAX = 64

assert KEY_BYTES_MAX < LINE_BYTES_MAX < RECEIVE_BYTES
# One batch of runs always fits the ring twice over: 32 bytes is the worst run of one sample.
assert 2 * BATCH_LINES_MAX * 48 < RING_BYTES
assert RUN_VALUES_MAX * 8 + 64 < WAL_BLOCK_BYTES_MAX < WAL_SEGMENT_BYTES
assert RING_BYTES & (RING_BYTES - 1) == 0
assert WAL_BLOCK_BYTES_MAX <= RING_BYTES
assert SERIES_SLOTS_MAX == ((1 << 15) - 2) * 512
