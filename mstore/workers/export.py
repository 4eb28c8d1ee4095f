"""The export helper: a process that writes the files of the ended intervals and ends.

Lines of JSON on standard output, as helper.py says. What the last one wrote is noted in DIR/run/export.json.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mstore import clock
from mstore.attach import attach
from mstore.compat.exporting import Export
from mstore.compat.sinks import Exported
from mstore.compat.source import Source, attached
from mstore.compat.tidying import remove_older
from mstore.errors import MstoreError, Unavailable
from mstore.log import set_up_logging
from mstore.persistence.files import export_note_path
from mstore.persistence.owned_files import OwnedFiles
from mstore.workers import stacks
from mstore.workers.process import EXIT_FAILED, die_with_parent, ignore_signals, set_name

_TELL_EVERY_S = 0.5
_NICE = 10
_REST_S_MAX = 0.2
"""After each host it rests as long as that took, so that it takes half a core at most."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written: each window [start + k * window_s, ...) of [start, end) by itself; a log as a whole."""

    store_dir: str
    instance: int
    parent_pid: int
    directory: str
    format: str
    start: int
    end: int
    window_s: int
    keep_s: int
    lock_inode: tuple[int, int] | None
    """See WorkerSpec."""

    def files(self) -> OwnedFiles:
        return OwnedFiles(Path(self.store_dir), self.lock_inode)

    def windows(self) -> list[tuple[int, int]]:
        step_s = self.end - self.start if self.format == "wal" else self.window_s
        return [(start, start + step_s) for start in range(self.start, self.end, max(1, step_s))]


def write(
    job: Job, source: Source, tell: Callable[[dict[str, Any]], None], rest: Callable[[float], None]
) -> Exported:
    """Write all windows, then remove what is too old. raises MstoreError"""
    windows, total, files = job.windows(), Exported(), job.files()
    pace = _Pace(len(windows), tell, rest)
    for start, end in windows:
        export = Export(
            source, Path(job.directory), job.format, start, end,
            tell=pace.host_done, window_s=job.window_s, files=files,
        )  # fmt: skip
        total.add(export.run())
        pace.n_windows += 1
    if job.keep_s:
        remove_older(files, Path(job.directory), job.format, job.end - job.keep_s - job.window_s)
    return total


class _Pace:
    """Tells how far it is, and rests after each host."""

    def __init__(
        self, n_all: int, tell: Callable[[dict[str, Any]], None], rest: Callable[[float], None]
    ) -> None:
        self._n_all = n_all
        self._tell = tell
        self._rest = rest
        self.n_windows = 0
        """Done so far."""
        self._told_s = self._began_s = clock.monotonic_s()

    def host_done(self, n_done: int, n_hosts: int, _n_samples: int) -> None:
        now_s = clock.monotonic_s()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            self._tell({"share": (self.n_windows + n_done / max(1, n_hosts)) / self._n_all})
        self._rest(min(_REST_S_MAX, now_s - self._began_s))
        self._began_s = clock.monotonic_s()


def main(argument: str) -> int:
    job = Job(**json.loads(argument))
    die_with_parent(job.parent_pid)
    ignore_signals()
    set_name("mstore:export", Path(job.store_dir))
    set_up_logging("export")
    stacks.register(Path(job.store_dir), "export", job.lock_inode)
    os.nice(_NICE)
    try:
        with attach(job.store_dir) as reader:
            if reader.instance != job.instance:
                raise Unavailable("the store was started again")
            done = write(job, attached(reader), _tell, time.sleep)
        if done.n_samples:  # an empty store has nothing that a later export could build on
            note = {**asdict(job), "at_s": clock.now_s(), **done.to_plain()}
            job.files().replace(export_note_path(Path(job.store_dir)), json.dumps(note).encode())
        _tell({"done": done.to_plain()})
    except MstoreError as error:
        _tell({"failed": str(error)})
        return EXIT_FAILED
    return 0


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
