"""The listening sockets when others remove or take their names, and those that a service manager passes."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from mstore.errors import ConfigError
from mstore.persistence import store_lock
from mstore.workers.door import Door
from mstore.workers.ground import Ground
from mstore.workers.ownership import inode_of


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ms-") as name:
        (Path(name) / "run").mkdir(mode=0o750)
        yield Path(name)


class House:
    """A door whose visitors are noted by what they say first."""

    def __init__(self, directory: Path, passed: dict[str, socket.socket] | None = None) -> None:
        self.directory = directory
        self.visitors: list[socket.socket] = []
        self.full = False
        self.door = Door(directory, self.admit, lambda _which: not self.full, passed)

    def admit(self, which: str, sock: socket.socket) -> bool:
        self.visitors.append(sock)
        return not self.full

    def path(self, which: str) -> Path:
        return self.directory / "run" / f"{which}.sock"

    def visit(self, which: str = "ingest") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path(which)))
        return sock

    async def came(self, n: int) -> None:
        async with asyncio.timeout(20):
            while len(self.visitors) < n:
                await asyncio.sleep(0.005)

    def close(self, *clients: socket.socket) -> None:
        self.door.close()
        for sock in (*self.visitors, *clients):
            sock.close()


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scene()

    asyncio.run(main())


def test_a_removed_socket_is_bound_again_and_who_waited_at_the_old_one_is_served(directory: Path) -> None:
    async def scene() -> None:
        house = House(directory)
        house.door.listen()
        before = inode_of(house.path("ingest"))
        waiting = [house.visit() for _ in range(3)]
        house.path("ingest").unlink()
        house.door.mend()
        assert inode_of(house.path("ingest")) not in (None, before)
        assert house.path("ingest").stat().st_mode & 0o777 == 0o660
        waiting.append(house.visit())
        house.door.open("ingest")
        await house.came(4)
        assert [listener.former for listener in house.door._listeners.values()] == [[], [], []]
        house.close(*waiting)
        assert not house.path("ingest").exists()

    play(scene)


def test_an_open_door_that_is_mended_goes_on_taking_connections_old_and_new(directory: Path) -> None:
    async def scene() -> None:
        house = House(directory)
        house.door.listen()
        house.door.open("ingest")
        house.full = True
        clients = [house.visit() for _ in range(3)]
        await house.came(1)  # and then the door is shut for a moment
        house.path("ingest").unlink()
        house.door.mend()
        clients.append(house.visit())
        house.full = False
        house.door.open("ingest")
        await house.came(4)
        assert house.door._listeners["ingest"].former == []
        house.close(*clients)

    play(scene)


def test_the_end_removes_only_names_that_are_still_the_own(directory: Path) -> None:
    async def scene() -> None:
        house = House(directory)
        house.door.listen()
        house.path("query").unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(house.path("query")))
            assert house.door.strangers() == [str(house.path("query"))]
            theirs = inode_of(house.path("query"))
            house.close()
            assert inode_of(house.path("query")) == theirs
        assert [path.name for path in (directory / "run").iterdir()] == ["query.sock"]

    play(scene)


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_a_passed_socket_is_used_and_outlives_the_door_with_who_waits_in_its_backlog(directory: Path) -> None:
    async def scene() -> None:
        manager = listening(directory / "run" / "ingest.sock")
        before = inode_of(directory / "run" / "ingest.sock")
        house = House(directory, {"ingest": manager.dup()})
        house.door.listen()
        house.door.open("ingest")
        first = house.visit()
        await house.came(1)
        house.close(first)
        assert [path.name for path in (directory / "run").iterdir()] == ["ingest.sock"]
        assert inode_of(directory / "run" / "ingest.sock") == before

        waiting = house.visit()
        waiting.sendall(b"hello")
        again = House(directory, {"ingest": manager})
        again.door.listen()
        again.door.open("ingest")
        await again.came(1)
        assert again.visitors[0].recv(5) == b"hello"
        again.close(waiting)

    play(scene)


@pytest.mark.parametrize("wrong", ["elsewhere", "gone", "not listening", "no stream"])
def test_a_passed_socket_that_clients_cannot_find_is_refused_with_what_is_expected(
    directory: Path, wrong: str
) -> None:
    path = directory / ("other.sock" if wrong == "elsewhere" else "run/ingest.sock")
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM if wrong == "no stream" else socket.SOCK_STREAM
    ) as sock:
        sock.bind(str(path))
        if wrong in ("elsewhere", "gone"):
            sock.listen()
        if wrong == "gone":
            path.unlink()
        door = Door(directory, lambda *_: True, lambda _: True, {"ingest": sock})
        with pytest.raises(ConfigError, match=r"expected is a listening stream socket at .*run/ingest\.sock"):
            door.listen()


def test_a_passed_socket_whose_name_is_gone_is_complained_about_once(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        house = House(directory, {"ingest": listening(directory / "run" / "ingest.sock")})
        house.door.listen()
        house.path("ingest").unlink()
        house.door.mend()
        house.door.mend()
        assert not house.path("ingest").exists()
        house.close()

    play(scene)
    assert [record.getMessage().partition("ingest.sock ")[2] for record in caplog.records] == [
        "is gone and nobody can connect: restart its socket unit together with the store's"
    ]


# --- DIR/lock


@pytest.fixture
def ground(directory: Path) -> Iterator[Ground]:
    lock_fd = store_lock.lock(directory)
    yield Ground(directory, lock_fd, Door(directory, lambda *_: True, lambda _: True))
    os.close(lock_fd)


def test_a_lock_that_is_still_there_is_sound(ground: Ground) -> None:
    assert ground.lost() == ""


def test_a_lock_that_was_removed_or_replaced_is_lost(ground: Ground, directory: Path) -> None:
    (directory / "lock").rename(directory / "put aside")
    assert "lock is gone" in ground.lost()
    (directory / "lock").write_text("")
    assert "another file than the one this store holds" in ground.lost()
    (directory / "put aside").rename(directory / "lock")
    assert ground.lost() == ""


def test_a_directory_that_was_moved_is_lost(ground: Ground, directory: Path) -> None:
    away = directory.with_name(directory.name + "-away")
    directory.rename(away)
    assert "lock is gone" in ground.lost()
    away.rename(directory)


def test_what_cannot_be_told_now_ends_no_store(
    ground: Ground, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("mstore.workers.ownership.os.stat", denied)
    assert ground.lost() == ""
