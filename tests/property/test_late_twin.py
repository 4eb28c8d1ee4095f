"""The kernel that marks late samples against its naive twin, over random blocks of records."""

from __future__ import annotations

import numpy as np
import pytest

from mstore.kernels import _late, reference_late
from mstore.shm import layout
from tests import samples_rig


def _records(rng: np.random.Generator) -> bytes:
    found = []
    for _ in range(int(rng.integers(0, 40))):
        t = int(rng.integers(-1000, 1000))
        n = int(rng.integers(1, 30))
        slot = int(rng.integers(0, 1 << 20))
        kind = int(rng.integers(0, 6))
        if kind == 0:
            found.append(samples_rig.row(slot, t, rng.normal(size=n), generation=3))
        elif kind == 1:
            found.append(samples_rig.column(slot, t, int(rng.integers(-70, 70)), rng.normal(size=n)))
        elif kind == 2:
            pairs = rng.integers(0, 1 << 30, (n, 2))
            found.append(samples_rig.scatter(pairs, t, rng.integers(0, 9, n), type=layout.TYPE_U64))
        elif kind == 3:
            rows = [(int(rng.integers(-(10**6), 10**6)), [1, 2.5]) for _ in range(n)]
            found.append(samples_rig.stamped(slot, rows))
        elif kind == 4:
            found.append(samples_rig.pad(8 * n))
        else:
            found.append(np.array((layout.REC_FREE, 0, 0, 32), layout.RECORD).tobytes() + bytes(24))
    return b"".join(found)


@pytest.mark.parametrize("round", range(50))
def test_both_twins_mark_the_same_samples(seed: int, round: int) -> None:
    rng = np.random.default_rng([seed, round])
    records = _records(rng)
    for before_s in (-2000, 0, int(rng.integers(-1000, 1000)), 2000):
        assert _late.late_marks(records, before_s).tolist() == reference_late.late_marks(records, before_s)


def test_nothing_is_marked_in_what_is_no_record() -> None:
    assert len(_late.late_marks(b"", 10)) == 0
    assert len(_late.late_marks(bytes(7), 10)) == 0
    assert reference_late.late_marks(bytes(7), 10) == []
