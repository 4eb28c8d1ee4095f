"""From the ring to the disk and back: what is acknowledged is on the disk and visible, and no byte is reused too early.

    worker      slot, (release) HEAD           acknowledges up to the ring's DURABLE, reuses slots behind it
    persister   write the block to the log (from the ring), apply it (from the ring), note it
    commit      take what is noted, fdatasync, (release) DURABLE
    failure     a sync fails: what was not durable is lost, also from the page cache's promises; the persister
                writes it again, from the ring, to another file

Records are numbers, the ring has room for two of them, the store is the list of what was applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.models.weakmemory import RELAXED, RELEASE, Explored, State, Step, explore

HEAD, DURABLE, DRAINED, RING = 0, 1, 2, 3
ROOM = 2
RECORDS = 4


class Ghost(NamedTuple):
    cache: tuple[int, ...] = ()
    """Blocks in the log's file as programs see it."""
    disk: tuple[int, ...] = ()
    """Blocks that survive a power cut."""
    store: tuple[int, ...] = ()
    """What queries see."""
    noted: int = 0
    acknowledged: int = 0
    failed: bool = False
    lost: int = 0
    """What was noted when the sync failed."""
    failures: int = 1


class Protocol(NamedTuple):
    """One field a piece that may be left out."""

    applies_before_noting: bool = True
    syncs_before_publishing: bool = True
    group_is_closed_when_the_sync_begins: bool = True
    room_is_freed_by_durable: bool = True
    writes_again_after_a_failure: bool = True


def worker(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: head"""

    def step(pc: int, head: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        durable = read(DURABLE)
        if durable > ghost.acknowledged:
            yield Step(f"acknowledge {durable}", pc, head, ghost=ghost._replace(acknowledged=durable))
        free_from = durable if protocol.room_is_freed_by_durable else read(DRAINED)
        if pc == 0 and head < RECORDS and head - free_from < ROOM:
            yield Step(f"write record {head}", 1, head, ((RING + head % ROOM, head, RELAXED),))
        elif pc == 1:
            yield Step("publish", 0, head + 1, ((HEAD, head + 1, RELEASE),))

    return step


WRITE, APPLY, NOTE = range(3)


def persister(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: (blocks written, blocks applied)"""
    order = (WRITE, APPLY, NOTE) if protocol.applies_before_noting else (WRITE, NOTE, APPLY)

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        written, applied = regs
        if ghost.failed:
            if protocol.writes_again_after_a_failure:
                again = tuple(read(RING + seq % ROOM) for seq in range(len(ghost.disk), written))
            else:  # the page cache says that all is well
                again = ()
            after = ghost._replace(cache=ghost.disk + again, failed=False, noted=ghost.lost)
            yield Step("write what is not durable to another file", pc, regs, ghost=after)
            return
        what = order[pc]
        if what == WRITE and written < read(HEAD):
            after = ghost._replace(cache=(*ghost.cache, read(RING + written % ROOM)))
            yield Step(f"write block {written}", pc + 1, (written + 1, applied), ghost=after)
        elif what == APPLY:
            after = ghost._replace(store=(*ghost.store, read(RING + applied % ROOM)))
            stores = ((DRAINED, applied + 1, RELEASE),)
            yield Step(f"apply block {applied}", (pc + 1) % 3, (written, applied + 1), stores, ghost=after)
        elif what == NOTE:
            yield Step(f"note {written}", (pc + 1) % 3, regs, ghost=ghost._replace(noted=written))

    return step


def commit(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: (blocks of the group, what the file held when the sync began)"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        if pc == 0 and not ghost.failed and ghost.noted > read(DURABLE):
            if not protocol.syncs_before_publishing:
                yield Step("publish first", 1, (ghost.noted, ghost.cache), ((DURABLE, ghost.noted, RELEASE),))
            else:
                yield Step("the sync begins", 1, (ghost.noted, ghost.cache))
        elif pc == 1:
            group, content = regs
            yield Step("the sync ends", 2, (group, content), ghost=ghost._replace(disk=content))
            if ghost.failures:
                lost = ghost._replace(failures=ghost.failures - 1, failed=True, lost=ghost.noted)
                yield Step("the sync fails", 0, (), ghost=lost)
        elif pc == 2:
            group = regs[0] if protocol.group_is_closed_when_the_sync_begins else ghost.noted
            yield Step(f"publish {group}", 0, (), ((DURABLE, group, RELEASE),))

    return step


def look(state: State) -> str:
    ghost: Ghost = state.ghost
    for seq, value in enumerate(ghost.store):
        if value != seq:
            return f"a wrong value is served: {value} for {seq}"
    for seq, value in enumerate(ghost.disk):
        if value != seq:
            return f"a wrong value is on the disk: {value} for {seq}"
    if ghost.acknowledged > len(ghost.disk):
        return "acknowledged and not on the disk"
    if ghost.acknowledged > len(ghost.store):
        return "acknowledged and not visible"
    return ""


def who_is_stuck(state: State) -> str:
    return "" if state.ghost.acknowledged == RECORDS else "records are never acknowledged"


def run(protocol: Protocol) -> Explored:
    memory = (0, 0, 0, *((None,) * ROOM))
    threads = [
        ("worker", worker(protocol), 0, 0),
        ("persister", persister(protocol), 0, (0, 0)),
        ("commit", commit(protocol), 0, ()),
    ]
    return explore(memory, threads, Ghost(), invariant=look, at_end=who_is_stuck)


def test_durable_positions_promise_nothing_that_is_not_on_the_disk_and_visible() -> None:
    run(Protocol()).expect_whole(1_000)


@pytest.mark.parametrize(
    ("left_out", "broken"),
    [
        ({"applies_before_noting": False}, "not visible"),
        ({"syncs_before_publishing": False}, "not on the disk"),
        ({"group_is_closed_when_the_sync_begins": False}, "not on the disk"),
        ({"room_is_freed_by_durable": False}, "wrong value is on the disk"),
        ({"writes_again_after_a_failure": False}, "not on the disk"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_model_finds_the_fault_when_a_piece_is_missing(left_out: dict[str, Any], broken: str) -> None:
    run(Protocol()._replace(**left_out)).expect_broken(broken)
