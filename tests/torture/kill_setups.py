"""What the killed stores are: which configuration, which processes, who writes. One of four, by the seed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tests.torture.kill_writers import STEP_S, Writer, first_s

_ALWAYS = ("persister", "ingest-0", "query-0", "snapshot")
_FORKING = ("nursery", "helpers")
"""Who starts the others. Where they die all the time the store is hardly ever there to be given orders."""
SHORT_S = 1200
"""What the cluster `short` keeps: chunks of it expire while the store is tortured."""
SHORT_MARGIN_S = 30
PROTECTED = "running.json"

_PLAIN = f'default_step = {STEP_S}\nretention = "0"\nquery_workers = 1\n'
_CHORES = f"""
default_step = {STEP_S}
retention = "60d"
memory_cap = "28MiB"
max_series = 4000
ring_bytes = "4MiB"
query_workers = 1
ingest_workers = 2
unknown_metrics = "register"

[clusters.short]
retention = "{SHORT_S}s"
[clusters.short.metrics.m]
step = 1

[export]
directory = "export"
format = "json"
interval = "1m"
keep = "10m"

[protect]
file = "{PROTECTED}"
interval = "5s"
"""
_ARCHIVE = """
[archive]
mode = "archive"
interval = "10s"
max_bytes = "4MiB"
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """One kind of store.

    processes  who is killed, besides the supervisor
    chores     somebody frees, protects, follows, backs up; there is retention, a cap, an export
    archives   what leaves memory is in an archive, and is answered from there
    """

    name: str
    config: str
    processes: tuple[str, ...]
    chores: bool = False
    archives: bool = False

    def writers(self, directory: Path) -> list[Writer]:
        began_s = first_s()
        writers = [
            Writer(directory, "frames", began_s, "durable", framed=True),
            Writer(directory, "text", began_s, "durable", overwrites="ingest-1" in self.processes),
            Writer(directory, "memory", began_s, "memory"),
        ]
        if not self.chores:
            return [*writers, Writer(directory, "churn", began_s, "durable", churns=True)]
        expiring_s = int(time.time()) - SHORT_S + SHORT_MARGIN_S
        return [
            *writers,
            Writer(directory, "freed", began_s, "durable", anchor=60),
            Writer(directory, "short", expiring_s, "durable", step_s=1, anchor=20, retention_s=SHORT_S),
        ]


SETUPS = (
    Setup("one ingest worker", _PLAIN + "ingest_workers = 1\n", (*_ALWAYS, *_FORKING)),
    Setup("two ingest workers", _PLAIN + "ingest_workers = 2\n", (*_ALWAYS, "ingest-1", *_FORKING)),
    Setup("expiry", _CHORES, (*_ALWAYS, "ingest-1", "export", "protect"), chores=True),
    Setup(
        "archive",
        _CHORES + _ARCHIVE,
        (*_ALWAYS, "ingest-1", "export", "protect", "archive", "archive-reader"),
        chores=True,
        archives=True,
    ),
)


def setup_of(seed: int) -> Setup:
    return SETUPS[seed % len(SETUPS)]
