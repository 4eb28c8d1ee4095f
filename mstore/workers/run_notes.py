"""What the persister wrote into DIR/run for others: made again where a cleaner removed it.

Without DIR/run/archive.json answers lack, without a word, what is in the archive only; without DIR/run/protected the next
start cannot take the memory over. The supervisor does the same for DIR/run itself, the sockets and the note of the memory
(workers/ground); until it has made the directory again there is no place for the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mstore.errors import StorageError
from mstore.persistence.files import Files
from mstore.workers.timers import Timers

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks: a stat for each note."""


@dataclass(frozen=True, slots=True)
class Note:
    """write() makes it as it is to be now; it may raise StorageError."""

    path: Path
    write: Callable[[], None]
    wanted: Callable[[], bool] = lambda: True
    """Whether there is to be one, as the configuration is now."""


class RunNotes:
    """Owned by the persister's housekeeping."""

    def __init__(self, files: Files, timers: Timers, notes: Sequence[Note]) -> None:
        self._files = files
        self._timers = timers
        self._notes = notes
        self._failed = False

    def start(self) -> None:
        self.look()
        self._timers.later(LOOK_S, self.start)

    def look(self) -> None:
        """What cannot be made is tried again at the next look, and said once."""
        try:
            for note in self._notes:
                if note.wanted() and note.path.parent.is_dir() and not self._is_there(note):
                    note.write()
                    if self._is_there(note):
                        log.warning("%s was removed by somebody and is made again", note.path)
            self._failed = False
        except StorageError as error:
            if not self._failed:
                log.error("a note in DIR/run cannot be made again: %s", error)
            self._failed = True

    def _is_there(self, note: Note) -> bool:
        return self._files.status(note.path) is not None
