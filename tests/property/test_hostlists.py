"""Hostlists: folding and expanding are each other's inverse, and no text breaks either."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from mstore.errors import ConfigError
from mstore.hostlists import expand, fold, natural_key

# Prefixes, numbers with and without leading zeros, suffixes: the shapes in which folding goes wrong.
HOSTS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["n", "node-", "r1n", "", "é"]),
        st.one_of(
            st.integers(0, 120).map(str),
            st.integers(0, 120).map("{:02}".format),
            st.integers(0, 9999).map("{:04}".format),
        ),
        st.sampled_from(["", "-ib", ".cluster", "x9"]),
    ),
)  # fmt: skip


@given(st.lists(HOSTS, max_size=60))
def test_what_is_folded_expands_to_the_same_hosts(hosts: list[str]) -> None:
    expanded = expand(fold(hosts))
    assert sorted(expanded) == sorted(set(hosts))


@given(st.lists(HOSTS, max_size=30))
def test_folding_twice_changes_nothing(hosts: list[str]) -> None:
    once = fold(hosts)
    assert fold(expand(once)) == once


@given(st.lists(HOSTS, max_size=20).flatmap(lambda hosts: st.tuples(st.just(hosts), st.permutations(hosts))))
def test_natural_order_does_not_depend_on_the_order_before(both: tuple[list[str], list[str]]) -> None:
    hosts, shuffled = both
    assert sorted(shuffled, key=natural_key) == sorted(hosts, key=natural_key)


@given(st.text(alphabet="an019-,[] x", max_size=20))
def test_any_text_expands_or_is_refused(text: str) -> None:
    hosts = []
    with contextlib.suppress(ConfigError):  # any other exception fails the test
        hosts = expand(text)
    assert all(host and "[" not in host and "," not in host for host in hosts)
