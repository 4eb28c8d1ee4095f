"""Removing a series that a worker may be looking up: no accepted sample is lost or put in another series.

    worker      epoch odd, (full fence), load the key's reference, append to the ring, (release) head, even
    persister   hide the reference, (full fence), wait for an odd epoch to change, load head, drain up to it,
                look again: used meanwhile = publish the reference again; else log the removal and reuse the
                slot with the next generation

The hidden word is the reference itself (a key entry's `ref`, or what a holder of a handle must look at before
every use): a worker finds it without passing the key table, by its hint of the next key.

Who holds many handles does not look at all of them each time: the persister counts what it hides, and a look that
found nothing hidden holds as long as the count is the one read before that look. So the count must change after the
word and before the fence: counted first, a look in between finds nothing and remembers the new count for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.models.weakmemory import DEAD, RELAXED, RELEASE, Broken, Explored, State, Step, Thread, explore

REF, EPOCH, HEAD, GENERATION, LAPSES, RING = 0, 1, 2, 3, 4, 5
RECORDS = 3
HIDDEN = 0


class Ghost(NamedTuple):
    applied: int = 0
    """Records taken from the ring; each is acknowledged then."""
    used: bool = False
    """Whether the series got a sample since its removal began."""
    life: int = 1
    """Which series really lives in the slot, whatever its generation says."""
    removals: int = 2
    kills: int = 1


class Protocol(NamedTuple):
    """One field a piece that may be left out."""

    enter_fence: bool = True
    hide_fence: bool = True
    waits_for_epoch: bool = True
    drains: bool = True
    looks_again: bool = True
    next_generation: bool = True
    by_hidden_word: bool = True
    """False: a holder of a handle compares generations only."""
    by_count: bool = False
    """A holder of a handle looks at the hidden word only if the count has changed since its last look."""
    counts: bool = True
    word_before_count: bool = True
    count_order: str = RELEASE
    count_before_look: bool = True
    buries: bool = True
    """Whether the supervisor ends the epoch of a dead worker."""


def worker(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: (epoch, head, reference in hand, batches left); a reference is (generation, life)"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        epoch, head, ref, batches = regs
        if pc == DEAD:
            if protocol.buries and read(EPOCH) % 2:
                stores = ((EPOCH, read(EPOCH) + 1, RELEASE),)
                yield Step("the supervisor ends its epoch", DEAD, regs, stores, drained=True)
            return
        if ghost.kills:
            yield Step("killed", DEAD, (0, 0, None, 0), ghost=ghost._replace(kills=ghost.kills - 1))
        if pc == 0 and batches and head < RECORDS:
            stores = ((EPOCH, epoch + 1, RELAXED),)
            yield Step("enter", 1 if protocol.enter_fence else 2, (epoch + 1, head, ref, batches - 1), stores)
        elif pc == 1:
            yield Step("full fence", 2, regs, drained=True)
        elif pc == 2:
            found = look_up(protocol, read, ref)
            yield Step(f"look up: {found}", 3 if found else 5, (epoch, head, found or ref, batches))
        elif pc == 3:
            yield Step("append", 4, regs, ((RING + head, ref, RELAXED),))
        elif pc == 4:
            yield Step("publish", 5, (epoch, head + 1, ref, batches), ((HEAD, head + 1, RELEASE),))
        elif pc == 5:
            yield Step("exit", 0, (epoch + 1, head, ref, batches), ((EPOCH, epoch + 1, RELEASE),))

    return step


def look_up(protocol: Protocol, read: Callable[[int], Any], handle: Any) -> Any:
    """The reference to use, None when it is hidden: the worker then asks the persister for the series."""
    if protocol.by_hidden_word or handle is None:
        return None if read(REF) == HIDDEN else read(REF)
    return handle if read(GENERATION) == handle[0] else None


ENTER, FENCE, COUNT, LOOK, COUNT_LATE, APPEND, PUBLISH, EXIT = range(8)


def holder(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """A worker with a handle, and frames that have a sample of it or not.

    regs: (epoch, head, reference in hand, count of the last look, count read now, frames left)
    """

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        epoch, head, ref, known, count, frames = regs
        if pc == ENTER and frames and head < RECORDS:
            stores = ((EPOCH, epoch + 1, RELAXED),)
            yield Step("enter", FENCE, (epoch + 1, head, ref, known, None, frames - 1), stores)
        elif pc == FENCE:
            yield Step("full fence", COUNT, regs, drained=True)
        elif pc == COUNT:
            seen = read(LAPSES)
            if known == seen:
                yield Step(f"nothing has lapsed since {seen}: a sample", APPEND, regs)
                yield Step(f"nothing has lapsed since {seen}: no sample", EXIT, regs)
            else:
                yield Step(f"load count {seen}", LOOK, (epoch, head, ref, known, seen, frames))
        elif pc == LOOK:
            found = read(REF)
            if found == HIDDEN:
                yield Step("look: hidden", EXIT, (epoch, head, None, None, None, frames))
            else:
                after = APPEND if protocol.count_before_look else COUNT_LATE
                yield Step(f"look: {found}, a sample", after, (epoch, head, found, count, count, frames))
                after = EXIT if protocol.count_before_look else COUNT_LATE
                yield Step(f"look: {found}, no sample", after, (epoch, head, found, count, None, frames))
        elif pc == COUNT_LATE:
            after = EXIT if count is None else APPEND
            yield Step(f"load count {read(LAPSES)}", after, (epoch, head, ref, read(LAPSES), count, frames))
        elif pc == APPEND:
            yield Step("append", PUBLISH, regs, ((RING + head, ref, RELAXED),))
        elif pc == PUBLISH:
            after_regs = (epoch, head + 1, ref, known, None, frames)
            yield Step("publish", EXIT, after_regs, ((HEAD, head + 1, RELEASE),))
        elif pc == EXIT:
            after_regs = (epoch + 1, head, ref, known, None, frames)
            yield Step("exit", ENTER, after_regs, ((EPOCH, epoch + 1, RELEASE),))

    return step


IDLE, FENCING, EPOCHS, WAITING, HEADS, DRAINING, LOOKING, REMOVING = range(8)


def persister(protocol: Protocol) -> Callable[..., Iterator[Step]]:
    """regs: the epoch waited for, or the head to be drained up to"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Ghost) -> Iterator[Step]:
        if pc in (IDLE, WAITING, DRAINING) and ghost.applied < read(HEAD):
            yield Step("apply", pc, regs, ghost=apply(read(RING + ghost.applied), read(GENERATION), ghost))
        if pc == IDLE and ghost.removals and read(REF) != HIDDEN:
            begun = ghost._replace(removals=ghost.removals - 1, used=False)
            after = FENCING if protocol.hide_fence else EPOCHS
            hide = (REF, HIDDEN, RELEASE)
            count = (LAPSES, read(LAPSES) + 1, protocol.count_order)
            both = (hide, count) if protocol.word_before_count else (count, hide)
            stores: tuple[Any, ...] = both if protocol.by_count and protocol.counts else (hide,)
            yield Step("hide the reference", after, read(REF), stores, begun)
        elif pc == FENCING:
            yield Step("full fence", EPOCHS, regs, drained=True)
        elif pc == EPOCHS:
            seen = read(EPOCH)
            wait = protocol.waits_for_epoch and seen % 2
            yield Step(f"load epoch {seen}", WAITING if wait else HEADS, (regs, seen))
        elif pc == WAITING and read(EPOCH) != regs[1]:
            yield Step("the epoch has changed", HEADS, regs)
        elif pc == HEADS:
            yield Step(f"load head {read(HEAD)}", DRAINING, (regs[0], read(HEAD)))
        elif pc == DRAINING and (ghost.applied >= regs[1] or not protocol.drains):
            yield Step("drained", LOOKING, regs)
        elif pc == LOOKING and protocol.looks_again and ghost.used:
            yield Step("used: publish it again", IDLE, (), ((REF, regs[0], RELEASE),))
        elif pc == LOOKING:
            yield Step("not used: log the removal", REMOVING, regs)
        elif pc == REMOVING:
            if ghost.used:
                raise Broken("an acknowledged sample is removed with its series")
            generation = regs[0][0] + (1 if protocol.next_generation else 0)
            new = (generation, ghost.life + 1)
            stores = ((GENERATION, generation, RELEASE), (REF, new, RELEASE))
            yield Step("reuse the slot", IDLE, (), stores, ghost._replace(life=ghost.life + 1))

    return step


def apply(ref: tuple[int, int], generation: int, ghost: Ghost) -> Ghost:
    """What applying one record does; the record carries the generation only, `life` is for the model."""
    if ref[0] != generation:
        raise Broken("an accepted sample is dropped as stale")
    if ref[1] != ghost.life:
        raise Broken("a sample is stored in another series")
    return ghost._replace(applied=ghost.applied + 1, used=True)


def who_is_stuck(state: State) -> str:
    pc = state.threads[1][0]
    if pc != IDLE:
        return "the removal waits for ever"
    return "" if state.ghost.applied == state.memory[HEAD] else "published records are never applied"


def run(protocol: Protocol) -> Explored:
    memory = ((1, 1), 0, 0, 1, 0, *((None,) * RECORDS))
    writer: tuple[str, Thread, int, Any] = ("worker", worker(protocol), 0, (0, 0, None, RECORDS))
    if protocol.by_count:
        writer = ("worker", holder(protocol), ENTER, (0, 0, None, None, None, RECORDS))
    threads = [writer, ("persister", persister(protocol), IDLE, ())]
    return explore(memory, threads, Ghost(), at_end=who_is_stuck)


def test_removal_loses_no_accepted_sample_and_always_ends() -> None:
    run(Protocol()).expect_whole(1_000)


def test_a_look_at_the_series_holds_until_one_is_counted_as_lapsed() -> None:
    run(Protocol(by_count=True)).expect_whole(1_000)


@pytest.mark.parametrize(
    "left_out",
    [
        {"counts": False},
        {"word_before_count": False},
        {"count_order": RELAXED},
        {"count_before_look": False},
        {"hide_fence": False},
    ],
)
def test_model_finds_the_stale_handle_when_the_count_is_wrong(left_out: dict[str, Any]) -> None:
    run(Protocol(by_count=True)._replace(**left_out)).expect_broken("dropped as stale")


@pytest.mark.parametrize(
    ("left_out", "broken"),
    [
        ({"enter_fence": False}, "dropped as stale"),
        ({"hide_fence": False}, "dropped as stale"),
        ({"waits_for_epoch": False}, "dropped as stale"),
        ({"drains": False}, "dropped as stale"),
        ({"looks_again": False}, "acknowledged sample is removed"),
        ({"by_hidden_word": False}, "dropped as stale"),
        ({"drains": False, "next_generation": False}, "stored in another series"),
        ({"buries": False}, "waits for ever"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_model_finds_the_fault_when_a_piece_is_missing(left_out: dict[str, Any], broken: str) -> None:
    run(Protocol()._replace(**left_out)).expect_broken(broken)
