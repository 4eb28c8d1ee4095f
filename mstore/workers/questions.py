"""Questions to a child over its channel: each has a number, which the child's answer carries.

ask()     ["snapshot", 7, ...]  down        settle()  ["done", 7, details] or ["failed", 7, code, text, details]  up
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from mstore.errors import MstoreError, Unavailable
from mstore.workers.channel import Channel


class Questions:
    """Those that wait for an answer."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(
        self, channel: Channel, verb: str, *arguments: Any, fd: int | None = None
    ) -> asyncio.Future[dict[str, Any]]:
        """Send the question; the future holds its details, or raises what the child says is wrong."""
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._waiting.pop(number, None))
        self._waiting[number] = future
        channel.send([verb, number, *arguments], fd)
        return future

    def settle(self, number: int, details: dict[str, Any], error: MstoreError | None = None) -> None:
        """The answer to question `number`; nobody may wait for it any more."""
        future = self._waiting.get(number)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(details)
        else:
            future.set_exception(error)

    def fail_all(self, why: str) -> None:
        for number in list(self._waiting):
            self.settle(number, {}, Unavailable(why))
