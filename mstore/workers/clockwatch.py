"""Does the wall clock still agree with the monotonic one? Retention trusts it only while it does."""

from __future__ import annotations

from mstore import clock

TOLERANCE_S = 60.0


class ClockWatch:
    """Remembers where wall and monotonic clock stood together.

    A jump of the wall clock (a wrong NTP server, a dead battery, a hand) would free everything or nothing. While
    the two disagree by more than a minute nothing is freed; the operator restarts the store once the clock is
    right, or the clock comes back by itself.
    """

    def __init__(self, wall_s: float | None = None, monotonic_s: float | None = None) -> None:
        self._wall_s = clock.now_ns() / 1e9 if wall_s is None else wall_s
        self._monotonic_s = clock.monotonic_s() if monotonic_s is None else monotonic_s

    def jump_s(self, wall_s: float | None = None, monotonic_s: float | None = None) -> float:
        """Seconds by which the wall clock went ahead of (or fell behind) the monotonic clock since the start."""
        wall = clock.now_ns() / 1e9 if wall_s is None else wall_s
        monotonic = clock.monotonic_s() if monotonic_s is None else monotonic_s
        return (wall - self._wall_s) - (monotonic - self._monotonic_s)

    def agrees(self, wall_s: float | None = None, monotonic_s: float | None = None) -> bool:
        return abs(self.jump_s(wall_s, monotonic_s)) <= TOLERANCE_S
