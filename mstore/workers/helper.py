"""A helper process: one job in JSON as its argument, lines of JSON about it on standard output, then it ends.

asks  --JOB-->  nursery.MAINS[main](JOB)  {"share": 0.31, ...} now and then, at the end {"done": {...}} or
      <-lines-                            {"failed": "why"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

from mstore.errors import StorageError
from mstore.workers.births import Nursery, Process

_LINE_BYTES_MAX = 1 << 20


class Helper:
    """One run. `name` is what its failure is told by: "the export helper failed: ...".

    lock_fd  of DIR/lock, which the helper holds as well: no other run begins before it has ended
    """

    def __init__(self, nursery: Nursery, lock_fd: int, main: str, name: str) -> None:
        self._nursery = nursery
        self._lock_fd = lock_fd
        self._main = main
        self._name = name
        self._process: Process | None = None
        self._killed = False

    async def run(
        self, job: dict[str, Any], told: Callable[[dict[str, Any]], None], pass_fds: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        """What it was `done` with; `told` is given every other line. pass_fds: inherited under the same numbers.

        raises StorageError when it failed, was killed, or said nothing
        """
        reading, writing = os.pipe()
        try:
            self._process = self._nursery.start(
                self._main, json.dumps(job), {1: writing, **{fd: fd for fd in (self._lock_fd, *pass_fds)}}
            )
        except OSError as error:
            os.close(reading)
            raise StorageError(f"{self._name} cannot be started: {error}") from error
        finally:
            os.close(writing)
        if self._killed:
            self.kill()
        last: dict[str, Any] = {}
        try:
            async with _lines(reading) as lines:
                while line := await lines.readline():
                    last = json.loads(line)
                    if not last.keys() & {"done", "failed"}:
                        told(last)
        except BaseException:
            self.kill()  # nobody listens to it any more, and the next one must not write beside it
            await self._ended()
            raise
        status = await self._ended()
        if "done" in last and status == 0:
            found: dict[str, Any] = last["done"]
            return found
        raise StorageError(f"{self._name} failed: {last.get('failed') or f'it ended with status {status}'}")

    def kill(self) -> None:
        """End it, also when it is only just starting."""
        self._killed = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process.pidfd, signal.SIGKILL)

    async def _ended(self) -> int:
        """Its exit status; below 0 the signal that ended it."""
        assert self._process is not None
        process = self._process
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        try:
            loop.add_reader(process.pidfd, over.set)
            await over.wait()
        finally:
            if not over.is_set():  # given up: what follows must not wait for it
                self.kill()
            self._process = None
            loop.remove_reader(process.pidfd)
            os.close(process.pidfd)
            _, status = os.waitpid(process.pid, 0)
        return os.waitstatus_to_exitcode(status)


@contextlib.asynccontextmanager
async def _lines(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """The lines that come through a pipe, whose end is closed with it."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(_LINE_BYTES_MAX, loop)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines, loop=loop), os.fdopen(fd, "rb", 0)
    )
    try:
        yield lines
    finally:
        transport.close()
