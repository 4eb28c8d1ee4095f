"""The one place that reads clocks, so that tests can stand in for it."""

from __future__ import annotations

import time


def now_s() -> int:
    """Wall clock, whole Unix seconds."""
    return int(time.time())


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# Names and no functions: a question reads the clock several times, and a frame costs more than the reading.
now_ns = time.time_ns
monotonic_s = time.monotonic


def monotonic_us() -> int:
    """CLOCK_MONOTONIC, as a service manager compares it with its own."""
    return time.monotonic_ns() // 1000
