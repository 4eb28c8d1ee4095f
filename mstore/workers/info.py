"""What `info` answers: put together from shared counters and words, by any process that maps them."""

from __future__ import annotations

from typing import Any

from mstore import __version__, clock
from mstore.query.reader import Reader
from mstore.shm import layout
from mstore.shm.control import WORKER_FREE, Control
from mstore.shm.segment import Mapping
from mstore.workers.spec import WorkerSpec

_STATES = {0: "starting", 1: "replaying", 2: "ready", 3: "stopping"}
_KINDS = {1: "supervisor", 2: "persister", 3: "ingest", 4: "query"}


def store_info(spec: WorkerSpec, control: Control, reader: Reader, samples: Mapping) -> dict[str, Any]:
    """A plain dict: state, sizes by segment, counters of the whole store and of each worker."""
    totals = control.totals()
    return {
        "version": __version__,
        "dir": spec.store_dir,
        "instance": spec.instance,
        "state": _STATES.get(control.state, "unknown"),
        "full": bool(control.flags & layout.FLAG_FULL),
        "degraded": bool(control.flags & layout.FLAG_DEGRADED),
        "now_s": clock.now_s(),
        "counts": reader.directory.counts(),
        "memory": {
            "samples_committed_bytes": samples.committed_bytes,
            "samples_used_bytes": totals["samples_bytes"],
        },
        "log": {"written_seq": control.written, "durable_seq": control.durable},
        "counters": totals,
        "workers": [
            {
                "kind": _KINDS.get(slot.kind, "?"),
                "index": slot.index,
                "pid": slot.pid,
                "connections": slot.snapshot()["connections_open"],
                "epoch": slot.epoch,
            }
            for slot in control.workers()
            if slot.state != WORKER_FREE
        ],
    }
