"""Fixtures of tests that run a worker, or a part of one, in a loop of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mstore import clock
from mstore.persistence.owned_files import OwnedFiles
from mstore.persistence.store_lock import lock
from mstore.workers.ownership import inode_of
from tests.ingest_rig import NOW_S
from tests.worker_rig import LOOPS, WorkerRig


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    """Each kind of event loop, by name, for play()."""
    return str(request.param)


@pytest.fixture
def make_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WorkerRig]:
    """make_rig(**options) -> an ingest worker at NOW_S, on which the clock stands still."""
    monkeypatch.setattr(clock, "now_s", lambda: NOW_S)
    return lambda **options: WorkerRig(tmp_path, monkeypatch, **options)


@pytest.fixture(scope="module")
def fonts_open() -> None:
    """matplotlib keeps the fonts that it has used open as long as the process lives: no test's leak."""
    from mstore.cli.picture import Panel, picture
    from mstore.frames import Series

    for kind in ("png", "svg"):
        picture([Panel("fonts", "W", [("a", Series(np.ones(2), NOW_S, 60))])], "fonts", kind)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """DIR of a store, empty."""
    made = tmp_path / "store"
    made.mkdir()
    return made


@pytest.fixture
def owned(directory: Path) -> Iterator[OwnedFiles]:
    """Of a store that holds the lock of `directory`."""
    lock_fd = lock(directory)
    yield OwnedFiles(directory, inode_of(lock_fd))
    os.close(lock_fd)
