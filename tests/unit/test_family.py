"""Child processes: whoever could not be watched is not there, and nobody waits for one that is not."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mstore.workers import family
from mstore.workers.family import Child
from mstore.workers.spec import WorkerSpec

SPEC = WorkerSpec("ingest", 0, 1, "/nowhere", -1, 1, {}, -1, -1, (), (), os.getpid())


def sleeper(_command: list[str], **_options: Any) -> subprocess.Popen[bytes]:
    return real_popen([sys.executable, "-c", "import time; time.sleep(600)"])


real_popen = subprocess.Popen


def test_a_child_that_cannot_be_watched_is_ended_and_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(family.subprocess, "Popen", sleeper)

    def refused(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def spawn_and_stop() -> int:
        child = Child.place("ingest", 0, 1)
        with monkeypatch.context() as full:
            full.setattr(os, "pidfd_open", refused)
            with pytest.raises(OSError, match="open files"):
                child.spawn(SPEC, (), lambda *_: None)
        assert not child.alive
        await asyncio.wait_for(child.stop(60.0), 20)
        child.close()
        assert child.process is not None
        return child.process.pid

    pid = asyncio.run(spawn_and_stop())
    assert not Path(f"/proc/{pid}").exists(), "ended, and no zombie"


def test_a_child_that_ends_is_told_once_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family.subprocess, "Popen", sleeper)

    async def spawn_and_kill() -> list[tuple[str, int]]:
        child = Child.place("query", 1, 2)
        told: list[tuple[str, int]] = []
        child.spawn(SPEC, (), lambda one, code: told.append((one.name, code)))
        assert child.alive
        await asyncio.wait_for(child.stop(60.0), 20)  # it is not ready: killed at once
        assert not child.alive
        child.close()
        return told

    assert asyncio.run(spawn_and_kill()) == [("query-1", -9)]
