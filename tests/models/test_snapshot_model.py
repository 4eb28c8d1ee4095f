"""A snapshot that is copied while the store goes on, and the log that is retired behind it: every crash recovers.

    persister   write block, apply it                      helper   copy cell after cell   <- any time in between
    commit      a prefix of the log becomes durable                 wait until the log is durable up to now
                                                                    rename, fsync of the directory, retire the log

The store is two cells; a block sets one of them, or empties it. At every state the power is cut: the newest snapshot
that may be on the disk, with the durable log behind its position, must give what the durable log gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.models.weakmemory import Explored, State, Step, explore

BLOCKS = ((0, "a"), (1, "b"), (0, "c"), (0, None), (1, "d"))
"""(cell, its new value; None = emptied) of block 1, 2, .."""
CELLS = 2
Cells = tuple[Any, ...]


class Ghost(NamedTuple):
    memory: Cells = (None,) * CELLS
    written: int = 0
    applied: int = 0
    durable: int = 0
    log_from: int = 1
    """First block that the log still has."""
    named: tuple[int, Cells] | None = None
    """(position, cells) of the newest snapshot that has its name, though perhaps not durably."""
    kept: tuple[int, Cells] | None = None
    """The one whose name is durable."""
    snapshots: int = 2


class Protocol(NamedTuple):
    """One field a piece that may be left out."""

    position_before_copy: bool = True
    everything_is_applied_at_the_position: bool = True
    waits_for_the_log: bool = True
    name_is_durable_before_retiring: bool = True
    retires_up_to_the_position: bool = True


def replay(cells: Cells, first: int, last: int) -> Cells:
    found = list(cells)
    for cell, value in BLOCKS[first - 1 : last]:
        found[cell] = value
    return tuple(found)


def persister(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
    if pc == 0 and ghost.written < len(BLOCKS):
        yield Step(f"write block {ghost.written + 1}", 1, ghost=ghost._replace(written=ghost.written + 1))
    elif pc == 1:
        applied = ghost.written
        cells = replay(ghost.memory, applied, applied)
        yield Step(f"apply block {applied}", 0, ghost=ghost._replace(memory=cells, applied=applied))


def commit(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
    if ghost.durable < ghost.applied:
        yield Step(
            f"blocks up to {ghost.applied} are durable", 0, ghost=ghost._replace(durable=ghost.applied)
        )


IDLE, COPYING, WAITING, NAMING, SYNCING, RETIRING = range(6)


def helper(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: (position, cells copied so far, what the log must reach)"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        if pc == IDLE and ghost.snapshots:
            begun = ghost._replace(snapshots=ghost.snapshots - 1)
            position = ghost.written
            between_blocks = ghost.written == ghost.applied
            if between_blocks or not protocol.everything_is_applied_at_the_position:
                yield Step(f"begin at {position}", COPYING, (position, ()), ghost=begun)
            return
        if pc == IDLE:
            return
        position, cells = regs
        if pc == COPYING and len(cells) < CELLS:
            yield Step(f"copy cell {len(cells)}", COPYING, (position, (*cells, ghost.memory[len(cells)])))
        elif pc == COPYING:
            if not protocol.position_before_copy:
                position = ghost.applied
            yield Step(
                f"copied; the log reaches {ghost.written}", WAITING, ((position, ghost.written), cells)
            )
        elif pc == WAITING and (ghost.durable >= position[1] or not protocol.waits_for_the_log):
            yield Step("the log is durable", NAMING, (position[0], cells))
        elif pc == NAMING:
            after = SYNCING if protocol.name_is_durable_before_retiring else RETIRING
            yield Step("rename", after, regs, ghost=ghost._replace(named=(position, cells)))
        elif pc == SYNCING:
            yield Step("fsync the directory", RETIRING, regs, ghost=ghost._replace(kept=(position, cells)))
        elif pc == RETIRING:
            upto = position if protocol.retires_up_to_the_position else ghost.durable
            retired = ghost._replace(log_from=max(ghost.log_from, upto + 1))
            yield Step(f"retire up to {upto}", IDLE, ghost=retired)

    return step


def cut_the_power(state: State) -> str:
    ghost: Ghost = state.ghost
    wanted = replay((None,) * CELLS, 1, ghost.durable)
    for found in {ghost.kept, ghost.named}:
        position, cells = found or (0, (None,) * CELLS)
        last = max(ghost.durable, position)
        if position + 1 < ghost.log_from:
            return f"the log from block {position + 1} on is retired"
        if position > ghost.durable:
            return f"the snapshot is of block {position}, the log is durable up to {ghost.durable}"
        if replay(cells, position + 1, last) != wanted:
            return f"another store: {replay(cells, position + 1, last)} instead of {wanted}"
    return ""


def run(protocol: Protocol) -> Explored:
    threads: list[Any] = [
        ("persister", persister, 0, ()),
        ("commit", commit, 0, ()),
        ("helper", helper(protocol), IDLE, ()),
    ]
    return explore((), threads, Ghost(), invariant=cut_the_power)


def test_every_crash_finds_a_snapshot_and_the_log_behind_it() -> None:
    run(Protocol()).expect_whole(500)


@pytest.mark.parametrize(
    ("left_out", "broken"),
    [
        ({"position_before_copy": False}, "another store"),
        ({"everything_is_applied_at_the_position": False}, "another store"),
        ({"waits_for_the_log": False}, "durable up to"),
        ({"name_is_durable_before_retiring": False}, "is retired"),
        ({"retires_up_to_the_position": False}, "is retired"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_model_finds_the_fault_when_a_piece_is_missing(left_out: dict[str, Any], broken: str) -> None:
    run(Protocol()._replace(**left_out)).expect_broken(broken)
