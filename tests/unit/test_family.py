"""Child processes: whoever could not be watched is not there, and nobody waits for one that is not."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from unittest import mock

import pytest

from mstore.workers.births import Process
from mstore.workers.family import Child
from mstore.workers.spec import WorkerSpec

SPEC = WorkerSpec("ingest", 0, 1, "/nowhere", -1, 1, {}, -1, -1, (), (), os.getpid())


class Sleepers:
    """In place of a nursery: each process only sleeps."""

    def start(self, main: str, argument: str, descriptors: Mapping[int, int]) -> Process:
        assert (main, WorkerSpec.from_json(argument)) == (SPEC.kind, SPEC)
        pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], os.environ)
        return Process(pid, os.pidfd_open(pid))


class Nobody:
    """In place of a nursery that cannot fork."""

    def start(self, main: str, argument: str, descriptors: Mapping[int, int]) -> Process:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_nobody_waits_for_a_child_that_could_not_be_started() -> None:
    async def spawn_and_stop() -> None:
        child = Child.place("ingest", 0, 1)
        with pytest.raises(OSError, match="temporarily unavailable"):
            child.spawn(Nobody(), SPEC, (), lambda *_: None)  # type: ignore[arg-type]  # what it needs of a nursery
        assert not child.alive
        await asyncio.wait_for(child.stop(60.0), 20)
        child.close()

    asyncio.run(spawn_and_stop())


def test_a_child_that_ends_is_told_once_with_its_status() -> None:
    async def spawn_and_kill() -> list[tuple[str, int]]:
        child = Child.place("ingest", 1, 2)
        told: list[tuple[str, int]] = []
        child.spawn(Sleepers(), SPEC, (), lambda one, code: told.append((one.name, code)))  # type: ignore[arg-type]
        assert child.alive
        await asyncio.wait_for(child.stop(60.0), 20)  # it is not ready: killed at once
        assert not child.alive
        child.close()
        return told

    assert asyncio.run(spawn_and_kill()) == [("ingest-1", -9)]


def test_a_child_that_cannot_be_watched_has_ended_and_nobody_waits_for_it() -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # fs.epoll.max_user_watches

    async def spawn_and_stop() -> Process | None:
        child = Child.place("ingest", 0, 1)
        with (
            mock.patch.object(asyncio.get_running_loop(), "add_reader", refuse),
            pytest.raises(OSError, match="No space left"),
        ):
            child.spawn(Sleepers(), SPEC, (), lambda *_: None)  # type: ignore[arg-type]
        assert not child.alive
        await asyncio.wait_for(child.stop(60.0), 20)
        child.close()
        return child.process

    process = asyncio.run(spawn_and_stop())
    assert process is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(process.pidfd)
