"""What runs beside everything else on a process's loop: work that nobody awaits, and connections handed to it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Tasks:
    """Keeps work alive until it is done, which the loop alone does not, and tells of its failure."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    async def finish(self, timeout_s: float) -> None:
        """Wait for what is under way, within a limit."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an unexpected error", exc_info=error)


async def take_connection(sock: socket.socket, protocol: Callable[[], P]) -> P | None:
    """Serve a connection that was accepted elsewhere; None, and it is closed, when it is gone already."""
    sock.setblocking(False)
    try:
        _, made = await asyncio.get_running_loop().connect_accepted_socket(protocol, sock)
    except OSError as error:
        log.info("a connection was gone before it was served: %s", error)
        sock.close()
        return None
    return made
