"""Naive twins of _scan: one sample at a time from a list of them, over the memory that reference_query.py reads."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mstore.kernels.reference_query import SLOTS, U64, Memory, nominal_s

LANES = 16
NO_TIME = -(2**63)

Number = float | int


@dataclass(frozen=True)
class Sample:
    t: int
    value: Number
    slot: int
    """Its number in its own era."""
    era: int


def samples(memory: Memory, ref: int, start: int, end: int) -> tuple[list[Sample], bool]:
    """The samples of [start, end) by time, each of the era that its time belongs to; whether all eras hold u64.

    Eras before the one that covers start do not count, nor those from end on.
    """
    eras = memory.eras(ref)
    begins = [int(memory.series[slot]["era_start"]) for slot in eras]
    newest = max((i for i, begin in enumerate(begins) if begin < end), default=0)
    oldest = max((i for i, begin in enumerate(begins[: newest + 1]) if begin <= start), default=0)
    found: list[Sample] = []
    for i in range(oldest, newest + 1):
        entry = memory.series[eras[i]]
        low = start if i == oldest else max(start, begins[i])
        high = min(end, begins[i + 1]) if i + 1 < len(eras) else end
        for k, value in sorted(memory.grid_samples(eras[i]).items()):
            t = nominal_s(entry) + k * int(entry["step_s"])
            if low <= t < high:
                found.append(Sample(t, value, k, i))
    whole = all(int(memory.series[slot]["type"]) == U64 for slot in eras[oldest : newest + 1])
    return found, whole


def word(value: Number, whole: bool) -> int:
    """A value as eight bytes: u64, or a float64."""
    packed = struct.pack("<Q", value) if whole else struct.pack("<d", float(value))
    found: int = struct.unpack("<Q", packed)[0]
    return found


def total(found: Sequence[Sample]) -> float:
    """Chunk by chunk in lanes by slot number, these added pairwise; then the chunks in order."""
    chunks: dict[tuple[int, int], list[float]] = {}
    for one in found:
        lanes = chunks.setdefault((one.era, one.slot // SLOTS), [0.0] * LANES)
        lanes[one.slot % LANES] += float(one.value)
    whole = 0.0
    for lanes in chunks.values():
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[i] + lanes[i + half] for i in range(half)]
        whole += lanes[0]
    return whole


def scan(
    memory: Memory, ref: int, start: int, end: int
) -> tuple[int, float, tuple[int, int, int, int], tuple[int, int], bool]:
    """(count, sum, words, times, whole) of one series; words and times are zeros where the count is 0."""
    found, whole = samples(memory, ref, start, end)
    if not found:
        return 0, 0.0, (0, 0, 0, 0), (0, 0), whole
    numbers = [one.value if whole else float(one.value) for one in found]
    chosen = (min(numbers), max(numbers), numbers[0], numbers[-1])
    words = tuple(word(value, whole) for value in chosen)
    return (
        len(found),
        total(found),
        (words[0], words[1], words[2], words[3]),
        (found[0].t, found[-1].t),
        whole,
    )


def newest(memory: Memory, ref: int, start: int, end: int) -> tuple[int, int, bool]:
    """(word, time, whole); a word of 0 and NO_TIME where there is no sample."""
    found, whole = samples(memory, ref, start, end)
    return (word(found[-1].value, whole), found[-1].t, whole) if found else (0, NO_TIME, whole)


def run(
    memory: Memory, ref: int, start: int, end: int, level: float, below: bool, gap_s: int
) -> tuple[int, float]:
    """(since, peak) of the run that ends with the newest sample; NO_TIME and an infinity where it is not above."""
    found, _ = samples(memory, ref, start, end)
    since, peak = NO_TIME, math.inf if below else -math.inf
    for one in reversed(found):
        # Python compares whole numbers with floats exactly.
        above = one.value < level if below else one.value > level
        if not above or (since != NO_TIME and since - one.t > gap_s):
            break
        since = one.t
        peak = min(peak, float(one.value)) if below else max(peak, float(one.value))
    return since, peak
