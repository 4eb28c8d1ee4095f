/* Layout 1 of every shared segment, as C sees it. mstore/shm/layout.py is the same in numpy, draws the pictures and says
 * what each field means; tests/unit/test_layout.py holds one against the other. Native endian: segments are transient. */
#ifndef MSTORE_LAYOUT_H
#define MSTORE_LAYOUT_H
#include <stdint.h>

#define MS_PAGE 4096u
#define MS_LINE 128u                 /* words of different writers keep this distance */

/* ---- every segment ---- */
typedef struct {
    uint64_t magic;                  /* 0   */
    uint32_t kind;                   /* 8   SEG_* */
    uint32_t layout_version;         /* 12  */
    uint64_t fingerprint;            /* 16  crc of all dtypes */
    uint64_t instance;               /* 24  */
    uint8_t  boot_id[16];            /* 32  */
    uint64_t reserved_bytes;         /* 48  length of the mapping */
    uint64_t created_ns;             /* 56  */
    uint8_t  pad0[64];
    uint64_t committed_bytes;        /* 128 atomic; allocated from the start */
    uint8_t  pad1[120];
    uint32_t ready;                  /* 256 atomic; stored last */
    uint8_t  pad2[3836];
} ms_segment_header;                 /* 4096 bytes */

/* ---- ring-k: header page, word page, bytes ---- */
#define MS_RING_HEAD     (MS_PAGE + 0 * MS_LINE)  /* ingest worker: bytes published */
#define MS_RING_DRAINED  (MS_PAGE + 1 * MS_LINE)  /* persister: bytes written to the log and applied ("memory" acknowledged) */
#define MS_RING_DURABLE  (MS_PAGE + 2 * MS_LINE)  /* committer: bytes fdatasynced; also the ring's tail */
#define MS_RING_BYTES    (MS_PAGE + 3 * MS_LINE)  /* constant: power of two */
#define MS_RING_DATA     (2 * MS_PAGE)

/* ---- control: header page, store page, workers ---- */
#define MS_STORE_STATE      (MS_PAGE + 0 * MS_LINE + 0)   /* u32 STATE_* (supervisor) */
#define MS_STORE_CONFIG     (MS_PAGE + 0 * MS_LINE + 8)   /* u32 config version (persister) */
#define MS_STORE_RETENTION  (MS_PAGE + 0 * MS_LINE + 16)  /* u64 seconds that samples are served, 0 = all (persister) */
#define MS_STORE_FLAGS      (MS_PAGE + 1 * MS_LINE + 0)   /* u32 bit 0 full, bit 1 degraded (persister) */
#define MS_STORE_WRITTEN    (MS_PAGE + 2 * MS_LINE)       /* u64 last block sequence written (persister) */
#define MS_STORE_DURABLE    (MS_PAGE + 3 * MS_LINE)       /* u64 last block sequence fdatasynced (committer) */
#define MS_WORKERS          (2 * MS_PAGE)
#define MS_WORKER_BYTES     1024
#define MS_WORKER_EPOCH     128                            /* u64, odd while a batch is in hand */
#define MS_WORKER_COUNTERS  256                            /* u64[96] */
#define MS_COUNTERS         96

/* ---- directory ---- */
enum { MS_REGION_LEVELS, MS_REGION_SERIES, MS_REGION_METRICS, MS_REGION_LIVES, MS_REGION_NAMES, MS_REGION_KEYS,
       MS_REGION_TABLES, MS_REGIONS };
typedef struct { uint64_t offset, reserved, committed, used; } ms_region;   /* used: bytes published, release/acquire */
enum { MS_TABLE_KEYS, MS_TABLE_LEVELS, MS_TABLE_SERIES, MS_TABLE_METRICS, MS_TABLES };
typedef struct {
    ms_region region[MS_REGIONS];    /* 0   224 bytes */
    uint8_t   pad0[32];
    uint64_t  table[MS_TABLES];      /* 256 offset in the segment << 8 | log2 of the slots; release/acquire. Keys: slots of
                                      *     8 bytes; the others: of 4, see layout.py. Each has a quarter of its region */
    uint64_t  table_used[MS_TABLES]; /* 288 persister only */
    uint64_t  hash_seed;             /* 320 constant */
    uint32_t  generation;            /* 328 bumped by a rebuild */
    uint32_t  max_series;            /* 332 constant */
    uint64_t  n_levels;              /* 336 published counts (ids below are initialised) */
    uint64_t  n_series;              /* 344 */
    uint64_t  n_metrics;             /* 352 */
    uint64_t  n_keys;                /* 360 */
    uint64_t  free_series;           /* 368 head of the free list, slot + 1; persister only */
    uint64_t  live_series;           /* 376 */
    uint64_t  critical;              /* 384 odd while a multi-word change is under way */
    uint64_t  lapses;                /* 392 counted after series stopped being live, or got a later era, or are to be removed */
    int64_t   grids_changed_s;       /* 400 latest era_start of a grid series' era whose type or step is not that of the era before */
    uint8_t   pad1[104];
} ms_directory;                      /* at MS_PAGE; 512 bytes */

typedef struct {
    uint32_t parent;                 /* 0   level id; the root is level 0 and its own parent */
    uint32_t first_child;            /* 4   id, 0 = none (the root is nobody's child) */
    uint32_t next_sibling;           /* 8   id, 0 = none */
    uint32_t first_series;           /* 12  slot + 1, 0 = none */
    uint64_t name;                   /* 16  offset in the segment; the name is type followed by id */
    uint16_t name_len;               /* 24  */
    uint16_t type_len;               /* 26  first type_len bytes are the type, the rest the id */
    uint32_t cluster;                /* 28  level id of the cluster above (itself for a cluster; 0 for the root) */
    uint32_t n_series;               /* 32  */
    uint32_t n_children;             /* 36  */
    uint32_t metadata;               /* 40  offset in its region / 8 + 1, 0 = none */
    uint16_t generation;             /* 44  0 = free */
    uint8_t  depth;                  /* 46  root 0, cluster 1, host 2 */
    uint8_t  flags;                  /* 47  LEVEL_PROTECTED 1: a host whose data outlives retention; LEVEL_EMPTY 2: unlinked */
} ms_level;                          /* 48 */

typedef struct {
    uint32_t cluster;                /* 0   level id; a definition belongs to one cluster */
    uint32_t step_s;                 /* 4   0 for stamped */
    uint64_t name;                   /* 8   */
    uint64_t unit;                   /* 16  */
    uint64_t columns;                /* 24  stamped: "name:type,name:type" */
    uint16_t name_len;               /* 32  */
    uint16_t unit_len;               /* 34  */
    uint16_t columns_len;            /* 36  */
    uint8_t  kind;                   /* 38  KIND_* */
    uint8_t  type;                   /* 39  TYPE_* of the one column; 0 when several */
    uint8_t  aggregation;            /* 40  AGG_* */
    uint8_t  n_columns;              /* 41  */
    uint8_t  origin;                 /* 42  1 configured, 2 registered by a sample, 3 by a client */
    uint8_t  pad;                    /* 43  */
    uint32_t generation;             /* 44  0 = free */
    int64_t  retention_s;            /* 48  -1 = the store's */
    uint8_t  reserved[8];            /* 56  */
} ms_metric;                         /* 64 */

typedef struct {
    /* line 0: what apply and gather touch */
    uint32_t generation;             /* 0   0 = never used; bumped when the slot is freed */
    uint8_t  kind;                   /* 4   */
    uint8_t  type;                   /* 5   */
    uint8_t  n_columns;              /* 6   */
    uint8_t  flags;                  /* 7   SERIES_LIVE 1, SERIES_ENDED 2 (a later era exists), SERIES_REMOVING 4 */
    int64_t  anchor_s;               /* 8   grid: start of slot 0 */
    uint32_t step_s;                 /* 16  */
    uint16_t n_seen;                 /* 20  samples in the newest chunk, saturating; persister only */
    uint16_t n_edge;                 /* 22  of these, near a slot border */
    int64_t  cur_n;                  /* 24  chunk number of cur_link; persister only */
    uint64_t cur_link;               /* 32  link word of the newest written chunk, 0 = none; persister only */
    uint64_t table;                  /* 40  link table: offset in samples << 8 | log2 of the links; 0 = only link0 */
    uint64_t link0;                  /* 48  the one link while table is 0 */
    int64_t  last_t;                 /* 56  newest sample: grid nominal seconds, stamped milliseconds; relaxed */
    /* line 1 */
    uint32_t level;                  /* 64  */
    uint32_t metric;                 /* 68  */
    uint32_t next_series;            /* 72  next series of the level, slot + 1; also links the free list */
    uint32_t prev_slot;              /* 76  the era before, slot + 1 */
    uint32_t prev_generation;        /* 80  */
    uint32_t next_slot;              /* 84  the era after, slot + 1 */
    uint32_t next_generation;        /* 88  */
    uint32_t first_key;              /* 92  newest key entry: offset in the key region / 8 + 1 */
    int64_t  era_start;              /* 96  samples from this time on belong here (grid s, stamped ms); INT64_MIN = first era */
    int64_t  first_n;                /* 104 lowest and highest linked chunk; first_n > last_n = none */
    int64_t  last_n;                 /* 112 */
    uint32_t n_chunks;               /* 120 */
    uint32_t idle_n;                 /* 124 */
} ms_series;                         /* 128 */

typedef struct { int64_t start_ms, end_ms; uint32_t why, generation; uint64_t reserved; } ms_life;   /* 32, sparse */

typedef struct {
    uint64_t ref;                    /* 0   generation << 32 | slot; or an ignore word, see layout.py. release/acquire */
    uint32_t hash;                   /* 8   */
    uint32_t index;                  /* 12  dense number: where a worker keeps its private next-key hint */
    uint32_t default_cluster;        /* 16  level id, 0 = the key names its cluster */
    uint32_t next_key;               /* 20  older key of the same series, offset / 8 + 1 */
    uint16_t len;                    /* 24  */
    uint8_t  type;                   /* 26  value type of the series */
    uint8_t  kind;                   /* 27  */
    uint32_t step_s;                 /* 28  */
    /* 32: len bytes, then zeros up to a multiple of 8 */
} ms_key;

/* ---- samples: header page, then extents from MS_PAGE * 2 on ---- */
#define MS_SAMPLES_DATA (2 * MS_PAGE)
#define MS_EXTENT_BYTES (256u * 1024u)
#define MS_CHUNK_SLOTS 512
typedef struct {
    uint32_t series;                 /* 0   */
    uint32_t generation;             /* 4   of the series */
    int64_t  n;                      /* 8   grid: covers slots [n * 512, (n + 1) * 512); stamped: 0, 1, 2 ... in order of creation */
    int64_t  anchor_s;               /* 16  grid; stamped: smallest stamp, ms */
    uint32_t step_s;                 /* 24  */
    uint8_t  kind, type, size_class, n_columns;   /* 28 */
    uint32_t capacity;               /* 32  slots or rows that fit */
    uint32_t count;                  /* 36  stamped: rows published, release/acquire; grid: highest used slot + 1, relaxed */
    uint32_t seq;                    /* 40  stamped: odd while a row is overwritten in place */
    uint32_t flags;                  /* 44  CHUNK_UNORDERED 1: stamps are not strictly rising */
    int64_t  t_max_ms;               /* 48  stamped: largest stamp */
    uint64_t reserved;               /* 56  */
} ms_chunk;                          /* 64, then capacity values or rows */

/* A link word: offset in samples / 64 in bits 0..35, size class in 36..39, stamp in 40..63 (store-wide count of links made, never 0). */
#define MS_LINK_OFFSET(w) (((w) & 0xFFFFFFFFFull) << 6)
#define MS_LINK_CLASS(w)  ((unsigned)(((w) >> 36) & 15u))
#define MS_LINK(offset, class_, stamp) (((uint64_t)(offset) >> 6) | ((uint64_t)(class_) << 36) | ((uint64_t)(stamp) << 40))

#define MS_NO_LEVEL 0xFFFFFFFFu      /* ms_series.level of a free slot */
#define MS_IGNORE_SLOT 0xFFFFFFFFu   /* lower half of an ignore word */

_Static_assert(sizeof(ms_segment_header) == 4096, "segment header");
_Static_assert(sizeof(ms_directory) == 512, "directory");
_Static_assert(sizeof(ms_level) == 48 && sizeof(ms_metric) == 64, "level, metric");
_Static_assert(sizeof(ms_series) == 128, "series");
_Static_assert(sizeof(ms_key) == 32 && sizeof(ms_life) == 32, "key, life");
_Static_assert(sizeof(ms_chunk) == 64, "chunk");

/* ---- records in rings and in the log (little endian; the log refuses big-endian machines) ---- */
enum { MS_REC_PAD = 0, MS_REC_ROW = 1, MS_REC_COLUMN = 2, MS_REC_STAMPED = 3, MS_REC_SCATTER = 4,
       MS_REC_LEVEL = 16, MS_REC_METRIC = 17, MS_REC_SERIES = 18, MS_REC_KEY = 19, MS_REC_REMOVE = 20, MS_REC_ERA = 21,
       MS_REC_FREE = 24, MS_REC_EVICT = 25, MS_REC_PROTECT = 26, MS_REC_LIFE = 32, MS_REC_METADATA = 33, MS_REC_TASK_REPORT = 34,
       MS_REC_METRIC_CHANGE = 36 };
typedef struct { uint16_t type; uint8_t vtype, flags; uint32_t count; uint32_t slot, generation; int64_t t; } ms_run;   /* 24 */
typedef struct { uint16_t type; uint8_t vtype, flags; uint32_t length; } ms_record;   /* 8; every record of type >= 16, and PAD */
_Static_assert(sizeof(ms_run) == 24 && sizeof(ms_record) == 8, "records");
#endif
