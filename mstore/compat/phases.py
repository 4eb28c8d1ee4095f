"""Where the samples of a checkpoint really lay: the grid of a series, known from elsewhere, and times put back onto it.

A series that was there before its window began has in the reference's files the second of the window's cut as `start`,
and value k is that of the slot in which start + k * step falls:

    slots     |----x----|----x----|----x----|----x----|       x = the samples, at the middle of their slots
    file               t         t         t         t        each up to half a step off, all by the same

So with the time of any one sample of the grid the others are known. A series that began within a window has its first
sample's own time there; a log has every sample's.
"""

from __future__ import annotations

from collections.abc import Iterable

from mstore.compat.contents import Points, Stretch

_Key = tuple[tuple[str, ...], str]


class Phases:
    """What is known of one host's series."""

    def __init__(self) -> None:
        self._logged: dict[_Key, int] = {}
        self._begun: dict[_Key, int] = {}
        """Of the newest window so far in which a series began, which is nearer than the log."""

    def learn(self, found: Iterable[Points]) -> None:
        """From the host's log."""
        for points in found:
            if len(points.times):
                self._logged.setdefault((points.levels, points.metric), int(points.times[0]))

    def start_of(self, stretch: Stretch, cut_s: int) -> int:
        """When the first value of a stretch was sampled, as far as that is known.

        cut_s  start of the file's window
        """
        key = stretch.levels, stretch.metric
        if stretch.start != cut_s:
            self._begun[key] = stretch.start
            return stretch.start
        sample_s = self._begun.get(key, self._logged.get(key))
        if sample_s is None:
            return stretch.start
        step_s = stretch.step_s
        return sample_s + (stretch.start - sample_s + step_s // 2) // step_s * step_s
