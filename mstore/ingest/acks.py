"""Acknowledgements in order: who waits for which ring position, at which level."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mstore.model import Ack


class AckQueue:
    """Callbacks of one ingest worker, fired once the ring position they wait for is reached.

    Positions only grow, so each level is a queue and looking at its head is enough.
    """

    def __init__(self) -> None:
        self._waiting: dict[Ack, deque[tuple[int, Callable[[], None]]]] = {level: deque() for level in Ack}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def wait(self, level: Ack, position: int, callback: Callable[[], None]) -> None:
        """Call `callback` when `position` bytes of the ring are drained (MEMORY) or durable (DURABLE)."""
        queue = self._waiting[level]
        assert not queue or queue[-1][0] <= position, "positions of one ring never go back"
        queue.append((position, callback))

    def advance(self, drained: int, durable: int) -> int:
        """Fire everything reached by now; the number of callbacks fired."""
        fired = 0
        for level, reached in ((Ack.MEMORY, drained), (Ack.DURABLE, durable)):
            queue = self._waiting[level]
            while queue and queue[0][0] <= reached:
                queue.popleft()[1]()
                fired += 1
        return fired
