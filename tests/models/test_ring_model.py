"""The ring between worker, persister and committer; worker and persister are killed between any two stores.

A ring of three cells, records of one or two of them. A cell holds (position where its record starts, length,
which of its cells), so whoever reads a cell knows whether it belongs there. Positions never wrap.

    worker      store cells, (release) head; room is counted from the durable position
    persister   load head, read cells, append to the log, read them again to apply, store drained, tell the
                committer
    committer   fdatasync, then (release) durable
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.models.weakmemory import DEAD, RELAXED, RELEASE, Broken, Explored, State, Step, explore

HEAD, DRAINED, DURABLE, DATA = 0, 1, 2, 3
SIZE = 3
PAD = -1


class Ghost(NamedTuple):
    logged: int = 0
    """The log holds everything below."""
    told: int = 0
    """What the persister told the committer to be written."""
    synced: int = 0
    worker_kills: int = 1
    persister_kills: int = 1


class Protocol(NamedTuple):
    """One field a piece that may be left out."""

    head_order: str = RELEASE
    pads: bool = True
    room_from: int = DURABLE
    successor_at_head: bool = True
    resumes_at_log: bool = True
    applies_before_telling: bool = True
    syncs_first: bool = True
    positions: int = 6


def worker(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: (position of the next record, cells still to be stored of it: ((address, value), ...))"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        if pc == DEAD:
            at = read(HEAD) if protocol.successor_at_head else regs[0]
            yield Step("start again", 0, (at, ()), drained=True)
            return
        if ghost.worker_kills:
            yield Step(
                "killed", DEAD, (regs[0], ()), ghost=ghost._replace(worker_kills=ghost.worker_kills - 1)
            )
        at, cells = regs
        if cells:
            address, value = cells[0]
            yield Step(f"store {value}", 0, (at, cells[1:]), ((address, value, RELAXED),))
            return
        if at > read(HEAD):
            yield Step(f"publish {at}", 0, regs, ((HEAD, at, protocol.head_order),))
        for length in (1, 2):
            made = reserve(protocol, at, length, read(protocol.room_from))
            if made is not None:
                yield Step(f"reserve {length} at {made[0]}", 0, made)

    return step


def reserve(protocol: Protocol, at: int, length: int, tail: int) -> Any:
    """The position after the record and the cells to store, a PAD first where needed; None: no room."""
    to_end = SIZE - at % SIZE
    padding = to_end if length > to_end and protocol.pads else 0
    stop = at + padding + length
    if stop - tail > SIZE or stop > protocol.positions:
        return None
    cells = [(DATA + at % SIZE, (at, padding, PAD))] if padding else []
    start = at + padding
    cells += [(DATA + (start + part) % SIZE, (start, length, part)) for part in range(length)]
    return stop, tuple(cells)


def check_cell(
    value: Any, position: int, expected: tuple[int, int, int] | None
) -> tuple[int, int, int] | None:
    """The cell that must follow, None at a record's end; Broken when `value` does not belong here."""
    start, length, part = value
    if part == PAD and start == position and (position + length) % SIZE == 0:
        return None
    if expected is None and (start, part) != (position, 0):
        raise Broken(f"no record begins at {position}: {value}")
    if expected is not None and value != expected:
        raise Broken(f"torn record at {position}: {value}, not {expected}")
    if length > 1 and part + 1 < length and position % SIZE == SIZE - 1:
        raise Broken(f"record across the end of the ring at {position}")
    return (start, length, part + 1) if part + 1 < length else None


LOAD, COPY, APPEND, APPLY, TELL = range(5)


def persister(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: (first position of the block, position being read, its end, the cell expected next)"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        start, at, stop, expected = regs
        if pc == DEAD:
            resume = ghost.logged if protocol.resumes_at_log else read(DRAINED)
            stores = ((DRAINED, resume, RELEASE),)
            yield Step("replay the log", TELL, (resume, resume, resume, None), stores, drained=True)
            return
        if ghost.persister_kills:
            yield Step("killed", DEAD, regs, ghost=ghost._replace(persister_kills=ghost.persister_kills - 1))
        if pc == LOAD and read(HEAD) > start:
            yield Step("load head", COPY, (start, start, read(HEAD), None))
        elif pc in (COPY, APPLY) and at < stop:
            expected = check_cell(read(DATA + at % SIZE), at, expected)
            yield Step(
                f"read {at} to {'log' if pc == COPY else 'apply'}", pc, (start, at + 1, stop, expected)
            )
        elif pc == COPY:
            yield Step("end of block", APPEND, regs)
        elif pc == APPEND:
            if ghost.logged != start:
                raise Broken(f"the log ends at {ghost.logged}, the block begins at {start}")
            written = ghost._replace(logged=stop)
            if not protocol.applies_before_telling:
                written = written._replace(told=stop)
            yield Step("append to the log", APPLY, (start, start, stop, None), ghost=written)
        elif pc == APPLY:
            yield Step("store drained", TELL, regs, ((DRAINED, stop, RELEASE),))
        elif pc == TELL:  # the drained word must be visible before the committer may pass it
            told = ghost._replace(told=max(ghost.told, stop))
            yield Step("tell the committer", LOAD, (stop, stop, stop, None), ghost=told, drained=True)

    return step


def committer(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: the position up to which a flush was asked for"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        if pc == 0 and ghost.told > read(DURABLE):
            yield Step("begin to flush", 1, ghost.told)
        elif pc == 1 and protocol.syncs_first:
            yield Step("fdatasync", 2, regs, ghost=ghost._replace(synced=regs))
        elif pc in (1, 2):
            yield Step("store durable", 0, 0, ((DURABLE, regs, RELEASE),))

    return step


def what_is_wrong(state: State) -> str:
    head, drained, durable = state.memory[HEAD], state.memory[DRAINED], state.memory[DURABLE]
    if not durable <= drained <= head or head - durable > SIZE:
        return f"positions: durable {durable}, drained {drained}, head {head}"
    if durable > state.ghost.synced:
        return f"durable is {durable}, but only {state.ghost.synced} is on disk"
    try:
        expected = None
        for at in range(durable, head):
            expected = check_cell(state.memory[DATA + at % SIZE], at, expected)
    except Broken as found:
        return f"between durable and head: {found}"
    return "between durable and head: half a record" if expected is not None else ""


def who_is_stuck(state: State) -> str:
    head, durable = state.memory[HEAD], state.memory[DURABLE]
    return "" if head == durable else f"published {head}, durable {durable}, and nothing more happens"


def run(protocol: Protocol) -> Explored:
    memory = (0, 0, 0, *(((-9, 1, 0),) * SIZE))
    threads = [
        ("worker", worker(protocol), 0, (0, ())),
        ("persister", persister(protocol), LOAD, (0, 0, 0, None)),
        ("committer", committer(protocol), 0, 0),
    ]
    return explore(memory, threads, Ghost(), what_is_wrong, who_is_stuck)


def test_no_published_record_is_lost_torn_or_logged_twice() -> None:
    run(Protocol()).expect_whole(10_000)


@pytest.mark.parametrize(
    ("left_out", "broken"),
    [
        ({"head_order": RELAXED}, "between durable and head"),
        ({"pads": False}, "record across the end"),
        ({"room_from": DRAINED}, "between durable and head"),
        ({"successor_at_head": False}, "between durable and head"),
        ({"resumes_at_log": False}, "the log ends at"),
        ({"applies_before_telling": False}, "positions"),
        ({"syncs_first": False}, "durable is"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_model_finds_the_fault_when_a_piece_is_missing(left_out: dict[str, Any], broken: str) -> None:
    run(Protocol()._replace(**left_out)).expect_broken(broken)
