"""Where processes are killed: the points of mstore/faults.py by kind of process, and how often each kind dies."""

from __future__ import annotations

from collections.abc import Iterable

POINTS = {
    "persister": (
        "drain.begin", "drain.written", "drain.applied", "drain.noted", "catalog.written", "intern.made",
        "intern.published", "recovery.read", "persister.opened", "files.fsync", "files.rename", "files.renamed",
        "files.fdatasync", "files.create", "files.unlink", "births.ordered", "free.written", "protect.written",
        "persister.closing",
    ),
    "ingest": ("ingest.published", "ingest.asking", "ingest.waiting", "ingest.reply"),
    "query": ("query.reply",),
    "snapshot": (
        "files.create", "files.fdatasync", "snapshot.copied", "files.rename", "files.renamed", "files.fsync",
        "files.unlink",
    ),
    "archive": (
        "archive.written", "archive.published", "archive.committed", "archive.day_unnamed", "files.rename",
        "files.renamed", "files.fsync", "files.unlink",
    ),
    "mstore": (
        "supervisor.handing_out", "supervisor.made", "supervisor.spawned", "supervisor.renewing", "births.ordered",
    ),
    "nursery": ("nursery.forked",),
    "helpers": ("nursery.forked",),
    "export": (),
    "protect": (),
    "archive-reader": (),
}  # fmt: skip
"""By process, workers of a kind together; who has none is killed by its number alone."""
AT_A_START = {
    "recovery.read", "persister.opened", "files.fsync", "files.rename", "files.renamed", "files.fdatasync",
    "files.create", "files.unlink",
}  # fmt: skip
"""Points that a persister passes when it starts: it is made to."""
AT_A_STOP = {"persister.closing"}
"""Points that it passes when the store is stopped: a round may end with that, instead of the supervisor's death."""
OF_CHORES = {"free.written", "protect.written"}
"""Points that are passed when somebody gives an order, which is done in a part of the stores (kill_setups.py)."""
MANY_HITS = {
    "drain.begin",
    "drain.written",
    "drain.applied",
    "drain.noted",
    "ingest.published",
    "ingest.reply",
}
BETWEEN = {
    "persister": (10, 40),
    "ingest": (1, 40),
    "query": (2, 8),
    "snapshot": (0, 4),
    "nursery": (2, 10),
    "helpers": (2, 10),
    "archive": (0, 4),
    "export": (2, 20),
    "protect": (4, 20),
    "archive-reader": (2, 20),
}
"""At most so many deaths of others, and so many columns acknowledged, between two deaths: a persister's takes all workers
along, and the memory is adopted anew."""


REST = 3
"""Where orders are given, so many times more comes between: they take a while."""


def between(process: str, *, chores: bool) -> tuple[int, int]:
    n_deaths, n_columns = BETWEEN.get(kind_of(process), (0, 0))
    return (n_deaths * REST, n_columns * REST) if chores else (n_deaths, n_columns)


def kind_of(process: str) -> str:
    """ingest-1 -> ingest"""
    name, _, number = process.rpartition("-")
    return name if number.isdigit() else process


def points_of(process: str, *, chores: bool) -> tuple[str, ...]:
    """Those that it comes to while the store runs. chores: orders are given in this store"""
    left_out = AT_A_STOP if chores else AT_A_STOP | OF_CHORES
    return tuple(point for point in POINTS[kind_of(process)] if point not in left_out)


def all_points() -> Iterable[str]:
    return {point for points in POINTS.values() for point in points}
