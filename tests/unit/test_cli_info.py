"""What `mstore info` makes of a store's answer."""

from __future__ import annotations

from typing import Any

import pytest

from mstore.cli import info


def memory(huge_pages: str, allocated_bytes: int) -> list[str]:
    sizes = {"used_bytes": 5, "allocated_bytes": allocated_bytes, "reserved_bytes": 1 << 40}
    found: dict[str, Any] = {"memory": {"huge_pages": huge_pages, "segments": {"samples": sizes}}}
    return info._memory(found)


@pytest.mark.parametrize(
    ("huge_pages", "gib", "said"), [("never", 2, True), ("advise", 2, False), ("never", 0.5, False)]
)
def test_a_large_store_on_small_pages_is_told_how_it_would_be_faster(
    huge_pages: str, gib: float, said: bool
) -> None:
    assert any("huge=advise" in line for line in memory(huge_pages, int(gib * 2**30))) is said
