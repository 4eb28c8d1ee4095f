"""A store under a service manager: readiness, status, reload, watchdog, and sockets that outlive a restart."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mstore import clock
from mstore.errors import MstoreError
from tests.process.test_review_life import children
from tests.stores import Server, read_all, until

LAUNCHER = """
import os, sys
n = int(sys.argv[1])
held = [os.dup(int(fd)) for fd in sys.argv[2 : 2 + n]]  # so that none of them is in the way of another
high = [__import__("fcntl").fcntl(fd, __import__("fcntl").F_DUPFD, 100) for fd in held]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
if n:
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "mstore", *sys.argv[2 + n :]])
"""


class Manager(Server):
    """A store started as systemd starts it: passed sockets from descriptor 3 on, and a socket to be told at."""

    def __init__(
        self, directory: Path, *names: str, config: str | None = None, watchdog_s: float = 0.0
    ) -> None:
        super().__init__(directory, config)
        (directory / "run").mkdir(exist_ok=True)
        self.names = names
        self.listening = [self._listen(name) for name in names]
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.notify.settimeout(30)
        self.watchdog_s = watchdog_s
        self.heard: list[dict[str, str]] = []

    def _listen(self, name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.directory / "run" / f"{name}.sock"))
        sock.listen(64)
        return sock

    def start(self) -> Manager:
        environ = {**os.environ, "NOTIFY_SOCKET": str(self.directory / "notify")}
        if self.names:
            environ |= {"LISTEN_FDS": str(len(self.names)), "LISTEN_FDNAMES": ":".join(self.names)}
        if self.watchdog_s:
            environ["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1e6))
        fds = [sock.fileno() for sock in self.listening]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, str(len(fds)), *map(str, fds), "serve", *self.arguments],
                stdout=subprocess.PIPE, stderr=log, text=True, pass_fds=fds, env=environ,
            )  # fmt: skip
        return self

    def hears(self, key: str, value: str = "") -> dict[str, str]:
        """The next message with this key (and value), after the ones before it."""
        while True:
            lines = self.notify.recv(65536).decode().split("\n")
            message = dict(line.partition("=")[::2] for line in lines)
            self.heard.append(message)
            if key in message and value in ("", message[key]):
                return message

    def falls_silent(self) -> bool:
        """Whether, after what is still on its way, nothing comes for several times the interval of pings."""
        self.notify.settimeout(5 * self.watchdog_s / 2)
        try:
            for _ in range(3):
                self.notify.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.notify.settimeout(30)
        return False

    def close(self) -> None:
        for sock in (self.notify, *self.listening):
            sock.close()


@pytest.fixture
def manage(short_dir: Path) -> Iterator[Any]:
    made: list[Manager] = []

    def make(*names: str, **options: Any) -> Manager:
        made.append(Manager(short_dir, *names, **options))
        return made[-1].start()

    yield make
    for manager in made:
        print(manager.log_text()[-4000:])
        if manager.process is not None and manager.process.poll() is None:
            manager.process.send_signal(signal.SIGCONT)
            manager.stop()
        manager.close()


def line(host: str, now: int) -> bytes:
    return f"m,cluster=c,hostname={host} value=1 {now}\n".encode()


def test_only_the_supervisor_speaks_for_the_service(manage: Any, short_dir: Path) -> None:
    """A forked worker shows the supervisor's first environment; what it has of it is what a process has that it starts."""
    (short_dir / "hosts.json").write_text('{"c": ["a"]}')
    manager = manage(config='[protect]\nfile = "hosts.json"\n', watchdog_s=60)
    manager.hears("READY", "1")

    def asking() -> int:
        found = children(manager.worker_pid("persister")).items()
        return next((pid for pid, line in found if "mstore.workers.providers" in line), 0)

    environment = Path(f"/proc/{until(asking, 'the process that the persister starts')}/environ").read_bytes()
    assert b"PATH=" in environment
    for word in (b"NOTIFY_SOCKET", b"WATCHDOG_", b"LISTEN_"):
        assert word not in environment


def test_the_manager_hears_of_start_reload_and_stop_in_order(manage: Any, now: int) -> None:
    manager = manage(config='max_future = "2h"\n')
    ready = manager.hears("READY", "1")
    assert ready["STATUS"].startswith("ready: 1 ingest and 1 query workers")
    assert {"EXTEND_TIMEOUT_USEC": "60000000"} in manager.heard, "time is asked for from the beginning"
    assert any(one.get("STATUS", "").startswith("starting: recovered in") for one in manager.heard)
    assert manager.send_text(line("a", now)).startswith(b"written=1")
    before = clock.monotonic_us()
    os.kill(manager.process.pid, signal.SIGHUP)
    reloading = manager.hears("RELOADING", "1")
    assert before <= int(reloading["MONOTONIC_USEC"]) <= clock.monotonic_us()
    manager.hears("READY", "1")
    (manager.directory / "mstore.toml").write_text("nonsense")
    with manager.client() as client, pytest.raises(MstoreError):
        client.control("reload")
    manager.hears("RELOADING", "1")
    manager.hears("READY", "1")  # a refused reload is over, too

    assert manager.stop() == 0
    assert manager.hears("STOPPING", "1")["STATUS"].startswith("stopping")


def test_without_a_watchdog_an_idle_store_says_nothing(manage: Any) -> None:
    manager = manage()
    manager.hears("READY")
    manager.notify.settimeout(0.5)
    with pytest.raises(TimeoutError):
        manager.notify.recv(4096)
    manager.notify.settimeout(30)


def test_the_watchdog_hears_nothing_while_the_persister_hangs(manage: Any, now: int) -> None:
    manager = manage(watchdog_s=0.4)
    manager.hears("READY")
    for _ in range(3):
        manager.hears("WATCHDOG", "1")
    persister = manager.worker_pid("persister")
    os.kill(persister, signal.SIGSTOP)
    try:
        assert manager.falls_silent()
    finally:
        os.kill(persister, signal.SIGCONT)
    manager.hears("WATCHDOG", "1")


def test_the_watchdog_hears_nothing_while_the_supervisor_hangs(manage: Any) -> None:
    manager = manage(watchdog_s=0.4)
    manager.hears("READY")
    manager.hears("WATCHDOG", "1")
    manager.process.send_signal(signal.SIGSTOP)
    assert manager.falls_silent()
    manager.process.send_signal(signal.SIGCONT)
    manager.hears("WATCHDOG", "1")


def test_a_renewed_store_stays_alive_for_its_watchdog(manage: Any) -> None:
    manager = manage(watchdog_s=2.0)
    manager.hears("READY")
    os.kill(manager.worker_pid("persister"), signal.SIGKILL)
    manager.hears("STATUS", "starting again: the persister died")
    status = manager.hears("STATUS")["STATUS"]
    while not status.startswith("ready"):
        status = manager.hears("STATUS")["STATUS"]
    assert manager.hears("WATCHDOG", "1") == {"WATCHDOG": "1"}


def test_senders_wait_in_the_backlog_while_the_service_restarts_and_lose_nothing(
    manage: Any, now: int
) -> None:
    manager = manage("ingest", "query")
    manager.hears("READY")
    assert manager.send_text(line("before", now)).startswith(b"written=1")
    inodes = [os.stat(manager.directory / "run" / f"{name}.sock").st_ino for name in manager.names]
    assert manager.stop() == 0
    assert not (manager.directory / "run" / "control.sock").exists(), "its own socket is removed"

    # While nothing runs: connected, sent, half-closed. A second one asks.
    with manager.connect("ingest") as sender, manager.connect("query") as asking:
        sender.sendall(line("between", now))
        sender.shutdown(socket.SHUT_WR)
        manager.start()
        assert read_all(sender).startswith(b"written=1 rejected=0 ignored=0 durable=yes")
        asking.close()
    manager.hears("READY")
    with manager.client() as client:
        assert client.children("c") == ["before", "between"]
    assert [os.stat(manager.directory / "run" / f"{name}.sock").st_ino for name in manager.names] == inodes


def test_a_client_that_writes_all_along_sees_no_refusal_over_a_restart(manage: Any, now: int) -> None:
    manager = manage("ingest", "query", "control")
    manager.hears("READY")
    hosts: list[str] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with manager.client() as client:
                while not stop.is_set():
                    host = f"h{len(hosts):05d}"
                    assert client.write(line(host, now).decode()).durable
                    hosts.append(host)
        except BaseException as error:
            failures.append(error)

    knocks: list[bool] = []
    """Of each connection that was made: whether the store was up."""
    up = threading.Event()
    up.set()

    def knock() -> None:
        # The client would try again by itself: this one does not.
        try:
            while not stop.wait(0.005):
                for name in manager.names:
                    with socket.socket(socket.AF_UNIX) as sock:
                        sock.connect(str(manager.directory / "run" / f"{name}.sock"))
                    knocks.append(up.is_set())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (write, knock)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(hosts) > 20, "some writes")
        up.clear()
        assert manager.stop() == 0
        until(lambda: knocks.count(False) > 20, "connections without a store")
        manager.start()
        manager.hears("STOPPING")
        manager.hears("READY")
        up.set()
        n = len(hosts)
        until(lambda: len(hosts) > n + 20, "writes after the restart")
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    with manager.client() as client:
        assert client.children("c") == hosts


def test_a_passed_socket_of_another_directory_is_refused_with_what_is_expected(short_dir: Path) -> None:
    manager = Manager(short_dir, "ingest")
    try:
        (short_dir / "run" / "ingest.sock").rename(short_dir / "elsewhere.sock")
        manager.start()
        assert manager.process is not None
        assert manager.process.wait(60) == 2
        manager.process.stdout.close()  # type: ignore[union-attr]
        assert "expected is a listening stream socket at" in manager.log_text()
        assert "Traceback" not in manager.log_text()
    finally:
        manager.close()
