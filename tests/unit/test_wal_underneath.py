"""Files of the log and of snapshots that go, or change, while the store counts on them: noticed, and left in time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mstore.persistence.blocks import CATALOG
from mstore.persistence.files import Files, snapshot_dir, wal_dir
from mstore.persistence.inventory import Inventory
from mstore.persistence.replay import LogReader
from mstore.persistence.wal import Wal
from tests.snapshot_rig import small_store, take
from tests.unit.test_wal_damage import open_wal, payload
from tests.unit.test_wal_short import PER_SEGMENT

Harm = Callable[[Path], None]


def removed(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    copy.rename(path)


def written_over(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"x")


def directory_gone(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


HARMS: list[Harm] = [removed, cut, replaced, directory_gone]


def append(wal: Wal, seqs: range) -> None:
    for seq in seqs:
        assert wal.append(CATALOG, 0, 0, payload(seq)) == seq


@pytest.mark.parametrize("harm", HARMS)
def test_a_newest_segment_that_is_not_what_it_was_is_left_and_what_is_not_durable_is_written_anew(
    tmp_path: Path, harm: Harm
) -> None:
    wal = open_wal(tmp_path, background=False)
    inventory = Inventory(Files(), tmp_path)
    append(wal, range(1, 4))
    assert inventory.look_at_log(wal.segment_files()) == []
    durable = wal.durable()
    harm(wal.segment_files()[-1].path)
    (lost,) = inventory.look_at_log(wal.segment_files())
    assert lost.last_seq == 3
    assert wal.abandon({lost.path}, str(lost))
    assert wal.durable() == durable == 0, "not durable in a file that nobody finds"
    append(wal, range(4, 6))
    assert inventory.look_at_log(wal.segment_files()) == [], "told once, and the new file is what it is"
    wal._segments.close()
    os.close(wal._dir_fd)
    wal._spares.close()
    found: list[bytes] = []
    LogReader(Files(), tmp_path, 0).replay(lambda text: found.append(bytes(text)))
    assert found == [payload(seq) for seq in range(1, 6)]


@pytest.mark.parametrize("harm", [removed, cut, replaced])
def test_an_empty_segment_is_lost_as_often_as_it_is_and_its_successor_of_the_same_name_is_watched(
    tmp_path: Path, harm: Harm
) -> None:
    wal = open_wal(tmp_path, background=False)
    inventory = Inventory(Files(), tmp_path)
    name = wal.segment_files()[-1].path
    for _ in range(3):
        assert inventory.look_at_log(wal.segment_files()) == []
        assert wal.segment_files()[-1].path == name
        harm(name)
        (lost,) = inventory.look_at_log(wal.segment_files())
        assert wal.abandon({lost.path}, str(lost))
    append(wal, range(1, 3))
    assert inventory.look_at_log(wal.segment_files()) == []
    harm(name)
    (lost,) = inventory.look_at_log(wal.segment_files())
    assert lost.last_seq == 2
    assert wal.abandon({lost.path}, str(lost))
    wal._segments.close()
    os.close(wal._dir_fd)
    wal._spares.close()
    found: list[bytes] = []
    LogReader(Files(), tmp_path, 0).replay(lambda text: found.append(bytes(text)))
    assert found == [payload(seq) for seq in range(1, 3)]


@pytest.mark.parametrize("harm", [removed, cut, replaced, written_over])
def test_an_older_segment_that_is_not_what_it_was_is_named_with_its_blocks_and_never_recycled(
    tmp_path: Path, harm: Harm
) -> None:
    wal = open_wal(tmp_path)
    inventory = Inventory(Files(), tmp_path)
    append(wal, range(1, 2 * PER_SEGMENT + 1))
    assert wal.flush(5)
    wal.poll()
    inventory.look_at_log(wal.segment_files())
    first = wal.segment_files()[0]
    harm(first.path)
    (lost,) = inventory.look_at_log(wal.segment_files())
    assert (lost.path, lost.last_seq) == (first.path, PER_SEGMENT)
    assert wal.abandon({lost.path}, str(lost))
    assert wal.durable() == 2 * PER_SEGMENT
    assert wal.retire(PER_SEGMENT) == 1
    assert first.path not in [segment.path for segment in wal.segment_files()]
    append(wal, range(2 * PER_SEGMENT + 1, 4 * PER_SEGMENT))
    assert wal.close()
    found: list[bytes] = []
    LogReader(Files(), tmp_path, PER_SEGMENT, strict=True).replay(lambda text: found.append(bytes(text)))
    assert found == [payload(seq) for seq in range(PER_SEGMENT + 1, 4 * PER_SEGMENT)]


@pytest.mark.parametrize("harm", [removed, cut, replaced])
def test_a_spare_that_is_not_what_it_was_is_not_taken(tmp_path: Path, harm: Harm) -> None:
    wal = open_wal(tmp_path)
    wal._spares._keep = 2
    wal._spares._refill()
    wal._spares.settle()
    (first, _) = list(wal._spares._ready)
    harm(first.path)
    append(wal, range(1, 3 * PER_SEGMENT + 1))
    assert wal.flush(5)
    inventory = Inventory(Files(), tmp_path)
    assert inventory.look_at_log(wal.segment_files()) == []
    assert wal.close()
    found: list[bytes] = []
    LogReader(Files(), tmp_path, 0, strict=True).replay(lambda text: found.append(bytes(text)))
    assert found == [payload(seq) for seq in range(1, 3 * PER_SEGMENT + 1)]


@pytest.mark.parametrize("harm", [removed, cut, replaced, written_over])
def test_every_file_of_a_generation_that_is_not_what_it_was_is_named(tmp_path: Path, harm: Harm) -> None:
    for log_seq in (5, 9):
        take(tmp_path, small_store()[0], log_seq)
    for path in sorted(snapshot_dir(tmp_path).iterdir()):
        whole = path.read_bytes()
        inventory = Inventory(Files(), tmp_path)
        assert inventory.learn_snapshots((), 1) == []
        assert inventory.generations() == [9, 5]
        assert inventory.look_at_snapshots() == []
        harm(path)
        (lost,) = inventory.look_at_snapshots()
        assert (lost.path, f"{lost.generation:016x}") == (path, path.name[:16])
        assert inventory.look_at_snapshots() == [], "told once"
        again = Inventory(Files(), tmp_path)
        if harm in (removed, cut) and not (harm is removed and path.suffix == ".snapshot"):
            (lost,) = again.learn_snapshots((), 1)
            assert lost.generation in (5, 9)
            assert again.learn_snapshots((lost.generation,), 1) == []
        path.write_bytes(whole)


def test_a_generation_that_the_log_does_not_reach_any_more_is_named(tmp_path: Path) -> None:
    for log_seq in (5, 9):
        take(tmp_path, small_store()[0], log_seq)
    inventory = Inventory(Files(), tmp_path)
    assert inventory.learn_snapshots((), 6) == []
    (lost,) = inventory.learn_snapshots((), 7)
    assert (lost.path, lost.generation) == (wal_dir(tmp_path), 5)
    assert inventory.generations() == [9]
