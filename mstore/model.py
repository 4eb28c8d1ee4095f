"""The field's nouns as frozen dataclasses and enums: no I/O, no arrays of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mstore import limits


class Reason(IntEnum):
    """Why a line was not written. Names are public (replies, counters, docs); numbers are in key entries.

    UNKNOWN_METRIC counts as ignored, all others as rejected.
    """

    BAD_SYNTAX = 1
    BAD_VALUE = 2
    OUT_OF_RANGE = 3
    BAD_TIMESTAMP = 4
    BAD_ENCODING = 5
    UNKNOWN_FIELD = 6
    NO_HOST = 7
    NO_CLUSTER = 8
    UNKNOWN_METRIC = 9
    TOO_LATE = 10
    TOO_FAR_AHEAD = 11
    TOO_LONG = 12
    SERIES_LIMIT = 13
    STORE_FULL = 14

    @property
    def public(self) -> str:
        return self.name.lower()


N_REASONS = 16


class Precision(IntEnum):
    """Unit of a connection's timestamps; AUTO tells them apart by magnitude."""

    AUTO = 0
    S = 1
    MS = 2
    US = 3
    NS = 4


class Ack(IntEnum):
    """What an acknowledgement promises: applied and written to the system, or fdatasynced."""

    MEMORY = 1
    DURABLE = 2


class FieldMode(IntEnum):
    VALUE = 1
    JOIN = 2


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """The definition of one metric in one cluster (or in all, while it stands in the configuration)."""

    name: str
    step_s: int = 60
    """Seconds between samples; 0 = stamped (rows with their own millisecond stamps)."""
    aggregation: str = "avg"
    """none, sum or avg."""
    type: str = "f32"
    """f32, f64 or u64; of each column for stamped metrics with several columns see `columns`."""
    unit: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    """Stamped metrics with several columns: (name, f64 | u64) each; empty = the one column `value`."""
    retention_s: int = -1
    """How long its samples are kept; 0 = for ever, -1 = as long as the store's."""

    @property
    def stamped(self) -> bool:
        return self.step_s == 0


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of one cluster, as the store has it: what clients and attached programs list."""

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


@dataclass(frozen=True, slots=True)
class SeriesPath:
    """Where a series hangs: cluster / host [/ type+type_id] [/ subtype+subtype_id] : metric."""

    cluster: str
    host: str
    metric: str
    type: str = ""
    type_id: str = ""
    subtype: str = ""
    subtype_id: str = ""

    def levels(self) -> tuple[tuple[str, str], ...]:
        """(type, id) of each level below the cluster. `type=node` is the host itself, with or without an id."""
        found = [("", self.host)]
        if (self.type and self.type != "node") or (not self.type and self.type_id):
            found.append((self.type, self.type_id))
        if self.subtype or self.subtype_id:
            found.append((self.subtype, self.subtype_id))
        return tuple(found)


def is_name(value: object) -> bool:
    """Whether this may be the name of a cluster or a host."""
    if not isinstance(value, str):
        return False
    try:
        n_bytes = len(value.encode())
    except UnicodeEncodeError:
        return False
    return 0 < n_bytes <= limits.NAME_BYTES_MAX and not any(c < " " or "\x7f" <= c < "\xa0" for c in value)
