"""One memory for all: control, rings, directory and samples together stay within memory_cap and within /dev/shm.

    memory_cap = fixed (control, rings)  +  directory, committed  +  samples, committed
                                            |                        |
                                  limit_bytes of its writer    cap of its allocator

Neither segment ever gives memory back while the store runs, so what one has taken the other cannot have:
balance() tells each what is left, and is called before the directory grows. Samples leave it a share. New
series want both; a store that spends its last byte on a new series could not even write the next value of an
old one. So part of the memory is reserved for series that exist: admit() evicts, oldest first, until the
reserve is whole, and while that cannot be done unknown series are refused (store_full), counted and named, until
eviction or retention has freed enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.apply.protection import Protection
from mstore.apply.refill import Refill
from mstore.apply.store import ROOM_STEP_BYTES, Store
from mstore.config import format_size
from mstore.errors import ConfigError
from mstore.shm import layout
from mstore.shm.segment import SHM_DIR

RESERVE_SHARE = 8
"""One of so many parts of the memory is kept for series that exist."""
RESERVE_BYTES_MAX = 64 << 20
DIRECTORY_SHARE = 8
"""One of so many parts is never given to samples: else a store that is full of them could not take a new name."""
LEAST_BYTES = 2 << 20
"""Directory and samples of the smallest store."""
_REFUSE_S = 0.2
"""How long a refusal stands before room is looked for again: a look goes through the whole series table."""

Recovered = TypeVar("Recovered")


def shm_free_bytes() -> int:
    """What /dev/shm has left for anybody."""
    status = os.statvfs(SHM_DIR)
    return status.f_bavail * status.f_frsize


def refuse_cap(cap_bytes: int, fixed_bytes: int, where: str = "") -> None:
    """Raise ConfigError when memory_cap (0 = none) leaves no room beside control and rings for anything at all."""
    least = fixed_bytes + LEAST_BYTES
    if cap_bytes and cap_bytes < least:
        raise ConfigError(
            f'{where}memory_cap = "{format_size(cap_bytes)}" is not allowed: expected "0" (none) or at least {least} bytes,'
            f" {fixed_bytes} of them for control and rings: raise it, or lower ring_bytes or ingest_workers",
            key="memory_cap", value=cap_bytes, least=least,
        )  # fmt: skip


class Pool:
    """Divides the memory of one store. Owned by the persister, as everything it names is.

    fixed_bytes   of control and rings
    system_free   bytes that the system could still give; a test may say less
    """

    def __init__(
        self, store: Store, fixed_bytes: int, *, system_free: Callable[[], int] = shm_free_bytes
    ) -> None:
        self._store = store
        self._fixed = fixed_bytes
        self._system_free = system_free
        self._bytes = 0
        self._refusing_until_s = 0.0
        store.system_free = system_free

    @property
    def protection(self) -> Protection:
        """Of the store: whose samples go last."""
        return self._store.protection

    def set_cap(self, cap_bytes: int) -> None:
        """memory_cap, 0 = none. Raises ConfigError when it is too small for anything at all."""
        refuse_cap(cap_bytes, self._fixed)
        self._bytes = cap_bytes - self._fixed if cap_bytes else 0
        self.balance()

    def whole_bytes(self) -> int:
        """What directory and samples may have together: by the cap, or of what the system has left."""
        return self._bytes or self._held() + self._system_free()

    @property
    def reserve_bytes(self) -> int:
        """Kept for series that exist; new ones are made from the rest."""
        return min(self.whole_bytes() // RESERVE_SHARE, RESERVE_BYTES_MAX)

    def _held(self) -> int:
        return self._store.directory.committed_bytes() + self._store.samples.committed_bytes

    def balance(self) -> None:
        """Tell the directory how far it may grow, and the samples."""
        samples = self._store.samples
        kept = max(samples.committed_bytes, samples.used_bytes() + self.reserve_bytes)
        # 1 byte is a limit that nothing fits in; 0 would be none.
        self._store.directory.limit_bytes = max(1, self.whole_bytes() - kept)
        self._balance_samples()

    def _balance_samples(self) -> None:
        whole = self.whole_bytes()
        directory = max(self._store.directory.committed_bytes(), whole // DIRECTORY_SHARE)
        self._store.samples.set_cap(max(whole - directory, layout.SAMPLES_DATA + layout.EXTENT_BYTES))

    # --- while the files are read back

    def recover(
        self,
        recover: Callable[[Refill], Recovered],
        kept_from: Callable[[], NDArray[np.int64]] | None = None,
    ) -> Recovered:
        """Call `recover` with what it hands records to. What the log defines is never refused, samples get the rest.

        So a store whose cap was lowered meanwhile starts, with the newest samples that fit. For `kept_from` see Refill.
        """
        self._store.directory.limit_bytes = 0
        self._store.replaying = True
        try:
            return recover(
                Refill(
                    self._store,
                    make_room=self._make_room,
                    room=self.free_bytes,
                    defined=self._balance_samples,
                    kept_from=kept_from,
                )
            )
        finally:
            self._store.replaying = False
            self.balance()

    def _make_room(self) -> int:
        """Evict for a chunk of a snapshot. No record names what goes: the next start does the same."""
        self._store.look_again()  # what was loaded since the last look may be older than all that it found
        evicted, n_chunks = self._store.plan_evict(min(ROOM_STEP_BYTES, max(self._bytes // 32, 64 << 10)))
        if n_chunks:
            self._store.apply_block(evicted)
        return n_chunks

    def free_bytes(self) -> int:
        """What samples may still take: under the cap, and of what the system has."""
        samples = self._store.samples
        return min(samples.free_bytes(), samples.secure(0) + self._system_free())

    def admit(self, log: Callable[[bytes], None]) -> int:
        """Before unknown series are interned: make room for them, or have them refused. The chunks evicted.

        log  writes EVICT records to the log; called before each is applied
        """
        directory = self._store.directory
        if clock.monotonic_s() < self._refusing_until_s:
            return 0
        reserve, n_evicted = self.reserve_bytes, 0
        directory.admits = True
        while (free := self.free_bytes()) < reserve:
            evicted, n_chunks = self._store.plan_evict(min(max(reserve - free, 64 << 10), ROOM_STEP_BYTES))
            if not n_chunks:
                directory.admits = False
                self._refusing_until_s = clock.monotonic_s() + _REFUSE_S
                break
            log(evicted)
            self._store.apply_block(evicted)
            n_evicted += n_chunks
        self.balance()
        return n_evicted
