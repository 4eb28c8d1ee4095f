"""The list of a level's children: a reader walks it while levels that hold nothing are unlinked and linked again.

    unlink    predecessor's link := the level's next            the level keeps its next: whoever stands on it goes on
    link      the level's next := first child, then (release) first child := the level

Children 1, 2, 3; address 0 is the parent's first child, address n the next sibling of child n; 0 = end. The reader must
meet every child that is in the list all the time, and come to an end; it may meet one twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.models.weakmemory import RELAXED, RELEASE, Broken, Explored, Step, explore

STEPS_MAX = 12
Store = tuple[str, int, int, str]


def unlink(before: int, child: int, after: int) -> list[Store]:
    return [(f"unlink {child}", before, after, RELEASE)]


def link(child: int, first: int, *, next_first: bool = True) -> list[Store]:
    stores = [
        (f"next of {child}", child, first, RELEASE if next_first else RELAXED),
        (f"first child {child}", 0, child, RELEASE if next_first else RELAXED),
    ]
    return stores if next_first else stores[::-1]


def writer(stores: list[Store]) -> Callable[..., Iterator[Step]]:
    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Any) -> Iterator[Step]:
        if pc < len(stores):
            label, address, value, order = stores[pc]
            yield Step(label, pc + 1, (), ((address, value, order),))

    return step


def reader(always: set[int]) -> Callable[..., Iterator[Step]]:
    """regs: (children met in order, the next place to look)"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Any) -> Iterator[Step]:
        met, at = regs
        if pc == 1:
            return
        child = read(at)
        if len(met) == STEPS_MAX:
            raise Broken(f"the reader does not come to an end: {met}")
        if child:
            yield Step(f"meet {child}", 0, ((*met, child), child))
            return
        if not always <= set(met):
            raise Broken(f"the reader met {met}, and not all of {sorted(always)}")
        yield Step("end", 1, regs)

    return step


def run(stores: list[Store], always: set[int]) -> Explored:
    memory = (1, 2, 3, 0)  # 1 -> 2 -> 3
    return explore(memory, [("writer", writer(stores), 0, ()), ("reader", reader(always), 0, ((), 0))], ())


def test_a_child_that_goes_and_comes_back_hides_none_of_the_others() -> None:
    for child, before, after, others in ((1, 0, 2, (2, 3)), (2, 1, 3, (1, 3)), (3, 2, 0, (1, 2))):
        first = after if before == 0 else 1
        run(unlink(before, child, after) + link(child, first), set(others)).expect_whole(10)


def test_two_that_go_and_come_back_in_turn_end_no_walk_and_start_no_circle() -> None:
    # 1 -> 2 -> 3, without 2: 1 -> 3, without 3: 1, then 3 -> 1, then 2 -> 3 -> 1, then again without 3 and with it
    stores = unlink(1, 2, 3) + unlink(1, 3, 0) + link(3, 1) + link(2, 3) + unlink(2, 3, 1) + link(3, 2)
    run(stores, {1}).expect_whole(30)


def test_model_finds_the_fault_when_the_first_child_is_stored_before_its_next() -> None:
    # 3 was last: its next is 0 until the store. Who comes in between ends at once.
    run(unlink(2, 3, 0) + link(3, 1, next_first=False), {1, 2}).expect_broken("the reader met")


def test_model_finds_the_fault_when_an_unlinked_child_forgets_what_follows_it() -> None:
    forgets = [*unlink(1, 2, 3), ("forget the next of 2", 2, 0, RELEASE)]
    run(forgets, {1, 3}).expect_broken("the reader met")
