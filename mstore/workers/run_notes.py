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
    """write() makes it as it is to be now, or raises StorageError."""

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
        self._failing: set[Path] = set()

    def start(self) -> None:
        self.look()
        self._timers.later(LOOK_S, self.start)

    def look(self) -> None:
        """What cannot be made is tried again at the next look, and said once."""
        for note in self._notes:
            try:
                if note.wanted() and note.path.parent.is_dir() and self._files.status(note.path) is None:
                    self._make(note)
                self._failing.discard(note.path)
            except StorageError as error:
                if note.path not in self._failing:
                    log.error("%s is missing and cannot be made: %s", note.path, error)
                self._failing.add(note.path)

    def _make(self, note: Note) -> None:
        note.write()
        if note.path in self._failing:  # who knows whether it was ever there
            log.info("%s could not be made before and is there now", note.path)
        else:
            log.warning("%s was removed by somebody and is made again", note.path)
