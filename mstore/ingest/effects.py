"""What a session asks of the process around it.

Sessions are generators: they consume bytes and yield an effect whenever they cannot go on by themselves. The
shell carries the effect out (asynchronously, while other connections are served) and sends the answer back. A
test does the same without a socket.

    session.consume(data)  --yield NeedReferences-->  shell asks the persister  --send(References)-->
                           --yield NeedRoom------->   shell waits for the durable position to move --send(None)-->
                           --return remainder----->   bytes that are not yet a whole line or frame
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class References:
    """The persister's answer: one entry for each key or path asked about."""

    refs: bytes
    """uint64 each: generation << 32 | slot, or an ignore word."""
    types: bytes
    """uint8 each: value type."""
    kinds: bytes
    """uint8 each: grid or stamped."""


@dataclass(frozen=True, slots=True)
class NeedReferences:
    """Unknown keys of a text batch, to be interned. Answered with References."""

    cluster: bytes
    """The connection's default cluster, empty = none."""
    keys: bytes
    offsets: bytes
    """int64[n + 1] into keys."""
    times: bytes
    """int64[n], seconds: the first sample of each key, which fixes a new grid's anchor."""


@dataclass(frozen=True, slots=True)
class NeedPaths:
    """Series named by their path (columns frames). Answered with References."""

    paths: list[list[str]]
    times: bytes
    specs: list[Any] | None


@dataclass(frozen=True, slots=True)
class NeedRoom:
    """The ring is full: go on when the durable position has moved. Answered with None."""


@dataclass(frozen=True, slots=True)
class NeedTurn:
    """Types or steps of series are being changed: look again when the persister has done something. Answered with None."""


Effect = NeedReferences | NeedPaths | NeedRoom | NeedTurn
Steps = Generator[Effect, Any, bytes]
"""A session's work on some bytes: yields effects, returns the bytes it could not use yet."""
