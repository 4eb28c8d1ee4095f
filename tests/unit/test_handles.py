"""What a columns connection's handles stand for, and when they have to be asked for again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mstore.errors import UnknownHandle
from mstore.ingest.handles import HandleTable
from mstore.model import Reason
from mstore.shm import layout
from tests import directory_rig

GRID, STAMPED = layout.KIND_GRID, layout.KIND_STAMPED
F32, U64 = layout.TYPE_F32, layout.TYPE_U64
REFUSED = (int(Reason.SERIES_LIMIT) << 24 | 1) << 32 | layout.IGNORE_SLOT


def path(i: int) -> list[str]:
    return ["c", f"h{i}", "load", "", "", "", ""]


def u64(*refs: int) -> np.ndarray:
    return np.array(refs, np.uint64)


def u32(*handles: int) -> np.ndarray:
    return np.array(handles, np.uint32)


@pytest.fixture
def directory() -> Iterator[directory_rig.Rig]:
    rig = directory_rig.Rig()
    yield rig
    rig.close()


def filled(n: int, refs: np.ndarray | None = None) -> HandleTable:
    table = HandleTable()
    refs = np.zeros(n, np.uint64) if refs is None else refs
    table.add([path(i) for i in range(n)], None, refs, bytes([F32] * n), bytes([GRID] * n))
    return table


def test_handles_are_numbered_on_over_any_number_of_opens() -> None:
    table = HandleTable()
    for n in (0, 1, 63, 1, 1000, 7):
        first = len(table)
        refs = np.arange(first, first + n, dtype=np.uint64) + np.uint64(1 << 32)
        made = table.add([path(first + i) for i in range(n)], None, refs, bytes([F32] * n), bytes([GRID] * n))
        assert made.tolist() == list(range(first, first + n))
    assert len(table) == 1072
    everything = np.arange(1072, dtype=np.uint32)
    assert table.refs(everything).tolist() == [1 << 32 | i for i in range(1072)]
    assert table.paths(u32(1071, 3)) == ([path(1071), path(3)], [None, None])


def test_references_handed_out_are_the_callers_own() -> None:
    table = filled(4, u64(*(1 << 32 | i for i in range(4))))
    for handles in (u32(0, 1, 2, 3), u32(3, 0), u32(2)):
        table.refs(handles)[:] = 0
    assert table.refs(u32(0, 1, 2, 3)).tolist() == [1 << 32 | i for i in range(4)]


def test_a_spec_stays_with_its_path() -> None:
    table = HandleTable()
    spec = [10, "sum", "u64", "", []]
    table.add([path(0), path(1)], [None, spec], u64(0, 0), bytes(2), bytes(2))
    assert table.paths(u32(1, 0)) == ([path(1), path(0)], [spec, None])


def test_a_handle_is_checked_for_existence_kind_and_type() -> None:
    table = filled(3)
    table.renew(u32(1), u64(5), bytes([U64]), bytes([GRID]))
    table.renew(u32(2), u64(6), bytes([U64]), bytes([STAMPED]))
    table.check(u32(), F32, GRID)
    table.check(u32(0, 0), F32, GRID)
    table.check(u32(2), None, STAMPED)
    for handles, vtype, kind, text in [
        (u32(0, 1), F32, GRID, "handle 1 is a grid series of u64; the frame holds f32"),
        (u32(1, 2), U64, GRID, "handle 2 is a stamped series of u64; the frame holds u64"),
        (u32(1), None, STAMPED, "handle 1 is a grid series of u64; the frame holds rows"),
        (u32(0, 3), F32, GRID, r"handle 3 was never opened on this connection \(3 are\)"),
        (u32(0xFFFF_FFFF), F32, GRID, "handle 4294967295 was never opened"),
    ]:
        with pytest.raises(UnknownHandle, match=text) as caught:
            table.check(handles, vtype, kind)
        assert caught.value.details["handle"] in handles.tolist()


def test_a_handle_refused_when_it_was_opened_is_of_no_kind() -> None:
    table = HandleTable()
    table.add([path(0)], None, u64(REFUSED), bytes(1), bytes(1))
    with pytest.raises(UnknownHandle, match="handle 0 is of a series that was refused"):
        table.check(u32(0), F32, GRID)
    assert table.refs(u32(0)).tolist() == [0]


def test_a_handle_that_is_refused_later_keeps_its_kind_and_is_asked_for_again(
    directory: directory_rig.Rig,
) -> None:
    table = filled(2)
    table.renew(
        u32(0, 1), u64(REFUSED, directory.ref(b"load,cluster=c,host=h1")), bytes([0, F32]), bytes([0, GRID])
    )
    table.check(u32(0, 1), F32, GRID)
    assert table.stale(u32(1, 0), directory.reader).tolist() == [1]


def test_handles_are_stale_before_their_first_sample_and_after_their_series_is_gone(
    directory: directory_rig.Rig,
) -> None:
    table = filled(6)
    everything = np.arange(6, dtype=np.uint32)
    assert table.stale(everything, directory.reader).tolist() == [0, 1, 2, 3, 4, 5]
    refs = [directory.ref(b"load,cluster=c,host=h%d" % i) for i in range(6)]
    table.renew(everything, u64(*refs), bytes([F32] * 6), bytes([GRID] * 6))
    assert table.stale(everything, directory.reader).tolist() == []
    directory.remove(2)
    directory.remove(4)
    assert table.stale(everything, directory.reader).tolist() == [2, 4]
    assert table.stale(u32(4, 0, 4), directory.reader).tolist() == [0, 2]
    again = directory.ref(b"load,cluster=c,host=other")
    assert again & 0xFFFF_FFFF in (2, 4), "the slot is used again, by another series"
    assert table.stale(everything, directory.reader).tolist() == [2, 4]


def test_handles_found_in_order_are_known_until_a_series_lapses(directory: directory_rig.Rig) -> None:
    refs = [directory.ref(b"load,cluster=c,host=h%d" % i) for i in range(4)]
    table, frame = filled(4, u64(*refs)), u32(3, 1, 2)
    assert table.known(frame, F32, GRID) is None
    assert table.look(frame, F32, GRID, directory.reader)[0].tolist() == [refs[3], refs[1], refs[2]]
    known = table.known(u32(3, 1, 2), F32, GRID)
    assert known is not None
    assert known.refs.tolist() == [refs[3], refs[1], refs[2]]
    for other in (u32(3, 0, 2), u32(3, 1), u32(3, 1, 2, 2), u32()):
        assert table.known(other, F32, GRID) is None
    assert table.known(frame, U64, GRID) is None
    assert table.known(frame, F32, STAMPED) is None
    directory.ref(b"load,cluster=c,host=new")
    assert known.lapses == directory.reader.lapses()
    directory.writer.remove_begin(2)
    assert known.lapses != directory.reader.lapses()
    assert table.look(frame, F32, GRID, directory.reader)[1].tolist() == [2]
    known = table.known(frame, F32, GRID)
    assert known is not None
    assert known.lapses != directory.reader.lapses(), "a look that found something proves nothing"


def test_a_change_of_what_a_handle_stands_for_ends_what_was_known(directory: directory_rig.Rig) -> None:
    refs = [directory.ref(b"load,cluster=c,host=h%d" % i) for i in range(2)]
    table, frame = filled(2, u64(*refs)), u32(0, 1)
    table.look(frame, F32, GRID, directory.reader)
    table.renew(u32(1), u64(refs[0]), bytes([F32]), bytes([GRID]))
    assert table.known(frame, F32, GRID) is None
    table.look(frame, F32, GRID, directory.reader)
    frame[0] = 1
    assert table.known(u32(0, 1), F32, GRID) is not None, "what is kept is no view of the frame"


def test_frames_are_remembered_within_bounds(directory: directory_rig.Rig) -> None:
    refs = [directory.ref(b"load,cluster=c,host=h%d" % i) for i in range(30)]
    table = filled(30, u64(*refs))
    for first in range(20):
        table.look(u32(first), F32, GRID, directory.reader)
    assert [i for i in range(20) if table.known(u32(i), F32, GRID)] == list(range(12, 20))
    everything = np.arange(30, dtype=np.uint32)
    table.look(everything, F32, GRID, directory.reader)
    table.look(everything[::-1].copy(), F32, GRID, directory.reader)
    assert [i for i in range(20) if table.known(u32(i), F32, GRID)] == []
    table.look(everything[1:], F32, GRID, directory.reader)
    assert table.known(everything, F32, GRID) is None
    assert table.known(everything[::-1].copy(), F32, GRID) is not None


def test_a_series_on_its_way_out_is_stale_before_its_generation_changes(directory: directory_rig.Rig) -> None:
    """Its flags are taken away first; the generation follows when nothing leads to the slot any more."""
    table = filled(1, u64(directory.ref(b"load,cluster=c,host=h0")))

    class Half:
        @staticmethod
        def series_table() -> np.ndarray:
            rows = directory.reader.series_table().copy()
            rows["flags"] = 0
            return rows

    assert table.stale(u32(0), Half()).tolist() == [0]  # type: ignore[arg-type]  # all that it needs of one


def test_a_handle_whose_series_is_continued_by_another_era_is_asked_for_again(
    directory: directory_rig.Rig,
) -> None:
    refs = [directory.ref(b"load,cluster=c,host=h%d" % i) for i in range(3)]
    table = filled(3, u64(*refs))
    era, _ = directory.era(1, anchor_s=17)
    assert table.stale(u32(0, 1, 2), directory.reader).tolist() == [1]
    assert table.stale(u32(2, 1), directory.reader).tolist() == [1]
    assert directory.ref(b"load,cluster=c,host=h1") == era
    table.renew(u32(1), u64(era), bytes([F32]), bytes([GRID]))
    assert table.stale(u32(0, 1, 2), directory.reader).tolist() == []


def test_a_reference_beyond_the_series_published_so_far_is_stale(directory: directory_rig.Rig) -> None:
    ref = directory.ref(b"load,cluster=c,host=h0")
    table = filled(2, u64(ref, 1 << 32 | 500))
    assert table.stale(u32(0, 1), directory.reader).tolist() == [1]


def test_an_unmade_handle_is_stale_though_slot_0_was_never_used(directory: directory_rig.Rig) -> None:
    ref = directory.ref(b"load,cluster=c,host=h0")
    assert ref == 1 << 32

    class Unused:
        """A directory whose slot 0 a replay has skipped."""

        @staticmethod
        def series_table() -> np.ndarray:
            return np.zeros(1, layout.SERIES)

    assert filled(1).stale(u32(0), Unused()).tolist() == [0]  # type: ignore[arg-type]  # all that it needs of one
