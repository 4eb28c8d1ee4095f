"""docs/format/segment.md out of mstore/shm/layout.py: the pictures of its docstring and a table of every dtype.

What a field means is said here, once; a field without a meaning, or a meaning without its field, is an error, so
that the page cannot fall behind the code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mstore.shm import layout

PAGE = Path(__file__).resolve().parents[1] / "docs" / "format" / "segment.md"

HEAD = """# Shared memory, layout {version}

Rendered from `mstore/shm/layout.py` by `scripts/format-docs`; a test fails when the two differ. C sees the same bytes
through `mstore/kernels/layout.h`, and another test holds those two together. Fingerprint of this layout:
`{fingerprint:#x}`. Who writes which word, and in which order: [ARCHITECTURE.md](../../ARCHITECTURE.md), section 4.
"""

NAMES = {
    "header": ("SEGMENT_HEADER", "Header of every segment", "at 0"),
    "worker": ("WORKER", "Worker table", "control, from {WORKERS} on, one entry a process"),
    "region": ("REGION", "Region of the directory", "in the directory's words"),
    "directory": ("DIRECTORY", "Words of the directory", "directory, at {DIRECTORY_AT}"),
    "level": ("LEVEL", "Level", "directory, region levels; its place is its id"),
    "metric": ("METRIC", "Metric", "directory, region metrics; its place is its index"),
    "series": ("SERIES", "Series", "directory, region series; its place is its slot"),
    "life": ("LIFE", "Life", "directory, region lives; reserved for starts and ends of series"),
    "key": ("KEY", "Key", "directory, region keys; `len` bytes of spelling follow, padded with zeros to 8"),
    "chunk": ("CHUNK", "Chunk header", "samples, at the start of every chunk; values or rows follow"),
    "run": ("RUN", "Run of samples", "rings and log; values follow, see wal.md"),
    "record": ("RECORD", "Record", "rings and log: padding, and every type from 16 on; see wal.md"),
}

MEANING = {
    "header": {
        "magic": "`MSTORE01`",
        "kind": "1 control, 2 directory, 3 samples, 4 ring",
        "layout_version": "of this page",
        "fingerprint": "version << 32, or-ed with the crc32 of all dtypes below",
        "instance": "random, one for each life of the store's memory",
        "boot_id": "of the kernel's boot: segments do not outlive it",
        "reserved_bytes": "length of the mapping",
        "created_ns": "Unix time",
        "committed_bytes": "allocated from the start on; only this much may be touched",
        "ready": "1 once everything above is stored",
    },
    "worker": {
        "kind": "1 supervisor, 2 persister, 3 ingest, 4 query",
        "index": "among the workers of its kind",
        "pid": "",
        "state": "0 free, 1 starting, 2 ready, 3 stopping; stored last",
        "started_ns": "Unix time",
        "epoch": "odd while the worker may hold references that it looked up",
        "counters": "named by `COUNTERS` in mstore/shm/control.py",
    },
    "region": {
        "offset": "in the segment",
        "reserved": "bytes of address space",
        "committed": "bytes with memory behind them",
        "used": "bytes published",
    },
    "directory": {
        "regions": "{REGION_NAMES}",
        "tables": "hash tables {TABLE_NAMES}: offset in the segment << 8, or-ed with log2 of the slots",
        "table_used": "slots taken; for the persister only",
        "hash_seed": "constant",
        "generation": "bumped by a rebuild",
        "max_series": "constant",
        "n_levels": "entries published; those below are initialised",
        "n_series": "likewise, free slots included",
        "n_metrics": "likewise",
        "n_keys": "likewise",
        "free_series": "head of the free list, slot + 1; for the persister only",
        "live_series": "series in use",
        "critical": "odd while a change of several words is under way",
        "lapses": "counts series that stopped being live, were continued by an era or are to be removed",
        "grids_changed_s": "latest start of a grid era whose type or step is not that of the era before, 0 = none",
    },
    "level": {
        "parent": "level id; the root is 0 and its own parent",
        "first_child": "level id, 0 = none",
        "next_sibling": "level id, 0 = none",
        "first_series": "slot + 1, 0 = none",
        "name": "offset in the segment: the type, then the id",
        "name_len": "bytes of both",
        "type_len": "bytes of the type",
        "depth": "root 0, cluster 1, host 2",
        "cluster": "level id of the cluster above; of itself for a cluster",
        "n_series": "series of this level",
        "metadata": "0 = none",
        "generation": "0 = free",
        "n_children": "levels directly below",
        "flags": "1 a host whose data outlives retention, 2 holds nothing and is in no list",
    },
    "metric": {
        "cluster": "level id; a definition belongs to one cluster",
        "step_s": "0 for stamped metrics",
        "name": "offset in the segment",
        "unit": "offset in the segment",
        "columns": "offset in the segment: `name:type,name:type` of stamped metrics",
        "name_len": "bytes",
        "unit_len": "bytes",
        "columns_len": "bytes",
        "kind": "1 grid, 2 stamped",
        "type": "1 f32, 2 f64, 3 u64; 0 for several columns",
        "aggregation": "0 none, 1 sum, 2 avg",
        "n_columns": "1, or those of a stamped metric",
        "origin": "1 configured, 2 registered by a sample, 3 by a client",
        "pad": "0",
        "generation": "0 = free; odd while the definition changes",
        "retention_s": "-1 = the store's",
        "reserved": "0",
    },
    "series": {
        "generation": "0 = never used; bumped when the slot is freed",
        "kind": "as the metric's",
        "type": "as the metric's",
        "n_columns": "as the metric's",
        "flags": "1 live, 2 ended (a later era exists), 4 being removed, or of a metric that is ignored",
        "anchor_s": "grid: start of slot 0",
        "step_s": "of this era",
        "n_seen": "samples in the newest chunk, saturating; for the persister only",
        "n_edge": "of these, near a slot's border",
        "cur_n": "chunk number of `cur_link`; for the persister only",
        "cur_link": "link word of the chunk written last, 0 = none; for the persister only",
        "table": "link table: offset in samples << 8, or-ed with log2 of its links; 0 = only `link0`",
        "link0": "the one link while `table` is 0",
        "last_t": "newest sample: nominal seconds, or milliseconds of a stamped one",
        "level": "level id",
        "metric": "metric index",
        "next_series": "next of the level, slot + 1; links the free list, too",
        "prev_slot": "the era before, slot + 1",
        "prev_generation": "of that slot",
        "next_slot": "the era after, slot + 1",
        "next_generation": "of that slot",
        "first_key": "newest spelling: offset in the key region / 8 + 1",
        "era_start": "samples from this time on belong here; -2^63 for the first era",
        "first_n": "lowest linked chunk; above `last_n` = none",
        "last_n": "highest linked chunk",
        "n_chunks": "linked chunks",
        "idle_n": "reserved",
    },
    "life": {
        "start_ms": "Unix time",
        "end_ms": "Unix time",
        "why": "reserved",
        "generation": "of the series' slot",
        "reserved": "0",
    },
    "key": {
        "ref": "generation << 32, or-ed with the slot; or an ignore word",
        "hash": "high half of the key's hash",
        "index": "dense number from 1: where a worker keeps its own next-key hint",
        "default_cluster": "level id; 0 = the spelling names its cluster",
        "next_key": "older spelling of the same series: offset in the region / 8 + 1",
        "len": "bytes of the spelling",
        "type": "value type of the series",
        "kind": "1 grid, 2 stamped",
        "step_s": "of the series",
    },
    "chunk": {
        "series": "slot; in a free chunk the next free one",
        "generation": "of the series' slot; 0 = free",
        "n": "grid: covers slots [512 n, 512 (n + 1)); stamped: 0, 1, 2 ... in order of creation",
        "anchor_s": "grid: of the series; stamped: smallest stamp, ms",
        "step_s": "",
        "kind": "1 grid, 2 stamped",
        "type": "1 f32, 2 f64, 3 u64",
        "size_class": "see above",
        "n_columns": "of stamped rows",
        "capacity": "slots or rows that fit",
        "count": "stamped: rows published; grid: highest used slot + 1",
        "seq": "stamped: odd while rows are overwritten in place",
        "flags": "1: stamps are not strictly rising",
        "t_max_ms": "stamped: largest stamp",
        "reserved": "0",
    },
    "run": {
        "type": "1 row, 2 column, 3 stamped, 4 scatter",
        "vtype": "value type; number of columns of stamped rows",
        "flags": "0",
        "count": "samples or rows, at most 8192",
        "slot": "of the (first) series; 0 in a scatter",
        "generation": "of the series' slots",
        "t": "seconds; of the first sample",
    },
    "record": {
        "type": "0 padding, or from 16 on",
        "vtype": "0",
        "flags": "0",
        "length": "bytes of the whole record",
    },
}

# Words that stand alone, by the constants that place them.
WORDS = (
    ("ring", "RING_HEAD", "u64", "ingest worker: bytes published"),
    ("ring", "RING_DRAINED", "u64", "persister: bytes logged and applied"),
    ("ring", "RING_DURABLE", "u64", "commit thread: bytes fdatasynced; the ring's tail"),
    ("ring", "RING_SIZE", "u64", "constant: bytes of the ring, a power of two"),
    ("control", "STORE_STATE", "u32", "supervisor: 0 starting, 1 replaying, 2 ready, 3 stopping"),
    (
        "control",
        "STORE_CONFIG_VERSION",
        "u32",
        "persister: of the configuration; 24 bits of it are in ignore words",
    ),
    ("control", "STORE_RETENTION", "u64", "persister: seconds that samples are served, 0 = all"),
    ("control", "STORE_FLAGS", "u32", "persister: 1 full, 2 degraded, 4 ingest workers begin no batch"),
    ("control", "STORE_WRITTEN", "u64", "persister: sequence of the last block written"),
    (
        "control",
        "STORE_APPLIED",
        "u64",
        "persister: all blocks up to this sequence are in directory and samples; 0 = not filled",
    ),
    ("control", "STORE_LOG_ID", "u64", "persister: id of the newest log segment, which the memory goes with"),
    (
        "control",
        "STORE_LEFT",
        "u64",
        "persister: counts what left memory before retention would free it; 0 = nothing",
    ),
    ("control", "STORE_DURABLE", "u64", "commit thread: sequence of the last block fdatasynced"),
)


def page() -> str:
    """The whole page. raises ValueError when a field has no meaning here, or a meaning no field."""
    if set(MEANING) != set(NAMES):
        raise ValueError("NAMES and MEANING name different structures")
    parts = [HEAD.format(version=layout.LAYOUT_VERSION, fingerprint=layout.FINGERPRINT), _prose(), _words()]
    parts += [_structure(name) for name in NAMES]
    return "\n".join(parts)


def _prose() -> str:
    """The docstring of layout.py without its title; indented pictures become code blocks."""
    paragraphs = (layout.__doc__ or "").strip().split("\n\n")[1:]
    found = []
    for paragraph in paragraphs:
        lines = paragraph.split("\n")
        first = next((i for i, line in enumerate(lines) if line.startswith("    ")), len(lines))
        text, picture = lines[:first], lines[first:]
        numbered = picture and re.match(r" +\d\.", picture[0])
        if text:
            found.append("\n".join(text))
        if numbered:
            found.append("\n".join(line.strip() for line in picture))
        elif picture and found and found[-1].endswith("\n```") and not text:
            found[-1] = found[-1].removesuffix("\n```") + "\n\n" + "\n".join(picture) + "\n```"
        elif picture:
            found.append("```\n" + "\n".join(picture) + "\n```")
    return "\n\n".join(found) + "\n"


def _words() -> str:
    missing = {name for name in vars(layout) if re.match(r"(RING|STORE)_[A-Z_]+$", name)} - {
        *(word for _, word, _, _ in WORDS), "RING_DATA",
    }  # fmt: skip
    if missing:
        raise ValueError(f"WORDS does not say what {', '.join(sorted(missing))} is")
    rows = [
        f"| {segment} | {getattr(layout, name)} | {type_name} | {name} | {what} |"
        for segment, name, type_name, what in WORDS
    ]
    head = f"## Words\n\nA ring's bytes begin at {layout.RING_DATA}, extents of samples at {layout.SAMPLES_DATA}.\n"
    return "\n".join(
        [head, "| segment | offset | type | word | written by, meaning |", "|---|---|---|---|---|", *rows, ""]
    )


def _structure(name: str) -> str:
    attribute, title, where = NAMES[name]
    dtype: np.dtype[Any] = getattr(layout, attribute)
    fields: Mapping[str, Any] = dtype.fields or {}
    meanings = MEANING[name]
    if set(fields) != set(meanings):
        raise ValueError(f"{attribute}: meanings and fields differ in {sorted(set(fields) ^ set(meanings))}")
    constants = {key: value for key, value in vars(layout).items() if key.isupper()}
    constants |= {key: ", ".join(constants[key]) for key in ("REGION_NAMES", "TABLE_NAMES")}
    rows = [
        f"| {fields[field][1]} | {_type(fields[field][0])} | {field} | {meanings[field].format(**constants)} |"
        for field in sorted(fields, key=lambda field: int(fields[field][1]))
    ]
    head = f"## {title}\n\n`{attribute}`, {dtype.itemsize} bytes; {where.format(**constants)}.\n"
    return "\n".join([head, "| offset | type | field | |", "|---|---|---|---|", *rows, ""])


def _type(dtype: np.dtype[Any]) -> str:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return f"{_type(base)}[{shape[0]}]"
    if dtype.fields is not None:
        return "region"
    kinds = {"u": "u", "i": "i", "f": "f", "V": "byte"}
    return f"byte[{dtype.itemsize}]" if dtype.kind == "V" else f"{kinds[dtype.kind]}{dtype.itemsize * 8}"


def main(argv: list[str]) -> int:
    text = page()
    if "--check" in argv:
        same = PAGE.exists() and PAGE.read_text() == text
        print(f"{PAGE.name} {'agrees with' if same else 'differs from'} mstore/shm/layout.py")
        return 0 if same else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
