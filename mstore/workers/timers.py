"""Calls that are due later, all of which end together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """After stop() nothing is called any more, and nothing new is taken."""

    def __init__(self) -> None:
        self._due: set[asyncio.TimerHandle] = set()
        self._stopped = False

    def __len__(self) -> int:
        """Calls that are still to come."""
        return len(self._due)

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call after so many seconds; 0 = in the loop's next turn, after whatever came in meanwhile."""
        if self._stopped:
            return

        def run() -> None:
            self._due.discard(timer)
            call()

        timer = asyncio.get_running_loop().call_later(delay_s, run)
        self._due.add(timer)

    def stop(self) -> None:
        self._stopped = True
        for timer in self._due:
            timer.cancel()
        self._due.clear()
