"""The slowest queries of the last hour: bounded, and one comparison for every query that is not among them."""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

N_KEPT = 20
WINDOW_S = 3600
_TEXT_MAX = 200


class Slow(NamedTuple):
    """One query: how long it took, when it was, what was asked for and how much that was."""

    us: int
    at_ns: int
    what: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        return {"ms": self.us / 1000, "at_s": self.at_ns / 1_000_000_000, **self.what}


class Slowest:
    """At most n_kept queries, none older than window_s.

    The comparison alone decides most queries: `us > self.floor_us`. So that an old slow one does not keep newer
    ones out, the floor falls when the oldest has left the window; that is looked for where a time is at hand
    anyway.
    """

    def __init__(self, n_kept: int = N_KEPT, window_s: int = WINDOW_S) -> None:
        self._n_kept = n_kept
        self._window_ns = window_s * 1_000_000_000
        self._heap: list[tuple[int, int, Slow]] = []  # (us, serial, query): the fastest kept one first
        self._serial = 0
        self.floor_us = -1
        """What a query must take longer than to be kept."""
        self.oldest_ns = 1 << 63
        """From when on look() must be called before the floor is believed."""

    def note(self, us: int, now_ns: int, what: dict[str, Any]) -> None:
        """Keep a query if it is among the slowest. Call it when us > floor_us or now_ns >= oldest_ns."""
        self._forget(now_ns)
        if us <= self.floor_us:
            return
        self._serial += 1
        entry = (us, self._serial, Slow(us, now_ns, what))
        if len(self._heap) < self._n_kept:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)
        self._settle()

    def found(self, now_ns: int) -> list[Slow]:
        """Those of the window, the slowest first."""
        self._forget(now_ns)
        return [entry[2] for entry in sorted(self._heap, reverse=True)]

    def _forget(self, now_ns: int) -> None:
        if now_ns < self.oldest_ns:
            return
        self._heap = [entry for entry in self._heap if entry[2].at_ns > now_ns - self._window_ns]
        heapq.heapify(self._heap)
        self._settle()

    def _settle(self) -> None:
        self.floor_us = self._heap[0][0] if len(self._heap) == self._n_kept else -1
        oldest = min((entry[2].at_ns for entry in self._heap), default=1 << 63)
        self.oldest_ns = oldest + self._window_ns


_ASKED = (
    "selector", "cluster", "host", "metric", "metrics", "type", "type_ids", "subtype", "subtype_ids", "aggregate",
    "resolution", "function", "window",
)  # fmt: skip


def asked(message: Any, n_series: int, n_samples: int, n_bytes: int) -> dict[str, Any]:
    """What a slow request was: its kind, selector, range and size. Long lists of ids are cut."""
    chosen = {name: value for name in _ASKED if (value := getattr(message, name, None))}
    shown = {name: value if isinstance(value, bool | int) else _cut(value) for name, value in chosen.items()}
    times = (("from", getattr(message, "start", None)), ("to", getattr(message, "end", None)))
    return {
        "request": type(message).__name__,
        **shown,
        **{name: t for name, t in times if t is not None},
        "series": n_series,
        "samples": n_samples,
        "bytes": n_bytes,
    }


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else ",".join(map(str, value))
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}... ({len(text)} characters)"
