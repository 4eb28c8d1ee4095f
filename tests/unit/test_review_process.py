"""What a worker's shell does with errors that no callback expected, and what the door does without descriptors."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mstore.workers.door import Door
from mstore.workers.process import EXIT_FAILED

_LOOP = """
import asyncio, socket, sys, uvloop
from functools import partial
from mstore.workers.process import _end_on_error

class Bad(asyncio.Protocol):
    def data_received(self, data):
        raise RuntimeError("half a change")

def fail():
    raise RuntimeError("half a change")

async def main():
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    if sys.argv[1] == "callback":
        loop.call_soon(fail)
    elif sys.argv[1] == "reader":
        loop.add_reader(theirs.fileno(), fail)
        ours.send(b"x")
    else:
        theirs.setblocking(False)
        await loop.connect_accepted_socket(Bad, theirs)
        ours.send(b"x")
    await asyncio.sleep(20)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.get_loop().set_exception_handler(partial(_end_on_error, "persister"))
    runner.run(main())
"""


@pytest.mark.parametrize("where", ["callback", "reader", "protocol"])
def test_the_persister_ends_at_an_error_that_left_a_change_half_done(where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOOP, where], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == EXIT_FAILED, done.stderr
    assert "half a change" in done.stderr


def test_a_door_without_descriptors_waits_instead_of_spinning_and_loses_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[int] = []
    taken: list[socket.socket] = []

    class NoneLeft:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def accept(self) -> tuple[socket.socket, object]:
            tries.append(1)
            if len(tries) <= 3:
                raise OSError(errno.EMFILE, "too many open files")
            return self._sock.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(self._sock, name)

    async def run(directory: Path) -> None:
        (directory / "run").mkdir()
        came = asyncio.Event()

        def admit(_which: str, sock: socket.socket) -> bool:
            taken.append(sock)
            came.set()
            return True

        door = Door(directory, admit, lambda _which: True)
        door.listen()
        listener = door._listeners["ingest"]
        monkeypatch.setattr(listener, "sock", NoneLeft(listener.sock))
        door.open("ingest")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(directory / "run" / "ingest.sock"))
            await asyncio.wait_for(came.wait(), 30)
        door.close()
        assert not (directory / "run" / "ingest.sock").exists()

    with tempfile.TemporaryDirectory(prefix="ms-") as name:
        asyncio.run(run(Path(name)))
    for sock in taken:
        sock.close()
    assert len(taken) == 1
    assert len(tries) == 5, "three refusals, the connection, and nobody else: no spinning between"
