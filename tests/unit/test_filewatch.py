"""What a FileWatch makes of files that went or changed; what it does to persister and snapshots is noted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mstore.persistence.files import wal_dir
from mstore.persistence.inventory import LostFile
from mstore.persistence.owned_files import OwnedFiles
from mstore.workers.filewatch import FileWatch
from tests.snapshot_rig import small_store, take


class Watched:
    """What a FileWatch needs of a persister and of its snapshots."""

    def __init__(self, directory: Path) -> None:
        self.done: list[str] = []
        self.spec = SimpleNamespace(directory=directory)
        self.slot = SimpleNamespace(get=lambda _: 0, set=lambda *_: None, add=lambda *_: None)
        self.troubles = SimpleNamespace(begin=lambda _: None)
        self.wal = SimpleNamespace(
            segment_files=list,
            next_seq=1,
            written=1,
            abandon=lambda *_: bool(self.done.append("log")) or True,
        )

    def protect(self, _unsound: Any) -> None:
        self.done.append("snapshot")


@pytest.mark.parametrize("lost", [False, True])
def test_files_that_went_with_their_directory_are_not_made_good(
    owned: OwnedFiles, directory: Path, lost: bool
) -> None:
    store = Watched(directory)
    watch = FileWatch(store, owned, store, ())  # type: ignore[arg-type]  # what it needs of them
    if lost:
        directory.rename(directory.with_name("away"))
        directory.mkdir()
        (directory / "lock").write_text("")
    watch._guard(lambda: [LostFile(wal_dir(directory) / "1.wal", "is gone", last_seq=1)])
    assert store.done == ([] if lost else ["log", "snapshot"])


def test_a_snapshot_of_the_same_block_taken_again_is_nobody_s_harm(
    directory: Path, owned: OwnedFiles
) -> None:
    take(directory, small_store()[0], 9)
    store = Watched(directory)
    watch = FileWatch(store, owned, store, ())  # type: ignore[arg-type]  # what it needs of them
    watch._guard(watch._learn)
    assert watch._inventory.generations() == [9]
    take(directory, small_store()[0], 9)
    watch.snapshot_taken(9, 0)
    assert (store.done, watch._inventory.generations()) == ([], [9])


def test_an_empty_log_that_is_lost_leaves_nothing_unprotected(directory: Path, owned: OwnedFiles) -> None:
    for n_written in (0, 3):
        store = Watched(directory)
        words: dict[str, int] = {}
        store.slot = SimpleNamespace(
            get=lambda name, of=words: of.get(name, 0), set=words.__setitem__, add=lambda *_: None
        )
        store.wal.written = n_written
        watch = FileWatch(store, owned, store, ())  # type: ignore[arg-type]  # what it needs of them
        watch._guard(lambda: [LostFile(wal_dir(directory) / "1.wal", "is gone")])
        assert watch.unprotected == (n_written > 0)
        assert store.done == ["log", "snapshot"]
