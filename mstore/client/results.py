"""What writing and listing return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of one cluster, as the store defines it; the same fields as attach(DIR).metrics()."""

    cluster: str
    name: str
    step_s: int
    """Seconds between samples; 0 = stamped."""
    unit: str = ""
    aggregation: str = "none"
    type: str = "f32"
    kind: str = ""
    """grid or stamped."""
    columns: tuple[tuple[str, str], ...] = ()
    """Of stamped metrics with several: (name, type) each."""
    origin: str = ""
    """Where the definition came from."""
    retention_s: int = -1
    """How long samples are kept; 0 = for ever, -1 = as long as the store's."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Metric:
        return cls(
            cluster=str(entry.get("cluster", "")),
            name=str(entry.get("name", "")),
            step_s=int(entry.get("step_s", 0)),
            unit=str(entry.get("unit", "")),
            aggregation=str(entry.get("aggregation", "none")),
            type=str(entry.get("type", "f32")),
            kind=str(entry.get("kind", "")),
            columns=tuple((str(name), str(kind)) for name, kind in entry.get("columns", ())),
            origin=str(entry.get("origin", "")),
            retention_s=int(entry.get("retention_s", -1)),
        )
