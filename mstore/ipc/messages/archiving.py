"""Messages of control.sock about the archive."""

from __future__ import annotations

from mstore.ipc import checks
from mstore.ipc.messages.base import Message, message


@message
class ArchiveNow(Message):
    """Archive what memory holds of these clusters ([] = all) -> Done {rows, bytes, parts, days_deleted, freed, failed}.

    `delete`: then free what was archived, whole chunks, as retention would.
    """

    clusters: list[str]
    delete: bool = False
    deadline_ms: int = 0


RULES: checks.Rules = {}
"""Checks beyond the type, by (message, field)."""
