"""Where the archive has what, and how names become scopes and directories."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mstore.archive import names
from mstore.archive.lives import FIRST, Life
from mstore.model import SeriesPath


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("socket0", ("socket", "0")), ("socket12", ("socket", "12")), ("core0", ("core", "0")),
        ("core127", ("core", "127")), ("cpu0", ("hwthread", "0")), ("hwthread5", ("hwthread", "5")),
        ("memoryDomain0", ("memoryDomain", "0")), ("accelerator0", ("accelerator", "0")),
        ("accelerator00000000:49:00.0", ("accelerator", "00000000:49:00.0")),
        ("unknown", ("unknown", "")), ("socketX", ("socketX", "")), ("nvlink0", ("nvlink0", "")), ("", ("", "")),
    ],
)  # fmt: skip
def test_a_level_name_is_taken_apart_as_clustercockpit_does(name: str, scope: tuple[str, str]) -> None:
    assert names.scope_of("", name) == scope


def test_an_id_that_begins_with_a_letter_is_an_id_where_the_type_is_known() -> None:
    assert names.scope_of("accelerator", "GPU-12") == ("accelerator", "GPU-12")
    assert names.scope_of("cpu", "3") == ("hwthread", "3")
    assert names.scope_of("nvlink", "3") == ("nvlink3", "")
    assert names.scope_of("", "socket1") == ("socket", "1")


@pytest.mark.parametrize(
    ("path", "scope", "parent"),
    [
        (SeriesPath("c", "h", "m"), ("node", ""), None),
        (SeriesPath("c", "h", "m", "socket", "1"), ("socket", "1"), ("node", "")),
        (SeriesPath("c", "h", "m", "accelerator", "00:1", "nvlink", "2"), ("nvlink2", ""), ("accelerator", "00:1")),
        (SeriesPath("c", "h", "m", subtype="network", subtype_id="eth0"), ("networketh0", ""), ("node", "")),
    ],
)  # fmt: skip
def test_a_sub_level_keeps_the_id_of_the_level_above(
    path: SeriesPath, scope: tuple[str, str], parent: tuple[str, str] | None
) -> None:
    life = Life(path, 1, 1, 1, 1, 0, 60, FIRST)
    assert (life.scope, life.parent_scope) == (scope, parent)


@pytest.mark.parametrize(
    "name", ["fritz", "/home", "..", ".", "a/../b", "%", "ö", "a=b", "x" * 255, "%" * 255, "ä" * 127]
)
def test_no_name_becomes_a_path_or_grows_too_long(name: str) -> None:
    found = names.partition(name)
    assert found
    assert len(found) <= 160
    assert not set(found) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_%~")
    assert found.startswith("%2E") or "." not in found
    if len(name) < 20:
        hive = ds.HivePartitioning(pa.schema([("cluster", pa.string())]))
        assert hive.parse(f"/cluster={found}/x").equals(ds.field("cluster") == name)


def test_names_that_are_too_long_stay_apart() -> None:
    long = "node" * 60
    assert len({names.partition(long + str(i)) for i in range(100)}) == 100


def test_days_and_parts_are_read_back_from_their_names() -> None:
    for day in (0, 20_000, 19_675, -1, 100_000):
        assert names.day_number(f"day={names.day_text(day)}") == day
    assert names.day_number("day=yesterday") is None
    assert names.part_number("part-0000000017.parquet") == 17
    assert names.part_number("part-17.parquet") is None
    assert names.part_number(".part-0000000017.parquet") is None
