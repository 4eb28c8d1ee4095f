"""What the service manager passes and is told: sd_notify's datagrams, sd_listen_fds' sockets."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mstore import clock
from mstore.workers.systemd import Notifier, Service


class Manager:
    """The other end of $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.settimeout(5)

    def heard(self) -> list[str]:
        return self.sock.recv(65536).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = f"@mstore-test-{secrets.token_hex(4)}" if request.param == "abstract" else str(tmp_path / "n")
    made = Manager(address)
    yield made
    made.sock.close()


def test_each_word_arrives_as_the_manager_reads_it(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "HOME": "/"}
    notifier = Service.from_environment(environ).notifier
    assert environ == {"HOME": "/"}, "children must not speak for this process"
    assert (notifier.present, notifier.watchdog_s) == (True, 3.0)
    notifier.ready("two\nlines")
    assert manager.heard() == ["READY=1", "STATUS=two lines"]
    before = clock.monotonic_us()
    notifier.reloading()
    word, time = manager.heard()
    assert word == "RELOADING=1"
    assert before <= int(time.removeprefix("MONOTONIC_USEC=")) <= clock.monotonic_us()
    notifier.stopping("why")
    assert manager.heard() == ["STOPPING=1", "STATUS=why"]
    notifier.alive()
    notifier.extend(1.5)
    notifier.status("s")
    assert [manager.heard() for _ in range(3)] == [
        ["WATCHDOG=1"],
        ["EXTEND_TIMEOUT_USEC=1500000"],
        ["STATUS=s"],
    ]


def test_without_a_manager_nobody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Service.from_environment({}).notifier
    notifier.ready("x")
    assert not notifier.present
    assert not caplog.records


def test_a_manager_that_is_gone_is_complained_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        notifier.ready("x")
        notifier.status("y")
    assert [record.getMessage()[:46] for record in caplog.records] == [
        "cannot tell the service manager READY=1: [Errn"
    ]


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "nonsense"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_watchdog_meant_for_another_process_is_none(environ: dict[str, str], watchdog_s: float) -> None:
    assert Service.from_environment({"NOTIFY_SOCKET": "@x", **environ}).notifier.watchdog_s == watchdog_s


def test_an_address_that_is_no_unix_socket_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Service.from_environment({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1"}).notifier
    assert (notifier.present, notifier.watchdog_s) == (False, 0.0)
    assert "vsock:2:1234" in caplog.text


# --- passed sockets: numbers from 3 on are this process's own, so a few tricks keep them


@pytest.fixture
def first_fd(monkeypatch: pytest.MonkeyPatch) -> int:
    """Descriptors as the manager would pass them, but where this process has room."""
    monkeypatch.setattr("mstore.workers.systemd._FIRST_FD", 700)
    return 700


def listening(path: Path, fd: int) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        os.dup2(sock.fileno(), fd, inheritable=True)


def test_sockets_are_known_by_name_or_by_path_and_the_rest_is_closed(
    first_fd: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listening(tmp_path / "a.sock", first_fd)
    listening(tmp_path / "query.sock", first_fd + 1)
    listening(tmp_path / "b.sock", first_fd + 2)
    read_end, write_end = os.pipe()
    os.dup2(read_end, first_fd + 3)
    environ = {
        "LISTEN_FDS": "4", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "ingest:mstore.socket:odd:pipe",
    }  # fmt: skip
    found = Service.from_environment(environ).sockets
    try:
        assert {name: sock.fileno() for name, sock in found.items()} == {"ingest": 700, "query": 701}
        assert environ == {}
        assert all(fcntl.fcntl(sock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for sock in found.values())
        assert "passed by the service manager as odd is not used" in caplog.text
        assert "as pipe, is no socket" in caplog.text
        for fd in (702, 703):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
    finally:
        for sock in found.values():
            sock.close()
        os.close(read_end)
        os.close(write_end)


def test_sockets_meant_for_another_process_are_not_touched(first_fd: int, tmp_path: Path) -> None:
    listening(tmp_path / "ingest.sock", first_fd)
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "ingest"}
    assert Service.from_environment(environ).sockets == {}
    assert environ == {}
    os.close(first_fd)
