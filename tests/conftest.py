"""What every test is held to: no process, no shared memory, no open file stays behind; random tests repeat.

MSTORE_SEED=n repeats a random test; without it a fresh seed is drawn and printed with every failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tests import stores

settings.register_profile("mstore", deadline=None, max_examples=100, print_blob=True)
settings.load_profile("mstore")

SETTLE_S = 5.0
PR_SET_CHILD_SUBREAPER = 36


def pytest_configure(config: pytest.Config) -> None:
    """Draw hypothesis' examples from MSTORE_SEED too; become the parent of whatever orphans a test leaves."""
    seed = os.environ.get("MSTORE_SEED")
    if seed is not None and getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = seed
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note what is there already: libuv opens a pipe with its first loop and keeps it for good, which is no test's leak."""
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()
    session.config.stash[_AT_FIRST] = _Held(_children(), set(), _segments())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Side by side, a test cannot tell whose a segment is unless it started that store: what is left is seen at the end."""
    if hasattr(session.config, "workerinput"):
        return
    before = session.config.stash[_AT_FIRST]
    _reap_the_dead(before)
    if left := _Held(_children(), set(), _segments()).more_than(before):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nleft behind by this run:\n  " + "\n  ".join(left))


def pytest_report_header() -> str:
    return f"MSTORE_SEED={os.environ.get('MSTORE_SEED', 'drawn per test')}"


_SAID = "said"


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """say(text): what a passing test has to tell, too; it is in the last lines of the run, once."""
    return lambda text: record_property(_SAID, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    said = {text: None for one in reports for name, text in one.user_properties if name == _SAID}
    for text in said:
        terminalreporter.write_line(text)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """For the test's own random generator: MSTORE_SEED, or a new one that is shown when the test fails."""
    value = int(os.environ.get("MSTORE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"MSTORE_SEED={value} {request.node.nodeid}")
    return value


@dataclass(frozen=True)
class _Held:
    """What this process holds at one moment."""

    children: dict[int, str]
    """Command line by pid, orphans of killed children included."""
    descriptors: set[str]
    """"number target" each: a number that is used again for another file is another entry."""
    segments: set[str]

    @classmethod
    def now(cls) -> _Held:
        return cls(_children(), _descriptors(), _segments())

    def more_than(self, before: _Held) -> list[str]:
        new = [f"child process {pid}: {self.children[pid]}" for pid in self.children.keys() - before.children]
        new += [f"open descriptor {entry}" for entry in self.descriptors - before.descriptors]
        segments = self.segments - before.segments
        strangers = _strangers_use_mstore() if segments else False
        return new + [f"shared memory /dev/shm/{name}" for name in segments if _ours(name) or not strangers]


_AT_FIRST = pytest.StashKey[_Held]()


def _segments() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("mstore")}


def _children() -> dict[int, str]:
    found = {}
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in _read(path).split():
            found[int(pid)] = _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
    return found


def _reap_the_dead(before: _Held) -> None:
    """Orphans that ended meanwhile are only waiting for their new parent, which is this process."""
    for pid in _children().keys() - before.children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor that listdir itself used
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def _ours(name: str) -> bool:
    """Whether a segment is surely of this run: of a store that it started, or named after its process."""
    return f"-{os.getpid()}" in name or any(name.startswith(prefix) for prefix in stores.PREFIXES)


def _strangers_use_mstore() -> bool:
    """Whether a process outside this test run does: another run, or a store on this machine.

    What it leaves in /dev/shm while one of its own stores is stopped is mapped by nobody, and no concern of this run.
    """
    ours = {os.getpid(), *_children()}
    for path in Path("/proc").glob("[0-9]*/maps"):
        if int(path.parent.name) not in ours and re.search(r"/mstore/kernels/|/dev/shm/mstore", _read(path)):
            return True
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves a child process, a descriptor or a segment, after a while to settle."""
    before = _Held.now()
    yield
    deadline = time.monotonic() + SETTLE_S
    while left := _Held.now().more_than(before):
        if time.monotonic() > deadline:
            pytest.fail(f"{request.node.nodeid} left behind:\n  " + "\n  ".join(left), pytrace=False)
        gc.collect()
        _reap_the_dead(before)
        time.sleep(0.01)
