"""Files of a DIR that was removed, or is another store's: nothing is made, renamed or removed there any more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mstore.errors import StorageError
from mstore.persistence.files import snapshot_dir, wal_dir
from mstore.persistence.owned_files import OwnedFiles

Change = Callable[[OwnedFiles, Path], object]

CHANGES: dict[str, Change] = {
    "mkdir": lambda files, at: files.mkdir(at / "snapshots"),
    "create": lambda files, at: files.create(at / "new"),
    "rename": lambda files, at: files.rename(at / "old", at / "new"),
    "link": lambda files, at: files.link(at / "old", at / "new"),
    "truncate": lambda files, at: files.truncate(at / "old", 1),
    "unlink": lambda files, at: files.unlink(at / "old"),
    "replace": lambda files, at: files.replace(at / "old", b"mine"),
}


def put_another_store_there(directory: Path) -> None:
    directory.rename(directory.with_name("away"))
    directory.mkdir()
    (directory / "lock").write_text("")
    (directory / "old").write_bytes(b"another's")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_no_name_of_another_store_is_touched(owned: OwnedFiles, directory: Path, change: Change) -> None:
    put_another_store_there(directory)
    before = contents(directory)
    with pytest.raises(StorageError, match="no longer its own"):
        change(owned, directory)
    assert contents(directory) == before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_removed_directory_stays_removed(owned: OwnedFiles, directory: Path, change: Change) -> None:
    shutil.rmtree(directory)
    with pytest.raises(StorageError):
        change(owned, directory)
    assert not directory.exists()


def test_a_directory_that_is_removed_between_the_look_and_the_change_is_not_made_again(
    owned: OwnedFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned, "lost", lambda: bool(shutil.rmtree(directory, ignore_errors=True)))
    with pytest.raises(StorageError, match="is gone"):
        owned.mkdir(snapshot_dir(directory))
    assert not directory.exists()


def test_what_is_still_its_own_is_changed_as_ever(owned: OwnedFiles, directory: Path) -> None:
    owned.mkdir(wal_dir(directory))
    owned.replace(directory / "note", b"text")
    owned.rename(directory / "note", wal_dir(directory) / "note")
    assert (wal_dir(directory) / "note").read_bytes() == b"text"
    owned.unlink(wal_dir(directory) / "note")
    assert list(wal_dir(directory).iterdir()) == []
