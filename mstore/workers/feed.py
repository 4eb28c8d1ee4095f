"""The log's tail in a query worker: every block that is applied goes to all subscribers, as long as there are any.

    persister  applies block, stores STORE_APPLIED | full fence | reads `followers` of each query worker -> its eventfd
    here       `followers` := n | full fence | reads STORE_APPLIED                                       <- eventfd

Either the persister sees that somebody follows, or we see the block: a wake-up is never lost. Without followers the
persister writes to nobody, and nothing is read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from mstore import clock
from mstore.errors import LimitExceeded, StorageError, Unavailable
from mstore.ipc import messages as m
from mstore.kernels._gather import Gatherer
from mstore.kernels._ring import fence_full
from mstore.persistence.tail import LogTail, Lost
from mstore.query.following import Following
from mstore.query.gather import replanned
from mstore.shm.control import Control, WorkerSlot
from mstore.workers.subscriber import Subscriber

log = logging.getLogger(__name__)

BLOCKS_AT_ONCE = 8
"""At most so many blocks between two looks at the loop: a block is at most 4 MiB and takes about a millisecond."""
REFRESH_S_MIN = 0.02
"""Between two looks at the directory while series keep coming; longer where a look takes long: a fifth of the time."""

STORED_AHEAD_S = 86_400
"""How far ahead of the clock what memory holds is looked at: nodes' clocks differ."""


class Feed:
    """All subscribers of one worker and the place in the log that they are at.

    wake_fd   eventfd that the persister writes to
    """

    def __init__(
        self,
        wal_dir: Path,
        control: Control,
        slot: WorkerSlot,
        wake_fd: int,
    ) -> None:
        self._wal_dir = wal_dir
        self._control = control
        self._slot = slot
        self._wake_fd = wake_fd
        self._subscribers: list[Subscriber] = []
        self._tail: LogTail | None = None
        self._scheduled: asyncio.Handle | None = None
        self._stale = False
        self._refreshed_upto = 0
        self._refresh_at_s = 0.0
        self._read_ms = 0

    def subscribe(
        self,
        following: Following,
        gatherer: Gatherer,
        send: Callable[[m.Message], None],
        waiting: Callable[[], int],
        since_s: int | None,
    ) -> tuple[Subscriber, int]:
        """A subscriber, fed from now on, and the last block before; see Subscriber for the arguments.

        raises  LimitExceeded, Unavailable: then nothing was begun
        """
        seq = self._begin()
        try:
            # After the place in the log is fixed: what comes later is told by the log.
            replanned(following.refresh)
        except BaseException:
            self._count(0)
            raise
        until_s = clock.now_s() + STORED_AHEAD_S
        subscriber = Subscriber(following, gatherer, send, waiting, since_s, until_s)
        self._subscribers.append(subscriber)
        self._soon()
        return subscriber, seq

    def _begin(self) -> int:
        self._count(1)
        if self._tail is None:
            self._tail = LogTail(self._wal_dir, self._control.applied + 1)
            self._read_ms = clock.now_ms()
            asyncio.get_running_loop().add_reader(self._wake_fd, self._woken)
        return self._tail.next_seq - 1

    def remove(self, subscriber: Subscriber) -> None:
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self._count(0)

    def _count(self, more: int) -> None:
        n = len(self._subscribers) + more
        self._slot.set("followers", n)
        # SYNC POINT (full fence) followers before applied: pairs with Persister.mark_applied
        fence_full()
        if n == 0 and self._tail is not None:
            asyncio.get_running_loop().remove_reader(self._wake_fd)
            self._tail.close()
            self._tail = None
            if self._scheduled is not None:
                self._scheduled.cancel()
                self._scheduled = None

    def resume(self) -> None:
        """A client takes again what it is sent."""
        self._soon()

    def close(self) -> None:
        self._subscribers.clear()
        self._count(0)

    # --- the loop's turns

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        self._turn()

    def _soon(self, delay_s: float = 0.0) -> None:
        if self._scheduled is None and self._tail is not None:
            loop = asyncio.get_running_loop()
            self._scheduled = loop.call_later(delay_s, self._turn) if delay_s else loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Read some blocks, send some slices; come again if there is more."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        if self._tail is None:
            return
        more = self._read_some(self._tail)
        for subscriber in list(self._subscribers):
            more = subscriber.work() or more
        if more:
            self._soon()
        elif self._stale:
            self._soon(max(0.001, self._refresh_at_s - clock.monotonic_s()))

    def _read_some(self, tail: LogTail) -> bool:
        """Whether there is more to read now."""
        if self._stale and not self._refresh():
            return False
        applied = self._control.applied
        upto = min(applied, tail.next_seq + BLOCKS_AT_ONCE - 1)
        try:
            for block in tail.read(upto):
                defines = False
                for subscriber in self._subscribers:
                    defines = subscriber.take(block.payload) or defines
                if defines and block.seq > self._refreshed_upto:
                    self._stale = True
                    if not self._refresh():
                        return False
        except (Lost, StorageError) as error:
            log.warning("followers miss something: %s", error)
            for subscriber in self._subscribers:
                subscriber.lose(self._read_ms)
            tail.skip(applied + 1)
        self._read_ms = clock.now_ms()
        return tail.next_seq <= self._control.applied

    def _refresh(self) -> bool:
        """Let all look which series match now; False when it is too early to look again."""
        began_s = clock.monotonic_s()
        if began_s < self._refresh_at_s:
            return False
        self._stale = False
        self._refreshed_upto = self._control.applied
        for subscriber in list(self._subscribers):
            try:
                replanned(subscriber.following.refresh)
            except (LimitExceeded, Unavailable) as error:
                self.remove(subscriber)
                subscriber.end(error)
        now_s = clock.monotonic_s()
        self._refresh_at_s = now_s + max(REFRESH_S_MIN, 4 * (now_s - began_s))
        return True
