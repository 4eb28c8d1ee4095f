"""Which metrics of which hosts arrive: values only, the same from a socket and from shared memory. No numpy.

A metric of a host is healthy when every series of it, of the host and of all its parts, has a sample in the last
STEPS_MAX steps; *degraded* when one of them is behind; *missing* when there is none at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mstore.errors import ProtocolError, UnknownSelector

STEPS_MAX = 5
"""A series whose newest sample's slot ended longer ago than this many steps is behind."""

FULL, PARTIAL, FAILED = "full", "partial", "failed"


@dataclass(frozen=True, slots=True)
class HostHealth:
    """One host."""

    host: str
    known: bool
    """Whether the store has ever heard of it."""
    expected: tuple[str, ...] = ()
    """The metrics that were looked for."""
    degraded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """full: every expected metric is healthy; partial: some are; failed: none, or the host is not known."""
        n_ill = len(self.degraded) + len(self.missing)
        if not self.known or (n_ill and n_ill == len(self.expected)):
            return FAILED
        return PARTIAL if n_ill else FULL

    def to_dict(self) -> dict[str, str]:
        """The metric store's: {"State", "HealthMetrics"}, the latter a text of JSON, "" for an unknown host."""
        listed = {"degraded": list(self.degraded), "missing": list(self.missing)}
        text = json.dumps(listed, ensure_ascii=False, separators=(",", ":"))
        return {"State": self.state, "HealthMetrics": text if self.known else ""}


# States of a metric of a host: those of kernels/_health, and one more.
ABSENT, FRESH, STALE, NOT_EXPECTED = 0, 1, 2, 3


class Health(Mapping[str, HostHealth]):
    """Hosts in the order asked: health["f0201"].state.

    known    1 for each host that the store has heard of
    states   a row for each host, a column for each metric: ABSENT, FRESH, STALE, NOT_EXPECTED
    """

    def __init__(
        self, cluster: str, hosts: Sequence[str], metrics: Sequence[str], known: bytes, states: bytes
    ) -> None:
        """raises ProtocolError when the tables do not fit together"""
        self.cluster = cluster
        self.hosts = hosts
        self.metrics = metrics
        self.known_flags = known
        self.states = states
        if (
            len(known) != len(hosts)
            or len(states) != len(hosts) * len(metrics)
            or max(states, default=0) > NOT_EXPECTED
        ):
            raise ProtocolError(
                f"health of {len(hosts)} hosts and {len(metrics)} metrics with {len(states)} states"
            )
        self._rows = {host: row for row, host in enumerate(hosts)}

    def __getitem__(self, host: str) -> HostHealth:
        row, n = self._rows[host], len(self.metrics)
        named = list(zip(self.metrics, self.states[row * n : (row + 1) * n], strict=True))
        expected = tuple(name for name, state in named if state != NOT_EXPECTED)
        if not self.known_flags[row]:
            return HostHealth(host, False, expected)
        degraded, missing = (tuple(name for name, state in named if state == ill) for ill in (STALE, ABSENT))
        return HostHealth(host, True, expected, degraded, missing)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def known(self, host: str) -> HostHealth:
        """That of a host, which the store must have heard of; raises UnknownSelector"""
        found = self.get(host)
        if found is None or not found.known:
            raise UnknownSelector(f"there is no host {host!r} in cluster {self.cluster!r}", host=host)
        return found

    def in_state(self, state: str) -> list[str]:
        """The hosts that are full, partial or failed."""
        return [host for host, one in self.items() if one.state == state]

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.in_state(state))} {state}" for state in (FULL, PARTIAL, FAILED))
        return f"<Health of {self.cluster}: {len(self)} hosts, {counts}>"

    def to_dict(self) -> dict[str, dict[str, str]]:
        """The metric store's shape: {host: {"State", "HealthMetrics"}}"""
        return {host: one.to_dict() for host, one in self.items()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))
