"""The archive helper: a read-only process that archives what it is told and ends.

Lines of JSON on standard output, as helper.py says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.archive.begun import note_begun, refuse_if_gone
from mstore.archive.lives import Memory
from mstore.archive.passes import Orders, run_pass
from mstore.errors import MstoreError
from mstore.log import set_up_logging
from mstore.persistence.owned_files import OwnedFiles
from mstore.shm import layout, segment
from mstore.workers import stacks
from mstore.workers.process import EXIT_FAILED, die_with_parent, ignore_signals, set_name

_TELL_EVERY_S = 0.5
_NICE = 10
"""For passes that nobody waits for."""


def take(job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Carry out a job; what the persister wants to know of it.

    The archive may lie on a file system that hangs, or is not mounted: here that holds up nobody.
    """
    files, root = OwnedFiles(Path(job["store_dir"]), job["lock_inode"]), Path(job["root"])
    refuse_if_gone(files, Path(job["store_dir"]), root)
    directory = _attach(job, "directory", layout.SEG_DIRECTORY)
    samples = _attach(job, "samples", layout.SEG_SAMPLES)
    memory = Memory(directory.segment, samples.segment)
    to_s = everything(memory, job["now_s"]) if job["everything"] else past_retention(memory, job)
    told_s = clock.monotonic_s()

    def progress(share: float, _n_rows: int) -> None:
        nonlocal told_s
        if clock.monotonic_s() - told_s >= _TELL_EVERY_S:
            told_s = clock.monotonic_s()
            tell({"share": share})

    orders = Orders(
        to_s, job["clusters"], job["level"], job["max_bytes"], paced=not job["everything"],
        freeing=job["freeing"], leavers=tuple(map(Path, job["leavers"])),
    )  # fmt: skip
    result = run_pass(files, root, memory, orders, progress)
    note_begun(files, Path(job["store_dir"]), root)
    return asdict(result)


def _attach(job: dict[str, Any], role: str, kind: int) -> segment.Mapping:
    return segment.attach(job["segments"][role], kind, job["instance"], fd=job["segment_fds"].get(role))


def past_retention(memory: Memory, job: dict[str, Any]) -> NDArray[np.int64]:
    """int64[n_metrics]: what retention does not serve any more, so that nothing can be added to it."""
    return memory.directory.kept_from_s(job["now_s"], job["retention_s"])


def everything(memory: Memory, now_s: int) -> NDArray[np.int64]:
    """int64[n_metrics]: all up to now, and the slot that is being filled: its nominal time may be half a step ahead."""
    table = memory.directory.series_table()
    live = table[np.flatnonzero(table["flags"] & layout.SERIES_LIVE)]
    steps = np.zeros(memory.directory.counts()["n_metrics"], np.int64)
    known = live["metric"] < len(steps)
    np.maximum.at(steps, live["metric"][known], live["step_s"][known].astype(np.int64))
    found: NDArray[np.int64] = now_s + 1 + steps
    return found


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main(argument: str) -> int:
    job = json.loads(argument)
    die_with_parent(job["parent_pid"])
    ignore_signals()
    set_name("mstore:archive", Path(job["store_dir"]))
    set_up_logging("archive")
    stacks.register(Path(str(job["store_dir"])), "archive", job["lock_inode"])
    os.nice(0 if job["everything"] else _NICE)
    try:
        _tell({"done": take(job, _tell)})
    except MstoreError as error:
        _tell({"failed": str(error)})
        return EXIT_FAILED
    return 0
