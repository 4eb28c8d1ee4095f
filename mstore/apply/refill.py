"""Filling an empty store from its files: what recovery hands definitions, chunks and log records to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mstore.apply.store import Applied, Store
from mstore.errors import CorruptRecord
from mstore.kernels._restore import load_chunks, prefault
from mstore.kernels._snapshot import series_by_cluster
from mstore.shm import layout
from mstore.shm.protection import holds_protection, record_type
from mstore.shm.series_names import series_names

_PREPARE_BYTES = 2 << 20
Counts = tuple[int, int, int, int, int, int, int]


class Refill:
    """One store while it is read back.

    make_room  called when a chunk finds none: the number of chunks evicted, 0 = there is nothing to evict
    room       bytes that chunks may take; None: what the samples' allocator says
    defined    called after definitions: the directory may have grown
    kept_from  int64[n_metrics] of the directory as it is: chunks of a metric that end before its second are too old;
               None: what load() is told holds for all
    Hosts that the records protect keep chunks of any age.
    """

    def __init__(
        self,
        store: Store,
        *,
        make_room: Callable[[], int] = lambda: 0,
        room: Callable[[], int] | None = None,
        defined: Callable[[], None] = lambda: None,
        kept_from: Callable[[], NDArray[np.int64]] | None = None,
    ) -> None:
        self._store = store
        self._make_room = make_room
        self._room = room or store.samples.free_bytes
        self._defined = defined
        self._kept_from = kept_from
        self._kept: tuple[NDArray[np.int64] | None, NDArray[np.uint8] | None] | None = None
        """Seconds by metric, mask by series; found out when the first chunk after a definition comes."""
        self._loaded = threading.Event()
        self._thread: threading.Thread | None = None

    def apply(self, records: memoryview) -> Applied:
        """A block of the log; raises what Store.apply_block raises."""
        done = self._store.apply_block(records)
        if done.n_definitions:
            self._defined()
        return done

    def define(self, records: memoryview) -> int:
        """Definitions of a snapshot, or what it says of protected hosts: how many."""
        self._kept = None
        if record_type(records) == layout.REC_PROTECT:
            return sum(map(self._protect, holds_protection(records)))
        count = self._store.directory.apply_definition(records)
        self._defined()
        return count

    def foresee(self, record: memoryview) -> None:
        """Who will be protected when the log has been replayed: applied now and, which changes nothing, once more then."""
        self._kept = None
        self._protect(record)

    def _protect(self, record: memoryview) -> int:
        self._store.protection.apply(record)
        return 1

    def _exceptions(self) -> tuple[NDArray[np.int64] | None, NDArray[np.uint8] | None]:
        if self._kept is None:
            protected = self._store.directory.protected_series() if len(self._store.protection) else None
            self._kept = self._kept_from() if self._kept_from is not None else None, protected
        return self._kept

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
        kept_from, protected = self._exceptions()
        sums = [0] * 5
        while at < len(entries):
            try:
                done = load_chunks(self._store.samples, entries, at, expired_s, older_s, protected, kept_from)
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

    def series_names(self, refs: Sequence[int]) -> str:
        """Of series by their references, as far as they are defined."""
        return series_names(self._store.directory, refs)
