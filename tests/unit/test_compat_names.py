"""Names of levels taken apart, and put together again without a loss."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.compat.names import is_directory_name, scope, split


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("socket0", ("socket", "0")),
        ("memoryDomain12", ("memoryDomain", "12")),
        ("hwthread71", ("hwthread", "71")),
        ("cpu3", ("cpu", "3")),
        ("accelerator00000000:49:00.0", ("accelerator", "00000000:49:00.0")),
        ("acceleratorGPU-7f2e", ("accelerator", "GPU-7f2e")),
        ("networkenp1s0", ("network", "enp1s0")),
        ("filesystem/home", ("filesystem", "/home")),
        ("nvlink3", ("nvlink", "3")),
        ("die4", ("die", "4")),
        ("rack17", ("rack", "17")),
        ("corefreq", ("corefreq", "")),
        ("core", ("core", "")),
        ("socketX", ("socketX", "")),
        ("12", ("", "12")),
        ("x1y", ("x1y", "")),
    ],
)
def test_a_level_s_name_is_type_and_id(name: str, part: tuple[str, str]) -> None:
    assert split(name) == part


def test_levels_that_exist_already_and_types_that_are_told_come_first() -> None:
    assert split("gpuA1", {"gpuA1": ("gpu", "A1")}) == ("gpu", "A1")
    assert split("gpuA1", types=["gpu"]) == ("gpu", "A1")
    assert split("coreA", types=["coreA"]) == ("coreA", "")


@given(st.text(max_size=20))
def test_type_followed_by_id_is_the_name_again(name: str) -> None:
    assert "".join(split(name)) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("socket0", ("socket", "0")),
        ("socket12", ("socket", "12")),
        ("core0", ("core", "0")),
        ("core127", ("core", "127")),
        ("cpu0", ("hwthread", "0")),
        ("hwthread5", ("hwthread", "5")),
        ("memoryDomain0", ("memoryDomain", "0")),
        ("accelerator0", ("accelerator", "0")),
        ("unknown", ("unknown", "")),
        ("socketX", ("socketX", "")),
    ],
)
def test_scopes_are_those_of_the_reference_s_archive(name: str, expected: tuple[str, str]) -> None:
    assert scope(name) == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a..b", "a\0b", "x" * 256])
def test_names_that_lead_elsewhere_name_no_directory(name: str) -> None:
    assert not is_directory_name(name)


@pytest.mark.parametrize("name", ["f0201", "fritz", "login.node", "ä", ".hidden", "x" * 255])
def test_names_of_hosts_name_directories(name: str) -> None:
    assert is_directory_name(name)
