"""The log removed just before a store ends, or while its memory waits for the next start: the memory is what is left."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable

import pytest

from tests.process.test_adoption import ADOPTED, CONFIG, content, write
from tests.process.test_files_underneath import protected, start_from_the_files_alone
from tests.stores import Server, until

Serve = Callable[..., Server]


def without_log(server: Server, *folders: str) -> None:
    for folder in folders:
        for path in (server.directory / folder).iterdir():
            path.unlink()


def stop_and_keep(server: Server) -> None:
    with server.client() as client:
        client.control("stop", "keep")
    assert server.wait() == 0


def assert_all_there_and_in_the_files(server: Server, now: int, before: list[str]) -> None:
    assert content(server, now) == before
    until(lambda: protected(server), "a snapshot")
    start_from_the_files_alone(server)
    assert content(server, now) == before


@pytest.fixture
def filled(serve: Serve, now: int) -> tuple[Server, list[str]]:
    """A store with a snapshot and samples behind it, and what it answers."""
    server = serve(CONFIG)
    write(server, now - 600)
    with server.client() as client:
        client.control("snapshot")
    write(server, now - 300)
    return server, content(server, now)


@pytest.mark.parametrize("folders", [("wal",), ("wal", "snapshots")])
def test_a_restart_at_once_loses_nothing(
    filled: tuple[Server, list[str]], now: int, folders: tuple[str, ...]
) -> None:
    server, before = filled
    without_log(server, *folders)
    with server.client() as client:
        client.control("restart")
    assert_all_there_and_in_the_files(server, now, before)


def test_a_stop_that_keeps_the_memory_writes_down_what_only_the_memory_holds(
    filled: tuple[Server, list[str]], now: int
) -> None:
    server, before = filled
    without_log(server, "wal", "snapshots")
    stop_and_keep(server)
    server.start()
    assert_all_there_and_in_the_files(server, now, before)


def test_a_log_removed_while_the_memory_waits_is_begun_anew(
    filled: tuple[Server, list[str]], now: int
) -> None:
    server, before = filled
    stop_and_keep(server)
    without_log(server, "wal")
    server.start()
    assert server.log_text().count(ADOPTED) == 1
    assert "the log was removed by somebody" in server.log_text()
    assert content(server, now) == before
    write(server, now - 60)
    until(lambda: protected(server), "a snapshot")
    after = content(server, now)
    start_from_the_files_alone(server)
    assert content(server, now) == after


def test_a_persister_killed_before_it_looked_at_its_log_is_followed_by_one_that_has_all(
    filled: tuple[Server, list[str]], now: int
) -> None:
    server, before = filled
    time.sleep(2)  # the mark behind the last write
    without_log(server, "wal")
    os.kill(server.worker_pid("persister"), signal.SIGKILL)
    until(lambda: ADOPTED in server.log_text(), "the next life")
    assert_all_there_and_in_the_files(server, now, before)


def test_memory_that_held_more_than_the_files_is_said_to_be_lost(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    before = content(server, now)
    server.kill()
    shutil.copytree(server.directory / "wal", server.directory / "older")
    server.start()
    write(server, now - 300)
    stop_and_keep(server)
    shutil.rmtree(server.directory / "wal")
    (server.directory / "older").rename(server.directory / "wal")
    server.start()
    assert content(server, now) == before
    info = server.info()
    assert info["degraded"]
    (damage,) = info["last_recovery"]["damaged"]
    assert "memory that was kept held blocks up to" in damage
    assert damage in server.log_text()
    assert "part of the log or of a snapshot is damaged: memory that was kept" in server.log_text()
    assert not (server.directory / "run" / "refused.json").exists()
    server.stop()
    server.start()
    assert not server.info()["degraded"], "it is said once"
