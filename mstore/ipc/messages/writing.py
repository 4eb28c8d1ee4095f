"""Messages of ingest.sock: lines, columns and rows, and what became of them."""

from __future__ import annotations

from typing import Any, ClassVar

from mstore.ipc import checks
from mstore.ipc.checks import Bin
from mstore.ipc.messages.base import Message, message
from mstore.ipc.messages.words import PRECISIONS


@message
class Lines(Message):
    """Line protocol; whole lines, the last one needs no newline. `precision` "": that of Hello."""

    data: Bin
    precision: str = ""
    deadline_ms: int = 0


@message
class Written(Message):
    """The acknowledgement of a write; `reasons` counts rejected and ignored by model.Reason.public."""

    written: int
    rejected: int
    ignored: int
    reasons: dict[str, int]
    durable: bool


@message
class Open(Message):
    """Handles for series: [cluster, host, metric, type, type_id, subtype, subtype_id] each, "" for none.

    specs: None, or one element for each series: None, or, for a metric that is not defined yet,
    [step_s, aggregation, type, unit, [[column, type], ...]].
    """

    MANY: ClassVar[bool] = True
    series: list[list[str]]
    specs: list[Any] | None = None
    deadline_ms: int = 0


@message
class Opened(Message):
    """handles u32[n] (HANDLE_NONE = refused), types u8[n]; errors: [index, reason] of the refused."""

    MANY: ClassVar[bool] = True
    handles: Bin
    types: Bin
    errors: list[list[Any]]


@message
class Columns(Message):
    """Grid samples: handles u32[n], times i64[m] in seconds, values[m][n] of `type` (1 f32, 2 f64, 3 u64)."""

    handles: Bin
    times: Bin
    values: Bin
    type: int
    deadline_ms: int = 0


@message
class Rows(Message):
    """Rows of one stamped series with k columns: stamps i64[m] in ms, values[m][k] of 8 bytes each."""

    handle: int
    stamps: Bin
    values: Bin
    deadline_ms: int = 0


RULES: checks.Rules = {
    ("Lines", "precision"): checks.one_of(*PRECISIONS),
    ("Open", "series"): checks.paths,
    ("Open", "specs"): checks.specs,
    ("Opened", "errors"): checks.open_errors,
    ("Columns", "type"): checks.between(1, 3),
    ("Rows", "handle"): checks.between(0, 0xFFFF_FFFF),
}
"""Checks beyond the type, by (message, field)."""
