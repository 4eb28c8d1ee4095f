"""`mstore serve --strict`: damaged files are a reason not to start; a torn end, which every crash may leave, is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mstore.shm.segment import name_prefix, stale, unlink
from tests.process.test_known_faults import tear_the_end
from tests.process.test_snapshot_life import NO_LAST_SNAPSHOT, read, write
from tests.stores import Server

Serve = Callable[..., Server]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)


def damage_the_log(directory: Path) -> Path:
    path = min((directory / "wal").glob("*.wal"))
    flip(path, 4096 + 100)
    return path


def damage_a_snapshot(directory: Path) -> Path:
    path = max((directory / "snapshots").glob("*.chunks"))
    flip(path, path.stat().st_size // 2)
    return path


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for folder in ("wal", "snapshots", "quarantine")
        for path in (directory / folder).glob("*")
    }


@pytest.mark.parametrize("damage", [damage_the_log, damage_a_snapshot])
def test_a_strict_start_refuses_damaged_files_and_leaves_them_as_they_are(
    serve: Serve, now: int, damage: Callable[[Path], Path]
) -> None:
    server = serve(NO_LAST_SNAPSHOT)
    for value in (1.0, 2.0, 3.0):
        write(server, now, value)
        if damage is damage_a_snapshot:
            with server.client() as client:
                client.control("snapshot")
    server.stop()
    path = damage(server.directory)
    before = contents(server.directory)
    refused = subprocess.run(
        [sys.executable, "-m", "mstore", "serve", "--strict", *server.arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (refused.returncode, refused.stdout) == (1, "")
    (told,) = [line for line in refused.stderr.splitlines() if "persister: cannot start: " in line]
    assert str(path) in told
    assert "checksum mismatch" in told
    assert "Traceback" not in refused.stderr
    assert contents(server.directory) == before
    assert stale(name_prefix(server.directory)) == []
    server.start()
    assert server.info()["degraded"]
    if damage is damage_a_snapshot:
        assert read(server, now) == read_expected(3.0), "the older generation and the log have it all"


def read_expected(value: float) -> list[float]:
    return [value + host for host in range(40)]


def test_a_strict_start_cuts_a_torn_end_as_every_start_does(serve: Serve, now: int) -> None:
    server = serve(NO_LAST_SNAPSHOT, "--strict")
    write(server, now, 1.0)
    server.kill()
    for name in stale(name_prefix(server.directory)):
        unlink(name)
    tear_the_end(server.directory)
    server.start()
    assert "torn end cut" in server.log_text()
    assert not server.info()["degraded"]
    assert read(server, now) == read_expected(1.0)
