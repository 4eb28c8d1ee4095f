"""The nearest known name: what is meant by a typing error, also among very many names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pytest

from mstore import nearest as module
from mstore.nearest import nearest


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("cpu_lod", "cpu_load"), ("cpu_load", ""), ("xyz", ""), ("men_bw", "mem_bw"), ("", "")],
)
def test_the_nearest_name_is_another_one_that_is_like_it(wrong: str, meant: str) -> None:
    assert nearest(wrong, ["cpu_load", "mem_bw", "flops_any"]) == meant


def test_of_very_many_names_a_bounded_number_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    class Counted(difflib.SequenceMatcher[str]):
        def set_seq1(self, a: Sequence[str]) -> None:
            compared.append(a)
            super().set_seq1(a)

    monkeypatch.setattr(difflib, "SequenceMatcher", Counted)
    names = [f"f{n:06}" for n in range(500_000)]
    assert nearest("f0001x0", names) in names
    assert 0 < len(compared) <= module.COMPARED_MAX + 1
    assert nearest("g000017", names) == "f000017"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("f0110", "f0109"), ("f0165", "f0164"), ("f110", "f0109"), ("g0131", "f0131"), ("f9999", "")],
)
def test_of_hosts_that_are_equally_like_it_the_one_with_the_nearest_number_is_meant(
    wrong: str, meant: str
) -> None:
    assert nearest(wrong, [f"f{n:04}" for n in range(101, 165) if n != 110]) == meant
    assert nearest(wrong, [f"f{n:04}" for n in range(164, 100, -1) if n != 110]) == meant


def test_a_number_that_lacks_its_zeros_is_meant_in_full() -> None:
    assert (
        nearest("r3n7", [f"r{rack:02}n{node:02}" for rack in range(1, 50) for node in range(1, 37)])
        == "r03n07"
    )
