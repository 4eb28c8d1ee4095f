"""Every call that the persister makes to the disk fails once, and for a while: see tests/torture/faults.py.

Here every call of one life in one of its ways, which one by the seed; `scripts/torture faults` tries all ways of
many lives. MSTORE_SEED repeats a run.
"""

from __future__ import annotations

import random

import pytest

from mstore.persistence.wal import Wal
from tests.torture import faults
from tests.torture.faults import Fault
from tests.torture.images import Violation


def one_way_each(seed: int) -> list[Fault]:
    """For every call of the life one of the faults it may meet, once or lasting."""
    rng = random.Random(seed)
    by_call: dict[int, list[Fault]] = {}
    for fault in faults.faults(seed):
        by_call.setdefault(fault.n, []).append(fault)
    assert list(by_call) == list(range(1, len(by_call) + 1)), "every call is there"
    return [rng.choice(found) for found in by_call.values()]


def test_whatever_call_fails_nothing_acknowledged_is_lost_and_the_store_goes_on_by_itself(seed: int) -> None:
    tried = one_way_each(seed)
    for fault in tried:
        faults.live(seed, fault)
    print(f"{len(tried)} calls")
    assert len(tried) > 150
    assert {fault.call for fault in tried} >= {
        "create",
        "pwritev",
        "fdatasync",
        "fsync",
        "rename",
        "unlink",
        "read",
    }


def test_a_disk_without_room_holds_back_and_goes_on_when_there_is_some(seed: int) -> None:
    assert faults.held_back_until_there_is_room(seed) > 0


def find(*calls: str) -> None:
    for seed in range(4):
        for fault in faults.faults(seed):
            if fault.call in calls:
                faults.live(seed, fault)


def test_the_search_finds_a_log_that_syncs_a_failed_file_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Wal) -> None:
        self._committer.restart(self._dir_fd)
        for block in self._pending:
            ring = block.ring if block.ring == 0 else -1
            self._committer.note_written(self._segments[-1].fd, block.seq, ring, block.stop, True)

    monkeypatch.setattr(Wal, "_move_pending", careless)
    with pytest.raises(Violation):
        find("fdatasync")


def test_the_search_finds_a_log_that_never_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    poll = Wal.poll
    monkeypatch.setattr(Wal, "poll", lambda self: False if self._committer.failed() else poll(self))
    with pytest.raises(Violation):
        find("fdatasync", "fsync")


def test_the_search_finds_a_refused_file_that_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    move = Wal._move_pending

    def forgetful(self: Wal) -> None:
        self._segments._left = None
        move(self)

    monkeypatch.setattr(Wal, "_move_pending", forgetful)
    with pytest.raises(Violation):
        find("pwritev")
