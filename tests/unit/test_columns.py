"""Columns and rows on their way into the ring: which records they become, and what of them is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from mstore import limits
from mstore.kernels import reference_columns
from mstore.kernels._columns import ColumnEncoder, RowEncoder
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words
from mstore.kernels._segment import Segment
from mstore.kernels.reference_samples import parse
from mstore.shm import layout
from tests import samples_rig

T0 = 1_700_000_000
F32, F64, U64 = layout.TYPE_F32, layout.TYPE_F64, layout.TYPE_U64


class Ring:
    def __init__(self, ring_bytes: int = 1 << 21) -> None:
        segment = Segment(bytearray(layout.RING_DATA + ring_bytes), True)
        create_ring_words(segment, ring_bytes)
        self.writer, self.reader = RingWriter(segment), RingReader(segment)

    def records(self) -> bytes:
        """Everything since the last call; it is durable then."""
        start, head = self.reader.drained(), self.writer.publish()
        found = b""
        while start < head:  # a view ends where the ring does
            found += bytes(self.reader.view(start, head - start))
            start = self.reader.drained() + len(found)
        self.reader.set_drained(head)
        self.reader.set_durable(head)
        return found


def refs(*slots: int, generation: int = 1) -> np.ndarray:
    return np.array([generation << 32 | slot for slot in slots], np.uint64)


def times(n: int, step: int = 60) -> np.ndarray:
    return T0 + step * np.arange(n, dtype=np.int64)


def encode(encoder: ColumnEncoder | RowEncoder) -> list[tuple[int, int]]:
    """(type, count) of each record of an encoder that has all the room it wants."""
    ring = Ring()
    assert encoder.encode(ring.writer)
    found, at = [], ring.records()
    while at:
        header = np.frombuffer(at, layout.RUN, 1)[0]
        length = layout.RUN.itemsize + _payload(header)
        found.append((int(header["type"]), int(header["count"])))
        at = at[length:]
    return found


def _payload(header: np.void) -> int:
    kind, count, vtype = int(header["type"]), int(header["count"]), int(header["vtype"])
    if kind == layout.REC_STAMPED:
        return count * 8 * (1 + vtype)
    before = {layout.REC_ROW: 0, layout.REC_COLUMN: 8, layout.REC_SCATTER: 8 * count}[kind]
    return before + -(-count * (4 if vtype == F32 else 8) // 8) * 8


def values(*rows: list[float], dtype: str = "<f4") -> bytes:
    return np.array(rows, dtype).tobytes()


def test_consecutive_slots_at_one_time_are_one_row() -> None:
    encoder = ColumnEncoder(refs(5, 6, 7, 8, 9), times(2), values([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]), F32)
    assert encode(encoder) == [(layout.REC_ROW, 5), (layout.REC_ROW, 5)]
    assert (encoder.n_written, encoder.n_bad) == (10, 0)


def test_short_runs_share_a_scatter_up_to_a_run_worth_a_row() -> None:
    slots = [1, 2, 9, 20, 21, 22, 30, 31, 32, 33, 34, 50]
    encoder = ColumnEncoder(refs(*slots), times(1), values([0.0] * 12), F32)
    assert encode(encoder) == [(layout.REC_SCATTER, 6), (layout.REC_ROW, 5), (layout.REC_ROW, 1)]


def test_another_generation_ends_a_run() -> None:
    both = np.concatenate([refs(1, 2, 3, 4), refs(5, 6, 7, 8, generation=2)])
    assert encode(ColumnEncoder(both, times(1), values([0.0] * 8), F32)) == [(layout.REC_ROW, 4)] * 2


def test_holes_leave_the_values_around_them_in_one_scatter() -> None:
    row = [1.0, np.nan, 2.0, np.inf, 3.0, -np.inf, 4.0]
    encoder = ColumnEncoder(refs(*range(7)), times(1), values(row), F32)
    assert encode(encoder) == [(layout.REC_SCATTER, 4)]
    assert (encoder.n_written, encoder.n_bad) == (4, 3)


def test_many_times_of_a_series_are_one_column() -> None:
    encoder = ColumnEncoder(refs(3, 1), times(20), values(*[[i, -i] for i in range(20)], dtype="<f8"), F64)
    assert encode(encoder) == [(layout.REC_COLUMN, 20), (layout.REC_COLUMN, 20)]


def test_a_hole_and_a_change_of_spacing_end_a_column() -> None:
    moments = np.concatenate([times(10), times(10) + 5000])
    column = [[float(i)] for i in range(20)]
    column[4] = [np.nan]
    encoder = ColumnEncoder(refs(1), moments, values(*column), F32)
    assert encode(encoder) == [(layout.REC_COLUMN, n) for n in (4, 5, 10)]


def test_times_too_far_apart_for_one_column_are_columns_of_their_own() -> None:
    moments = np.array([i * (1 << 41) for i in range(16)], np.int64)
    encoder = ColumnEncoder(refs(1), moments, values(*[[1.0]] * 16), F32)
    assert encode(encoder) == [(layout.REC_COLUMN, 1)] * 16


def test_no_record_is_longer_than_a_run_may_be() -> None:
    n = 2 * limits.RUN_VALUES_MAX + 1
    encoder = ColumnEncoder(refs(*range(n)), times(1), bytes(4 * n), F32)
    assert encode(encoder) == [(layout.REC_ROW, 8192), (layout.REC_ROW, 8192), (layout.REC_ROW, 1)]
    encoder = ColumnEncoder(refs(*range(0, 2 * n, 2)), times(1), bytes(4 * n), F32)
    assert encode(encoder) == [(layout.REC_SCATTER, 8192), (layout.REC_SCATTER, 8192), (layout.REC_ROW, 1)]
    encoder = ColumnEncoder(refs(1), times(n), bytes(4 * n), F32)
    assert encode(encoder) == [(layout.REC_COLUMN, 8192), (layout.REC_COLUMN, 8192), (layout.REC_COLUMN, 1)]


@pytest.mark.parametrize(
    ("vtype", "missing"),
    [
        (F32, struct.pack("<f", np.nan)), (F32, struct.pack("<f", -np.inf)), (F64, struct.pack("<d", np.nan)),
        (F64, struct.pack("<d", np.inf)), (U64, b"\xff" * 8), (F32, bytes.fromhex("010080ff")),
    ],
)  # fmt: skip
def test_missing_values_never_enter_the_ring(vtype: int, missing: bytes) -> None:
    for n_times in (1, 20):
        encoder = ColumnEncoder(refs(1, 2), times(n_times), missing * 2 * n_times, vtype)
        assert encode(encoder) == []
        assert (encoder.n_written, encoder.n_bad) == (0, 2 * n_times)


@pytest.mark.parametrize(("n_series", "n_times"), [(0, 0), (0, 5), (5, 0), (0, 50)])
def test_a_frame_without_values_is_no_record(n_series: int, n_times: int) -> None:
    encoder = ColumnEncoder(refs(*range(n_series)), times(n_times), b"", F32)
    assert encode(encoder) == []
    assert (encoder.n_written, encoder.n_bad) == (0, 0)


def test_lengths_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="7 bytes of values for 1 times x 2 series of 4 bytes"):
        ColumnEncoder(refs(1, 2), times(1), bytes(7), F32)
    with pytest.raises(ValueError, match="value type 4"):
        ColumnEncoder(refs(1), times(1), bytes(8), 4)
    with pytest.raises(ValueError, match="16 bytes of values"):
        RowEncoder(1, times(1), bytes(16), bytes([F64]))
    with pytest.raises(ValueError, match="0 columns"):
        RowEncoder(1, times(1), b"", b"")


def test_a_full_ring_is_gone_on_with_where_it_stopped() -> None:
    ring, n = Ring(1024), 500
    column = np.arange(3 * n, dtype="<f8").reshape(n, 3)
    encoder = ColumnEncoder(refs(1, 2, 3), times(n), column.tobytes(), F64)
    found = b""
    while not encoder.encode(ring.writer):
        found += ring.records()
    found += ring.records()
    stored = [(slot, t, np.frombuffer(value, "<f8")[0]) for _, slot, _, t, _, value in parse(found)]
    assert stored == [(k + 1, T0 + 60 * i, column[i, k]) for k in range(3) for i in range(n)]
    assert encoder.n_written == 3 * n


def test_rows_of_many_columns_are_cut_into_records_the_persister_can_take() -> None:
    n, k = limits.RUN_VALUES_MAX, limits.STAMPED_COLUMNS_MAX
    encoder = RowEncoder(1 << 32, times(n), bytes(8 * n * k), bytes([U64] * k))
    ring = Ring(1 << 23)
    assert encoder.encode(ring.writer)
    records = ring.records()
    assert encoder.n_written == sum(1 for _ in parse(records)) == n
    while records:
        count = int(np.frombuffer(records, layout.RUN, 1)[0]["count"])
        assert count * 8 * (1 + k) <= 1 << 18
        records = records[24 + count * 8 * (1 + k) :]


def test_rows_without_any_value_or_with_an_infinite_one_are_refused_alone() -> None:
    nan, inf, none = (
        int.from_bytes(struct.pack("<d", np.nan), "little"),
        int.from_bytes(struct.pack("<d", -np.inf), "little"),
        2**64 - 1,
    )
    rows = np.array([[1, nan], [none, nan], [none, 0], [5, inf], [7, 8]], np.uint64)
    encoder = RowEncoder(1 << 32, times(5), rows.tobytes(), bytes([U64, F64]))
    assert encode(encoder) == [(layout.REC_STAMPED, 1), (layout.REC_STAMPED, 1), (layout.REC_STAMPED, 1)]
    assert (encoder.n_written, encoder.n_bad) == (3, 2)
    assert [reference_columns.row_refused(row, [U64, F64]) for row in rows.tolist()] == [
        False, True, False, True, False,
    ]  # fmt: skip


def test_the_sample_kernel_stores_every_value_that_was_encoded() -> None:
    rng = np.random.default_rng(7)
    for n_times in (3, 40):
        with samples_rig.Rig() as rig:
            first = rig.add(count=40)
            slots = rng.permutation(40)[:25] + first
            slots[5:15] = np.arange(10) + first
            slots = np.array(list(dict.fromkeys(slots.tolist())))
            matrix = rng.normal(size=(n_times, len(slots))).astype("<f4")
            matrix[rng.random(matrix.shape) < 0.2] = np.nan
            ring = Ring()
            encoder = ColumnEncoder(refs(*slots.tolist()), times(n_times), matrix.tobytes(), F32)
            assert encoder.encode(ring.writer)
            result = rig.kernel.apply(ring.records())
            assert result.n_samples == encoder.n_written == np.isfinite(matrix).sum()
            assert result.n_stale == 0
            assert encoder.n_bad == np.isnan(matrix).sum()
