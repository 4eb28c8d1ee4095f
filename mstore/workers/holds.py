"""The log is held while somebody copies it: no segment is recycled or removed meanwhile.

A hold ends when its connection to control.sock closes, whatever became of the client, and at its time limit at
the latest: a log that is never given up fills the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mstore import clock
from mstore.errors import Degraded, MstoreError

if TYPE_CHECKING:
    from mstore.persistence.wal import Wal
    from mstore.shm.control import WorkerSlot

log = logging.getLogger(__name__)

_DURABLE_S_MAX = 30.0
_LOOK_S = 0.002

Answer = Callable[[dict[str, Any], MstoreError | None], None]


class Holds:
    """The holds of one persister."""

    def __init__(self, wal: Wal, slot: WorkerSlot) -> None:
        self._wal = wal
        self._slot = slot
        self._limits: dict[int, asyncio.TimerHandle] = {}

    def begin(self, limit_s: int, answer: Answer) -> None:
        """Hold the log from now on; `answer` is given {"hold", "seq"} once all that is written by now is durable.

        So whatever was acknowledged before is at or before `seq`.
        """
        hold = self._wal.hold()
        loop = asyncio.get_running_loop()
        self._limits[hold] = loop.call_later(limit_s, self._expire, hold, limit_s)
        self._slot.set("log_holds", len(self._limits))
        self._when_durable(hold, self._wal.written, clock.monotonic_s() + _DURABLE_S_MAX, answer)

    def _when_durable(self, hold: int, seq: int, deadline_s: float, answer: Answer) -> None:
        if self._wal.durable() >= seq:
            answer({"hold": hold, "seq": seq}, None)
        elif clock.monotonic_s() > deadline_s:
            self.end(hold)
            answer({}, Degraded(f"the log is not durable up to block {seq} after {_DURABLE_S_MAX:g} s"))
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(_LOOK_S, self._when_durable, hold, seq, deadline_s, answer)

    def end(self, hold: int) -> None:
        """Give up what waited for this hold; one that has ended already is no error."""
        timer = self._limits.pop(hold, None)
        if timer is None:
            return
        timer.cancel()
        self._slot.set("log_holds", len(self._limits))
        if n_retired := self._wal.release(hold):
            log.info("%d log segments that were held are given up", n_retired)

    def _expire(self, hold: int, limit_s: int) -> None:
        log.warning("the log was held for %d s, which is the limit: it is held no longer", limit_s)
        self.end(hold)
