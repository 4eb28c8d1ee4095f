"""A query worker's way to the archive: questions that need it are answered by a helper process, one at a time.

    worker  ── needed? ── no ──> answered here, from memory
                      └── yes ─> waits in a queue ──frame──> helper (archive_reader.py) ──frame──> answer

Reading Parquet takes long and much memory, and pyarrow cannot be interrupted: so it happens elsewhere, at a lower
priority, and the worker\'s other clients notice nothing. The helper is started by the first such question, ends when it
has had none for IDLE_S, and is killed when the question it works on has passed its deadline or is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mstore import clock, limits
from mstore.archive.switch import Switch
from mstore.errors import ArchiveError, LimitExceeded, ProtocolError
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.query.budget import Budget, Work
from mstore.query.reader import Reader
from mstore.workers.sample_answers import reaches
from mstore.workers.spec import WorkerSpec

log = logging.getLogger(__name__)

IDLE_S = 60.0
_LOOK_S = 0.002
"""How often a question looks whether its answer is there."""


@dataclass(eq=False, slots=True)
class _Question:
    """One that waits for the helper, or is with it."""

    message: m.Message
    reply: m.Message | None = None
    wanted: bool = True


class ArchiveReading:
    """The helper of one query worker, and the questions for it.

    reader  over memory
    left    see Switch
    """

    def __init__(self, spec: WorkerSpec, reader: Reader, left: Callable[[], int]) -> None:
        self._spec = spec
        self._reader = reader
        self._switch = Switch(spec.directory, reader.shortest_retention_s, left, clock.now_s)
        self._queue: deque[_Question] = deque()
        self._arrived = asyncio.Event()
        self._current: _Question | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ready = False
        """It has loaded what it needs, which takes much longer than most answers do."""
        self._task: asyncio.Task[None] | None = None
        self.n_started = 0

    def needed(self, message: m.Message) -> bool:
        """Whether memory alone may lack samples that a question asks for. raises what it is refused for"""
        if not self._switch.reads:
            return False
        return any(
            self._switch.needed(cluster, start, end)
            for cluster, start, end in reaches(self._reader, self._switch, message)
        )

    def work(self, message: m.Message, budget: Budget) -> Work[m.Message]:
        """The answer to a question, of memory and archive; raises what the helper says, LimitExceeded"""
        if len(self._queue) >= limits.ARCHIVE_QUESTIONS_MAX:
            raise LimitExceeded(
                f"{len(self._queue)} questions wait for the archive already: ask again later",
                limit=limits.ARCHIVE_QUESTIONS_MAX,
            )
        question = _Question(message)
        self._queue.append(question)
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return self._wait(question, budget)

    def _wait(self, question: _Question, budget: Budget) -> Work[m.Message]:
        try:
            while question.reply is None:
                budget.rest_s = _LOOK_S
                yield
        finally:
            self._forget(question)
        if isinstance(question.reply, m.Error):
            raise question.reply.exception()
        if isinstance(question.reply, m.Answer):
            budget.spend(series=len(question.reply.series))
        return question.reply

    def _forget(self, question: _Question) -> None:
        """Nobody waits for it any more; what works on it is ended."""
        question.wanted = False
        if question in self._queue:
            self._queue.remove(question)
        elif question is self._current and question.reply is None and self._ready:
            self._kill()  # one that still starts does nothing for this question yet, and the next will need it

    async def stop(self) -> None:
        """End the helper, whatever it does."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end()

    def state(self) -> dict[str, object]:
        """For `mstore debug`."""
        return {
            "waiting": len(self._queue),
            "working": self._current is not None,
            "pid": self._process.pid if self._process is not None else 0,
            "started": self.n_started,
        }

    # --- the process

    async def _run(self) -> None:
        """Hand the questions over, one after the other, until none has come for a while."""
        idle = False
        while not idle or self._queue:
            idle = False
            while self._queue:
                self._current = self._queue.popleft()
                self._current.reply = await self._answer(self._current)
                self._current = None
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), IDLE_S)
            except TimeoutError:
                idle = True
                await self._end()  # a question that comes meanwhile finds this task, and counts on it

    async def _answer(self, question: _Question) -> m.Message:
        """Whatever becomes of the helper, a question is answered: who waits for it would wait until its deadline."""
        try:
            return await self._asked(question)
        except Exception as error:
            await self._end()
            if question.wanted:
                known = isinstance(error, (asyncio.IncompleteReadError, ProtocolError, OSError))
                log.error("the reader of the archive has ended: %s", error, exc_info=not known)
            return m.Error.of(
                ArchiveError("the reader of the archive has ended before it answered: its log says why")
            )

    async def _asked(self, question: _Question) -> m.Message:
        process = await self._started()
        if not question.wanted:
            return m.Done()  # to nobody
        assert process.stdin is not None
        for part in m.encode_parts(question.message, 1):
            process.stdin.write(part)
        await process.stdin.drain()
        return await _frame(process)

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._ready = False
            self._process = await self._launched()
            self.n_started += 1
        if not self._ready:
            await _frame(self._process)  # its first word: that it is ready
            self._ready = True
        return self._process

    async def _launched(self) -> asyncio.subprocess.Process:
        job = {
            "store_dir": self._spec.store_dir,
            "instance": self._spec.instance,
            "lock_inode": self._spec.lock_inode,
            "index": self._spec.index,
            "parent_pid": os.getpid(),
        }
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "mstore.workers.archive_reader",
            json.dumps(job),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _frame(process: asyncio.subprocess.Process) -> m.Message:
    """The next message of the helper."""
    assert process.stdout is not None
    head = await process.stdout.readexactly(framing.HEADER_BYTES)
    _, tag, _, n_bytes, _ = framing.HEADER.unpack(head)
    return m.decode(tag, await process.stdout.readexactly(n_bytes))
