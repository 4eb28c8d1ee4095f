"""Names, atomic replacement, the lock, leftovers; every error names its path."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mstore.errors import StorageError, StoreLocked
from mstore.persistence.files import (
    NUMBER_MAX,
    WAL_SUFFIX,
    Files,
    generation_of,
    number_of,
    remove_leftovers,
    snapshot_dir,
    snapshot_name,
    spare_name,
    wal_dir,
    wal_name,
)
from mstore.persistence.store_lock import lock


def test_names_sort_as_their_numbers_and_read_back() -> None:
    numbers = [1, 9, 10, 255, 256, 1 << 40, NUMBER_MAX]
    names = [wal_name(number) for number in numbers]
    assert names == sorted(names)
    assert [number_of(name, ".wal") for name in names] == numbers
    assert number_of(snapshot_name(77), ".snapshot") == 77
    assert number_of(spare_name(5), ".spare") == 5


@pytest.mark.parametrize(
    "name",
    ["x.wal", "1.wal", "000000000000000G.wal", wal_name(1) + ".tmp", snapshot_name(1), "A" * 16 + ".wal"],
)
def test_names_that_are_not_ours_have_no_number(name: str) -> None:
    assert number_of(name, ".wal") is None


def test_replace_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    files = Files()
    path = tmp_path / "state"
    files.replace(path, b"old")
    files.replace(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert os.listdir(tmp_path) == ["state"]


class Failing(Files):
    def __init__(self, what: str) -> None:
        self.what = what

    def fdatasync(self, fd: int) -> None:
        if self.what == "fdatasync":
            raise StorageError("injected")
        super().fdatasync(fd)

    def rename(self, source: Path, target: Path) -> None:
        if self.what == "rename":
            raise StorageError("injected")
        super().rename(source, target)


@pytest.mark.parametrize("what", ["fdatasync", "rename"])
def test_replace_that_fails_leaves_the_old_content_and_can_be_repeated(tmp_path: Path, what: str) -> None:
    path = tmp_path / "state"
    Files().replace(path, b"old")
    with pytest.raises(StorageError, match="injected"):
        Failing(what).replace(path, b"new")
    assert path.read_bytes() == b"old"
    Files().replace(path, b"new")
    assert path.read_bytes() == b"new"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: real(fd, [b"".join(buffers)[:5]], offset))
    files = Files()
    fd = files.create(tmp_path / "f")
    files.pwritev(fd, [b"0123", memoryview(b"456789")], 2)
    assert files.pread(fd, 100, 0) == b"\0\x000123456789"
    files.close(fd)


def test_errors_name_operation_and_path_and_keep_the_errno(tmp_path: Path) -> None:
    files = Files()
    with pytest.raises(StorageError, match=r"cannot open .*nothing: No such file") as caught:
        files.open(tmp_path / "nothing")
    assert caught.value.details["errno"] == errno.ENOENT
    with pytest.raises(StorageError, match="cannot write"):
        files.pwritev(9999, [b"x"], 0)
    with pytest.raises(StorageError, match="cannot fdatasync"):
        files.fdatasync(9999)
    files.close(files.create(tmp_path / "there"))
    with pytest.raises(StorageError, match="File exists"):
        files.create(tmp_path / "there")


def test_a_file_that_cannot_be_allocated_leaves_no_name(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="allocate"):
        Files().create(tmp_path / "huge", 1 << 60)
    assert os.listdir(tmp_path) == []


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    Files().unlink(tmp_path / "gone")
    assert Files().list(tmp_path / "no-directory") == []


def test_directories_are_private_to_owner_and_group(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Files().mkdir(tmp_path / "a" / "b")
        fd = Files().create(tmp_path / "a" / "b" / "file")
    finally:
        os.umask(old)
    os.close(fd)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "a" / "b" / "file").stat().st_mode & 0o777 == 0o640


def test_half_written_files_are_removed_and_everything_else_kept(tmp_path: Path) -> None:
    files = Files()
    for folder in (wal_dir(tmp_path), snapshot_dir(tmp_path)):
        files.mkdir(folder)
    kept = [
        wal_dir(tmp_path) / wal_name(1),
        wal_dir(tmp_path) / spare_name(7),
        snapshot_dir(tmp_path) / "notes",
    ]
    gone = [snapshot_dir(tmp_path) / (snapshot_name(3) + ".tmp"), tmp_path / "instance.json.tmp"]
    for path in kept + gone:
        path.write_bytes(b"x")
    assert sorted(remove_leftovers(files, tmp_path)) == sorted(path.name for path in gone)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)


def test_a_locked_directory_is_refused_with_the_holder(tmp_path: Path) -> None:
    fd = lock(tmp_path)
    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        lock(tmp_path)
    os.close(fd)
    os.close(lock(tmp_path))


def test_the_lock_is_held_until_the_last_process_that_inherited_it_is_gone(tmp_path: Path) -> None:
    fd = lock(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[fd]
    )
    os.close(fd)
    with pytest.raises(StoreLocked):
        lock(tmp_path)
    assert child.stdin is not None
    child.stdin.close()
    child.wait(10)
    os.close(lock(tmp_path))


def test_a_name_with_a_number_that_no_store_reaches_is_nobodys() -> None:
    assert number_of("7fffffffffffffff.wal", WAL_SUFFIX) == NUMBER_MAX
    assert number_of("8000000000000000.wal", WAL_SUFFIX) is None
    assert generation_of("ffffffffffffffff.1122334455667788.definitions") is None
