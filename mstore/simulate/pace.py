"""When a simulated tick is sent: at once, or when its time has come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from mstore import clock
from mstore.simulate.generator import Batch, Simulator


def live(
    simulator: Simulator,
    seconds: int | None,
    now: Callable[[], float] = lambda: clock.now_ns() / 1e9,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Batch]:
    """Ticks at real speed from now on, for `seconds` (None = without end), then what was still late.

    A sender that is too slow for the simulation falls behind and then catches up: no tick is left out.
    """
    first = int(now()) // simulator.tick_s * simulator.tick_s + simulator.tick_s
    t_s = first
    while seconds is None or t_s < first + seconds:
        wait = t_s - now()
        if wait > 0:
            sleep(wait)
        yield from simulator.tick(t_s)
        t_s += simulator.tick_s
    yield from simulator.flush()


def backfill(simulator: Simulator, seconds: int, end_s: int | None = None) -> Iterator[Batch]:
    """A simulated span that ends at now, as fast as it is taken."""
    return simulator.span(seconds, clock.now_s() if end_s is None else end_s)
