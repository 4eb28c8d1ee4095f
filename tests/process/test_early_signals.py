"""Signals that reach `mstore serve` before it is ready: an orderly stop, whatever it was doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mstore.shm.segment import name_prefix
from tests.stores import PREFIXES, Server, until

Moment = Callable[[int, Path], bool]


def _held(pid: int, _: Path) -> bool:
    """The command has begun: the kernel keeps its signals."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigBlk:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


def _children(pid: int) -> list[str]:
    found = []
    for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            found.append(Path(f"/proc/{one}/cmdline").read_text())
        except OSError:  # it has just ended
            continue
    return found


def _segments(directory: Path) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith(name_prefix(directory))]


MOMENTS: dict[str, Moment] = {
    "the command begins": _held,
    "the lock is taken": lambda _, directory: bool((directory / "lock").exists()),
    "control.sock is there": lambda _, directory: (directory / "run" / "control.sock").exists(),
    "segments are there": lambda _, directory: bool(_segments(directory)),
    "the persister starts": lambda pid, _: any("persister" in one for one in _children(pid)),
    "the workers start": lambda pid, _: any("mstore: query" in one for one in _children(pid)),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_before_the_store_is_ready_is_an_orderly_stop(
    short_dir: Path, moment: str, number: int
) -> None:
    PREFIXES.add(name_prefix(short_dir))
    process = subprocess.Popen(
        [sys.executable, "-m", "mstore", "serve", "--dir", str(short_dir)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not MOMENTS[moment](process.pid, short_dir):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
        os.killpg(process.pid, number)  # as Ctrl-C at a terminal does
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    assert (process.returncode, "Traceback" in err) == (0, False), err
    if not out:  # else it was ready already when the signal came
        assert err.count("asked to stop before the store was ready") == 1, err
    assert not [name for name in os.listdir(short_dir / "run") if name.endswith(".sock") or name == "stacks"]
    assert not _segments(short_dir)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("kept", [False, True])
def test_an_early_stop_over_memory_of_a_killed_run_says_whether_it_is_still_there(
    serve: Callable[..., Server], now: int, kept: bool
) -> None:
    server = serve(None, *(["--keep-memory"] if kept else []))
    with server.client() as client:
        client.write(f"load,cluster=c,hostname=h value=1 {now}\n")
    server.kill()
    process = subprocess.Popen(
        [sys.executable, "-m", "mstore", "serve", *server.arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: any("persister" in one for one in _children(process.pid)), "the persister")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ""), err
    assert "asked to stop before the store was ready: it ends\n" in err
    goes = "the memory that the run before left goes, too: the next start reads the files"
    assert (goes in err) != kept, err
    assert bool(_segments(server.directory)) == kept
    if kept:  # not beyond this test
        server.arguments.remove("--keep-memory")
    server.start()
    assert ("memory adopted" in server.log_text()) == kept
