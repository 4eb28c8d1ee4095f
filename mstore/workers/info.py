"""What `info` answers: put together from shared counters and words, by any process that maps them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mstore import __version__, clock
from mstore.persistence import files
from mstore.shm import layout
from mstore.shm.control import STATE_NAMES, WORKER_FREE, WORKER_NAMES, Control
from mstore.shm.directory import DirectoryReader
from mstore.shm.segment import SHM_DIR, Mapping, huge_pages
from mstore.workers.exports import last_note
from mstore.workers.progress import PHASES, left_s


class Where(Protocol):
    """Which store: a WorkerSpec, or a Place."""

    @property
    def store_dir(self) -> str: ...
    @property
    def instance(self) -> int: ...
    @property
    def segments(self) -> dict[str, str]: ...
    @property
    def store_started_s(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Place:
    """What the supervisor, who has no WorkerSpec, knows of the store."""

    store_dir: str
    instance: int
    segments: dict[str, str]
    store_started_s: int


def store_info(spec: Where, control: Control, directory: DirectoryReader, samples: Mapping) -> dict[str, Any]:
    """A plain dict: state, sizes by segment, log and snapshots, counters of the whole store and its workers.

    While the files are read back and while a snapshot is written: how far that has come.
    """
    totals = control.totals()
    counts = directory.counts()
    workers = _workers(control)
    used = {
        "samples": totals["samples_bytes"],
        "directory": sum(n for name, n in counts.items() if name.endswith("_used")),
    }
    return {
        "version": __version__,
        "dir": spec.store_dir,
        "instance": spec.instance,
        "state": STATE_NAMES.get(control.state, "unknown"),
        "full": bool(control.flags & layout.FLAG_FULL),
        "degraded": bool(control.flags & layout.FLAG_DEGRADED),
        "unprotected": totals["unprotected_seq"] > 0,
        "now_s": clock.now_s(),
        "started_s": spec.store_started_s,
        "counts": counts,
        "memory": {
            "samples_committed_bytes": samples.committed_bytes,
            "samples_used_bytes": totals["samples_bytes"],
            "segments": _segments(spec.segments, used),
            "huge_pages": huge_pages(),
            "removed_segments": _removed(spec.segments) if control.state == layout.STATE_READY else [],
        },
        "log": {
            "written_seq": control.written,
            "durable_seq": control.durable,
            "holds": totals["log_holds"],
            **_on_disk(Path(spec.store_dir)),
        },
        "recovery": _recovery(control, totals),
        "snapshot": _snapshot(totals),
        "export": _export(Path(spec.store_dir), totals),
        "last_recovery": _last_recovery(Path(spec.store_dir)),
        "counters": totals,
        "workers": workers,
    }


def _recovery(control: Control, totals: dict[str, int]) -> dict[str, Any]:
    """How far reading the files back has come; empty when that is over."""
    phase = PHASES[totals["recovery_phase"]] if totals["recovery_phase"] < len(PHASES) else ""
    if not phase or control.state == layout.STATE_READY:
        return {}
    done, whole = totals["recovery_done_bytes"], totals["recovery_all_bytes"]
    return {
        "phase": phase,
        "done_bytes": done,
        "all_bytes": whole,
        "percent": round(100 * done / max(1, whole), 1),
        "left_s": left_s(done, whole, clock.now_s() - totals["recovery_began_s"]),
    }


def _snapshot(totals: dict[str, int]) -> dict[str, Any]:
    """How far the snapshot under way has come; empty when there is none."""
    if not totals["snapshot_began_s"]:
        return {}
    share = totals["snapshot_permille"] / 1000
    return {
        "began_s": totals["snapshot_began_s"],
        "percent": round(100 * share, 1),
        "bytes": totals["snapshot_now_bytes"],
        "left_s": left_s(share, 1.0, clock.now_s() - totals["snapshot_began_s"]),
    }


def _export(directory: Path, totals: dict[str, int]) -> dict[str, Any]:
    """What the last export wrote, and how far the one under way has come; empty when there never was one."""
    last = last_note(directory)
    found: dict[str, Any] = {"last": last} if last else {}
    if totals["export_began_s"]:
        share = totals["export_permille"] / 1000
        found["now"] = {
            "began_s": totals["export_began_s"],
            "percent": round(100 * share, 1),
            "left_s": left_s(share, 1.0, clock.now_s() - totals["export_began_s"]),
        }
    return found


def _workers(control: Control) -> list[dict[str, Any]]:
    return [
        {
            "kind": WORKER_NAMES.get(slot.kind, "?"),
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


def _removed(names: dict[str, str]) -> list[str]:
    """Segments that somebody took from /dev/shm under a running store, by role."""
    return [role for role, name in names.items() if not (SHM_DIR / name).exists()]


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
            elif files.generation_of(entry.name) is not None:
                found["snapshot_bytes"] += status.st_blocks * 512
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _last_recovery(directory: Path) -> dict[str, Any]:
    """What the last start found; empty when there is nothing to read."""
    try:
        found = json.loads(files.recovery_note_path(directory).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
