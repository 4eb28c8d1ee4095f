"""Memory is there before it is touched, whatever /dev/shm is and however full; by large pages where it offers them."""

from __future__ import annotations

import pytest

from mstore.limits import MIB
from mstore.shm import layout
from tests.shm_probe import probe

FIRST = 16 * MIB
"""What a region gets by small pages, so that a small store does not hold what it does not use."""


@pytest.mark.parametrize("options", ["size=200m", "size=200m,huge=advise", "size=200m,huge=within_size"])
def test_what_is_committed_has_memory(options: str) -> None:
    told = probe(options, 64 * MIB, 128 * MIB)
    if told is None:
        told = probe("size=200m", 64 * MIB, 128 * MIB) or pytest.skip("no mount here")
    assert 64 * MIB <= told["secured"] < 68 * MIB
    assert told["committed"] == layout.SAMPLES_DATA + told["secured"]
    assert told["secured"] <= told["allocated"] <= told["committed"] + 2 * MIB


def test_large_pages_where_the_mount_gives_them_to_who_asks_but_not_to_a_small_store() -> None:
    large, small = (probe("size=200m,huge=advise", n * MIB, 128 * MIB) for n in (64, 8))
    if large is None or small is None:
        pytest.skip("no /dev/shm with huge=advise here")
    assert large["secured"] - FIRST - 4 * MIB <= large["huge"] <= large["secured"]
    assert small["huge"] == 0
    assert small["allocated"] <= small["committed"]


@pytest.mark.parametrize("options", ["size=30m", "size=30m,huge=advise", "size=30m,huge=within_size"])
def test_a_dev_shm_that_is_full_ends_it_with_all_of_it_used_and_nothing_held_beyond(options: str) -> None:
    told = probe(options, 64 * MIB, 128 * MIB)
    if told is None:
        told = probe("size=30m", 64 * MIB, 128 * MIB) or pytest.skip("no mount here")
    assert 30 * MIB - layout.EXTENT_BYTES - MIB // 2 <= told["secured"] < 30 * MIB
    assert told["allocated"] <= told["committed"]
