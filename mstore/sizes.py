"""What a level of the tree holds: the answer of sizes(), the same from a client and from an attached program."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LevelSize:
    """One level with all below it."""

    path: tuple[str, ...]
    """Names from the cluster down."""
    n_bytes: int
    """Of its chunks in shared memory, with their headers and the series' link tables."""
    chunks: int
    series: int
    samples: int
    """Missing slots are not counted."""
