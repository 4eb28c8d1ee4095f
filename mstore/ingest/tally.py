"""Counts of what became of lines and samples, by the public reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.model import N_REASONS, Reason


class Tally:
    """written + rejected + ignored = lines seen (text) or samples seen (columns)."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(N_REASONS, dtype=np.int64)
        """[0] written, [reason] refused for that reason."""

    def add(self, counts: NDArray[np.int64]) -> None:
        self.counts += counts

    def refuse(self, reason: int, n: int = 1) -> None:
        self.counts[reason] += n

    @property
    def written(self) -> int:
        return int(self.counts[0])

    @property
    def ignored(self) -> int:
        return int(self.counts[Reason.UNKNOWN_METRIC])

    @property
    def rejected(self) -> int:
        return self.total - self.written - self.ignored

    @property
    def reasons(self) -> dict[str, int]:
        return {reason.public: int(self.counts[reason]) for reason in Reason if self.counts[reason]}

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def words(self, durable: bool) -> str:
        """As in the one line a text connection gets once everything is acknowledged."""
        parts = [
            f"written={self.written} rejected={self.rejected} ignored={self.ignored}",
            f"durable={'yes' if durable else 'no'}",
            *(f"{name}={count}" for name, count in self.reasons.items()),
        ]
        return " ".join(parts)

    def details(self, durable: bool) -> dict[str, Any]:
        """As in the details of an error that came after these."""
        return {
            "written": self.written, "rejected": self.rejected, "ignored": self.ignored, "reasons": self.reasons,
            "durable": durable,
        }  # fmt: skip
