"""The nearest known name: what is meant by a typing error, also among very many names."""

from __future__ import annotations

import difflib

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
    close = difflib.get_close_matches

    def counted(wrong: str, names: object, n: int) -> list[str]:
        compared.append(len(found := list(names)))  # type: ignore[call-overload]
        return close(wrong, found, n)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    names = [f"f{n:06}" for n in range(500_000)]
    assert nearest("f0001x0", names) in names
    assert compared[0] <= module.COMPARED_MAX
    assert nearest("g000017", names) == "f000017"
