"""Handles of a columns connection: frames name them in any order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mstore.errors import UnknownHandle
from mstore.ingest.handles import HandleTable
from mstore.shm import layout

ORDERS = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2], [2], [0, 3], [0, 2, 1, 3], [1, 1], []]


@pytest.fixture
def table() -> HandleTable:
    """Four series at slots 10 to 13, generation 1; the third is stamped."""
    handles = HandleTable()
    refs = np.array([1 << 32 | slot for slot in range(10, 14)], dtype=np.uint64)
    grid, stamped = layout.KIND_GRID, layout.KIND_STAMPED
    handles.add(
        [["c", "h", str(i)] for i in range(4)], None, refs, bytes([1] * 4), bytes([grid, grid, stamped, grid])
    )
    return handles


def directory(generations: dict[int, int]) -> SimpleNamespace:
    series = np.zeros(20, dtype=layout.SERIES)
    for slot in range(10, 14):
        series[slot]["generation"] = generations.get(slot, 1)
    return SimpleNamespace(series_table=lambda: series)


@pytest.mark.parametrize("order", ORDERS)
def test_handles_stand_for_the_same_series_in_any_order(table: HandleTable, order: list[int]) -> None:
    handles = np.array(order, dtype=np.uint32)
    assert table.refs(handles).tolist() == [1 << 32 | 10 + i for i in order]
    found = table.stale(handles, directory({11: 2}))  # type: ignore[arg-type]
    assert found.tolist() == [k for k, i in enumerate(order) if i == 1]
    if 2 in order:
        with pytest.raises(UnknownHandle, match="handle 2 is a stamped series"):
            table.check(handles, 1, layout.KIND_GRID)
    else:
        table.check(handles, 1, layout.KIND_GRID)


def test_references_handed_out_do_not_change_when_a_handle_is_renewed(table: HandleTable) -> None:
    handles = np.arange(4, dtype=np.uint32)
    before = table.refs(handles)
    table.renew(handles, np.zeros(4, dtype=np.uint64), bytes(4), bytes(4))
    assert before.tolist() == [1 << 32 | 10 + i for i in range(4)]
