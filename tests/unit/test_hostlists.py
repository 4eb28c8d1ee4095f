"""Hostlists, and the natural order of names."""

from __future__ import annotations

import pytest

from mstore.errors import ConfigError
from mstore.hostlists import expand, fold, natural_key


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("login", ["login"]),
        ("f[0101-0103,0201]", ["f0101", "f0102", "f0103", "f0201"]),
        ("a[1-2],b3", ["a1", "a2", "b3"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("r[1-2]n[1-2]-ib", ["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"]),
        ("a, b", ["a", "b"]),
        ("[3-4]", ["3", "4"]),
        ("n[5]", ["n5"]),
    ],
)
def test_hostlists_expand_in_the_order_written(text: str, hosts: list[str]) -> None:
    assert expand(text) == hosts


@pytest.mark.parametrize(
    "text", ["a[", "a]", "a[1-2", "a[[1]]", "a[3-1]", "a[]", "a[1-]", "a[x]", "a,,b", "a,", "a[-1]"]
)
def test_broken_hostlists_are_refused_with_their_text(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize("text", ["a[1-99999999]", "a[1-1000]b[1-1001]", "a[0-600000,0-600000]"])
def test_a_hostlist_of_more_than_a_million_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="more than 1000000"):
        expand(text)


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["n3", "n1", "n2", "n1"], "n[1-3]"),
        (["n08", "n09", "n10"], "n[08-10]"),
        (["n8", "n9", "n10"], "n[8-10]"),
        (["n01", "n1"], "n[1,01]"),
        (["n1-ib", "n2-ib"], "n[1-2]-ib"),
        (["n7"], "n7"),
        (["f0101", "f0103", "login"], "f[0101,0103],login"),
    ],
)
def test_hosts_fold_to_a_short_list(hosts: list[str], text: str) -> None:
    assert fold(hosts) == text


@pytest.mark.parametrize("host", ["", "a[1]", "a,b", "a b"])
def test_names_that_a_hostlist_cannot_hold_are_refused(host: str) -> None:
    with pytest.raises(ConfigError):
        fold([host])


def test_natural_order_counts_numbers() -> None:
    assert sorted(["core10", "core2", "core", "a1b10", "a1b9"], key=natural_key) == [
        "a1b9",
        "a1b10",
        "core",
        "core2",
        "core10",
    ]
