"""What the C compiler makes of layout.h, so that a test can hold it against shm/layout.py."""

cdef extern from *:
    """
    #include <stddef.h>
    #include "layout.h"
    #define FIELD(s, f) {#s, #f, offsetof(s, f), sizeof(((s *)0)->f)}
    #define WHOLE(s) {#s, "", 0, sizeof(s)}
    typedef struct { const char *name, *field; size_t offset, bytes; } ms_field;
    static const ms_field ms_fields[] = {
        WHOLE(ms_segment_header),
        FIELD(ms_segment_header, magic), FIELD(ms_segment_header, kind), FIELD(ms_segment_header, layout_version),
        FIELD(ms_segment_header, fingerprint), FIELD(ms_segment_header, instance), FIELD(ms_segment_header, boot_id),
        FIELD(ms_segment_header, reserved_bytes), FIELD(ms_segment_header, created_ns),
        FIELD(ms_segment_header, committed_bytes), FIELD(ms_segment_header, ready),
        WHOLE(ms_region),
        FIELD(ms_region, offset), FIELD(ms_region, reserved), FIELD(ms_region, committed), FIELD(ms_region, used),
        WHOLE(ms_directory),
        {"ms_directory", "regions", offsetof(ms_directory, region), sizeof(((ms_directory *)0)->region)},
        {"ms_directory", "tables", offsetof(ms_directory, table), sizeof(((ms_directory *)0)->table)},
        FIELD(ms_directory, table_used), FIELD(ms_directory, hash_seed), FIELD(ms_directory, generation),
        FIELD(ms_directory, max_series), FIELD(ms_directory, n_levels), FIELD(ms_directory, n_series),
        FIELD(ms_directory, n_metrics), FIELD(ms_directory, n_keys), FIELD(ms_directory, free_series),
        FIELD(ms_directory, live_series), FIELD(ms_directory, critical),
        FIELD(ms_directory, lapses),
        FIELD(ms_directory, grids_changed_s),
        WHOLE(ms_level),
        FIELD(ms_level, parent), FIELD(ms_level, first_child), FIELD(ms_level, next_sibling),
        FIELD(ms_level, first_series), FIELD(ms_level, name), FIELD(ms_level, name_len), FIELD(ms_level, type_len),
        FIELD(ms_level, depth), FIELD(ms_level, cluster), FIELD(ms_level, n_series), FIELD(ms_level, metadata),
        FIELD(ms_level, generation), FIELD(ms_level, n_children), FIELD(ms_level, flags),
        WHOLE(ms_metric),
        FIELD(ms_metric, cluster), FIELD(ms_metric, step_s), FIELD(ms_metric, name), FIELD(ms_metric, unit),
        FIELD(ms_metric, columns), FIELD(ms_metric, name_len), FIELD(ms_metric, unit_len),
        FIELD(ms_metric, columns_len), FIELD(ms_metric, kind), FIELD(ms_metric, type), FIELD(ms_metric, aggregation),
        FIELD(ms_metric, n_columns), FIELD(ms_metric, origin), FIELD(ms_metric, pad), FIELD(ms_metric, generation),
        FIELD(ms_metric, retention_s), FIELD(ms_metric, reserved),
        WHOLE(ms_series),
        FIELD(ms_series, generation), FIELD(ms_series, kind), FIELD(ms_series, type), FIELD(ms_series, n_columns),
        FIELD(ms_series, flags), FIELD(ms_series, anchor_s), FIELD(ms_series, step_s), FIELD(ms_series, n_seen),
        FIELD(ms_series, n_edge), FIELD(ms_series, cur_n), FIELD(ms_series, cur_link), FIELD(ms_series, table),
        FIELD(ms_series, link0), FIELD(ms_series, last_t), FIELD(ms_series, level), FIELD(ms_series, metric),
        FIELD(ms_series, next_series), FIELD(ms_series, prev_slot), FIELD(ms_series, prev_generation),
        FIELD(ms_series, next_slot), FIELD(ms_series, next_generation), FIELD(ms_series, first_key),
        FIELD(ms_series, era_start), FIELD(ms_series, first_n), FIELD(ms_series, last_n), FIELD(ms_series, n_chunks),
        FIELD(ms_series, idle_n),
        WHOLE(ms_life),
        FIELD(ms_life, start_ms), FIELD(ms_life, end_ms), FIELD(ms_life, why), FIELD(ms_life, generation),
        FIELD(ms_life, reserved),
        WHOLE(ms_key),
        FIELD(ms_key, ref), FIELD(ms_key, hash), FIELD(ms_key, index), FIELD(ms_key, default_cluster),
        FIELD(ms_key, next_key), FIELD(ms_key, len), FIELD(ms_key, type), FIELD(ms_key, kind), FIELD(ms_key, step_s),
        WHOLE(ms_chunk),
        FIELD(ms_chunk, series), FIELD(ms_chunk, generation), FIELD(ms_chunk, n), FIELD(ms_chunk, anchor_s),
        FIELD(ms_chunk, step_s), FIELD(ms_chunk, kind), FIELD(ms_chunk, type), FIELD(ms_chunk, size_class),
        FIELD(ms_chunk, n_columns), FIELD(ms_chunk, capacity), FIELD(ms_chunk, count), FIELD(ms_chunk, seq),
        FIELD(ms_chunk, flags), FIELD(ms_chunk, t_max_ms), FIELD(ms_chunk, reserved),
        WHOLE(ms_run),
        FIELD(ms_run, type), FIELD(ms_run, vtype), FIELD(ms_run, flags), FIELD(ms_run, count), FIELD(ms_run, slot),
        FIELD(ms_run, generation), FIELD(ms_run, t),
        WHOLE(ms_record),
        FIELD(ms_record, type), FIELD(ms_record, vtype), FIELD(ms_record, flags), FIELD(ms_record, length),
    };
    static const size_t ms_n_fields = sizeof ms_fields / sizeof *ms_fields;

    typedef struct { const char *name; long long value; } ms_constant;
    #define NUMBER(n) {#n, (long long)(n)}
    static const ms_constant ms_constants[] = {
        NUMBER(MS_PAGE), NUMBER(MS_LINE),
        NUMBER(MS_RING_HEAD), NUMBER(MS_RING_DRAINED), NUMBER(MS_RING_DURABLE), NUMBER(MS_RING_BYTES),
        NUMBER(MS_RING_DATA),
        NUMBER(MS_STORE_STATE), NUMBER(MS_STORE_CONFIG), NUMBER(MS_STORE_RETENTION), NUMBER(MS_STORE_FLAGS),
        NUMBER(MS_STORE_WRITTEN), NUMBER(MS_STORE_DURABLE), NUMBER(MS_WORKERS), NUMBER(MS_WORKER_BYTES), NUMBER(MS_WORKER_EPOCH),
        NUMBER(MS_WORKER_COUNTERS), NUMBER(MS_COUNTERS),
        NUMBER(MS_REGION_LEVELS), NUMBER(MS_REGION_SERIES), NUMBER(MS_REGION_METRICS), NUMBER(MS_REGION_LIVES),
        NUMBER(MS_REGION_NAMES), NUMBER(MS_REGION_KEYS), NUMBER(MS_REGION_TABLES), NUMBER(MS_REGIONS),
        NUMBER(MS_TABLE_KEYS), NUMBER(MS_TABLE_LEVELS), NUMBER(MS_TABLE_SERIES), NUMBER(MS_TABLE_METRICS),
        NUMBER(MS_TABLES),
        NUMBER(MS_SAMPLES_DATA), NUMBER(MS_EXTENT_BYTES), NUMBER(MS_CHUNK_SLOTS),
        NUMBER(MS_REC_PAD), NUMBER(MS_REC_ROW), NUMBER(MS_REC_COLUMN), NUMBER(MS_REC_STAMPED), NUMBER(MS_REC_SCATTER),
        NUMBER(MS_REC_LEVEL), NUMBER(MS_REC_METRIC), NUMBER(MS_REC_SERIES), NUMBER(MS_REC_KEY), NUMBER(MS_REC_REMOVE),
        NUMBER(MS_REC_ERA), NUMBER(MS_REC_FREE), NUMBER(MS_REC_EVICT), NUMBER(MS_REC_PROTECT), NUMBER(MS_REC_LIFE), NUMBER(MS_REC_METADATA),
        NUMBER(MS_REC_TASK_REPORT), NUMBER(MS_REC_METRIC_CHANGE),
        NUMBER(MS_NO_LEVEL), NUMBER(MS_IGNORE_SLOT),
        {"MS_LINK(64 * 5, 9, 7)", (long long)MS_LINK(64 * 5, 9, 7)},
    };
    static const size_t ms_n_constants = sizeof ms_constants / sizeof *ms_constants;
    """
    ctypedef struct ms_field:
        const char* name
        const char* field
        size_t offset
        size_t bytes
    ctypedef struct ms_constant:
        const char* name
        long long value
    const ms_field* ms_fields
    const ms_constant* ms_constants
    size_t ms_n_fields
    size_t ms_n_constants


def offsets():
    """{struct: {field: (offset, bytes)}}; the field "" is the struct itself."""
    cdef size_t i
    found = {}
    for i in range(ms_n_fields):
        fields = found.setdefault(ms_fields[i].name.decode(), {})
        fields[ms_fields[i].field.decode()] = (ms_fields[i].offset, ms_fields[i].bytes)
    return found


def constants():
    """{macro or enum constant: its value}"""
    cdef size_t i
    return {ms_constants[i].name.decode(): ms_constants[i].value for i in range(ms_n_constants)}
