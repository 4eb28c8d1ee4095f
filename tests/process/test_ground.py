"""DIR, its lock or its sockets removed or taken while the store runs: mended, or noticed and stopped in order."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import mstore
from mstore.errors import StorageError, Unavailable
from mstore.shm.segment import name_prefix, stale
from tests.stores import Server, until

Serve = Callable[..., Server]

MADE = {"control.sock", "ingest.sock", "instance.json", "query.sock"}
"""In DIR/run of a running store."""


def write(server: Server, now: int, name: str) -> None:
    with server.client() as client:
        assert client.write(f"m,cluster=c,hostname={name} value=1 {now}\n").durable


def ended(server: Server) -> int:
    assert server.process is not None
    assert server.process.stdout is not None
    code = server.process.wait(60)
    server.process.stdout.close()
    return code


def lines_with(server: Server, text: str) -> list[str]:
    return [line for line in server.log_text().splitlines() if text in line]


def test_sockets_and_note_that_a_cleaner_removed_are_made_again_and_nobody_loses_a_sample(
    serve: Serve, now: int
) -> None:
    server = serve()
    run = server.directory / "run"
    with server.connect("ingest") as early:
        early.sendall(f"m,cluster=c,hostname=early value=1 {now}\n".encode())
        shutil.rmtree(run)
        until(lambda: sorted(path.name for path in run.glob("*")), "the sockets")
        until((run / "instance.json").exists, "the note")
        early.shutdown(socket.SHUT_WR)
        assert b"written=1" in early.recv(4096), "who was connected goes on"
    write(server, now, "late")
    with mstore.attach(server.directory) as store:
        assert store.children("c") == ["early", "late"]
    assert {path.name for path in run.iterdir()} >= MADE
    # Sockets and note are the supervisor's, two others the persister's, which looks at moments of its own.
    until(lambda: len(lines_with(server, "was removed by somebody and is made again")) == 6, "all of them")
    assert server.stop() == 0


NOTES = {"archive.json", "protected", "recovery.json"}
"""Of the persister, in DIR/run of a store with an archive."""
ARCHIVE = '[archive]\nmode = "archive"\n'


def test_notes_that_a_cleaner_removed_are_made_again_and_the_archive_stays_known(
    serve: Serve, now: int
) -> None:
    server = serve(ARCHIVE)
    run = server.directory / "run"
    before = {name: (run / name).read_text() for name in NOTES - {"recovery.json"}}
    recovered = server.info()["last_recovery"]
    shutil.rmtree(run)
    until(lambda: {path.name for path in run.glob("*")} >= MADE | NOTES, "what was there")
    assert {name: (run / name).read_text() for name in before} == before
    found = server.info()["last_recovery"]
    assert found.pop("at_s") == pytest.approx(recovered.pop("at_s"), abs=1)
    assert found == recovered
    (server.directory / "mstore.toml").write_text("")
    with server.client() as client:
        client.control("reload")
    until(lambda: not (run / "archive.json").exists(), "the note of no archive to go")


@pytest.mark.parametrize("how", ["restart", "stop and start"])
def test_memory_is_taken_over_although_a_cleaner_has_just_removed_all_that_names_it(
    serve: Serve, now: int, how: str
) -> None:
    server = serve("keep_memory = true\n")
    write(server, now, "h")
    with server.client() as client:
        client.protect("c", "h")
        shutil.rmtree(server.directory / "run")
        if how == "restart":
            client.control("restart")
        else:
            assert server.stop() == 0
            server.start()
    assert len(lines_with(server, "persister: memory adopted")) == 1
    assert not lines_with(server, "died")
    with server.client() as client:
        assert client.protected() == {"c": ["h"]}
        client.control("stop", "free")


@pytest.mark.parametrize("what", ["lock replaced", "directory removed"])
def test_a_store_whose_lock_or_directory_is_gone_stops_in_order(serve: Serve, now: int, what: str) -> None:
    server = serve()
    server.log = server.log.rename(server.directory.with_name(server.directory.name + ".log"))
    write(server, now, "a")
    lock = server.directory / "lock"
    try:
        if what == "directory removed":
            shutil.rmtree(server.directory)
        else:
            lock.unlink()
            lock.write_text("")
        assert ended(server) == 1
        (line,) = lines_with(server, "the store stops")
        assert str(lock) in line
        assert "another file" in line if what == "lock replaced" else "is gone" in line
        assert "Traceback" not in server.log_text()
        assert stale(name_prefix(server.directory)) == []
        assert server.directory.exists() == (what == "lock replaced"), "nothing makes it again"
        if what == "lock replaced":
            server.start()
            with server.client() as client:
                assert client.query("c", "a", "m", now, now + 60).values.tolist() == [1]
    finally:
        server.log.unlink()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_snapshot_asked_for_when_the_directory_is_another_s_leaves_no_file_there(
    serve: Serve, now: int, tmp_path: Path, replaced: bool
) -> None:
    server = serve()
    server.log = server.log.rename(tmp_path / "server.log")
    write(server, now, "a")
    away = Path(str(server.directory) + "-away")
    server.directory.rename(away)
    try:
        if replaced:
            server.directory.mkdir()
            (server.directory / "lock").write_text("")
        with (
            contextlib.suppress(Unavailable),  # the look of every few seconds came first: it stops
            mstore.connect(away) as client,
            pytest.raises(StorageError, match="no longer its own"),
        ):
            client.control("snapshot")
        assert ended(server) == 1
        assert {path.name for path in server.directory.glob("*")} <= {"lock", "run"}
        assert server.directory.exists() == replaced
    finally:
        shutil.rmtree(away)


def test_a_second_store_at_the_same_path_keeps_its_sockets_and_its_data_when_the_first_ends(
    serve: Serve, now: int
) -> None:
    first = serve()
    write(first, now, "first")
    away = Path(str(first.directory) + "-away")
    first.directory.rename(away)
    try:
        first.directory.mkdir()
        second = Server(first.directory).start()
        try:
            write(second, now, "second")
            assert ended(first) == 1
            run = first.directory / "run"
            assert {path.name for path in run.iterdir()} >= MADE
            assert {path.name for path in (run / "stacks").iterdir()} >= {
                "supervisor",
                "persister",
                "ingest-0",
            }
            assert list(first.directory.glob("snapshots/*")) == [], "the first's last one would be here"
            write(second, now, "after")
            assert second.stop() == 0
            second.start()
            with second.client() as client:
                assert client.children("c") == ["after", "second"]
        finally:
            second.stop()
    finally:
        shutil.rmtree(away)
