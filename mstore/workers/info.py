"""What `info` answers: put together from shared counters and words, by any process that maps them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mstore import __version__, clock
from mstore.persistence import files
from mstore.query.reader import Reader
from mstore.shm import layout
from mstore.shm.control import WORKER_FREE, Control
from mstore.shm.segment import SHM_DIR, Mapping
from mstore.workers.spec import WorkerSpec

_STATES = {0: "starting", 1: "replaying", 2: "ready", 3: "stopping"}
_KINDS = {1: "supervisor", 2: "persister", 3: "ingest", 4: "query"}


def store_info(spec: WorkerSpec, control: Control, reader: Reader, samples: Mapping) -> dict[str, Any]:
    """A plain dict: state, sizes by segment, log and snapshots, counters of the whole store and its workers."""
    totals = control.totals()
    counts = reader.directory.counts()
    workers = _workers(control)
    used = {
        "samples": totals["samples_bytes"],
        "directory": sum(n for name, n in counts.items() if name.endswith("_used")),
    }
    return {
        "version": __version__,
        "dir": spec.store_dir,
        "instance": spec.instance,
        "state": _STATES.get(control.state, "unknown"),
        "full": bool(control.flags & layout.FLAG_FULL),
        "degraded": bool(control.flags & layout.FLAG_DEGRADED),
        "now_s": clock.now_s(),
        "started_s": min((one["started_s"] for one in workers if one["kind"] == "persister"), default=0),
        "counts": counts,
        "memory": {
            "samples_committed_bytes": samples.committed_bytes,
            "samples_used_bytes": totals["samples_bytes"],
            "segments": _segments(spec.segments, used),
        },
        "log": {
            "written_seq": control.written,
            "durable_seq": control.durable,
            **_on_disk(Path(spec.store_dir)),
        },
        "counters": totals,
        "workers": workers,
    }


def _workers(control: Control) -> list[dict[str, Any]]:
    return [
        {
            "kind": _KINDS.get(slot.kind, "?"),
            "index": slot.index,
            "pid": slot.pid,
            "started_s": slot.started_ns // 1_000_000_000,
            "connections": slot.snapshot()["connections_open"],
            "epoch": slot.epoch,
        }
        for slot in control.workers()
        if slot.state != WORKER_FREE
    ]


def _segments(names: dict[str, str], used: dict[str, int]) -> dict[str, dict[str, int]]:
    """Of each segment: what it has of /dev/shm now, the address space reserved for it, and what is used if known."""
    found = {}
    for role, name in names.items():
        try:
            status = (SHM_DIR / name).stat()
        except OSError:
            continue  # the store is stopping
        found[role] = {"allocated_bytes": status.st_blocks * 512, "reserved_bytes": status.st_size}
        if role in used:
            found[role]["used_bytes"] = used[role]
    return found


def _on_disk(directory: Path) -> dict[str, int]:
    """Log segments, spare ones and snapshots in DIR; their bytes are what they take on the disk."""
    found = dict.fromkeys(("segments", "spares", "segment_bytes", "snapshots", "snapshot_bytes"), 0)
    for folder in (files.wal_dir(directory), files.snapshot_dir(directory)):
        for entry in _entries(folder):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # retired meanwhile
            if entry.name.endswith(files.SPARE_SUFFIX):
                found["spares"] += 1
                found["segment_bytes"] += status.st_blocks * 512
            elif files.number_of(entry.name, files.WAL_SUFFIX) is not None:
                found["segments"] += 1
                found["segment_bytes"] += status.st_blocks * 512
            elif (seq := files.number_of(entry.name, files.SNAPSHOT_SUFFIX)) is not None:
                found["snapshots"] += 1
                found["snapshot_bytes"] += status.st_blocks * 512
                if seq >= found.get("snapshot_seq", 0):
                    found["snapshot_seq"], found["snapshot_s"] = seq, int(status.st_mtime)
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
