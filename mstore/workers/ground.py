"""What a running store stands on: DIR/lock and its sockets are still where it put them, and still its own.

DIR/lock keeps a second store out only as long as both mean the same file. When somebody removes or replaces it, or all
of DIR, a second store takes the path without a word, and both would write there. So the supervisor looks about every few
seconds: what only lost its name is mended, when the lock itself is no longer this store's the store stops.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mstore.persistence import files
from mstore.workers.door import Door
from mstore.workers.ownership import inode_of
from mstore.workers.startup import prepare_run

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks; one is four stat calls."""


class Ground:
    """DIR as it was when this store took its lock."""

    def __init__(self, store_dir: Path, lock_fd: int, door: Door) -> None:
        self._dir = store_dir
        self._lock = files.lock_path(store_dir)
        self.lock_inode = inode_of(lock_fd)
        """Of DIR/lock as it was taken."""
        self._door = door

    def lost(self) -> str:
        """Why this store must not go on in DIR; "" when it may, or when that cannot be told now."""
        try:
            now = inode_of(self._lock)
            if now is None:
                return f"{self._lock} is gone: its directory was removed or moved, or the file was"
            if now != self.lock_inode:
                return f"{self._lock} is another file than the one this store holds: another store may use it"
            for path in self._door.strangers():
                return f"{path} is another's: somebody else listens there"
        except OSError as error:
            log.debug("cannot look at %s: %s", self._dir, error)
        return ""

    def mend(self) -> None:
        """Make what lost its name again; what cannot be made is tried again at the next look."""
        try:
            prepare_run(self._dir)
            self._door.mend()
        except OSError as error:
            log.error("cannot mend %s: %s", self._dir / "run", error)
