"""Memory that outlives its persister, killed between any two stores: adopted whole, or refused.

    persister   log the block, apply it, (release) APPLIED          samples: one word a block
                CRITICAL odd, two words, CRITICAL even              directory: words that belong together
    successor   refuse if CRITICAL is odd; else apply the log again from APPLIED on; the rings go on where their
                last block in the log ends

What is adopted must be what the whole log makes, and every record of the ring is in the log exactly as often as it
does no harm: at least once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.models.weakmemory import DEAD, RELAXED, RELEASE, Explored, State, Step, explore

APPLIED, CRITICAL, CELL, NAME, PLACE, HEAD, DRAINED = range(7)
BLOCKS = (("cell", 1), ("pair", 2), ("cell", 3), ("pair", 4))
"""A block sets the cell, or both words of the directory, to its own number."""


class Ghost(NamedTuple):
    log: int = 0
    """Blocks written."""
    adopted: tuple[Any, ...] = ()
    refused: bool = False
    drained: int = 0
    kills: int = 1


class Protocol(NamedTuple):
    """One field a piece that may be left out."""

    marks_critical: bool = True
    leaves_last: bool = True
    notes_after_applying: bool = True
    applies_again: bool = True
    again_is_the_same: bool = True
    """False: applying a block adds to what is there."""
    refuses_when_critical: bool = True
    rings_go_on_from_the_log: bool = True


LOG, APPLY, SECOND, LEAVE, NOTE, DRAIN = range(6)


def persister(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: (block under way, value of CRITICAL)"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        block, critical = regs
        if pc == DEAD:
            return
        if ghost.kills:
            yield Step("killed", DEAD, regs, ghost=ghost._replace(kills=0), drained=True)
        if pc == LOG and block <= len(BLOCKS):
            early = () if protocol.notes_after_applying else ((APPLIED, block, RELEASE),)
            yield Step(f"log block {block}", APPLY, regs, early, ghost._replace(log=block))
        elif pc == APPLY:
            kind, value = BLOCKS[block - 1]
            if kind == "cell":
                stores: tuple[Any, ...] = ((CELL, value, RELAXED),)
                yield Step(f"apply block {block}", NOTE, regs, stores)
            else:
                mark = ((CRITICAL, critical + 1, RELEASE),) if protocol.marks_critical else ()
                stores = (*mark, (NAME, value, RELAXED))
                yield Step(f"change the directory for block {block}", SECOND, (block, critical + 1), stores)
        elif pc == SECOND:
            second = ((PLACE, BLOCKS[block - 1][1], RELAXED),)
            if protocol.leaves_last:
                yield Step("the second word", LEAVE, regs, second)
            else:
                yield Step("leave too early", LEAVE, regs, ((CRITICAL, critical + 1, RELEASE),))
        elif pc == LEAVE:
            mark = ((CRITICAL, critical + 1, RELEASE),) if protocol.marks_critical else ()
            if not protocol.leaves_last:
                mark = ((PLACE, BLOCKS[block - 1][1], RELAXED),)
            yield Step("leave the critical section", NOTE, (block, critical + 1), mark)
        elif pc == NOTE:
            yield Step(f"note block {block}", DRAIN, regs, ((APPLIED, block, RELEASE),))
        elif pc == DRAIN:
            yield Step("drained", LOG, (block + 1, critical), ((DRAINED, block, RELEASE),))

    return step


def successor(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """Comes when the other is dead and its stores have reached memory: hence `drained` where it is killed."""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        if pc or ghost.kills:
            return
        if read(CRITICAL) % 2 and protocol.refuses_when_critical:
            yield Step("refuse", 1, ghost=ghost._replace(refused=True, drained=ghost.log))
            return
        words = [read(CELL), read(NAME), read(PLACE)]
        first = read(APPLIED) if protocol.applies_again else ghost.log
        for kind, value in BLOCKS[first : ghost.log]:
            if kind == "cell":
                words[0] = value if protocol.again_is_the_same else words[0] + value
            elif words[1] != value:  # a name that is there is taken for a definition that is there
                words[1] = words[2] = value
        drained = max(read(DRAINED), ghost.log) if protocol.rings_go_on_from_the_log else read(HEAD)
        yield Step("adopt", 1, ghost=ghost._replace(adopted=tuple(words), drained=drained))

    return step


def look(state: State) -> str:
    ghost: Ghost = state.ghost
    if not ghost.adopted and not ghost.refused:
        return ""
    if ghost.drained != ghost.log:
        return (
            f"records of the ring are in no log: it goes on at {ghost.drained}, the log ends at {ghost.log}"
        )
    if ghost.refused:
        return ""
    cell = name = 0
    for kind, value in BLOCKS[: ghost.log]:
        cell, name = (value, name) if kind == "cell" else (cell, value)
    if ghost.adopted != (cell, name, name):
        return f"adopted {ghost.adopted}, the log makes {(cell, name, name)}"
    return ""


def run(protocol: Protocol) -> Explored:
    memory = (0, 0, 0, 0, 0, len(BLOCKS), 0)
    threads = [
        ("persister", persister(protocol), LOG, (1, 0)),
        ("successor", successor(protocol), 0, ()),
    ]
    return explore(memory, threads, Ghost(), invariant=look)


def test_memory_of_a_killed_persister_is_adopted_whole_or_refused() -> None:
    run(Protocol()).expect_whole(100)


@pytest.mark.parametrize(
    ("left_out", "broken"),
    [
        ({"marks_critical": False}, "adopted"),
        ({"leaves_last": False}, "adopted"),
        ({"refuses_when_critical": False}, "adopted"),
        ({"notes_after_applying": False}, "adopted"),
        ({"applies_again": False}, "adopted"),
        ({"again_is_the_same": False}, "adopted"),
        ({"rings_go_on_from_the_log": False}, "records of the ring"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_model_finds_the_fault_when_a_piece_is_missing(left_out: dict[str, Any], broken: str) -> None:
    run(Protocol()._replace(**left_out)).expect_broken(broken)
