"""The directory names the last change of a grid: by its own eras, by those that come back, and after a removal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mstore.errors import InvariantBroken
from mstore.shm import layout
from tests.directory_rig import Rig

KEY = b"cpu_user,cluster=fritz,hostname=f0201,type=hwthread,type-id=12,unit=Percent"


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_the_last_change_of_a_grid_is_named_by_whatever_way_the_eras_come_back(rig: Rig) -> None:
    """From the log, and from a dump, in which an older era may come behind a newer one."""
    spare, log = rig.intern([KEY.replace(b"12", b"13")])
    (first,), more = rig.intern([KEY])
    log += more + rig.remove(spare[0] & 0xFFFFFFFF)
    assert rig.reader.grids_changed_s() == 0
    slot, named = first & 0xFFFFFFFF, []
    for anchor, step, start, type_code in (
        (970, 60, 1000, 1),
        (1970, 60, 2000, 2),
        (2995, 10, 3000, 2),
        (3997, 10, 4000, 2),
    ):
        ref, record = rig.era(slot, anchor, step, start, type_code)
        slot = ref & 0xFFFFFFFF
        log += record
        named.append(rig.reader.grids_changed_s())
        assert slot or len(named) == 1, "the first of them takes the free slot below its elder's"
    assert named == [0, 2000, 3000, 3000]
    rig.reader.validate()
    for blocks in ([log], rig.reader.dump_definitions()):
        other = Rig()
        for block in blocks:
            other.writer.apply_definition(block)
        assert other.reader.grids_changed_s() == 3000
        other.reader.validate()
        other.close()


def test_eras_that_become_neighbours_may_be_a_later_change(rig: Rig) -> None:
    first = rig.ref(KEY) & 0xFFFFFFFF
    second = rig.era(first, 970, era_start=2000, type_code=2)[0] & 0xFFFFFFFF
    rig.era(second, 970, era_start=3000, type_code=2)
    assert rig.reader.grids_changed_s() == 2000
    rig.remove(second)
    assert rig.reader.grids_changed_s() == 3000
    rig.reader.validate()


def test_a_change_that_is_not_named_is_a_fault(rig: Rig) -> None:
    rig.ref(KEY)
    rig.era(0, 970, era_start=2000, type_code=2)
    memory = np.frombuffer(rig.segment_buffer, np.uint8)
    words = memory[layout.DIRECTORY_AT :][: layout.DIRECTORY.itemsize].view(layout.DIRECTORY)[0]
    rig.reader.validate()
    words["grids_changed_s"] = 1999
    with pytest.raises(InvariantBroken, match="grids_changed_s"):
        rig.reader.validate()
