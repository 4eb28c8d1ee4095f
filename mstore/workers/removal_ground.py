"""The removal machine's ground in the persister: directory, rings, epochs and the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mstore.errors import Degraded, StorageError
from mstore.kernels._ring import fence_full
from mstore.shm import layout

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)


class StoreGround:
    """See removal.Ground; every call is made between two drains, on the persister's one thread."""

    def __init__(self, persister: Persister) -> None:
        self._persister = persister

    def hide(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._persister.directory.remove_begin(slot)
        # SYNC POINT (full) worker-epoch: hidden before the epochs are read, as they enter theirs before they look up.
        fence_full()

    def epochs(self) -> Mapping[int, int]:
        workers = self._persister.control.workers()
        return {slot.index: slot.epoch for slot in workers if slot.kind == layout.WORKER_INGEST}

    def heads(self) -> Sequence[int]:
        return [ring.head() for ring in self._persister.rings]

    def drained(self) -> Sequence[int]:
        return [ring.drained() for ring in self._persister.rings]

    def used(self, slot: int) -> bool:
        series = self._persister.directory.series(slot)
        return series is None or series.n_chunks != 0

    def show(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._persister.directory.remove_abort(slot)

    def remove(self, slots: Sequence[int]) -> int:
        """What the log refuses is kept and logged before anything else is: the slots are free by then."""
        persister = self._persister
        found = [persister.store.remove_finish(slot) for slot in slots]
        records = b"".join(found)
        if records:
            try:
                persister.append_catalog(records)
                persister.directory.publish()
            except (StorageError, Degraded) as error:
                log.warning("the removal of series waits for the log: %s", error)
        return sum(bool(one) for one in found)
