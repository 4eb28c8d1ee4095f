"""`mstore backup` of real stores: what was acknowledged before is in the copy, bit for bit, and a store serves it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import mstore
from mstore import clock, paths
from mstore.client.session import Session
from mstore.ipc import messages as m
from mstore.ipc.transport import run
from tests.stores import Server, until

Serve = Callable[..., Server]

STEP_S = 10
HOSTS = 50
CONFIG = f'default_step = {STEP_S}\nretention = "0"\nsnapshot_interval = "0"\n'


class Writer(threading.Thread):
    """Sends one column of HOSTS samples after another; counts what is acknowledged as durable."""

    def __init__(self, directory: Path, name: str, first_s: int) -> None:
        super().__init__(name=name, daemon=True)
        self._directory = directory
        self._first_s = first_s
        self.halt = threading.Event()
        self.acknowledged = 0
        self.fault: BaseException | None = None

    def value(self, host: int, tick: int) -> float:
        return float(tick * HOSTS + host) + 0.25

    def run(self) -> None:
        try:
            with mstore.connect(self._directory) as client:
                while not self.halt.is_set():
                    t = self._first_s + self.acknowledged * STEP_S
                    result = client.write(
                        "".join(
                            f"m,cluster={self.name},hostname=h{h} value={self.value(h, self.acknowledged)} {t}\n"
                            for h in range(HOSTS)
                        )
                    )
                    assert (result.written, result.rejected) == (HOSTS, 0)
                    self.acknowledged += 1
        except BaseException as fault:  # shown by the test; a thread's own report would be lost
            self.fault = fault

    def expected(self, n_ticks: int) -> np.ndarray:
        return np.array([[self.value(h, t) for t in range(n_ticks)] for h in range(HOSTS)], np.float32)


@pytest.fixture
def writers(serve: Serve, now: int) -> Iterator[tuple[Server, list[Writer]]]:
    """A store with three writers at work."""
    server = serve(CONFIG, "--ingest-workers", "2")
    first_s = (now - 400_000) // STEP_S * STEP_S
    made = [Writer(server.directory, f"c{k}", first_s) for k in range(3)]
    for writer in made:
        writer.start()
    until(lambda: all(writer.acknowledged > 20 or writer.fault for writer in made), "first acknowledgements")
    yield server, made
    for writer in made:
        writer.halt.set()
        writer.join(30)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """Short, because a store is served from it."""
    path = Path(f"/tmp/mb-{os.getpid()}-{time.monotonic_ns() & 0xFFFFFF:x}")
    yield path
    for left in path.parent.glob(f"{path.name}*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def mstore_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mstore", *words], capture_output=True, text=True, timeout=120
    )


def backup(directory: Path, target: Path) -> dict[str, object]:
    done = mstore_command("backup", "--dir", str(directory), str(target), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def check_copy_has(target: Path, writer: Writer, n_ticks: int) -> None:
    with mstore.connect(target) as client:
        expected = writer.expected(n_ticks)
        for host in range(HOSTS):
            stop = writer._first_s + n_ticks * STEP_S
            series = client.query(writer.name, f"h{host}", "m", writer._first_s, stop)
            assert isinstance(series, mstore.Series)
            assert series.values.tobytes() == expected[host].tobytes()


def test_everything_acknowledged_before_is_in_a_backup_that_a_store_serves(
    writers: tuple[Server, list[Writer]], target: Path
) -> None:
    server, made = writers
    with server.client() as client:
        client.control("snapshot")
    before = [writer.acknowledged for writer in made]
    report = backup(server.directory, target)
    during = [writer.acknowledged for writer in made]
    until(
        lambda: all(w.acknowledged > n or w.fault for w, n in zip(made, during, strict=True)),
        "writers to go on",
    )
    assert [writer.fault for writer in made] == [None] * 3
    assert report["running"]
    assert report["snapshot_seq"]
    assert report["n_slots"] + report["n_log_samples"] >= sum(before) * HOSTS
    assert mstore_command("check", "--dir", str(target)).returncode == 0
    copy = Server(target, CONFIG)
    copy.log = target.with_name(target.name + ".log")
    try:
        copy.start()
        for writer, n_ticks in zip(made, before, strict=True):
            check_copy_has(target, writer, n_ticks)
        assert "damaged" not in copy.log_text()
    finally:
        copy.stop()


def test_a_second_backup_holds_what_came_since(writers: tuple[Server, list[Writer]], target: Path) -> None:
    server, made = writers
    first = backup(server.directory, target)
    before = [writer.acknowledged for writer in made]
    second = backup(server.directory, target.with_name(target.name + "-2"))
    assert second["seq"] > first["seq"]
    refused = mstore_command("backup", "--dir", str(server.directory), str(target))
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    for writer in made:
        writer.halt.set()
    copy = Server(target.with_name(target.name + "-2"), CONFIG)
    copy.log = target.with_name(target.name + ".log")
    try:
        copy.start()
        for writer, n_ticks in zip(made, before, strict=True):
            check_copy_has(copy.directory, writer, n_ticks)
    finally:
        copy.stop()


def test_a_stopped_store_is_copied_with_all_it_holds(serve: Serve, now: int, target: Path) -> None:
    server = serve(CONFIG)
    t = now // 10 * 10 - 10
    assert server.send_text(f"m,cluster=c,hostname=h value=1.5 {t}\n".encode()).startswith(b"written=1")
    server.stop()
    assert not backup(server.directory, target)["running"]
    copy = Server(target, CONFIG)
    copy.log = target.with_name(target.name + ".log")
    try:
        copy.start()
        with copy.client() as client:
            assert client.query("c", "h", "m", t, t + 10).values.tolist() == [1.5]
    finally:
        copy.stop()


def held(server: Server) -> int:
    """Holds of the log, as the store tells."""
    with server.client() as client:
        return int(client.info()["log"]["holds"])


def test_a_killed_backup_ends_its_hold(writers: tuple[Server, list[Writer]], target: Path) -> None:
    server, _ = writers
    script = (
        "import sys, time; from pathlib import Path; from mstore.persistence import backup as b\n"
        "b.copy_store = lambda *a, **k: (print('copying', flush=True), time.sleep(60))\n"
        "from mstore.workers.backup import backup; backup(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", script, str(server.directory), str(target)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "copying\n"
        assert held(server) == 1
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
        client.stdout.close()
    until(lambda: held(server) == 0, "the hold to end with its client")


def test_a_hold_ends_at_its_limit(serve: Serve) -> None:
    server = serve(CONFIG)
    session = Session(paths.socket_path(server.directory, "control"), m.Hello(m.VERSION, "control"))
    try:
        run(session.exchange(m.Hold(1), clock.monotonic_s() + 30))
        assert held(server) == 1
        until(lambda: held(server) == 0, "the hold to end at its limit")
    finally:
        session.forget()
    assert "which is the limit" in server.log_text()
