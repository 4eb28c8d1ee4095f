"""How chunks go: planned, told, logged, freed, in this order. So they are gone after every replay as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mstore import faults
from mstore.apply.store import ranges_in, split_records
from mstore.persistence.blocks import CATALOG
from mstore.workers.leaving import Leaving, Why

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

_BLOCK_BYTES = 256 << 10
"""Of FREE records in one block."""


class Freeing:
    """Owned by the persister. `settle` logs and publishes definitions that the log refused before.

    leaving  who is told, and may hold back what retention would free
    """

    def __init__(
        self, persister: Persister, settle: Callable[[], None], leaving: Leaving | None = None
    ) -> None:
        self._persister = persister
        self._settle = settle
        self.leaving = leaving or Leaving()

    def free(self, start: int, count: int, before_s: int | NDArray[np.int64], why: Why) -> int:
        """Every chunk of series start .. start + count - 1 that ends at or before `before_s`; the number freed.

        before_s  seconds for all, or int64[count]: INT64_MIN = nothing of that series
        raises    StorageError, Degraded: what is logged by then is freed, the rest is neither logged nor freed
        """
        persister = self._persister
        records, n_chunks = persister.store.plan_free(start, count, before_s)
        if n_chunks:
            self._settle()
            self.leaving.leaves(why, ranges_in(records))
            for piece in split_records(records, _BLOCK_BYTES):
                seq = persister.wal.write(CATALOG, 0, 0, piece)
                faults.hit("free.written")
                persister.store.apply_block(piece)
                persister.wal.note(seq, CATALOG, 0)
        return n_chunks

    def evicted(self, records: bytes) -> None:
        """Tell and log what the memory cap takes, before it is applied.

        raises StorageError, Degraded: nothing goes
        """
        self.leaving.leaves(Why.CAP, ranges_in(records))
        self._persister.log_first(records)
