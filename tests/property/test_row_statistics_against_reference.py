"""The kernel of many rows' statistics finds what its naive twin finds, bit for bit, whatever the bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.kernels import _row_statistics, reference_row_statistics

DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<u8")}


@st.composite
def rows(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int, int]]]:
    """Bytes, and (type, place, size) of each row in them; values often missing, equal or few."""
    raw, found = b"", []
    for _ in range(draw(st.integers(0, 5))):
        kind, n = draw(st.sampled_from([1, 2, 3])), draw(st.integers(0, 40))
        dtype = DTYPES[kind]
        if draw(st.booleans()):
            part = draw(st.binary(min_size=n * dtype.itemsize, max_size=n * dtype.itemsize))
        else:
            few = [0, 1, 2**53, 2**64 - 1] if kind == 3 else [0.0, -1.5, 1e30, np.nan, np.nan]
            part = np.array(draw(st.lists(st.sampled_from(few), min_size=n, max_size=n)), dtype).tobytes()
        found.append((kind, len(raw), n))
        raw += part + bytes(-len(part) % 8)
    return raw, found


@given(rows())
def test_every_row_has_the_statistics_that_its_twin_finds(
    given_rows: tuple[bytes, list[tuple[int, int, int]]],
) -> None:
    raw, found = given_rows
    values = np.frombuffer(raw, np.uint8)
    columns = [np.array([one[k] for one in found], np.int64) for k in range(3)]
    numbers, counts = _row_statistics.scan(values, *columns)
    wanted, wanted_counts = reference_row_statistics.scan(values, *columns)
    assert counts.tolist() == wanted_counts.tolist()
    for one, other in zip(numbers.ravel().tolist(), wanted.ravel().tolist(), strict=True):
        assert one == other or (one != one and other != other)


@pytest.mark.parametrize(
    ("kind", "at", "n"),
    [(0, 0, 1), (4, 0, 1), (1, 4, 1), (1, -8, 1), (1, 8, 3), (2, 0, 3), (1, 0, -1), (3, 2**62, 1)],
)
def test_rows_that_do_not_lie_in_the_values_are_refused(kind: int, at: int, n: int) -> None:
    columns = [np.array([one], np.int64) for one in (kind, at, n)]
    with pytest.raises(ValueError, match="row 0"):
        _row_statistics.scan(np.zeros(16, np.uint8), *columns)
    with pytest.raises(ValueError, match="another number"):
        _row_statistics.scan(np.zeros(16, np.uint8), columns[0], columns[1], np.zeros(2, np.int64))
