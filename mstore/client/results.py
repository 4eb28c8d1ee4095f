"""What writing and listing return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mstore.ipc import messages


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of the lines, samples or rows of a write: each is in exactly one of the three counts."""

    written: int = 0
    rejected: int = 0
    """Refused, each for one of `reasons` (model.Reason)."""
    ignored: int = 0
    """Of a metric that the store was not told to keep (reason unknown_metric)."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    durable: bool = True
    """All of it had reached the disk when it was acknowledged."""

    def __add__(self, other: WriteResult) -> WriteResult:
        reasons = dict(self.reasons)
        for name, n in other.reasons.items():
            reasons[name] = reasons.get(name, 0) + n
        return WriteResult(
            self.written + other.written,
            self.rejected + other.rejected,
            self.ignored + other.ignored,
            reasons,
            self.durable and other.durable,
        )

    @classmethod
    def of(cls, reply: messages.Written) -> WriteResult:
        return cls(reply.written, reply.rejected, reply.ignored, reply.reasons, reply.durable)
