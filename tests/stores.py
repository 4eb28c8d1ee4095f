"""A real store for tests: `mstore serve` in a directory of its own, and what a test does to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mstore
from mstore.shm.segment import name_prefix

READY_S_MAX = 60.0

PREFIXES: set[str] = set()
"""With these begin the names of the shared memory of stores that this test run started."""


class Server:
    """One store. `config` is TOML text; None = no configuration at all."""

    def __init__(self, directory: Path, config: str | None = None, *arguments: str) -> None:
        self.directory = directory
        PREFIXES.add(name_prefix(directory))
        self.arguments = ["--dir", str(directory), *arguments]
        if config is not None:
            path = directory / "mstore.toml"
            path.write_text(config)
            self.arguments += ["--config", str(path)]
        self.process: subprocess.Popen[str] | None = None
        self.log = directory / "server.log"

    def start(self) -> Server:
        self.begin()
        self.ready()
        return self

    def begin(self) -> None:
        """Start it and wait for nothing."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mstore", "serve", *self.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ready(self) -> None:
        """Wait until it says that it is."""
        line = self._first_line()
        assert line == f"mstore ready {self.directory}\n", f"{line!r}; its log says:\n{self.log_text()}"

    def start_and_kill_after(self, seconds: float) -> None:
        """Start it and kill it again, however far it has come by then."""
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mstore", "serve", *self.arguments], stdout=log, stderr=log
            )
        time.sleep(seconds)
        process.kill()
        process.wait()

    def _first_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        timer = threading.Timer(READY_S_MAX, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline()
        finally:
            timer.cancel()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Until it has ended, killed if it takes too long; the exit status."""
        assert self.process is not None
        try:
            code = self.process.wait(120)
        finally:
            if self.process.poll() is None:
                self.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()
        return code

    def kill(self) -> None:
        """SIGKILL the supervisor; its children die with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def client(self, **options: Any) -> mstore.Client:
        return mstore.connect(self.directory, **options)

    def info(self) -> dict[str, Any]:
        with self.client() as client:
            return client.info()

    def worker_pid(self, kind: str, index: int = 0) -> int:
        """0 while there is none, or nobody who could tell."""
        try:
            workers = self.info()["workers"]
        except mstore.errors.Unavailable:
            return 0
        return next((one["pid"] for one in workers if (one["kind"], one["index"]) == (kind, index)), 0)

    def connect(self, which: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(30)
        sock.connect(str(self.directory / "run" / f"{which}.sock"))
        return sock

    def send_text(self, text: bytes) -> bytes:
        """What a sender without any library does: connect, send, shut down, read the reply."""
        with self.connect("ingest") as sock:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)


@contextlib.contextmanager
def served(config: str | None = None, files: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A started store in a directory of its own, for all tests of a module; `files` lie beside its configuration."""
    directory = Path(tempfile.mkdtemp(prefix="ms-"))
    try:
        for name, text in (files or {}).items():
            (directory / name).write_text(text)
        server = Server(directory, config).start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class SmallServer(Server):
    """A store in a mount namespace of its own, whose /dev/shm has only so many MiB."""

    def __init__(self, directory: Path, config: str, size_mib: int) -> None:
        super().__init__(directory, config)
        self.size_mib = size_mib

    def start(self) -> Server:
        mount = f'mount -t tmpfs -o size={self.size_mib}m tmpfs /dev/shm && exec "$0" "$@"'
        rights = ["-m"] if os.geteuid() == 0 else ["-r", "-m"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", *rights, "sh", "-c", mount, sys.executable, "-m", "mstore", "serve", *self.arguments],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._first_line() == f"mstore ready {self.directory}\n", self.log_text()
        return self

    def left(self) -> int:
        """Bytes that its /dev/shm has left."""
        status = os.statvfs(self.shm)
        return status.f_bavail * status.f_frsize

    @property
    def shm(self) -> Path:
        """Its /dev/shm, as this process sees it."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root/dev/shm")

    def fill_shm(self) -> None:
        """Take all that its /dev/shm has left."""
        with open(self.shm / "ballast", "wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, self.left())

    def empty_shm(self) -> None:
        (self.shm / "ballast").unlink()


def read_all(sock: socket.socket) -> bytes:
    found = b""
    while piece := sock.recv(65536):
        found += piece
    return found


def peak_bytes(pid: int) -> int:
    """The most memory that a process has ever had, its mappings of the store included."""
    status = Path(f"/proc/{pid}/status").read_text()
    (peak_kib,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return peak_kib * 1024


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait for something that has no event to wait for."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)
    return found
