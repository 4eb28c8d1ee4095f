"""What the supervisor does about a dead child: pure decisions, tested without processes."""

from __future__ import annotations

from collections import deque
from enum import Enum

DEATHS_MAX = 5
WINDOW_S = 60.0


class Verdict(Enum):
    """What to do about a death."""

    RESPAWN = "respawn"
    """Start the same worker again: its ring, doorbell and channel are inherited as they stand."""
    RENEW = "renew"
    """Start all workers again: shared memory may be half changed, so it is adopted anew or filled from the files."""
    GIVE_UP = "give up"
    """It keeps dying: stop the store and say so."""


class RestartPolicy:
    """Counts deaths by worker in a sliding window.

    A worker that only reads shared memory, or writes nothing but its own ring and counters, is simply
    replaced. The persister writes the directory and the samples: after its death they are not trusted before they
    are held against the log (adoption.py), so the whole store is renewed.
    """

    def __init__(self, deaths_max: int = DEATHS_MAX, window_s: float = WINDOW_S) -> None:
        self._deaths_max = deaths_max
        self._window_s = window_s
        self._deaths: dict[str, deque[float]] = {}

    def died(self, name: str, kind: str, now_s: float) -> Verdict:
        """Decide about the worker `name` (ingest-0, persister, ...) that died at monotonic `now_s`."""
        deaths = self._deaths.setdefault(name, deque())
        deaths.append(now_s)
        while deaths and deaths[0] < now_s - self._window_s:
            deaths.popleft()
        if len(deaths) > self._deaths_max:
            return Verdict.GIVE_UP
        return Verdict.RENEW if kind == "persister" else Verdict.RESPAWN


def least_loaded(open_now: list[int], handed_out: list[int], taken: list[int]) -> int:
    """The worker to give the next connection to.

    open_now, taken  each worker's own counts of open connections and of all it ever took
    handed_out       how many the supervisor ever sent it; those not yet taken count as open
    """
    loads = [now + sent - got for now, sent, got in zip(open_now, handed_out, taken, strict=True)]
    return loads.index(min(loads))
