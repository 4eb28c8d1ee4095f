"""The queue of questions for the reader of the archive: whoever comes while it ends is answered all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mstore.errors import ArchiveError
from mstore.ipc import messages as m
from mstore.query.budget import Budget
from mstore.workers import archive_reading
from mstore.workers.archive_reading import ArchiveReading


class Reading(ArchiveReading):
    """Without a process: every question is answered at once, an end takes a while."""

    n_ends = 0

    def __init__(self, directory: Path) -> None:
        spec = SimpleNamespace(directory=directory)
        super().__init__(spec, SimpleNamespace(shortest_retention_s=int), int)  # type: ignore[arg-type]  # what it needs of them
        self.ending = asyncio.Event()

    failure: Exception | None = None

    async def _asked(self, question: Any) -> m.Message:
        if self.failure is not None:
            raise self.failure
        return m.Done()

    async def _end(self) -> None:
        self.n_ends += 1
        self.ending.set()
        await asyncio.sleep(0.02)


async def answered(reading: Reading) -> m.Message:
    work = reading.work(m.Ping(), Budget())
    try:
        while True:
            next(work)
            await asyncio.sleep(0.001)
    except StopIteration as done:
        reply: m.Message = done.value
        return reply


def test_a_question_that_comes_while_the_idle_reader_ends_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_reading, "IDLE_S", 0.01)

    async def scene() -> None:
        reading = Reading(tmp_path)
        assert await answered(reading) == m.Done()
        await reading.ending.wait()
        assert await asyncio.wait_for(answered(reading), 5) == m.Done()
        assert reading._task is not None
        await asyncio.wait_for(reading._task, 5)
        assert reading.n_ends == 2, "it ends again when nobody asks any more"

    asyncio.run(scene())


def test_a_question_of_which_nobody_expected_what_became_fails_and_the_next_is_answered(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        reading = Reading(tmp_path)
        reading.failure = ValueError("what nobody expected")
        with pytest.raises(ArchiveError, match="has ended before it answered"):
            await asyncio.wait_for(answered(reading), 5)
        reading.failure = None
        assert await asyncio.wait_for(answered(reading), 5) == m.Done()
        await reading.stop()

    asyncio.run(scene())


class Helper:
    """A process that is ready, and answers, when the test says so."""

    returncode = None

    def __init__(self) -> None:
        self.stdout = asyncio.StreamReader()
        self.stdin = self
        self.asked = 0
        self.killed = False

    def write(self, _part: bytes) -> None:
        self.asked += 1

    async def drain(self) -> None:
        self.says(m.Names(["answer"]))

    def says(self, message: m.Message) -> None:
        self.stdout.feed_data(m.encode(message))

    def kill(self) -> None:
        self.killed = True

    async def wait(self) -> None:
        return None


class Launching(ArchiveReading):
    def __init__(self, directory: Path) -> None:
        spec = SimpleNamespace(directory=directory)
        super().__init__(spec, SimpleNamespace(shortest_retention_s=int), int)  # type: ignore[arg-type]  # what it needs of them
        self.helper = Helper()

    async def _launched(self) -> Any:
        return self.helper


def test_a_deadline_that_passes_while_the_reader_starts_does_not_end_it(tmp_path: Path) -> None:
    async def scene() -> None:
        reading = Launching(tmp_path)
        given_up = reading.work(m.Ping(), Budget())
        next(given_up)
        await asyncio.sleep(0.01)
        given_up.close()  # type: ignore[attr-defined]  # a generator
        assert not reading.helper.killed
        reading.helper.says(m.Done())
        assert await asyncio.wait_for(answered(reading), 5) == m.Names(["answer"])
        assert (reading.n_started, reading.helper.asked) == (1, 1), "the first question was not worked on"
        last = reading.work(m.Ping(), Budget())
        reading.helper.drain = asyncio.Event().wait  # type: ignore[method-assign,assignment]  # it takes its time
        next(last)
        await asyncio.sleep(0.01)
        last.close()  # type: ignore[attr-defined]  # a generator
        assert reading.helper.killed, "one that works for nobody is"
        await reading.stop()

    asyncio.run(scene())
