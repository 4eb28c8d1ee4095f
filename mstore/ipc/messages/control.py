"""Messages of control.sock: an operator's requests."""

from __future__ import annotations

from mstore import limits
from mstore.ipc import checks
from mstore.ipc.messages.base import Message, message
from mstore.ipc.messages.words import MEMORY


@message
class Stop(Message):
    """End the store. `memory`: what happens to it, one of MEMORY; "" = as configured (keep_memory)."""

    deadline_ms: int = 0
    memory: str = ""


@message
class Restart(Message):
    """End all processes but the supervisor, and start them again; "" keeps the memory where that is possible."""

    deadline_ms: int = 0
    memory: str = ""


@message
class Reload(Message):
    """Read the configuration again -> Done."""

    deadline_ms: int = 0


@message
class Snapshot(Message):
    """Take a snapshot now -> Done."""

    deadline_ms: int = 0


@message
class Hold(Message):
    """Give up nothing of the log while this connection is open, for limit_s at most -> Done {hold, seq}:
    what was acknowledged before is at or before block seq, and durable."""

    limit_s: int
    deadline_ms: int = 0


@message
class States(Message):
    """What every process has to say of itself -> Done {name: state}; one that does not answer in time is missing."""

    deadline_ms: int = 0


RULES: checks.Rules = {
    ("Stop", "memory"): checks.one_of(*MEMORY),
    ("Restart", "memory"): checks.one_of(*MEMORY),
    ("Hold", "limit_s"): checks.between(1, limits.HOLD_S_MAX),
}
"""Checks beyond the type, by (message, field)."""
