"""Notes in DIR/run that a cleaner removed: made again, and what cannot be made is said once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mstore.apply.protection import Protection
from mstore.errors import StorageError
from mstore.persistence.files import Files, run_dir
from mstore.workers import protected_note
from mstore.workers.run_notes import Note, RunNotes
from mstore.workers.timers import Timers
from tests.directory_rig import Rig


class FullDisk(Files):
    """Nothing new can be made while it is full."""

    full = True

    def create(self, path: Path, allocate_bytes: int = 0) -> int:
        if self.full:
            raise StorageError("No space left on device")
        return super().create(path, allocate_bytes)


def test_notes_that_a_full_disk_does_not_take_are_said_once_each_and_made_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir(tmp_path).mkdir()
    rig, files = Rig(), FullDisk()
    other = run_dir(tmp_path) / "other"
    protection = Protection(rig.writer)
    notes = RunNotes(
        files,
        Timers(),
        [
            Note(
                protected_note.path_of(tmp_path),
                lambda: protected_note.write(files, tmp_path, 7, protection),
            ),
            Note(other, lambda: files.replace(other, b"text")),
        ],
    )
    caplog.set_level(logging.INFO)
    for _ in range(3):
        notes.look()
    assert len(caplog.records) == 2
    assert all("No space left on device" in record.getMessage() for record in caplog.records)
    files.full = False
    caplog.clear()
    for _ in range(2):
        notes.look()
    assert ["removed" in record.getMessage() for record in caplog.records] == [False, False]
    assert protected_note.read(tmp_path, 7, protection) == ""
    other.unlink()
    caplog.clear()
    notes.look()
    assert [record.getMessage() for record in caplog.records] == [
        f"{other} was removed by somebody and is made again"
    ]
    rig.close()


def test_a_note_that_cannot_be_made_keeps_no_other_from_being_made(tmp_path: Path) -> None:
    run_dir(tmp_path).mkdir()
    files, good = Files(), run_dir(tmp_path) / "good"

    def refused() -> None:
        raise StorageError("not this one")

    RunNotes(
        files,
        Timers(),
        [Note(run_dir(tmp_path) / "bad", refused), Note(good, lambda: files.replace(good, b"1"))],
    ).look()
    assert good.read_bytes() == b"1"
