"""What questions may need of the archive: metrics of hosts over a range, with what lies just outside of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mstore import functions
from mstore.query.plan import Request

_STEPS = 2
"""An answer on another grid takes the slot that contains its time: a slot or two beyond the ends."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a question may need of one cluster: these metrics of these hosts (None = all) in [start, end) seconds."""

    cluster: str
    hosts: Collection[str] | None
    metrics: Collection[str] | None
    start: int
    end: int
    steps: int = _STEPS
    """Slots of each series before and after that, too."""


def scope_of(request: Request) -> Scope:
    """Of one question; what its function looks at around the range included."""
    before_s, after_s = functions.reach(request.function, request.window, 0)
    return Scope(
        request.cluster, {request.host}, {request.metric}, request.start - before_s, request.end + after_s,
        _STEPS + (functions.ANCHOR_STEPS if request.function else 0),
    )  # fmt: skip


def joined(scopes: Iterable[Scope]) -> list[Scope]:
    """One scope a cluster that holds all that these hold: many questions of a job view become one look."""
    found: dict[str, Scope] = {}
    for one in scopes:
        first = found.setdefault(one.cluster, one)
        found[one.cluster] = Scope(
            one.cluster, _both(first.hosts, one.hosts), _both(first.metrics, one.metrics), min(first.start, one.start),
            max(first.end, one.end), max(first.steps, one.steps),
        )  # fmt: skip
    return list(found.values())


def _both(a: Collection[str] | None, b: Collection[str] | None) -> Collection[str] | None:
    return None if a is None or b is None else {*a, *b}
