"""When the service manager hears that the store is alive.

The supervisor's own loop proves little: the persister does the work. So each word to the manager stands for an answer
of the persister. One that reads its files, at a start or when the store is made anew, answers nothing; it counts as alive
while it uses processor time. While the store stops, the supervisor's own time limits end whatever hangs.

Nobody is asked when no manager wants to know: an idle store has no such timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mstore.workers.systemd import Notifier

EXTEND_EVERY_S = 10.0
EXTEND_S = 60.0
"""A start takes as long as snapshot and log are large: the manager is asked for so much more time, again and again."""


class Heartbeat:
    """One timer, at half of the manager's limit.

    ask       send the persister a question; answered() is called with its answer
    progress  a number that changes while work goes on that leaves no time for answers; None: ask
    """

    def __init__(
        self, notifier: Notifier, ask: Callable[[], None], progress: Callable[[], float | None]
    ) -> None:
        self._notifier = notifier
        self._ask = ask
        self._progress = progress
        self._worked: float | None = None
        self._started = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From the beginning of a start on."""
        if self._notifier.present:
            self._beat()

    def started(self) -> None:
        """The start is done: no more time is asked for, and only a watchdog is told anything."""
        self._started = True

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def answered(self) -> None:
        """The persister is alive, and so is the loop that calls this."""
        if not self._started:
            self._notifier.extend(EXTEND_S)
        if self._notifier.watchdog_s:
            self._notifier.alive()

    def _beat(self) -> None:
        worked = self._progress()
        if worked is None:
            self._ask()
        elif worked != self._worked:
            self.answered()
        self._worked = worked
        if (delay_s := self._delay_s()) > 0:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._beat)

    def _delay_s(self) -> float:
        """Until the next beat; 0 = nobody wants one any more."""
        half = self._notifier.watchdog_s / 2
        if self._started:
            return half
        return min(half, EXTEND_EVERY_S) if half else EXTEND_EVERY_S
