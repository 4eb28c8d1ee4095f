"""Why a store is degraded: the flag stands as long as there is any reason."""

from __future__ import annotations

from mstore.shm import layout
from mstore.shm.control import Control

DAMAGE = "damage"
"""Files that the start needed were damaged; until the next start."""
LOG = "log"
"""The log refuses what is to be written."""
SYNC = "sync"
"""What is written cannot be made durable."""
FILES = "files"
"""Files that the store counts on are gone or changed."""


class Troubles:
    """By the persister, the only writer of the flags."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._causes: set[str] = set()

    def begin(self, cause: str) -> bool:
        """False when it is known already."""
        known = cause in self._causes
        self._causes.add(cause)
        self._control.set_flag(layout.FLAG_DEGRADED, True)
        return not known

    def end(self, cause: str) -> bool:
        """False when there was no such trouble."""
        known = cause in self._causes
        self._causes.discard(cause)
        self._control.set_flag(layout.FLAG_DEGRADED, bool(self._causes))
        return known
