"""Messages of a subscription on query.sock: what was asked once is answered again and again, until it is cancelled.

Follow            ->  FollowBegun, then, all with the request id of Follow:
                      Followed (new series), FollowedSamples, FollowMissed ... in any order
Cancel(target)    ->  Error cancelled, and nothing after it
"""

from __future__ import annotations

from typing import Any, ClassVar

from mstore.ipc import checks
from mstore.ipc.checks import Bin
from mstore.ipc.messages.base import Message, message


@message
class Follow(Message):
    """Samples from now on of the series that match a selector, new ones included.

    selector  text, as mstore.selector reads it
    metrics   names; [] = all
    since_ms  also what memory holds from this time on, Unix ms; None = only what is new
    """

    selector: str
    metrics: list[str]
    since_ms: int | None = None
    deadline_ms: int = 0


@message
class FollowBegun(Message):
    """Whatever is acknowledged from now on will come. `seq`: the last block of the log before it."""

    seq: int
    n_series: int


@message
class Followed(Message):
    """Series under the indexes first, first + 1, ...

    Each is [cluster, host, metric, type, type_id, subtype, subtype_id, step_s, unit, ["name:type", ...]].
    """

    MANY: ClassVar[bool] = True
    first: int
    series: list[list[Any]]


@message
class FollowedSamples(Message):
    """Samples in the order in which the store applied them.

    index      u32[n]: of the series, announced before
    stamps_ms  i64[n]: grid: the nominal time of the slot
    types      u8[n]: 1 f32, 2 f64, 3 u64: one word; 0: a row of a stamped series, a word a column
    words      u64[k]: floats as bits of a double
    stored     1: what memory held (`since_ms`); 0: as it came
    """

    index: Bin
    stamps_ms: Bin
    types: Bin
    words: Bin
    stored: int = 0


@message
class FollowMissed(Message):
    """Samples that this subscriber did not take in time: n_samples (-1 = not known), none earlier than since_ms."""

    n_samples: int
    since_ms: int


RULES: checks.Rules = {}
"""Checks beyond the type, by (message, field)."""
