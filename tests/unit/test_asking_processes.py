"""What a process answers when it is asked for its state or its stacks: an answer always, and never its own end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mstore.workers import stacks, states
from mstore.workers.channel import Channel


def answered(describe: Callable[[], dict[str, Any]], fd: int) -> list[Any]:
    """The packet that says that the question is done."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asker, asked = Channel(ours), Channel(theirs)
    packets: list[list[Any]] = []

    async def ask() -> None:
        asker.serve(asyncio.get_running_loop(), lambda packet, _fd: packets.append(packet), lambda: None)
        states.answer(asked, 7, fd, describe)
        await asyncio.sleep(0.01)
        asker.close()
        asked.close()

    asyncio.run(ask())
    return packets


def test_a_state_that_no_json_can_hold_becomes_an_answer_that_says_so() -> None:
    fd = os.memfd_create("state")
    kept = os.dup(fd)
    assert answered(lambda: {"by_pair": {(1, 2): 3}}, fd) == [["done", 7, {}]]
    told = json.loads(os.pread(kept, 1 << 16, 0))
    os.close(kept)
    assert told["pid"] == os.getpid()
    assert "TypeError" in told["error"]


def test_memory_that_cannot_be_written_is_no_reason_to_end() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    assert answered(dict, fd) == [["done", 7, {}]]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(fd)


def test_who_was_given_no_lock_makes_no_file_for_stacks_and_blames_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "run").mkdir()
    with caplog.at_level("INFO"):
        stacks.register(tmp_path, "providers", None)
    assert not caplog.messages
    assert not list((tmp_path / "run").iterdir())


def test_nothing_is_made_for_stacks_in_another_stores_dir(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "lock").touch()
    other = (tmp_path / "lock").stat()
    for inode in (None, (other.st_dev, other.st_ino + 1)):
        stacks.register(tmp_path, "ingest-0", inode)
        assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "lock").unlink()
    stacks.register(tmp_path, "ingest-0", (other.st_dev, other.st_ino))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_descriptor_that_closes_while_it_is_looked_at_hides_no_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "lock").touch()
    program = (
        "import sys; from pathlib import Path; from mstore.workers import ownership, stacks\n"
        "path = Path(sys.argv[1])\n"
        "stacks.register(path, 'ingest-0', ownership.inode_of(path / 'lock'))\n"
        "print('registered', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"registered\n"
    readlink = os.readlink

    def gone_at_0(path: str) -> str:
        if path.endswith("/0"):
            raise FileNotFoundError(path)
        return readlink(path)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "readlink", gone_at_0)
            (stack,) = stacks.ask(tmp_path, [process.pid], 20.0)
        assert (stack.name, stack.pid) == ("ingest-0", process.pid)
        assert "most recent call first" in stack.text
    finally:
        process.stdin.close()
        assert process.wait() in (0, -signal.SIGKILL)
        process.stdout.close()
