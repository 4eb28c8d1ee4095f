"""Stores for process tests: each in a directory of its own, ended after the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stores import Server


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a path short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="ms-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def serve(short_dir: Path) -> Iterator[Callable[..., Server]]:
    """serve(config=None, *arguments) -> a started Server in `short_dir`; all are ended after the test."""
    servers: list[Server] = []

    def make(config: str | None = None, *arguments: str, start: bool = True) -> Server:
        server = Server(short_dir, config, *arguments)
        servers.append(server)
        return server.start() if start else server

    yield make
    for server in servers:
        print(server.log_text()[-4000:] if server.log.exists() else "")  # shown when the test failed
        if server.process is not None and server.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.stop()


@pytest.fixture
def now() -> int:
    return int(time.time())


@pytest.fixture
def fixtures() -> Path | None:
    """Real inputs, where this machine has them; tests always run on the project's own inputs, too."""
    path = os.environ.get("MSTORE_FIXTURES")
    return Path(path) if path and Path(path).is_dir() else None
