"""Eras of a directory: which grids are not as their metric says, and a new one that finds no room."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mstore.errors import StoreFull
from mstore.shm import layout
from tests.directory_rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_grids_that_are_not_as_their_metric_says_are_found(rig: Rig) -> None:
    refs = [rig.ref(b"%s,cluster=c,hostname=%d" % (name, i)) for i in range(3) for name in (b"m", b"n")]
    slots = [ref & 0xFFFFFFFF for ref in refs]
    second = rig.era(slots[2], 970, 30)[0] & 0xFFFFFFFF
    rig.writer.remove_begin(slots[4])
    types, steps = np.array([1, 1], np.uint8), np.array([60, 60], np.uint32)
    assert rig.writer.newest_grids_unlike(types) == []
    assert rig.writer.newest_grids_unlike(types, steps) == [second]
    assert rig.writer.newest_grids_unlike(types, np.array([30, 60], np.uint32)) == [slots[0], slots[4]]
    assert (
        rig.writer.newest_grids_unlike(types, np.array([30, 60], np.uint32), layout.SERIES_REMOVING)
        == slots[:1]
    )
    assert rig.writer.newest_grids_unlike(np.array([1, 2], np.uint8), limit=2) == [slots[1], slots[3]]


def test_an_era_that_finds_no_room_leaves_the_directory_at_rest(rig: Rig) -> None:
    n = 65536 // layout.SERIES.itemsize  # all that the memory of the series takes, up to the next step
    slot = [rig.ref(b"m,cluster=c,hostname=h%d" % i) & 0xFFFFFFFF for i in range(n)][-1]
    rig.writer.commits_allowed = 0
    with pytest.raises(StoreFull):
        rig.writer.begin_era(slot, 970, 60, 5000, 1)
    assert not rig.writer.unpublished
    assert rig.reader.counts()["critical"] % 2 == 0
    rig.writer.validate()
