"""Files of the log and of snapshots that somebody removed or changed while the store runs: noticed, said, made good.

    look (every 5 s)  -->  a file is not what it was
                           |  the log leaves its newest file, if that is one: from here on nothing acknowledged rests on it
                           |  flag degraded, counters files_lost and unprotected_seq, an error in the log
                           v
                      a snapshot at once; generations that need what is gone count no longer
                           v
                      it holds all up to unprotected_seq: protected again, flag off

The memory holds everything meanwhile: only if it is lost before that snapshot is complete, acknowledged samples are.
unprotected_seq outlives a killed persister in kept memory: its successor goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from mstore.errors import StorageError
from mstore.persistence.inventory import Inventory, LostFile
from mstore.persistence.owned_files import OwnedFiles
from mstore.workers.troubles import FILES

if TYPE_CHECKING:
    from mstore.workers.persister import Persister
    from mstore.workers.snapshots import Snapshots

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks: a stat for each segment and for each file of the kept generations."""
_TELL_MAX = 8
"""Files named in one message."""


class FileWatch:
    """Owned by the persister's housekeeping.

    unsound  sequences of generations that do not count: the start found them damaged
    """

    def __init__(
        self, persister: Persister, files: OwnedFiles, snapshots: Snapshots, unsound: Collection[int]
    ) -> None:
        self._persister = persister
        self._snapshots = snapshots
        self._files = files
        self._inventory = Inventory(files, persister.spec.directory)
        self._unsound = set(unsound)
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def unprotected(self) -> bool:
        """Something acknowledged is in memory only."""
        return self._persister.slot.get("unprotected_seq") > 0

    def start(self) -> None:
        """The first look tells what is missing already, and takes the rest as it is."""
        if self.unprotected:  # the persister before noticed it, and did not live to see it made good
            self._persister.troubles.begin(FILES)
            self._give_up_generations(self._persister.slot.get("unprotected_seq"))
        self._look(self._first_look)

    def stop(self) -> None:
        """A last look: what was lost since the one before is in memory, and the next start finds neither, perhaps."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._guard(self._next_look)

    def snapshot_taken(self, seq: int, oldest_kept_seq: int) -> None:
        """A generation that holds everything up to `seq` is complete, those before oldest_kept_seq have gone."""
        if self.unprotected and seq >= self._persister.slot.get("unprotected_seq"):
            self._persister.slot.set("unprotected_seq", 0)
            self._persister.troubles.end(FILES)
            log.info("a snapshot of block %d holds what the lost files held: all is protected again", seq)
        self._unsound = {one for one in self._unsound if one >= oldest_kept_seq and one != seq}
        self._inventory.forget({seq})  # it may have replaced one of the same block
        with_kept = self._inventory.look_at_snapshots(oldest_kept_seq)
        self._guard(lambda: with_kept + self._learn())

    # --- looking

    def _look(self, look: Callable[[], list[LostFile]]) -> None:
        if self._stopped:
            return
        self._guard(look)
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look, self._next_look)

    def _guard(self, look: Callable[[], list[LostFile]]) -> None:
        try:
            lost = look()
            if lost and self._files.lost():
                return  # DIR itself is: the log stays where it is open, and the supervisor ends the store
        except StorageError as failure:
            log.warning("cannot look after the files: %s", failure)
            return
        if lost:
            self._react(lost)
        self._publish()

    def _first_look(self) -> list[LostFile]:
        return self._inventory.look_at_log(self._persister.wal.segment_files()) + self._learn()

    def _next_look(self) -> list[LostFile]:
        lost = self._inventory.look_at_log(self._persister.wal.segment_files())
        if (
            not self._snapshots.under_way
        ):  # its helper removes generations: what is left is looked at when it is done
            lost += self._inventory.look_at_snapshots()
        return lost

    def _learn(self) -> list[LostFile]:
        return self._inventory.learn_snapshots(self._unsound, self._log_first_seq())

    def _log_first_seq(self) -> int:
        segments = self._persister.wal.segment_files()
        return segments[0].first_seq if segments else self._persister.wal.next_seq

    def _publish(self) -> None:
        """For `mstore check` beside this store: what there must be."""
        newest, older = (*self._inventory.generations(), 0, 0)[:2]
        slot = self._persister.slot
        slot.set("log_first_seq", self._log_first_seq())
        slot.set("newest_snapshot_seq", newest)
        slot.set("older_snapshot_seq", older)

    # --- and what follows

    def _react(self, lost: list[LostFile]) -> None:
        persister = self._persister
        named = "; ".join(map(str, lost[:_TELL_MAX])) + (" ..." if len(lost) > _TELL_MAX else "")
        persister.slot.add("files_lost", len(lost))
        if persister.wal.written:  # else nothing was acknowledged yet
            persister.slot.set("unprotected_seq", persister.wal.written)
            persister.troubles.begin(FILES)
        segments = {one.path for one in lost if not one.generation}
        if not persister.wal.abandon(segments, str(lost[0])):
            persister.commit_failed()
        log.error(
            "files that this store counts on were removed or changed by somebody: %s. What they held is in memory, and only"
            " there until a snapshot is complete, which begins now: do not kill the store",
            named,
        )
        self._unsound |= {one.generation for one in lost if one.generation}
        self._give_up_generations(max(one.last_seq for one in lost))

    def _give_up_generations(self, before_seq: int) -> None:
        """Those that need a block up to `before_seq` from the log count no longer; a snapshot at once."""
        self._unsound |= {one for one in self._inventory.generations() if one < before_seq}
        self._inventory.forget(self._unsound)
        self._snapshots.protect(self._unsound)
