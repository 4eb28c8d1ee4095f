"""Naive twins of _gather and _gather_batch: one sample at a time, obviously right, no concurrency.

They read the same memory as numpy structured arrays, which the caller makes from layout.py's dtypes, and
return what the kernels return.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID, STAMPED = 1, 2
F32, F64, U64 = 1, 2, 3
U64_MISSING = 2**64 - 1
SLOTS = 512
HEADER = 64
DTYPES: dict[int, np.dtype[Any]] = {F32: np.dtype("f4"), F64: np.dtype("f8"), U64: np.dtype("u8")}

Value = float | int | None


@dataclass(frozen=True)
class Memory:
    """A directory's series table (SERIES structured array) and the bytes of a samples segment."""

    series: NDArray[Any]
    samples: NDArray[np.uint8]
    chunk: np.dtype[Any]

    def chunks(self, slot: int) -> Iterator[tuple[int, Any]]:
        """Offset and header of every linked chunk."""
        entry = self.series[slot]
        table = int(entry["table"])
        words = np.array([entry["link0"]], np.uint64)
        if table:
            words = np.frombuffer(self.samples, "<u8", 1 << (table & 255), table >> 8)
        for word in words[words != 0].tolist():
            offset = (word & (1 << 36) - 1) << 6
            header = np.frombuffer(self.samples, self.chunk, 1, offset)[0]
            if header["series"] == slot and header["generation"] == entry["generation"]:
                yield offset, header

    def eras(self, ref: int) -> list[int]:
        """Slots of the chain, oldest first."""
        slot = ref & 0xFFFF_FFFF
        assert self.series[slot]["generation"] == ref >> 32
        while self.series[slot]["next_slot"]:
            slot = int(self.series[slot]["next_slot"]) - 1
        found = [slot]
        while self.series[found[0]]["prev_slot"]:
            found.insert(0, int(self.series[found[0]]["prev_slot"]) - 1)
        return found

    def grid_samples(self, slot: int) -> dict[int, float | int]:
        """Value by slot number, missing ones left out."""
        dtype = DTYPES[int(self.series[slot]["type"])]
        found = {}
        for offset, header in self.chunks(slot):
            values = np.frombuffer(self.samples, dtype, int(header["capacity"]), offset + HEADER)
            for place, value in enumerate(values.tolist()):
                if value == value and value != U64_MISSING:
                    found[int(header["n"]) * SLOTS + place] = value
        return found


def nominal_s(entry: Any) -> int:
    return int(entry["anchor_s"]) + int(entry["step_s"]) // 2


def answer_times(nominal: int, step: int, start: int, end: int) -> range:
    """Times of the slots in [start, end) on the grid through `nominal`."""
    first = nominal + math.ceil((start - nominal) / step) * step
    return range(first, max(first, nominal + math.ceil((end - nominal) / step) * step), step)


def _eras_in_range(memory: Memory, ref: int, start: int, end: int) -> list[int]:
    """Eras that cover part of [start, end), oldest first; at least one."""
    eras = memory.eras(ref)
    begins = [int(memory.series[slot]["era_start"]) for slot in eras]
    newest = max((i for i, begin in enumerate(begins) if begin < end), default=0)
    oldest = max((i for i, begin in enumerate(begins[: newest + 1]) if begin <= start), default=0)
    return eras[oldest : newest + 1]


def _values_at(memory: Memory, eras: list[int], times: Sequence[int]) -> list[Value]:
    samples = {slot: memory.grid_samples(slot) for slot in eras}
    found = []
    for t in times:
        slot = eras[0]
        for later in eras[1:]:
            if memory.series[later]["era_start"] <= t:
                slot = later
        entry = memory.series[slot]
        found.append(samples[slot].get((t - int(entry["anchor_s"])) // int(entry["step_s"])))
    return found


def grid(memory: Memory, ref: int, start: int, end: int) -> tuple[NDArray[Any], int, int, int, int]:
    """What Gatherer.grid returns, without the metric."""
    eras = _eras_in_range(memory, ref, start, end)
    entry = memory.series[eras[-1]]
    types = {int(memory.series[slot]["type"]) for slot in eras}
    kind = types.pop() if len(types) == 1 else F64
    times = answer_times(nominal_s(entry), int(entry["step_s"]), start, end)
    found = _values_at(memory, eras, times)
    missing: float | int = U64_MISSING if kind == U64 else math.nan
    values = np.array([missing if value is None else value for value in found], DTYPES[kind])
    return values, times.start, times.step, kind, sum(value is not None for value in found)


def aggregate(
    memory: Memory, refs: Sequence[int], start: int, end: int, average: bool, propagate: bool
) -> tuple[NDArray[np.float64], NDArray[np.uint32], int, int]:
    """What Gatherer.aggregate returns, without the metric."""
    chains = [_eras_in_range(memory, ref, start, end) for ref in refs]
    newest = [memory.series[eras[-1]] for eras in chains]
    step = max(int(entry["step_s"]) for entry in newest)
    times = answer_times(nominal_s(newest[0]), step, start, end)
    columns = [_values_at(memory, eras, times) for eras in chains]
    sums, coverage = [], []
    for values in zip(*columns, strict=True):
        present = [float(value) for value in values if value is not None]
        total = 0.0
        for value in present:
            total += value
        least = len(refs) if propagate else 1
        divisor = float(len(present)) if average else 1.0
        sums.append(total / divisor if len(present) >= least else math.nan)
        coverage.append(len(present))
    return np.array(sums, np.float64), np.array(coverage, np.uint32), times.start, times.step


def gather(
    memory: Memory, groups: Sequence[tuple[Sequence[int], int, int, bool, bool]]
) -> list[tuple[NDArray[Any], NDArray[np.uint32] | None, int, int, int, int]]:
    """What _gather_batch.gather answers for groups of (references, start, end, average, propagate).

    returns  (values, coverage of several series, start, step, type, slots with a value) each
    """
    found: list[tuple[NDArray[Any], NDArray[np.uint32] | None, int, int, int, int]] = []
    for refs, start, end, average, propagate in groups:
        if len(refs) == 1:
            values, t0, step, kind, present = grid(memory, refs[0], start, end)
            found.append((values, None, t0, step, kind, present))
        else:
            sums, coverage, t0, step = aggregate(memory, refs, start, end, average, propagate)
            found.append((sums, coverage, t0, step, F64, int((coverage > 0).sum())))
    return found


def rows(memory: Memory, ref: int, start: int, end: int) -> dict[int, tuple[int, ...]]:
    """Columns by stamp of a stamped series of one era, the last arrival of each stamp."""
    slot = ref & 0xFFFF_FFFF
    width = 1 + int(memory.series[slot]["n_columns"])
    found: dict[int, tuple[int, ...]] = {}
    for offset, header in sorted(memory.chunks(slot), key=lambda chunk: int(chunk[1]["n"])):
        words = np.frombuffer(memory.samples, "<u8", int(header["count"]) * width, offset + HEADER)
        for row in words.reshape(-1, width).tolist():
            stamp = row[0] - 2**64 if row[0] >= 2**63 else row[0]
            if start * 1000 <= stamp < end * 1000:
                found[stamp] = tuple(row[1:])
    return dict(sorted(found.items()))
