"""The one place that reads clocks, so that tests can stand in for it."""

from __future__ import annotations

import time


def now_s() -> int:
    """Wall clock, whole Unix seconds."""
    return int(time.time())


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def now_ns() -> int:
    return time.time_ns()


def monotonic_s() -> float:
    return time.monotonic()


def monotonic_us() -> int:
    """CLOCK_MONOTONIC, as a service manager compares it with its own."""
    return time.monotonic_ns() // 1000
