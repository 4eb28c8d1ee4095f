"""Messages between ingest workers and the persister, on control.sock."""

from __future__ import annotations

from typing import Any, ClassVar

from mstore.ipc import checks
from mstore.ipc.checks import Bin
from mstore.ipc.messages.base import Message, message


@message
class Intern(Message):
    """Key i is keys[offsets[i]:offsets[i + 1]]; offsets i64[n + 1], times i64[n] -> Interned."""

    cluster: Bin
    keys: Bin
    offsets: Bin
    times: Bin
    deadline_ms: int = 0


@message
class Interned(Message):
    """refs u64[n] (or ignore words), types u8[n], kinds u8[n]."""

    refs: Bin
    types: Bin
    kinds: Bin


@message
class InternPaths(Message):
    """As Open, with times i64[n] -> Interned."""

    MANY: ClassVar[bool] = True
    paths: list[list[str]]
    times: Bin
    specs: list[Any] | None = None
    deadline_ms: int = 0


RULES: checks.Rules = {
    ("InternPaths", "paths"): checks.paths,
    ("InternPaths", "specs"): checks.specs,
}
"""Checks beyond the type, by (message, field)."""
