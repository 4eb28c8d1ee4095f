"""Every rule of the control segment: checked by tests after each step and by `mstore check`.

Valid iff
    1. the store's state and flags are known ones,
    2. no block is durable that is not written; in a store that is ready none is applied that is not written,
    3. a worker's slot is free, starting or ready; a taken one names a kind, a process and when it began, and no other
       names the same worker,
    4. a free slot holds no references (its epoch is even), and no gauge of it says that anything is there now.

Whoever serves may go on meanwhile: a word that must not be larger is read before the one it is held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mstore.limits import WORKERS_MAX
from mstore.shm import layout

if TYPE_CHECKING:
    from mstore.shm.control import Control

_FLAGS = layout.FLAG_FULL | layout.FLAG_DEGRADED | layout.FLAG_HOLD


def check(control: Control) -> list[str]:
    """The broken rules as sentences, none if all is well."""
    return [*_store(control), *_workers(control)]


def _store(control: Control) -> Iterator[str]:
    from mstore.shm.control import STATE_NAMES

    state, flags = control.state, control.flags
    applied, durable = control.applied, control.durable
    written = control.written
    if state not in STATE_NAMES:
        yield f"state {state} is none"
    if flags & ~_FLAGS:
        yield f"flags {flags:#x}, known are {_FLAGS:#x}"
    if durable > written:
        yield f"block {durable} is durable, and {written} the last one written"
    # Who takes over applies what its predecessor had written, and says how far that is when it begins its own log.
    if state == layout.STATE_READY and applied > written:
        yield f"block {applied} is applied, and {written} the last one written"


def _workers(control: Control) -> Iterator[str]:
    from mstore.shm.control import GAUGES, WORKER_FREE, WORKER_NAMES, WORKER_READY, WORKER_STARTING

    seen: dict[tuple[int, int], int] = {}
    for number in range(WORKERS_MAX):
        slot = control.worker(number)
        state, epoch = slot.state, slot.epoch
        if state == WORKER_FREE:
            if epoch & 1:
                yield f"worker slot {number} is free, and its epoch {epoch} says that it holds references"
            gauges = {name: value for name, value in slot.snapshot().items() if name in GAUGES and value}
            # Whoever claimed it since has gauges: the state is stored last.
            if gauges and slot.state == WORKER_FREE:
                yield f"worker slot {number} is free, and counts {gauges}"
            continue
        if state not in (WORKER_STARTING, WORKER_READY):
            yield f"worker slot {number}: state {state} is none"
        if slot.kind not in WORKER_NAMES:
            yield f"worker slot {number}: kind {slot.kind} is none"
        if not slot.pid or not slot.started_ns:
            yield f"worker slot {number} is taken by process {slot.pid} since {slot.started_ns} ns"
        place = slot.kind, slot.index
        if place in seen:
            yield f"worker slots {seen[place]} and {number} are both of kind {place[0]}, index {place[1]}"
        seen[place] = number
