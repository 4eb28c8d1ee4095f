"""The snapshot helper: a read-only process that writes one snapshot and ends.

Lines of JSON on standard output: {"share": .., "bytes": ..} now and then, {"done": {..}} or {"failed": ".."} last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from mstore import clock
from mstore.apply.store import split_records
from mstore.errors import MstoreError
from mstore.log import set_up_logging
from mstore.persistence.owned_files import OwnedFiles
from mstore.persistence.snapshot import write_snapshot
from mstore.shm import layout, segment
from mstore.shm.control import Control
from mstore.shm.directory import DUMP_BYTES, DirectoryReader
from mstore.workers import stacks
from mstore.workers.process import EXIT_FAILED, die_with_parent, ignore_signals, set_name

_TELL_EVERY_S = 0.5
_NICE = 5
"""Copying can wait: whoever serves comes first on a busy machine."""


def take(job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, object]:
    """Write the snapshot that `job` asks for; what the persister wants to know of it."""
    control = Control(_attach(job, "control", layout.SEG_CONTROL))
    directory = _attach(job, "directory", layout.SEG_DIRECTORY)
    samples = _attach(job, "samples", layout.SEG_SAMPLES)
    store_dir, told_s = Path(job["store_dir"]), clock.monotonic_s()

    def progress(share: float, n_bytes: int) -> None:
        nonlocal told_s
        if clock.monotonic_s() - told_s >= _TELL_EVERY_S:
            told_s = clock.monotonic_s()
            tell({"share": share, "bytes": n_bytes})

    definitions = chain(
        DirectoryReader(directory.segment).dump_definitions(), _protected(job["protected_fd"])
    )
    info = write_snapshot(
        OwnedFiles(store_dir, job["lock_inode"]), store_dir, job["seq"], definitions, directory.segment, samples.segment,
        written=lambda: control.written, durable=lambda: control.durable,
        retention_s=job["retention_s"], unsound=job["unsound"], progress=progress,
    )  # fmt: skip
    return {
        "seq": info.log_seq, "clusters": info.n_clusters, "series": info.n_series, "chunks": info.n_chunks,
        "bytes": info.n_bytes, "oldest_kept_seq": info.oldest_kept_seq,
    }  # fmt: skip


def _attach(job: dict[str, Any], role: str, kind: int) -> segment.Mapping:
    return segment.attach(job["segments"][role], kind, job["instance"], fd=job["segment_fds"].get(role))


def _protected(fd: int) -> Iterator[bytes]:
    """The PROTECT records that the persister handed over, as blocks of definitions."""
    with open(fd, "rb") as stream:
        stream.seek(0)
        yield from split_records(stream.read(), DUMP_BYTES)


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main(argument: str) -> int:
    job = json.loads(argument)
    die_with_parent(job["parent_pid"])
    ignore_signals()
    set_name("mstore:snapshot", Path(job["store_dir"]))
    set_up_logging("snapshot")
    stacks.register(Path(str(job["store_dir"])), "snapshot", job["lock_inode"])
    os.nice(_NICE)
    try:
        _tell({"done": take(job, _tell)})
    except MstoreError as error:
        _tell({"failed": str(error)})
        return EXIT_FAILED
    return 0
