"""Levels that hold nothing any more are in no list, and are back with their next series: live, and after every replay."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from mstore.model import MetricSpec
from mstore.shm.directory import DirectoryReader, DirectoryWriter
from tests.directory_rig import Rig

KEY = b"cpu_user,cluster=fritz,hostname=%s,type=hwthread,type-id=%d"


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def tree(reader: DirectoryReader | DirectoryWriter, level: int = 0) -> dict[str, object]:
    """What can be listed below a level, by name."""
    return {reader.level(child).name: tree(reader, child) for child in reader.children(level)}


def slot_of(rig: Rig, key: bytes) -> int:
    return rig.ref(key) & 0xFFFF_FFFF


def test_a_level_goes_with_its_last_series_and_takes_along_what_is_empty_above(rig: Rig) -> None:
    first, second = slot_of(rig, KEY % (b"f1", 0)), slot_of(rig, KEY % (b"f1", 1))
    other = slot_of(rig, b"load,cluster=fritz,hostname=f2")
    rig.remove(first)
    assert tree(rig.reader) == {"fritz": {"f1": {"hwthread1": {}}, "f2": {}}}
    rig.remove(second)
    assert tree(rig.reader) == {"fritz": {"f2": {}}}
    rig.remove(other)
    assert tree(rig.reader) == {}
    rig.reader.validate()


def test_a_host_with_a_series_of_its_own_stays_when_what_is_below_it_goes(rig: Rig) -> None:
    own, below = slot_of(rig, b"load,cluster=fritz,hostname=f1"), slot_of(rig, KEY % (b"f1", 0))
    rig.remove(below)
    assert tree(rig.reader) == {"fritz": {"f1": {}}}
    rig.remove(own)
    assert tree(rig.reader) == {}


def test_a_level_that_is_gone_is_found_no_more_and_comes_back_under_its_id(rig: Rig) -> None:
    key = KEY % (b"f1", 0)
    slot = slot_of(rig, key)
    level = rig.reader.find_path("fritz", "f1", "hwthread", "0")
    rig.remove(slot)
    assert rig.reader.find_path("fritz", "f1") == rig.reader.find_path("fritz", "f1", "hwthread", "0") == -1
    assert rig.reader.level(level).empty
    cluster = rig.reader.find_path("fritz")
    assert cluster > 0, "its metrics stay defined"
    assert rig.reader.find_level(cluster, b"", b"f1") == -1
    rig.ref(key)
    assert tree(rig.reader) == {"fritz": {"f1": {"hwthread0": {}}}}
    assert rig.reader.find_path("fritz", "f1", "hwthread", "0") == level
    assert rig.reader.counts()["n_levels"] == 4
    rig.reader.validate()


def test_another_level_below_a_host_that_is_gone_brings_the_host_back(rig: Rig) -> None:
    rig.remove(slot_of(rig, KEY % (b"f1", 0)))
    rig.ref(KEY % (b"f1", 7))
    assert tree(rig.reader) == {"fritz": {"f1": {"hwthread7": {}}}}
    rig.reader.validate()


def test_a_cluster_that_the_configuration_names_is_there_without_a_host(rig: Rig) -> None:
    rig.writer.define_metric("alex", MetricSpec("load"))
    rig.writer.publish()
    slot = slot_of(rig, b"load,cluster=alex,hostname=a1")
    rig.remove(slot)
    assert tree(rig.reader) == {"alex": {}}
    rig.remove(slot_of(rig, b"load,cluster=fritz,hostname=f1"))
    rig.writer.define_metric("fritz", MetricSpec("load"))
    rig.writer.publish()
    assert tree(rig.reader) == {"alex": {}, "fritz": {}}


def test_what_interning_left_without_a_series_is_unlinked_by_a_pass(rig: Rig) -> None:
    slot_of(rig, b"load,cluster=fritz,hostname=f1")
    records = bytearray()
    other = Rig()
    other.ref(b"load,cluster=fritz,hostname=f1")
    _, log = other.intern([KEY % (b"f2", 3)])
    at = 0
    while at < len(log):  # its levels alone, as of a store that was full before the series could be made
        stop = at + int.from_bytes(log[at + 4 : at + 8], "little")
        if log[at] == 16:
            records += log[at:stop]
        at = stop
    rig.writer.apply_definition(records)
    assert tree(rig.reader) == {"fritz": {"f1": {}, "f2": {"hwthread3": {}}}}
    rig.writer.hide_empty_levels(1, 3)
    assert "f2" in tree(rig.reader)["fritz"]  # type: ignore[operator]  # a tree of dicts
    rig.writer.hide_empty_levels()
    assert tree(rig.reader) == {"fritz": {"f1": {}}}
    rig.reader.validate()
    other.close()


def test_live_replayed_and_restored_directories_list_the_same_whatever_comes_and_goes(seed: int) -> None:
    rng = random.Random(seed)
    live, replayed = Rig(), Rig()
    log: list[bytes] = []
    keys = [KEY % (b"f%d" % (n % 5), n) for n in range(20)] + [
        b"load,cluster=c%d,hostname=h" % n for n in range(3)
    ]
    slots: dict[bytes, int] = {}
    for _ in range(300):
        key = rng.choice(keys)
        if key in slots and rng.random() < 0.6:
            log.append(live.remove(slots.pop(key)))
        else:
            refs, records = live.intern([key])
            log.append(records)
            slots[key] = refs[0] & 0xFFFF_FFFF
        if rng.random() < 0.05:
            live.reader.validate()
    for records in log:
        replayed.writer.apply_definition(records)
    restored = Rig()
    for records in live.reader.dump_definitions(4096):
        restored.writer.apply_definition(records)
    for rig in (replayed, restored):
        rig.writer.hide_empty_levels()
        rig.reader.validate()
        assert tree(rig.reader) == tree(live.reader)
    for rig in (live, replayed, restored):
        rig.close()


def test_a_protected_host_says_so_also_one_that_is_made_later_and_only_while_it_is(rig: Rig) -> None:
    rig.ref(KEY % (b"f1", 0))
    for host in (b"f1", b"f2"):
        rig.writer.protect(b"fritz", host)
    rig.ref(KEY % (b"f2", 0))
    rig.ref(KEY % (b"f3", 0))
    rig.ref(b"load,cluster=alex,hostname=f2")

    def protected() -> list[str]:
        levels = [rig.reader.level(level) for level in range(rig.reader.counts()["n_levels"])]
        return [f"{rig.reader.level(one.parent).name}/{one.name}" for one in levels if one.protected]

    assert protected() == ["fritz/f1", "fritz/f2"]
    rig.reader.validate()
    rig.writer.protect(b"fritz", b"f1", False)
    rig.writer.protect(b"nobody", b"knows", False)
    assert protected() == ["fritz/f2"]
    rig.writer.forget_protection()
    rig.ref(KEY % (b"f4", 0))
    assert protected() == []
