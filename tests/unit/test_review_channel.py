"""What a channel does with descriptors that nobody takes."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from mstore.workers.channel import Channel
from mstore.workers.process import hold_standard_descriptors


def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)


def test_a_connection_that_waits_for_a_peer_is_closed_with_the_channel() -> None:
    sender, receiver = pair()
    client, served = socket.socketpair()
    client.settimeout(10)
    while not sender.n_waiting:
        sender.send(["serve"], served)
    served.close()
    sender.close()
    receiver.close()
    assert client.recv(1) == b"", "nobody serves it any more, and its client is told"
    client.close()


def test_a_received_descriptor_is_not_inherited_by_helpers() -> None:
    sender, receiver = pair()
    client, served = socket.socketpair()

    async def take() -> int:
        got: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        receiver.serve(asyncio.get_running_loop(), lambda _packet, fd: got.set_result(fd), lambda: None)
        sender.send(["serve"], served)
        fd = await asyncio.wait_for(got, 10)
        assert fd is not None
        return fd

    fd = asyncio.run(take())
    assert not os.get_inheritable(fd)
    os.close(fd)
    for end in (client, served):
        end.close()
    sender.close()
    receiver.close()


def test_too_many_descriptors_under_way_delay_a_hand_out_and_lose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sender, receiver = pair()

    class Full:
        """A socket whose first sends meet a full system."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock, self.refusals = sock, 3

        def sendmsg(self, *arguments: Any) -> int:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.ETOOMANYREFS, "too many references")
            return self._sock.sendmsg(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    full = Full(sender.sock)
    monkeypatch.setattr(sender, "sock", full)

    async def run() -> list[Any]:
        loop = asyncio.get_running_loop()
        got: list[Any] = []
        done = asyncio.Event()

        def handler(packet: list[Any], _fd: int | None) -> None:
            got.append(packet[0])
            if len(got) == 3:
                done.set()

        sender.serve(loop, lambda _packet, _fd: None, lambda: None)
        receiver.serve(loop, handler, lambda: None)
        for number in range(3):
            sender.send([number])
        await asyncio.wait_for(done.wait(), 10)
        return got

    assert asyncio.run(run()) == [0, 1, 2]
    assert full.refusals == 0
    sender.close()
    receiver.close()


def test_closed_standard_descriptors_are_opened_before_anything_else_can_get_their_numbers() -> None:
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        for fd in (0, 1, 2):
            os.close(fd)
        hold_standard_descriptors()
        good = all(os.path.samestat(os.fstat(fd), os.stat(os.devnull)) for fd in (0, 1, 2))
        good = good and all(os.get_inheritable(fd) for fd in (0, 1, 2))
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
