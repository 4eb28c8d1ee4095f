"""What an order to protect data, or to free it, has come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Freed:
    """What an order to free has freed."""

    chunks: int
    samples: int
    """Missing slots are not counted."""
    series: int
    """That lost a chunk."""
    levels: int
    """That were meant, those below the ones named included; 0 = nothing matches."""

    @classmethod
    def of(cls, details: dict[str, Any]) -> Freed:
        return cls(*(int(details.get(name, 0)) for name in ("chunks", "samples", "series", "levels")))


@dataclass(frozen=True, slots=True)
class Protection:
    """What an order to protect has come to."""

    n_hosts: int
    """Protected now, by anybody."""
    unknown: tuple[str, ...] = ()
    """The first of the names given that are no host of the cluster today: with neither data nor a place in its topology.
    They are protected when they appear."""
    n_unknown: int = 0

    @classmethod
    def of(cls, details: dict[str, Any]) -> Protection:
        unknown = tuple(map(str, details.get("unknown", ())))
        return cls(int(details["protected"]), unknown, int(details.get("n_unknown", 0)))
