"""The snapshot helper: a read-only process that writes one snapshot and ends. `python -m mstore.workers.snapshot JOB`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mstore.errors import MstoreError
from mstore.log import set_up_logging
from mstore.persistence.files import Files
from mstore.persistence.snapshot import write_snapshot
from mstore.shm import layout, segment
from mstore.shm.control import Control
from mstore.shm.directory import DirectoryReader
from mstore.workers.process import EXIT_FAILED, die_with_parent, ignore_signals, set_name


def take(job: dict[str, object]) -> dict[str, object]:
    """Write the snapshot that `job` asks for; what the persister wants to know of it."""
    instance, names = job["instance"], job["segments"]
    assert isinstance(instance, int)
    assert isinstance(names, dict)
    control = Control(segment.attach(names["control"], layout.SEG_CONTROL, instance))
    directory = segment.attach(names["directory"], layout.SEG_DIRECTORY, instance)
    samples = segment.attach(names["samples"], layout.SEG_SAMPLES, instance)
    info = write_snapshot(
        Files(), Path(str(job["store_dir"])), int(str(job["seq"])), DirectoryReader(directory.segment).dump_definitions(),
        directory.segment, samples.segment, written=lambda: control.written, durable=lambda: control.durable,
    )  # fmt: skip
    return {
        "seq": info.log_seq, "series": info.n_series, "chunks": info.n_chunks, "bytes": info.n_bytes,
        "oldest_kept_seq": info.oldest_kept_seq,
    }  # fmt: skip


def main() -> int:
    job = json.loads(sys.argv[1])
    die_with_parent(job["parent_pid"])
    ignore_signals()
    set_name("mstore:snapshot")
    set_up_logging("snapshot")
    try:
        print(json.dumps(take(job)), flush=True)
    except MstoreError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
