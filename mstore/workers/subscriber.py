"""One subscription of a query worker: what is picked from the log waits here until the client takes it. No sockets.

    take(block)  ->  queue (FOLLOW_QUEUE_BYTES at most, the rest is counted)  ->  work()  ->  send

work() sends a slice at a time, in this order: series that are new, what memory held, what came meanwhile, what was
missed. So an index is announced before samples use it, and the newest value of a slot is the last one sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mstore.errors import MstoreError
from mstore.ipc import messages as m
from mstore.kernels._gather import Gatherer
from mstore.limits import FOLLOW_QUEUE_BYTES
from mstore.query.following import Following, Missed, Runs

ANNOUNCED_AT_ONCE = 1024
"""Series a slice: a few milliseconds."""
STORED_AT_ONCE_BYTES = 256 << 10
STORED_SERIES_AT_ONCE = 256
SENT_AT_ONCE_BYTES = 1 << 20


class Subscriber:
    """Between the feed and a connection.

    send      takes a message for this subscription's request
    waiting   bytes that the client has not taken yet
    since_s   also what memory holds from this time on; None = only what comes
    until_s   ... and before this one
    """

    def __init__(
        self,
        following: Following,
        gatherer: Gatherer,
        send: Callable[[m.Message], None],
        waiting: Callable[[], int],
        since_s: int | None = None,
        until_s: int = 0,
    ) -> None:
        self.following = following
        self._send = send
        self._waiting = waiting
        self._queue: list[Runs] = []
        self._queued_bytes = 0
        self._missed = Missed()
        self._stored: Iterator[Runs] | None = None
        if since_s is not None:
            self._stored = following.stored(gatherer, since_s, until_s)

    def take(self, payload: memoryview) -> bool:
        """Pick what is followed out of a block; whether the block defines something, so that refresh() is due."""
        room = max(0, FOLLOW_QUEUE_BYTES - self._queued_bytes - self._waiting())
        runs, defines = self.following.take(payload, room, self._missed)
        if len(runs):
            self._queue.append(runs)
            self._queued_bytes += runs.n_bytes
        return defines

    def lose(self, since_ms: int) -> None:
        """Blocks of the log went before they were read: nobody knows what was in them."""
        self._missed.add(-1, since_ms)

    def end(self, error: MstoreError) -> None:
        """Tell the client that nothing more comes, and why."""
        self._send(m.Error.of(error))

    def work(self) -> bool:
        """Send a slice, if the client takes what it was sent; whether there is more to send at once."""
        if self._waiting() >= SENT_AT_ONCE_BYTES:
            return False
        if self.following.unannounced:
            self._announce()
        elif self._stored is not None:
            self._send_stored(self._stored)
        elif self._queue:
            self._send_queued()
        if self._missed and not self._queue and not self.busy:
            self._send(m.FollowMissed(self._missed.n_samples, self._missed.since_ms))
            self._missed = Missed()
        return self.busy or bool(self._queue)

    @property
    def busy(self) -> bool:
        """Whether something must be sent before what is queued."""
        return self.following.unannounced or self._stored is not None

    def _announce(self) -> None:
        fresh = self.following.announced(ANNOUNCED_AT_ONCE)
        rows = [[*one.path, one.step_s, one.unit, list(one.columns)] for one in fresh]
        self._send(m.Followed(fresh[0].index, rows))

    def _send_stored(self, stored: Iterator[Runs]) -> None:
        found: list[Runs] = []
        n_bytes = 0
        for runs in stored:
            found.append(runs)
            n_bytes += runs.n_bytes
            if n_bytes >= STORED_AT_ONCE_BYTES or len(found) >= STORED_SERIES_AT_ONCE:
                break
        else:
            self._stored = None
        if found:
            self._send(_message(found, stored=1))

    def _send_queued(self) -> None:
        taken, n_bytes = 0, 0
        while taken < len(self._queue) and n_bytes < SENT_AT_ONCE_BYTES:
            n_bytes += self._queue[taken].n_bytes
            taken += 1
        sent = self._queue[:taken]
        del self._queue[:taken]
        self._queued_bytes -= n_bytes
        self._send(_message(sent))


def _message(runs: list[Runs], stored: int = 0) -> m.FollowedSamples:
    return m.FollowedSamples(
        np.concatenate([one.index for one in runs]).tobytes(),
        np.concatenate([one.stamps_ms for one in runs]).tobytes(),
        np.concatenate([one.types for one in runs]).tobytes(),
        np.concatenate([one.words for one in runs]).tobytes(),
        stored,
    )
