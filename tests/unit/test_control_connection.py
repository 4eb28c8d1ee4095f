"""The greeting at control.sock, as at the other two: versions and roles are refused by name, limits are those in force."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from mstore import limits
from mstore.errors import MstoreError
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.workers.control_connection import ControlConnection
from mstore.workers.tasks import Tasks


class FakeSupervisor:
    """What a ControlConnection needs; every command is done at once."""

    instance = 7

    def __init__(self, failure: Exception | None = None) -> None:
        self.control_connections: set[Any] = set()
        self.tasks = Tasks()
        self.passed: list[bytes] = []
        self._failure = failure

    async def command(self, message: m.Message) -> dict[str, Any]:
        if self._failure is not None:
            raise self._failure
        return {"did": type(message).__name__}

    def pass_to_persister(self, sock: Any, hello: bytes) -> None:
        self.passed.append(hello)


def replies_to(*messages: m.Message, supervisor: FakeSupervisor | None = None) -> list[m.Message]:
    """Everything the connection says to these messages, up to its end."""

    async def play() -> bytes:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        loop = asyncio.get_running_loop()
        connection = ControlConnection(supervisor or FakeSupervisor())  # type: ignore[arg-type]
        await loop.connect_accepted_socket(lambda: connection, theirs)
        with ours:
            await loop.sock_sendall(ours, b"".join(m.encode(one, i) for i, one in enumerate(messages, 1)))
            ours.shutdown(socket.SHUT_WR)
            found = b""
            while piece := await asyncio.wait_for(loop.sock_recv(ours, 65536), 20):
                found += piece
        return found

    data = asyncio.run(play())
    decoder = framing.FrameDecoder(limits.CONTROL_FRAME_BYTES_MAX, m.TAGS)
    return [m.decode_frame(frame) for frame in decoder.feed(data)]


def test_an_operator_is_welcomed_with_the_limits_in_force() -> None:
    (welcome,) = replies_to(m.Hello(m.VERSION, "control"))
    assert isinstance(welcome, m.Welcome)
    assert (welcome.instance, welcome.limits) == (7, {"frame_bytes": limits.CONTROL_FRAME_BYTES_MAX})
    assert welcome.shard_map == [[0, "control.sock"]]


def test_a_version_that_is_no_longer_spoken_is_a_version_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "OLDEST_VERSION", 2)
    monkeypatch.setattr(m, "VERSION", 3)
    (error,) = replies_to(m.Hello(1, "control"))
    assert isinstance(error, m.Error)
    assert (error.code, error.details) == ("version_mismatch", {"oldest": 2, "newest": 3})


@pytest.mark.parametrize("role", ["ingest", "query"])
def test_a_role_of_another_socket_is_refused_and_told_where_to_go(role: str) -> None:
    (error,) = replies_to(m.Hello(m.VERSION, role))
    assert isinstance(error, m.Error)
    assert error.code == "protocol"
    assert f"{role}.sock" in error.message
    assert "role control" in error.message


def test_a_worker_of_this_store_goes_on_to_the_persister() -> None:
    supervisor = FakeSupervisor()
    assert replies_to(m.Hello(m.VERSION, "worker"), supervisor=supervisor) == []
    assert supervisor.passed == [m.encode(m.Hello(m.VERSION, "worker"), 1)]


def test_a_command_that_fails_unexpectedly_is_answered_and_the_connection_goes_on() -> None:
    failing = FakeSupervisor(OSError(errno.EMFILE, "Too many open files"))
    hello = m.Hello(m.VERSION, "control")
    _, *errors = replies_to(hello, m.Restart(), m.States(), supervisor=failing)
    assert [type(one) for one in errors] == [m.Error, m.Error]
    for error in errors:
        assert isinstance(error, m.Error)
        assert (error.code, "Too many open files" in error.message) == (MstoreError.code, True)
