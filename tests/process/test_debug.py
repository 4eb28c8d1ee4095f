"""`mstore debug` of real stores: whole ones, half dead ones, and none at all."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stores import Server

Serve = Callable[..., Server]


def debug(directory: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mstore", "debug", "--dir", str(directory), *words]
    return subprocess.run(command, capture_output=True, timeout=60)


def unpacked(packed: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        found = {}
        for entry in tar:
            stream = tar.extractfile(entry)
            assert stream is not None
            found[entry.name.removeprefix("mstore-debug/")] = stream.read().decode()
        return found


def test_a_sound_store_shows_stacks_states_messages_and_configuration_of_every_process(
    serve: Serve, now: int
) -> None:
    server = serve("default_step = 10\n", "--ingest-workers", "2", "--query-workers", "1")
    server.send_text(f"m,cluster=c,hostname=h value=1 {now}\n".encode())
    with server.client() as client:
        client.query("c", "h", "m", now - 100, now + 1)
        done = debug(server.directory, "-o", "-")
    found = unpacked(done.stdout)
    assert done.returncode == 0, found["summary.txt"]
    names = ["supervisor", "persister", "ingest-0", "ingest-1", "query-0"]
    for name in names:
        assert "most recent call first" in found[f"stacks/{name}.txt"], name
        kind, _, index = name.partition("-")
        assert server.process is not None
        pid = server.process.pid if name == "supervisor" else server.worker_pid(kind, int(index or 0))
        assert json.loads(found[f"states/{name}.json"])["pid"] == pid
        assert f"log/{name}.txt" in found
    assert "recovered" in found["log/persister.txt"]
    assert "default_step = 10" in found["config.toml"]
    query = json.loads(found["states/query-0.json"])
    (slow,) = query["slowest_queries"]
    assert (slow["cluster"], slow["host"], slow["metric"], slow["series"]) == ("c", "h", "m", 1)
    assert query["connections"][0]["peer"]["uid"] == os.getuid()
    memory = json.loads(found["memory.json"])
    assert set(memory["rings"]) == {"ring-0", "ring-1"}
    assert memory["totals"]["lines"] == 1


def test_a_connection_is_shown_with_its_peer_and_what_it_waits_for(serve: Serve) -> None:
    server = serve()
    with server.connect("ingest") as sock:
        sock.sendall(text := b"# mstore ack=durable\nm,cluster=c,hostname=h value=1\nhalf a li")
        found = unpacked(debug(server.directory, "-o", "-").stdout)
    (one,) = json.loads(found["states/ingest-0.json"])["connections"]
    assert one["peer"] == {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}
    assert (one["protocol"], one["bytes_in"], one["waiting_bytes"]) == ("text", len(text), len(text))


@pytest.mark.parametrize("kind", ["ingest", "query", "persister"])
def test_a_stopped_worker_is_named_and_the_others_are_shown(serve: Serve, kind: str) -> None:
    server = serve(None, "--ingest-workers", "1", "--query-workers", "1")
    pid = server.worker_pid(kind)
    os.kill(pid, signal.SIGSTOP)
    try:
        done = debug(server.directory, "-o", "-")
    finally:
        os.kill(pid, signal.SIGCONT)
    found = unpacked(done.stdout)
    assert done.returncode == 1
    stuck = kind if kind == "persister" else f"{kind}-0"
    assert f"NOT ANSWERING: {stuck} [{pid}], T (stopped)" in found["summary.txt"]
    for name in {"supervisor", "persister", "ingest-0", "query-0"} - {stuck}:
        assert "most recent call first" in found[f"stacks/{name}.txt"], name
        assert f"states/{name}.json" in found, name
    assert f"states/{stuck}.json" not in found
    assert server.info()["state"] == "ready"  # SIGUSR2 came with SIGCONT, and did no harm
    assert server.worker_pid(kind) == pid


def test_a_store_whose_supervisor_is_stuck_still_shows_its_workers(serve: Serve) -> None:
    server = serve()
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        done = debug(server.directory, "-o", "-")
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    found = unpacked(done.stdout)
    assert done.returncode == 1
    assert "the store does not answer" in found["summary.txt"]
    assert "most recent call first" in found["stacks/persister.txt"]
    assert json.loads(found["memory.json"])["workers"]


def test_without_a_store_the_files_are_shown(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    server.stop()
    done = debug(server.directory)
    assert done.returncode == 1
    assert b"no process of a store runs here" in done.stdout
    assert b".wal" in done.stdout
    output = tmp_path / "report.tar.gz"
    assert debug(server.directory, "-o", str(output)).returncode == 1
    assert "files.json" in unpacked(output.read_bytes())
    assert output.stat().st_mode & 0o777 == 0o600, "there are names of hosts and users in it"


def test_no_stranger_is_signalled(serve: Serve) -> None:
    """SIGUSR2 would end a process that does not know it: here, one that got a dead store's process number."""
    server = serve()
    server.kill()
    stranger = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        (server.directory / "lock").write_text(f"{stranger.pid}\n")
        debug(server.directory)
        assert stranger.poll() is None
    finally:
        assert stranger.stdin is not None
        stranger.stdin.close()
        assert stranger.wait() == 0
    server.start()  # takes the killed run's memory over, and gives it back
    server.stop()
