"""What happened to the stores of a run: who was killed where, what was compared and lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What happened, over all stores of a run."""

    killed: Counter[str] = field(default_factory=Counter)
    """By process, or process and point."""
    missed: Counter[str] = field(default_factory=Counter)
    """Orders that nobody carried out in time."""
    n_restarts: int = 0
    n_acknowledged: int = 0
    n_compared: int = 0
    n_lost: int = 0
    n_gone: int = 0
    """Of those compared, freed or expired."""
    n_orphans: int = 0
    """Processes that were left when their store had ended."""
    n_segments_left: int = 0

    def add(self, other: Tally) -> None:
        self.killed.update(other.killed)
        self.missed.update(other.missed)
        self.n_restarts += other.n_restarts
        self.n_acknowledged += other.n_acknowledged
        self.n_compared += other.n_compared
        self.n_lost += other.n_lost
        self.n_gone += other.n_gone
        self.n_orphans += other.n_orphans
        self.n_segments_left += other.n_segments_left

    def to_plain(self) -> dict[str, object]:
        by_kind: Counter[str] = Counter()
        for name, n in self.killed.items():
            by_kind[name.split()[0]] += n
        return {
            "kills": self.killed.total(),
            "by_kind": dict(sorted(by_kind.items())),
            "by_point": dict(sorted((name, n) for name, n in self.killed.items() if "." in name)),
            "at_any_moment": dict(sorted((name, n) for name, n in self.killed.items() if "." not in name)),
            "not_come_to": dict(sorted(self.missed.items())),
            "restarts": self.n_restarts,
            "samples_acknowledged": self.n_acknowledged,
            "samples_compared": self.n_compared,
            "lost": self.n_lost,
            "freed_or_expired": self.n_gone,
            "orphans": self.n_orphans,
            "segments_left": self.n_segments_left,
        }
