"""Filling an empty store from its files: what recovery hands definitions, chunks and log records to."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mstore.apply.store import Applied, Store
from mstore.errors import CorruptRecord
from mstore.kernels._restore import load_chunks, prefault
from mstore.kernels._snapshot import series_by_cluster
from mstore.shm import layout

_PREPARE_BYTES = 2 << 20
Counts = tuple[int, int, int, int, int, int, int]


class Refill:
    """One store while it is read back.

    make_room  called when a chunk finds none: the number of chunks evicted, 0 = there is nothing to evict
    room       bytes that chunks may take; None: what the samples' allocator says
    defined    called after definitions: the directory may have grown
    protected  uint8[n]: series below n whose entry is not 0 keep chunks of any age; None: there is none
    """

    def __init__(
        self,
        store: Store,
        *,
        make_room: Callable[[], int] = lambda: 0,
        room: Callable[[], int] | None = None,
        defined: Callable[[], None] = lambda: None,
        protected: NDArray[np.uint8] | None = None,
    ) -> None:
        self._store = store
        self._make_room = make_room
        self._room = room or store.samples.free_bytes
        self._defined = defined
        self.protected = protected
        self._loaded = threading.Event()
        self._thread: threading.Thread | None = None

    def apply(self, records: memoryview) -> Applied:
        """A block of the log; raises what Store.apply_block raises."""
        done = self._store.apply_block(records)
        if done.n_definitions:
            self._defined()
        return done

    def define(self, records: memoryview) -> int:
        """Definitions of a snapshot: how many."""
        count = self._store.directory.apply_definition(records)
        self._defined()
        return count

    def prepare(self, n_bytes: int) -> None:
        """So many bytes of chunks will come: a thread beside gives memory to as much of the empty segment."""
        stop = layout.SAMPLES_DATA + min(n_bytes, self.room())

        def run() -> None:
            at = layout.SAMPLES_DATA
            while at < stop and not self._loaded.is_set():
                step = min(_PREPARE_BYTES, stop - at)
                if not prefault(self._store.samples, at, step):
                    return
                at += step

        self._thread = threading.Thread(target=run, name="mstore-prepare", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """No more chunks come."""
        self._loaded.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def load(self, entries: memoryview, expired_s: int, older_s: int) -> Counts:
        """Chunks of one block of a snapshot, after making room for them.

        returns  chunks loaded; samples in them; chunks of series that are gone; expired; older; without room; evicted
        raises   CorruptRecord for entries that no snapshot's writer makes
        """
        at = n_no_room = n_evicted = 0
        sums = [0] * 5
        while at < len(entries):
            try:
                done = load_chunks(self._store.samples, entries, at, expired_s, older_s, self.protected)
            except ValueError as error:
                raise CorruptRecord(f"a sound block of a snapshot: {error}: a bug in its writer") from error
            at = done.stopped_at
            sums = [before + more for before, more in zip(sums, done[1:], strict=True)]
            if at < len(entries):
                evicted = self._make_room()
                n_evicted += evicted
                if not evicted:  # this one stays out
                    head = np.frombuffer(entries, layout.CHUNK, 1, at)[0]
                    at += layout.CHUNK.itemsize + (int(head["reserved"]) + 7) // 8 * 8
                    n_no_room += 1
        loaded, samples, stale, expired, older = sums
        return loaded, samples, stale, expired, older, n_no_room, n_evicted

    def forget(self, cluster: int) -> None:
        """Free every chunk of a cluster's series: the file they came from turned out damaged."""
        slots, _, clusters = series_by_cluster(self._store.directory.segment)
        for slot in slots[clusters == cluster].tolist():
            self._store.samples.free_series(slot)

    def room(self) -> int:
        return self._room()

    def clusters_with_series(self) -> list[int]:
        found: list[int] = np.unique(series_by_cluster(self._store.directory.segment)[2]).tolist()
        return found

    def name_of(self, cluster: int) -> str:
        """Of a cluster, once its definitions are in memory; "" for a level that nothing defines."""
        try:
            return self._store.directory.level(cluster).name
        except IndexError:
            return ""
