"""Late samples of series whose type or step was changed, at a worker and over real memory: each in its era, or refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mstore import clock, limits
from mstore.ingest.effects import NeedReferences
from mstore.ingest.text import TextSession
from mstore.ipc import messages as m
from mstore.shm import layout
from mstore.workers.changeover import Changeover, State
from mstore.workers.changeover_ground import ChangeGround
from mstore.workers.path_interning import PathInterner
from tests.changeover_rig import HEADER, Persister, send
from tests.framed_rig import F32, F64, U64, Connection, columns, path, written
from tests.ingest_rig import NOW_S, IngestRig, line

T0 = NOW_S - 6000


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_s", lambda: NOW_S)


@pytest.fixture
def rig() -> Iterator[IngestRig]:
    rig = IngestRig(retention_s=0)
    yield rig
    rig.close()


@pytest.fixture
def persister(rig: IngestRig) -> Iterator[Persister]:
    """New series follow its configuration, too."""
    persister = Persister(rig)
    writer = rig.directory.writer
    writer.set_metric_source(
        lambda cluster, metric: persister.config.metric(cluster.decode(), metric.decode())
    )
    rig.interner = PathInterner(writer, lambda *names: persister.config.metric(*names), True, 60)
    yield persister
    writer.set_metric_source(None)
    vars(persister).clear()


def change(persister: Persister, text: str) -> None:
    """What a reload does once everything has arrived."""
    persister.drain()
    persister.configure(f"[metrics.load]\n{text}\n")
    assert Changeover(ChangeGround(persister)).begin() is State.IDLE  # type: ignore[arg-type]


def era_starts(rig: IngestRig) -> list[int]:
    return [int(row["era_start"]) for row in rig.directory.writer.series_table()]


def reply(rig: IngestRig, text: bytes) -> bytes:
    """Of lines as a text session, without what is always the same."""
    return send(rig, text).replace(b" ignored=0 durable=yes", b"").strip()


@pytest.mark.parametrize("spelling", ["known", "new"])
def test_a_late_line_is_encoded_for_the_era_of_its_time(
    rig: IngestRig, persister: Persister, spelling: str
) -> None:
    tags = {"x": "1"} if spelling == "new" else {}  # has to be asked for: it waits, and is resolved later
    change(persister, 'type = "f64"')
    assert reply(rig, line("load", "a", 1.5, T0)) == b"written=1 rejected=0"
    change(persister, 'type = "f32"')
    assert reply(rig, line("load", "a", 0.1, T0 - 60, **tags)) == b"written=1 rejected=0"
    assert reply(rig, line("load", "a", 1e300, T0 - 120)) == b"written=1 rejected=0"
    assert reply(rig, line("load", "a", 0.1, T0 + 60, **tags)) == b"written=1 rejected=0"
    assert reply(rig, line("load", "a", 1e300, T0 + 120, **tags)) == b"written=0 rejected=1 out_of_range=1"
    persister.drain()
    assert persister.values("a") == [("f64", [1e300, 0.1, 1.5]), ("f32", [float(np.float32(0.1))])]
    assert persister.stale == 0


@pytest.mark.parametrize("spelling", ["known", "new"])
def test_a_late_line_that_its_era_cannot_hold_is_refused(
    rig: IngestRig, persister: Persister, spelling: str
) -> None:
    tags = {"x": "1"} if spelling == "new" else {}
    change(persister, 'type = "u64"')
    assert reply(rig, line("load", "a", 7, T0)) == b"written=1 rejected=0"
    change(persister, 'type = "f32"')
    late = line("load", "a", 0.5, T0 - 60, **tags) + line("load", "a", -1, T0 - 120, **tags)
    assert reply(rig, late) == b"written=0 rejected=2 out_of_range=2"
    assert reply(rig, line("load", "a", 2**53 + 1, T0 - 60)) == b"written=1 rejected=0"
    assert reply(rig, line("load", "a", 0.5, T0 + 60)) == b"written=1 rejected=0"
    persister.drain()
    assert persister.values("a") == [("u64", [2**53 + 1, 7]), ("f32", [0.5])]
    assert persister.stale == 0


def test_lines_at_one_time_of_series_with_and_without_an_older_era_are_stored_side_by_side(
    rig: IngestRig, persister: Persister
) -> None:
    """A run of consecutive slots whose values have two types is two runs; order within a series is kept."""
    change(persister, 'type = "f64"')
    for host in "abcdef":
        send(rig, line("load", host, 1, T0))
    change(persister, 'type = "f32"')
    for host in "ghijkl":
        send(rig, line("load", host, 1, T0))
    text = b"".join(line("load", host, f"{k}.1", T0 - 60) for k in (1, 2) for host in "abcghidefjkl")
    assert reply(rig, text) == b"written=24 rejected=0"
    persister.drain()
    for host in "abcdef":
        assert persister.values(host) == [("f64", [2.1, 1]), ("f32", [])]
    for host in "ghijkl":
        assert persister.values(host) == [("f32", [float(np.float32(2.1)), 1])]
    assert persister.stale == 0


def test_late_columns_their_era_lacks_are_out_of_range_and_the_others_are_kept(
    rig: IngestRig, persister: Persister
) -> None:
    connection = Connection(rig)
    change(persister, 'type = "u64"')
    for host in ("a", "b"):
        send(rig, line("load", host, 7, T0))
    change(persister, 'type = "f64"')
    send(rig, line("load", "c", 7, T0))
    handles = connection.open(path(host="a"), path(host="b"), path(host="c"))
    frame = [[0.5, 3, 0.5], [2.0**53, -1, -1], [float("nan"), 2.0**64, 1e300]]
    for times in ([T0 - 60, T0 - 120, T0 - 180],) * 2:  # the second time the handles are known
        answer = connection.ask(columns(handles, times, frame, F64))
        assert answer == written(5, bad_value=1, out_of_range=3)
    assert connection.ask(columns(handles, [T0 + 60], [0.5, 0.25, 0.125], F64)) == written(3)
    persister.drain()
    assert persister.values("a") == [("u64", [2**53, 7]), ("f64", [0.5])]
    assert persister.values("b") == [("u64", [3, 7]), ("f64", [0.25])]
    assert persister.values("c") == [("f64", [1e300, -1, 0.5, 7, 0.125])]
    assert persister.stale == 0


def test_missing_late_values_are_bad_values_also_of_series_that_do_not_exist_yet(
    rig: IngestRig, persister: Persister
) -> None:
    connection = Connection(rig)
    (handle,) = connection.open(path(host="a"))
    blank = columns([handle], [5], [float("nan")], F32)  # older than any series reaches
    assert connection.ask(blank) == written(0, bad_value=1)
    send(rig, line("load", "b", 7, T0))
    change(persister, 'type = "f64"')
    (handle,) = connection.open(path(host="new"))
    for time in (5, T0 - 60, T0 + 600):
        assert connection.ask(columns([handle], [time], [float("nan")], F64)) == written(0, bad_value=1)
    assert rig.directory.writer.counts()["live_series"] == 2, "the two eras of b"


def test_late_columns_are_rounded_as_text_is(rig: IngestRig, persister: Persister) -> None:
    connection = Connection(rig)
    send(rig, line("load", "a", 7, T0))
    change(persister, 'type = "f64"')
    handles = connection.open(path(host="a"))
    late = [0.1, 3.4028235e38, 3.4028236e38, -1e39]
    times = [T0 - 60 * (k + 1) for k in range(len(late))]
    assert connection.ask(columns(handles, times, late, F64)) == written(2, out_of_range=2)
    text = b"".join(line("load", "b", value, t) for value, t in zip(late, times, strict=True))
    change(persister, 'type = "f32"')
    assert reply(rig, text) == b"written=2 rejected=0".replace(b"0", b"2") + b" out_of_range=2"
    persister.drain()
    largest = float(np.finfo("f4").max)
    assert persister.values("a")[0] == ("f32", [largest, float(np.float32(0.1)), 7])
    assert persister.values("b")[-1] == ("f32", [largest, float(np.float32(0.1))])


@pytest.mark.parametrize("way", ["lines", "columns"])
@pytest.mark.parametrize(("old_s", "new_s"), [(1, 60), (60, 1)])
def test_how_late_a_sample_may_be_is_measured_from_the_end_of_its_era(
    rig: IngestRig, persister: Persister, way: str, old_s: int, new_s: int
) -> None:
    change(persister, f"step = {old_s}")
    send(rig, line("load", "a", 7, T0))
    change(persister, f"step = {new_s}")
    reach = era_starts(rig)[1] - old_s * limits.SERIES_SLOTS_MAX
    if way == "lines":
        text = line("load", "a", 1, reach - 1) + line("load", "a", 2, reach)
        assert reply(rig, text) == b"written=1 rejected=1 too_late=1"
    else:
        connection = Connection(rig)
        answer = connection.ask(columns(connection.open(path(host="a")), [reach - 1, reach], [[1], [2]], F32))
        assert answer == written(1, too_late=1)
    persister.drain()
    assert persister.values("a") == [("f32", [2, 7]), ("f32", [])]
    assert persister.stale == 0


def test_stamped_rows_have_no_eras(rig: IngestRig, persister: Persister) -> None:
    """A reload cannot change the type of a stamped metric, so that no row is ever late in another type."""
    beat = '[metrics.beat]\nstep = 0\ntype = "{}"\n'
    persister.configure(beat.format("u64"))
    send(rig, line("beat", "a", 7, T0))
    persister.configure(beat.format("f64"))
    assert Changeover(ChangeGround(persister)).begin() is State.IDLE  # type: ignore[arg-type]
    assert rig.directory.writer.grids_changed_s() == 0
    assert [int(row["type"]) for row in rig.directory.writer.series_table()] == [layout.TYPE_U64]
    connection = Connection(rig)
    (handle,) = connection.open(path("beat"))
    late = m.Rows(handle, np.array([T0 * 1000 - 5], "<i8").tobytes(), np.array([2**63 + 1], "<u8").tobytes())
    assert connection.ask(late) == written(1)
    persister.drain()
    assert persister.stale == 0


def removable(rig: IngestRig, persister: Persister) -> int:
    """Slot of the older era of a u64 series that is f32 now; it has no chunk: all its samples were evicted."""
    change(persister, 'type = "u64"')
    send(rig, line("load", "a", 7, T0))
    change(persister, 'type = "f32"')
    persister.samples.free_ranges(persister.samples.expired(0, 1, NOW_S + 10**6))
    assert persister.values("a") == [("u64", []), ("f32", [])]
    return 0


@pytest.mark.parametrize("way", ["lines", "columns"])
def test_a_sample_of_an_era_that_is_being_removed_is_too_late_and_after_that_belongs_to_the_next(
    rig: IngestRig, persister: Persister, way: str
) -> None:
    """Whatever becomes of the removal: what is acknowledged is stored, as it was sent."""
    connection = Connection(rig)
    slot = removable(rig, persister)
    handles = connection.open(path(host="a"))

    def late(value: float) -> m.Written:
        if way == "columns":
            found = connection.ask(columns(handles, [T0 - 60], [value], F32))
        else:
            found = connection.ask(m.Lines(line("load", "a", value, T0 - 60)))
        assert isinstance(found, m.Written)
        return found

    assert late(0.5) == written(0, out_of_range=1)
    rig.directory.writer.remove_begin(slot)
    assert late(3) == written(0, too_late=1)
    rig.directory.writer.remove_abort(slot)
    assert late(0.5) == written(0, out_of_range=1)
    rig.directory.remove(slot)
    assert late(0.5) == written(1)
    persister.drain()
    assert persister.values("a") == [("f32", [0.5])]
    assert persister.stale == 0
    rig.directory.writer.validate()


def test_a_sample_found_its_era_just_before_the_removal_begins_and_keeps_it(
    rig: IngestRig, persister: Persister
) -> None:
    """The removal waits for the batch in hand and its ring, and then the era is used."""
    slot = removable(rig, persister)
    session = TextSession(rig.engine)
    steps = session.consume(HEADER + line("load", "a", 2**60, T0 - 60) + line("load", "new", 1, T0))
    rig.run_until(steps, NeedReferences)
    rig.directory.writer.remove_begin(slot)
    rig.run_on(steps)
    assert session.reply(True).startswith(b"written=2 ")
    persister.drain()
    assert persister.values("a") == [("u64", [2**60]), ("f32", [])]
    assert persister.stale == 0


def test_a_metric_that_is_configured_again_takes_late_samples_at_once(
    rig: IngestRig, persister: Persister
) -> None:
    change(persister, 'type = "u64"')
    send(rig, line("load", "a", 7, T0))
    change(persister, 'type = "f32"')
    rig.directory.writer.ignore_metrics([0])
    rig.directory.writer.ignore_metrics([])
    assert reply(rig, line("load", "a", 2**60, T0 - 60)) == b"written=1 rejected=0"
    persister.drain()
    assert persister.values("a") == [("u64", [2**60, 7]), ("f32", [])]


def test_a_series_that_appears_while_a_batch_is_in_hand_takes_late_samples(
    rig: IngestRig, persister: Persister
) -> None:
    """The directory has grown since the batch began; the new series has one era, whatever its time."""
    change(persister, 'type = "u64"')
    send(rig, line("load", "a", 7, T0))
    change(persister, 'type = "f64"')
    connection = Connection(rig)
    text = b"".join(line("load", host, 0.5, T0 - 60) for host in "ab")
    assert connection.ask(m.Lines(text)) == written(1, out_of_range=1)
    handles = connection.open(path(host="a"), path(host="new"))
    assert connection.ask(columns(handles, [T0 - 60], [0.5, 0.5], F64)) == written(1, out_of_range=1)
    persister.drain()
    assert persister.values("b") == persister.values("new") == [("f64", [0.5])]


def test_an_era_of_a_moved_phase_is_no_change_of_grid(rig: IngestRig, persister: Persister) -> None:
    send(rig, line("load", "a", 7, T0))
    rig.directory.era(0, T0 + 600 - 15, 60, T0 + 600 - 15, layout.TYPE_F32)
    assert rig.directory.reader.grids_changed_s() == 0
    send(rig, line("load", "a", 8, T0 + 700))
    change(persister, 'type = "u64"')
    started = rig.directory.reader.grids_changed_s()
    assert started == era_starts(rig)[2] > T0 + 700
    connection = Connection(rig)
    handles = connection.open(path(host="a"))
    times = [T0 - 60, T0 + 600, started]
    assert connection.ask(columns(handles, times, [2**24 + 1] * 3, U64)) == written(3)
    persister.drain()
    rounded = float(np.float32(2**24 + 1))
    assert persister.values("a") == [("f32", [rounded, 7]), ("f32", [rounded, 8]), ("u64", [2**24 + 1])]
