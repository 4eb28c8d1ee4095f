"""Every interleaving of a few small threads over shared words, on a machine that reorders stores.

A model is a list of threads. A thread is a function

    step(pc, regs, read, ghost) -> iterable of Step

that says what may happen next: none = it waits or has ended, several = it may do either. `read(address)` is
what that thread sees. A Step's stores go into the thread's own buffer and reach memory later, each at any
time, except that

    two stores to one address keep their order                (coherence)
    a RELEASE store waits for all stores of the thread before it
    nothing passes a FENCE marker in the buffer               (a release fence)
    a Step with drained=True needs the thread's buffer to be empty                (a full fence)

which allows what x86 does (a store passed by a later load) and what aarch64 does (stores out of order). Loads
happen in the order in which the thread makes them: where nothing forces the order of two loads, a model
offers both. A killed thread does nothing more, but what it stored reaches memory before anybody knows that it
is dead. `ghost` is what no machine word holds: the log on disk, what was promised. It changes at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

RELAXED, RELEASE = "relaxed", "release"
FENCE = (None, None, RELEASE)

DEAD = -1
STATES_MAX = 400_000


class Broken(Exception):
    """A step found what must never be seen."""


class Step(NamedTuple):
    label: str
    pc: int
    regs: Any = ()
    stores: tuple[Any, ...] = ()
    """(address, value, RELAXED | RELEASE) or FENCE, in program order."""
    ghost: Any = None
    """The new ghost; None leaves it."""
    drained: bool = False


class State(NamedTuple):
    memory: tuple[Any, ...]
    threads: tuple[tuple[int, Any, tuple[Any, ...]], ...]
    """(pc, regs, buffer) each."""
    ghost: Any


Thread = Callable[[int, Any, Callable[[int], Any], Any], Iterable[Step]]


@dataclass(frozen=True)
class Explored:
    """What an exploration found: the number of states, and the shortest story that ends in a broken one."""

    states: int
    broken: str
    story: tuple[str, ...]

    def expect_whole(self, states_min: int) -> None:
        print(self.told())
        assert not self.broken, self.told()
        assert self.states > states_min

    def expect_broken(self, broken: str) -> None:
        print(self.told())
        assert broken in self.broken, self.told()

    def told(self) -> str:
        return f"{self.states} states; {self.broken or 'nothing broken'}\n  " + "\n  ".join(self.story)


def explore(
    memory: tuple[Any, ...],
    threads: Sequence[tuple[str, Thread, int, Any]],
    ghost: Hashable,
    invariant: Callable[[State], str] = lambda state: "",
    at_end: Callable[[State], str] = lambda state: "",
) -> Explored:
    """Visit every reachable state, breadth first.

    threads    (name, step function, first pc, first regs)
    invariant  says what is wrong with a state, "" if nothing is
    at_end     the same for a state that nothing can follow: who waits for ever?
    """
    first = State(memory, tuple((pc, regs, ()) for _, _, pc, regs in threads), ghost)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        ended = True
        try:
            for label, after in _successors(state, threads):
                ended = False
                if after in came_from:
                    continue
                came_from[after] = (state, label)
                if wrong := invariant(after):
                    return Explored(len(came_from), wrong, _story(came_from, after))
                waiting.append(after)
        except Broken as found:
            return Explored(len(came_from), str(found), _story(came_from, state))
        if ended and (wrong := at_end(state)):
            return Explored(len(came_from), wrong, _story(came_from, state))
        assert len(came_from) <= STATES_MAX, "the model is too large to be explored"
    return Explored(len(came_from), "", ())


def _successors(state: State, threads: Sequence[tuple[str, Thread, int, Any]]) -> Iterator[tuple[str, State]]:
    for number, (name, step, _, _) in enumerate(threads):
        pc, regs, buffer = state.threads[number]
        for index in _may_reach_memory(buffer):
            yield f"{name}: a store reaches memory {buffer[index][:2]}", _drain(state, number, index)
        for made in step(pc, regs, partial(_read, state, number), state.ghost):
            if made.drained and buffer:
                continue
            thread = (made.pc, made.regs, buffer + made.stores)
            after = State(state.memory, _replaced(state.threads, number, thread), state.ghost)
            if made.ghost is not None:
                after = after._replace(ghost=made.ghost)
            yield f"{name}: {made.label}", after


def _read(state: State, number: int, address: int) -> Any:
    for stored, value, _ in reversed(state.threads[number][2]):
        if stored == address:
            return value
    return state.memory[address]


def _may_reach_memory(buffer: tuple[Any, ...]) -> Iterator[int]:
    """Indices of the stores that may be the next to reach memory."""
    for index, (address, _, order) in enumerate(buffer):
        if order is RELEASE and index:
            if address is None:
                return
            continue
        if all(earlier[0] != address for earlier in buffer[:index]):
            yield index


def _drain(state: State, number: int, index: int) -> State:
    pc, regs, buffer = state.threads[number]
    address, value, _ = buffer[index]
    left = buffer[:index] + buffer[index + 1 :]
    memory = state.memory if address is None else _replaced(state.memory, address, value)
    return State(memory, _replaced(state.threads, number, (pc, regs, left)), state.ghost)


def _replaced(items: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*items[:index], value, *items[index + 1 :])


def _story(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    labels = []
    while (before := came_from[state]) is not None:
        state, label = before
        labels.append(label)
    return tuple(reversed(labels))
