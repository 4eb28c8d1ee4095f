"""What applying sample records does: chunks, eras, late and stale samples, freeing, room."""

from __future__ import annotations

import numpy as np
import pytest

from mstore.kernels._samples import LOAD_STALE, LOADED, STOPPED_NO_ROOM, STOPPED_OTHER
from mstore.limits import SERIES_SLOTS_MAX
from mstore.shm import chunks, layout
from tests.samples_rig import Rig, column, pad, row, scatter, stamped

SPAN = 512 * 60


def numbers(rig: Rig, slot: int) -> list[tuple[int, int]]:
    """(chunk number, size class) of a series."""
    return [(n, size_class) for n, _, size_class, _ in rig.kernel.chunks_of(slot)]


@pytest.mark.parametrize(
    ("value_type", "sizes"), [(layout.TYPE_F32, (16, 112, 512)), (layout.TYPE_F64, (8, 56, 512))]
)
def test_only_chunk_0_starts_small_and_moves_up_as_it_fills(value_type: int, sizes: tuple[int, ...]) -> None:
    full = layout.CLASS_FULL_4 if value_type == layout.TYPE_F32 else layout.CLASS_FULL_8
    with Rig() as rig:
        slot = rig.add(60, type=value_type, anchor_s=-30)
        seen = []
        for i in range(1030):
            rig.kernel.apply(row(slot, 60 * i, [i], type=value_type))
            seen.append(numbers(rig, slot))
        for size, held, after in zip(
            sizes, [(0, 0), (0, 1), (0, full)], [(0, 1), (0, full), None], strict=True
        ):
            assert seen[size - 1] == [held]
            assert after is None or seen[size] == [after]
        assert seen[512] == [(0, full), (1, full)]
        stored = chunks.read_grid(rig.series[slot], rig.samples)
        assert stored == {i: i for i in range(1030)}
        assert rig.kernel.stats()[0].chunks == rig.kernel.stats()[1].chunks == 0
        assert rig.series[slot]["last_t"] == 60 * 1029


def test_a_series_of_16_samples_takes_128_bytes_of_chunks() -> None:
    with Rig(512) as rig:
        rig.add(60, anchor_s=-30, count=500)
        for i in range(16):
            rig.kernel.apply(row(0, 60 * i, np.ones(500)))
        stats = rig.kernel.stats()
        assert sum(s.chunks * s.chunk_bytes for s in stats.values()) == 500 * 128


def test_the_last_write_to_a_slot_wins_and_neighbours_stay() -> None:
    with Rig() as rig:
        slot = rig.add(60, anchor_s=-30)
        rig.kernel.apply(column(slot, 0, 60, [1, 2, 3]) + row(slot, 61, [20]) + row(slot, 45, [21]))
        assert chunks.read_grid(rig.series[slot], rig.samples) == {0: 1, 1: 21, 2: 3}


def test_late_samples_before_the_first_chunk_are_kept() -> None:
    with Rig() as rig:
        slot = rig.add(60, anchor_s=-30)
        rig.kernel.apply(row(slot, 0, [1]) + row(slot, -60, [2]) + row(slot, -10 * SPAN, [3]))
        assert numbers(rig, slot) == [(-10, 2), (-1, 2), (0, 0)]
        assert sorted(chunks.read_grid(rig.series[slot], rig.samples).values()) == [1, 2, 3]
        assert rig.series[slot]["last_t"] == 0


def test_a_link_table_grows_to_2_to_the_15_chunks_and_then_lets_the_oldest_go() -> None:
    with Rig(extents=16) as rig:
        slot = rig.add(1, anchor_s=0)
        last = chunks.CHUNKS_SPANNED_MAX - 1
        for n in (0, 5, 100, 600, 5000, last):
            rig.kernel.apply(row(slot, 512 * n, [n]))
        assert [n for n, _ in numbers(rig, slot)] == [0, 5, 100, 600, 5000, last]
        assert rig.kernel.apply(row(slot, -512, [9])).n_stale == 1
        assert rig.kernel.apply(row(slot, 512 * (last + 3), [9])).n_samples == 1
        assert [n for n, _ in numbers(rig, slot)] == [5, 100, 600, 5000, last, last + 3]
        assert rig.kernel.out_of_span == 1
        chunks.validate(rig.series[:1], rig.samples, rig.kernel.committed_bytes)


@pytest.mark.parametrize("step", [1, 60, 7])
@pytest.mark.parametrize("phase", [0, 1, 511 * 7, 512 * 7 - 1])
@pytest.mark.parametrize("newest_first", [True, False])
def test_the_oldest_sample_that_workers_accept_has_a_place_beside_the_newest(
    step: int, phase: int, newest_first: bool
) -> None:
    with Rig(extents=16) as rig:
        slot = rig.add(step, anchor_s=0)
        oldest = 3 * 10**9 + phase
        blocks = [row(slot, oldest, [1]), row(slot, oldest + step * SERIES_SLOTS_MAX, [2])]
        result = rig.kernel.apply(b"".join(blocks[::-1] if newest_first else blocks))
        assert (result.n_samples, result.n_stale, rig.kernel.out_of_span) == (2, 0, 0)
        assert len(chunks.read_grid(rig.series[slot], rig.samples)) == 2


def test_samples_of_another_generation_of_a_free_slot_or_of_no_slot_are_stale() -> None:
    with Rig() as rig:
        slot = rig.add(60, generation=3)
        rows_slot = rig.add(0, n_columns=2)
        block = row(slot, 0, [1.0], generation=2) + scatter(
            [(slot, 3), (40, 1), (2**32 - 1, 1)], 0, [1, 1, 1]
        )
        block += (
            row(rows_slot, 0, [1.0])
            + stamped(rows_slot, [(1, (1,))])
            + stamped(slot, [(1, (1,))], generation=3)
        )
        result = rig.kernel.apply(block)
        assert (result.n_samples, result.n_stale) == (1, 6)
        rig.series[slot]["flags"] = 0
        assert rig.kernel.apply(row(slot, 0, [1.0], generation=3)).n_stale == 1


def eras(rig: Rig, at: int, new_type: int) -> tuple[int, int]:
    old = rig.add(60, anchor_s=-30)
    new = rig.add(60, anchor_s=at - 30, type=new_type)
    rig.series[old]["flags"] |= layout.SERIES_ENDED
    rig.series[old]["next_slot"], rig.series[old]["next_generation"] = new + 1, 1
    rig.series[new]["prev_slot"], rig.series[new]["prev_generation"] = old + 1, 1
    rig.series[new]["era_start"] = at
    return old, new


@pytest.mark.parametrize("through", [0, 1])
def test_samples_go_to_the_era_of_their_time_whatever_reference_they_name(through: int) -> None:
    with Rig() as rig:
        both = eras(rig, 6000, layout.TYPE_U64)
        vtype = (layout.TYPE_F32, layout.TYPE_U64)[through]
        rig.kernel.apply(column(both[through], 0, 60, np.arange(200), type=vtype))
        rig.kernel.apply(row(both[through], 30, [7], type=vtype))
        old, new = (chunks.read_grid(rig.series[slot], rig.samples) for slot in both)
        assert old == {**{i: i for i in range(100)}, 1: 7}
        assert new == {i: 100 + i for i in range(100)}


@pytest.mark.parametrize("n_eras", [2, 64, 200])
def test_a_sample_finds_its_era_over_any_number_of_later_ones(n_eras: int) -> None:
    with Rig(256) as rig:
        first = rig.add(60, count=n_eras)
        for slot in range(first + 1, first + n_eras):
            older, newer = rig.series[slot - 1], rig.series[slot]
            older["flags"] = layout.SERIES_LIVE | layout.SERIES_ENDED
            older["next_slot"], older["next_generation"] = slot + 1, 1
            newer["prev_slot"], newer["prev_generation"], newer["era_start"] = slot, 1, 6000 * (slot - first)
        newest = 6000 * (n_eras - 1)
        for reference, t in ((first + n_eras - 1, 120), (first, newest + 120)):
            assert rig.kernel.apply(row(reference, t, [1.0])).n_samples == 1
        assert list(chunks.read_grid(rig.series[first], rig.samples)) == [2]
        assert list(chunks.read_grid(rig.series[first + n_eras - 1], rig.samples)) == [newest // 60 + 2]


def test_a_value_its_new_type_cannot_hold_is_stale() -> None:
    with Rig() as rig:
        old, _ = eras(rig, 6000, layout.TYPE_U64)
        result = rig.kernel.apply(column(old, 6000, 60, [1.0, 1.5, -1.0, 2.0**40, 1e30]))
        assert (result.n_samples, result.n_stale) == (2, 3)


def test_stamped_rows_are_unique_by_stamp_and_keep_the_last_write() -> None:
    with Rig() as rig:
        slot = rig.add(0, n_columns=2)
        rows = [(1000 * i, (i, i)) for i in range(300)]
        rig.kernel.apply(
            stamped(slot, rows) + stamped(slot, [(5000, (99, 98)), (500, (1, 2)), (299_000, (7, 7))])
        )
        found = chunks.read_rows(rig.series[slot], rig.samples)
        assert len(found) == 301
        by_stamp = {int(r[0]): r[1:].tolist() for r in found}
        assert (by_stamp[5000], by_stamp[500], by_stamp[299_000]) == ([99, 98], [1, 2], [7, 7])
        assert [c for _, c in numbers(rig, slot)][:4] == [0, 1, 2, 3]


def test_expired_chunks_are_whole_ones_and_the_limit_is_a_series_own() -> None:
    with Rig() as rig:
        slot = rig.add(60, anchor_s=0, count=3)
        for s in range(3):
            rig.kernel.apply(column(slot + s, 0, 60, np.ones(1600)))
        assert len(rig.kernel.expired(0, 3, SPAN - 1)) == 0
        ranges = rig.kernel.expired(0, 3, np.array([SPAN, np.iinfo(np.int64).min, 3 * SPAN + 5]))
        assert ranges.tolist() == [(0, 1, 0, 0), (2, 1, 0, 2)]
        assert rig.kernel.chunks_in(ranges)[0] == 4
        assert rig.kernel.free_ranges(ranges) == (4, 0)
        assert [n for n, _ in numbers(rig, 0)] == [1, 2, 3]
        assert [n for n, _ in numbers(rig, 2)] == [3]
        assert rig.kernel.free_ranges(ranges) == (0, 0)
        assert rig.kernel.free_before(1, 10 * SPAN) == 4
        assert rig.series[1]["n_chunks"] == 0


def test_freeing_rows_takes_exactly_the_stamps_named() -> None:
    with Rig() as rig:
        slot = rig.add(0, n_columns=1)
        rig.kernel.apply(stamped(slot, [(i, (i,)) for i in range(100)] + [(-5, (1,))]))
        rig.kernel.free_range(slot, 1, -(2**63), 49)
        assert sorted(chunks.read_rows(rig.series[slot], rig.samples)[:, 0].tolist()) == list(range(50, 100))
        chunks.validate(rig.series[:1], rig.samples, rig.kernel.committed_bytes)
        rig.kernel.free_range(slot, 1, 0, 1000)
        assert rig.kernel.used_bytes() == 0


def test_freed_memory_is_used_again_by_other_sizes() -> None:
    with Rig(extents=4) as rig:
        slot = rig.add(60, anchor_s=0)
        other = rig.add(60, type=layout.TYPE_F64, anchor_s=0)
        for _ in range(20):
            assert rig.kernel.apply(column(slot, 0, 60, np.ones(8192))).why == 0
            assert rig.kernel.apply(column(slot, 60 * 8192, 60, np.ones(8192))).why == 0
            assert rig.kernel.free_series(slot) == 32
            assert rig.kernel.apply(column(other, 0, 60, np.ones(8192), type=layout.TYPE_F64)).why == 0
            assert rig.kernel.free_series(other) == 16
        assert rig.kernel.used_bytes() == 0
        assert rig.kernel.free_bytes() == 4 * layout.EXTENT_BYTES


def test_apply_stops_at_the_cap_and_goes_on_when_there_is_room_again() -> None:
    with Rig(extents=16, cap_extents=4) as rig:
        slot = rig.add(1, anchor_s=0, count=2)
        block = b"".join(column(slot, 8192 * i, 1, np.ones(8192)) for i in range(32))
        result = rig.kernel.apply(block)
        assert result.why == STOPPED_NO_ROOM
        assert 0 < result.stopped_at < len(block)
        assert result.n_samples % 8192 == 0
        assert rig.kernel.need(block[result.stopped_at :], 0) > rig.kernel.free_bytes() == 0
        rig.kernel.set_cap(0)
        rest = rig.kernel.apply(block[result.stopped_at :])
        assert result.n_samples + rest.n_samples == 32 * 8192
        assert len(chunks.read_grid(rig.series[slot], rig.samples)) == 32 * 8192


def test_rows_that_are_applied_together_stop_at_the_record_that_finds_no_room() -> None:
    with Rig(300, extents=16, cap_extents=1) as rig:
        rig.add(60, anchor_s=-30, count=300)
        ticks = [row(0, 60 * i, np.full(300, i)) for i in range(20)]
        result = rig.kernel.apply(b"".join(ticks))
        # A first chunk holds 16 values; the next size would need a second extent.
        assert (result.why, result.stopped_at) == (STOPPED_NO_ROOM, 16 * len(ticks[0]))
        assert result.n_samples == 16 * 300
        rig.kernel.set_cap(0)
        assert rig.kernel.apply(b"".join(ticks[16:])).n_samples == 4 * 300
        for slot in (0, 1, 299):
            assert chunks.read_grid(rig.series[slot], rig.samples) == {i: i for i in range(20)}


def test_rows_whose_slots_pass_the_last_number_there_is_are_stale() -> None:
    with Rig(300) as rig:
        rig.add(60, anchor_s=-30, count=300)
        last = 2**32 - 10
        result = rig.kernel.apply(row(last, 0, np.ones(300)) + row(last - 1, 60, np.ones(300)))
        assert (result.n_samples, result.n_stale) == (0, 600)
        assert rig.kernel.used_bytes() == 0


def test_a_full_file_system_is_no_room_and_keeps_the_errno() -> None:
    with Rig(extents=4) as rig:
        rig.header["committed_bytes"] = layout.SAMPLES_DATA
        rig.commit = True
        kernel = rig.open(fresh=True)
        rig.add(60)
        import os

        os.close(rig.fds[1])
        rig.fds[1] = os.open("/dev/null", os.O_RDONLY)
        broken = type(kernel)(kernel.directory, kernel.samples, rig.fds[1], 0, True)
        assert broken.apply(row(0, 0, [1.0])).why == STOPPED_NO_ROOM
        assert broken.last_errno != 0


def test_the_oldest_chunks_come_first_and_live_series_keep_their_newest() -> None:
    with Rig() as rig:
        rig.add(60, anchor_s=0, count=3)
        for s, start in enumerate((0, 100_000, 50_000)):
            rig.kernel.apply(column(s, start, 60, np.ones(1100)))
        rig.add(0, n_columns=1)
        rig.kernel.apply(stamped(3, [(1000 * t, (t,)) for t in range(600)]))
        ends, slots, found = rig.kernel.oldest(100)
        assert (np.diff(ends) >= 0).all()
        assert not any(n == rig.series[s]["last_n"] for s, n in zip(slots, found, strict=True))
        everything = rig.kernel.oldest(100, 10_000_000)
        assert len(everything[0]) == sum(int(rig.series[s]["n_chunks"]) for s in range(4))
        few = rig.kernel.oldest(3, 10_000_000)
        assert few[0].tolist() == everything[0][:3].tolist()
        mask = np.array([1, 0, 0, 1], np.uint8)
        assert set(rig.kernel.oldest(100, 10_000_000, mask)[1].tolist()) == {1, 2}


def test_a_dead_writers_segment_is_adopted_with_what_it_leaked() -> None:
    with Rig() as rig:
        slot = rig.add(60, anchor_s=-30, count=4)
        for i in range(700):
            rig.kernel.apply(row(slot, 60 * i, np.full(4, i)))
        used = rig.kernel.used_bytes()
        rig.series[0]["link0"] = 12345  # killed after the table word, before link0 was cleared
        rig.series[1]["n_chunks"] = 9
        table = int(rig.series[2]["table"]) >> 8
        rig.samples[table : table + 64].view("<u8")[:] = 0  # killed after unlinking, before giving back
        kernel = rig.open(fresh=False)
        assert kernel.used_bytes() <= used
        assert [len(kernel.chunks_of(s)) for s in range(4)] == [2, 2, 0, 2]
        chunks.validate(rig.series[:4], rig.samples, kernel.committed_bytes)
        assert kernel.apply(row(slot, 60 * 700, np.full(4, 7))).n_samples == 4


def test_a_row_torn_by_a_kill_is_repaired_at_adoption() -> None:
    with Rig() as rig:
        slot = rig.add(0, n_columns=1)
        rig.kernel.apply(stamped(slot, [(t, (t,)) for t in range(4)]))
        link = chunks.linked(rig.series[slot], rig.samples)[0][1]
        head, rows = chunks.header(rig.samples, link), chunks.payload(rig.samples, link)
        head["seq"] += 1  # killed while rows 0 and 1 were being dropped: 2 and 3 moved down, 3 only half
        rows[0], rows[1] = (2, 2), (3, 1)
        rig.open(fresh=False)
        assert chunks.read_rows(rig.series[slot], rig.samples).tolist() == [[2, 2], [3, 3]]
        chunks.validate(rig.series[:1], rig.samples, rig.kernel.committed_bytes)


@pytest.mark.parametrize("stamp", [500, 9000])
def test_a_row_that_a_kill_kept_from_being_counted_does_not_widen_its_chunk(stamp: int) -> None:
    with Rig() as rig:
        slot = rig.add(0, n_columns=1)
        rig.kernel.apply(stamped(slot, [(1000, (1.0,)), (2000, (2.0,))]))
        link = chunks.linked(rig.series[slot], rig.samples)[0][1]
        head = chunks.header(rig.samples, link)
        rows = rig.samples[link.offset + layout.CHUNK_HEADER_BYTES :][:48].view("<u8")
        rows[4:6] = stamp, 7
        head["anchor_s"], head["t_max_ms"] = min(1000, stamp), max(2000, stamp)
        kernel = rig.open(fresh=False)
        chunks.validate(rig.series[:1], rig.samples, kernel.committed_bytes)
        assert (head["anchor_s"], head["t_max_ms"], rig.series[slot]["last_t"]) == (1000, 2000, 2000)
        kernel.apply(stamped(slot, [(stamp, (3.0,))]))
        assert len(chunks.read_rows(rig.series[slot], rig.samples)) == 3


@pytest.mark.parametrize("what", ["header", "offset", "table", "twice"])
def test_adopting_damaged_links_is_refused_with_the_series_named(what: str) -> None:
    with Rig() as rig:
        rig.add(60, anchor_s=-30, count=2)
        rig.kernel.apply(row(0, 0, [1, 1]))
        if what == "header":
            chunks.header(rig.samples, chunks.linked(rig.series[1], rig.samples)[0][1])["generation"] = 9
        elif what == "offset":
            rig.series[1]["link0"] = 1 << 40 | 2**30
        elif what == "table":
            rig.series[1]["table"] = layout.SAMPLES_DATA << 8 | 4
        else:
            rig.series[1]["link0"] = rig.series[0]["link0"]
        with pytest.raises(ValueError, match="series 1"):
            rig.open(fresh=False)


def test_a_loaded_chunk_is_the_one_saved_and_stale_ones_are_refused() -> None:
    with Rig() as rig, Rig() as other:
        for target in (rig, other):
            target.add(60, anchor_s=-30)
        rig.kernel.apply(column(0, 0, 60, np.arange(600)))
        for n, link in chunks.linked(rig.series[0], rig.samples):
            head = chunks.header(rig.samples, link).tobytes()
            saved = chunks.payload(rig.samples, link)
            kept = saved[: np.flatnonzero(~chunks.missing(saved))[-1] + 1].tobytes()
            assert other.kernel.load_chunk(0, 2, n, head, kept) == LOAD_STALE
            assert other.kernel.load_chunk(0, 1, n, head, kept) == LOADED
            with pytest.raises(ValueError, match="not the values"):
                other.kernel.load_chunk(0, 1, n, head, bytes(4096))
        assert chunks.read_grid(other.series[0], other.samples) == {i: i for i in range(600)}
        assert other.series[0]["last_t"] == rig.series[0]["last_t"]


def test_a_series_whose_phase_moved_is_named_once_with_a_time_no_sample_has_reached() -> None:
    with Rig() as rig:
        rig.add(60, anchor_s=0, count=2)
        t = np.arange(600) * 60
        for i in range(600):  # series 0 in the middle of its slots, series 1 a second after their borders
            rig.kernel.apply(row(0, 30 + int(t[i]), [1]) + row(1, 1 + int(t[i]), [1]))
        assert rig.kernel.n_shifts() == 1
        [(slot, moved)] = rig.kernel.shifts()
        assert slot == 1
        assert (moved - 1) % 60 == 0
        assert moved - 30 >= 600 * 60
        assert rig.kernel.shifts() == []


@pytest.mark.parametrize(
    "bad",
    [
        bytes(8),
        b"\x01",
        bytes([7] + [0] * 31),
        row(0, 0, [1.0] * 10)[:-8],
        np.array((layout.REC_ROW, 9, 0, 1, 0, 1, 0), layout.RUN).tobytes() + bytes(8),
        np.array((layout.REC_ROW, 1, 0, 9000, 0, 1, 0), layout.RUN).tobytes() + bytes(36_000),
        np.array((layout.REC_STAMPED, 0, 0, 1, 0, 1, 0), layout.RUN).tobytes() + bytes(8),
        pad(16)[:8],
    ],
)
def test_a_malformed_record_is_refused_with_its_offset_and_what_precedes_it_is_applied(bad: bytes) -> None:
    with Rig() as rig:
        rig.add(60)
        good = row(0, 0, [1.0])
        for call in (rig.kernel.apply, lambda records: rig.kernel.need(records, 0)):
            with pytest.raises(ValueError, match="malformed record at offset") as caught:
                call(good + bad)
            assert caught.value.args[1] == len(good)
        assert len(chunks.read_grid(rig.series[0], rig.samples)) == 1


def test_a_record_of_another_kind_stops_apply_before_it() -> None:
    with Rig() as rig:
        rig.add(60)
        block = row(0, 0, [1.0]) + pad(24)
        other = np.array((layout.REC_FREE, 0, 0, 8), layout.RECORD).tobytes()
        result = rig.kernel.apply(block + other + row(0, 60, [2.0]))
        assert (result.n_samples, result.n_records_skipped, result.stopped_at) == (1, 1, len(block))
        assert result.why == STOPPED_OTHER
        assert rig.kernel.apply(b"").stopped_at == 0
