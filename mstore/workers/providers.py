"""The process that asks who is protected, so that the persister waits for no file and no network.
`python -m mstore.workers.providers JOB`.

    persister  --JOB-->              ProviderJob as JSON
               <-- lines of JSON --  {"source": 1, "hosts": {cluster: [host, ...]}} or {"source": 2, "failed": "why"}

The file is looked at every second and read when it has changed, the address is asked every `interval_s`; what failed is
said again every `interval_s`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mstore import clock
from mstore.log import set_up_logging
from mstore.shm.protection import Source
from mstore.workers import stacks, used_nodes
from mstore.workers.process import die_with_parent, ignore_signals, set_name
from mstore.workers.provider_job import ProviderJob

LOOK_EVERY_S = 1.0


class Providers:
    """File and address, each looked at when it is due."""

    def __init__(self, job: ProviderJob) -> None:
        self._job = job
        self._seen: tuple[int, int, int] | None = None
        self._failed = False
        """What was seen last could not be read: it is tried again, for that may end without a change of the file."""
        self._due_s = dict.fromkeys(Source, 0.0)

    def news(self) -> Iterator[dict[str, Any]]:
        """What there is to say now."""
        if self._job.file and self._file_is_due():
            answer = self._answer(Source.FILE, lambda: used_nodes.read(Path(self._job.file)))
            self._failed = "failed" in answer
            yield answer
        if self._job.url and clock.monotonic_s() >= self._due_s[Source.URL]:
            self._due_s[Source.URL] = clock.monotonic_s() + self._job.interval_s
            yield self._answer(Source.URL, self._ask)

    def _file_is_due(self) -> bool:
        try:
            status = os.stat(self._job.file)
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            seen = None
        changed = seen is not None and seen != self._seen
        again = seen is None or self._failed
        if changed or (again and clock.monotonic_s() >= self._due_s[Source.FILE]):
            self._seen = seen
            self._due_s[Source.FILE] = clock.monotonic_s() + self._job.interval_s
            return True
        return False

    def _ask(self) -> used_nodes.Hosts:
        before_s = clock.now_s() - self._job.retention_s
        return used_nodes.ask(self._job.url, used_nodes.token_of(self._job.token_file), before_s)

    def _answer(self, source: Source, find: Callable[[], used_nodes.Hosts]) -> dict[str, Any]:
        try:
            return {"source": int(source), "hosts": find()}
        except used_nodes.Unanswered as failure:
            return {"source": int(source), "failed": str(failure)}


def main() -> int:
    job = ProviderJob(**json.loads(sys.argv[1]))
    die_with_parent(job.parent_pid)
    ignore_signals()
    set_name("mstore:protect")
    set_up_logging("providers")
    stacks.register(Path(job.store_dir), "providers", job.lock_inode)
    providers = Providers(job)
    while True:
        for line in providers.news():
            print(json.dumps(line), flush=True)
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
