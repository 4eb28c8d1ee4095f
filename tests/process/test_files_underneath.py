"""Files of a running store removed, cut or replaced: it notices, says so, and is protected again by itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mstore
from mstore.shm.segment import name_prefix, stale, unlink
from tests.stores import Server, until

Serve = Callable[..., Server]
Harm = Callable[[Path], None]

CONFIG = 'default_step = 10\nretention = "0"\ningest_workers = 1\nquery_workers = 1\n'
HOSTS = 20


def removed(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, 8192)


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    copy.rename(path)


def folder_gone(path: Path) -> None:
    shutil.rmtree(path.parent)


class Writing:
    """A writer that sends one tick after the other and knows which of them are acknowledged as durable."""

    def __init__(self, server: Server, now: int) -> None:
        self.server = server
        self.first_s = (now - 200_000) // 10 * 10
        self.acknowledged = 0
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with mstore.connect(self.server.directory, timeout=60) as client:
            while not self._halt.is_set():
                t = self.first_s + 10 * self.acknowledged
                lines = "".join(
                    f"m,cluster=c,hostname=h{i} value={self.acknowledged + i} {t}\n" for i in range(HOSTS)
                )
                assert client.write(lines).durable
                self.acknowledged += 1

    def some_more(self) -> None:
        before = self.acknowledged
        until(lambda: self.acknowledged > before + 20, "more acknowledgements")

    def end(self) -> None:
        self._halt.set()
        self._thread.join()

    def assert_all_there(self) -> None:
        stop = self.first_s + 10 * self.acknowledged
        with self.server.client(timeout=30) as client:
            for i in range(HOSTS):
                found = client.query("c", f"h{i}", "m", self.first_s, stop)
                assert isinstance(found, mstore.Series)
                assert found.values.tolist() == [float(tick + i) for tick in range(self.acknowledged)]


@pytest.fixture
def writing(serve: Serve, now: int) -> Iterator[Writing]:
    found = Writing(serve(CONFIG), now)
    try:
        yield found
    finally:
        found.end()


def counters(server: Server) -> dict[str, int]:
    found: dict[str, int] = server.info()["counters"]
    return found


def noticed(server: Server) -> bool:
    return counters(server)["files_lost"] > 0


def protected(server: Server) -> bool:
    found = server.info()
    return not found["unprotected"] and not found["degraded"] and not found["snapshot"]


def start_from_the_files_alone(server: Server) -> None:
    server.kill()
    until(lambda: not _alive(server.directory), "its children to end")
    for name in stale(name_prefix(server.directory)):
        unlink(name)
    server.start()


def _alive(directory: Path) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if text.startswith(b"mstore: ") and str(directory).encode() in text:
            return True
    return False


@pytest.mark.parametrize("harm", [removed, cut, replaced, folder_gone])
def test_a_newest_segment_lost_under_full_ingest_costs_no_acknowledged_sample(
    writing: Writing, harm: Harm
) -> None:
    server = writing.server
    writing.some_more()
    newest = max((server.directory / "wal").glob("*.wal"))
    harm(newest)
    until(lambda: noticed(server), "the store to notice")
    until(lambda: f"{newest} " in server.log_text(), "the store to say it")
    assert "were removed or changed by somebody" in server.log_text()
    until(lambda: protected(server), "a snapshot")
    writing.some_more()
    writing.end()
    assert "all is protected again" in server.log_text()
    report = subprocess.run(
        [sys.executable, "-m", "mstore", "info", "--dir", str(server.directory)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "files of log and snapshots that somebody removed or changed" in report
    start_from_the_files_alone(server)
    assert not server.info()["last_recovery"]["damaged"]
    writing.assert_all_there()


@pytest.mark.parametrize(
    ("what", "harm"), [("*.snapshot", removed), ("*.definitions", removed), ("*.chunks", replaced)]
)
def test_a_snapshot_that_lost_a_file_is_replaced_at_once(writing: Writing, harm: Harm, what: str) -> None:
    server = writing.server
    for _ in range(2):
        writing.some_more()
        with server.client() as client:
            client.control("snapshot")
    path = max((server.directory / "snapshots").glob(what))
    harm(path)
    until(lambda: noticed(server), "the store to notice")
    until(lambda: protected(server), "a snapshot")
    writing.end()
    assert counters(server)["files_lost"] == 1
    start_from_the_files_alone(server)
    assert not server.info()["last_recovery"]["damaged"]
    writing.assert_all_there()


def test_snapshots_and_log_removed_as_a_whole_are_made_again(writing: Writing) -> None:
    server = writing.server
    writing.some_more()
    with server.client() as client:
        client.control("snapshot")
    shutil.rmtree(server.directory / "snapshots")
    shutil.rmtree(server.directory / "wal")
    until(lambda: noticed(server), "the store to notice")
    until(lambda: protected(server), "a snapshot")
    writing.some_more()
    writing.end()
    start_from_the_files_alone(server)
    writing.assert_all_there()


def test_a_persister_killed_before_it_is_protected_again_leaves_that_to_its_successor(
    writing: Writing,
) -> None:
    server = writing.server
    writing.some_more()
    max((server.directory / "wal").glob("*.wal")).unlink()
    persister = server.worker_pid("persister")
    until(lambda: "were removed or changed" in server.log_text(), "the store to notice")
    os.kill(persister, signal.SIGKILL)  # its snapshot takes longer to begin than that
    until(lambda: "memory adopted" in server.log_text(), "the memory to be adopted")
    until(lambda: "all is protected again" in server.log_text(), "the successor's snapshot", 60)
    until(lambda: protected(server), "a snapshot", 60)
    writing.some_more()
    writing.end()
    start_from_the_files_alone(server)
    writing.assert_all_there()


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mstore", "check", "--dir", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_check_beside_a_running_store_finds_what_is_missing_by_itself(writing: Writing) -> None:
    """Its persister is stopped meanwhile, so that it mends nothing."""
    server = writing.server
    for _ in range(2):
        writing.some_more()
        with server.client() as client:
            client.control("snapshot")
    writing.some_more()
    persister = server.worker_pid("persister")
    os.kill(persister, signal.SIGSTOP)
    try:
        done = check(server.directory)
        assert done.returncode == 0, done.stdout + done.stderr
        segments = sorted((server.directory / "wal").glob("*.wal"))
        manifests = sorted((server.directory / "snapshots").glob("*.snapshot"))
        assert len(manifests) == 2
        for path in (segments[-1], *manifests, min((server.directory / "snapshots").glob("*.chunks"))):
            aside = path.with_name("aside")
            path.rename(aside)
            done = check(server.directory)
            assert done.returncode == 1, (path, done.stdout)
            assert path.name in done.stdout or "is missing" in done.stdout
            aside.rename(path)
        assert check(server.directory).returncode == 0
    finally:
        os.kill(persister, signal.SIGCONT)
