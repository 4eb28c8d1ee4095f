"""How far reading the files back has come: in the persister's counters for `info`, and in words for the operator."""

from __future__ import annotations

from collections.abc import Callable

from mstore import clock
from mstore.shm.control import WorkerSlot

PHASES = ("", "definitions", "chunks", "log")
"""By the number in the counter recovery_phase."""
_TELL_EVERY_S = 2.0


class RecoveryProgress:
    """What persistence.recovery calls between blocks.

    slot  the persister's row of counters
    tell  given a sentence every two seconds
    """

    def __init__(self, slot: WorkerSlot, tell: Callable[[str], None]) -> None:
        self._slot = slot
        self._tell = tell
        self._phase = ""
        self._began_s = self._told_s = clock.monotonic_s()

    def __call__(self, phase: str, done_bytes: int, all_bytes: int) -> None:
        if phase != self._phase:
            self._phase, self._began_s = phase, clock.monotonic_s()
            self._slot.set("recovery_phase", PHASES.index(phase))
            self._slot.set("recovery_began_s", clock.now_s())
        self._slot.set("recovery_done_bytes", done_bytes)
        self._slot.set("recovery_all_bytes", all_bytes)
        now_s = clock.monotonic_s()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            self._tell(describe(phase, done_bytes, all_bytes, now_s - self._began_s))

    def end(self) -> None:
        for name in ("recovery_phase", "recovery_began_s", "recovery_done_bytes", "recovery_all_bytes"):
            self._slot.set(name, 0)


def left_s(done: float, all_: float, took_s: float) -> float | None:
    """Seconds that the rest takes at the present pace; None while nobody can say."""
    return took_s * (all_ - done) / done if done > 0 and took_s > 0 else None


def describe(phase: str, done_bytes: int, all_bytes: int, took_s: float) -> str:
    """ "reading chunks: 43% of 1,204,338,688 bytes, about 3 s left" """
    share = 100 * done_bytes // max(1, all_bytes)
    rest = left_s(done_bytes, all_bytes, took_s)
    told = f", about {rest:.0f} s left" if rest is not None else ""
    return f"reading {phase}: {share}% of {all_bytes:,} bytes{told}"
