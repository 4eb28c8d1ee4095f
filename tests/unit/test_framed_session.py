"""A framed ingest connection as a state machine: messages in, replies out, effects answered by the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mstore import clock, limits
from mstore.errors import (
    InvalidRequest,
    ProtocolError,
    StoreFull,
    Unavailable,
    UnknownMessage,
    VersionMismatch,
)
from mstore.ingest.effects import NeedPaths, NeedReferences, NeedRoom
from mstore.ingest.framed import FramedSession
from mstore.ipc import messages as m
from mstore.model import Ack, MetricSpec
from tests.framed_rig import F32, F64, U64, Connection, columns, error, path, rows, written
from tests.ingest_rig import NOW_S, IngestRig, Stored, line

NAN = float("nan")


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_s", lambda: NOW_S)


@pytest.fixture
def rig() -> Iterator[IngestRig]:
    rig = IngestRig()
    yield rig
    rig.close()


@pytest.fixture
def client(rig: IngestRig) -> Connection:
    return Connection(rig)


# --- greeting


def test_a_welcome_is_sent_at_once(client: Connection) -> None:
    assert client.replies == [(1, None, m.Welcome(1, 7, {}, "durable"))]


@pytest.mark.parametrize("message", [m.Ping(), m.Lines(b""), m.Open([])])
def test_the_first_message_must_be_hello(rig: IngestRig, message: m.Message) -> None:
    session = FramedSession(rig.engine, lambda *_: None, lambda _: m.Done({}))
    with pytest.raises(ProtocolError, match="must be Hello"):
        rig.run(session.handle(1, message))


def test_hello_comes_once(client: Connection) -> None:
    with pytest.raises(ProtocolError, match="Hello comes once"):
        client.ask(m.Hello(1, "ingest"))


@pytest.mark.parametrize("role", ["query", "control", "worker"])
def test_another_role_is_not_served(rig: IngestRig, role: str) -> None:
    with pytest.raises(ProtocolError, match=f"role {role} is not served at ingest.sock"):
        Connection(rig, m.Hello(1, role))


def test_a_version_no_longer_spoken_is_told_which_are(
    rig: IngestRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m, "OLDEST_VERSION", 3)
    monkeypatch.setattr(m, "VERSION", 5)
    with pytest.raises(VersionMismatch) as caught:
        Connection(rig, m.Hello(2, "ingest"))
    assert caught.value.details == {"oldest": 3, "newest": 5}
    assert isinstance(Connection(rig, m.Hello(3, "ingest")).greeting, m.Welcome)


@pytest.mark.parametrize("cluster", ["c" * 256, "a\x00b", "a\nb", "\x85"])
def test_a_default_cluster_that_can_be_no_name_is_refused(rig: IngestRig, cluster: str) -> None:
    with pytest.raises(ProtocolError, match="default cluster"):
        Connection(rig, m.Hello(1, "ingest", cluster=cluster))


def test_messages_of_other_sockets_are_not_known_here(client: Connection) -> None:
    for message in (m.Info(), m.Stop(), m.Interned(b"", b"", b"")):
        with pytest.raises(UnknownMessage, match="is not a message of ingest"):
            client.ask(message)


def test_a_ping_is_answered(client: Connection) -> None:
    assert client.ask(m.Ping()) == m.Done({})


# --- lines


def test_lines_are_acknowledged_with_their_counts_at_the_level_asked_for(rig: IngestRig) -> None:
    for ack, level in (("durable", Ack.DURABLE), ("memory", Ack.MEMORY)):
        client = Connection(rig, m.Hello(1, "ingest", ack=ack, cluster="c"))
        reply = client.ask(
            m.Lines(line("load", "a", 1) + line("load", "a", "x") + line("load", "b", 2).strip())
        )
        assert reply == m.Written(2, 1, 0, {"bad_value": 1}, ack == "durable")
        assert client.replies[-1][1] is level
        assert client.positions[-1] == rig.engine.ring.position()
    assert [one.value for one in rig.finish()] == [1.0, 2.0] * 2


def test_lines_use_the_precision_of_their_frame_else_that_of_hello(rig: IngestRig) -> None:
    client = Connection(rig, m.Hello(1, "ingest", cluster="c", precision="ms"))
    client.ask(m.Lines(line("load", "a", 1, 1000 * (NOW_S - 60))))
    client.ask(m.Lines(line("load", "a", 2, NOW_S), "s"))
    assert client.ask(m.Lines(line("load", "a", 2, NOW_S))) == written(0, too_late=1)
    client.ask(m.Lines(line("load", "a", 3, NOW_S + 60), "auto"))
    assert [one.t for one in rig.finish()] == [NOW_S - 60, NOW_S, NOW_S + 60]


def test_a_line_never_goes_on_in_the_next_frame(client: Connection) -> None:
    text = line("load", "a", 1)
    assert client.ask(m.Lines(text[:10])) == written(0, bad_syntax=1)
    assert client.ask(m.Lines(b"x" * (limits.LINE_BYTES_MAX + 1))) == written(0, too_long=1)
    assert client.ask(m.Lines(text)) == written(1)
    assert client.ask(m.Lines(b"")) == written(0)
    assert len(client.rig.finish()) == 1


def test_lines_in_a_buffer_that_is_used_again_are_read_before_the_session_waits(client: Connection) -> None:
    text = b"".join(line("load", f"h{i}", i) for i in range(20))
    buffer = bytearray(text)

    def scribble(_effect: object) -> None:
        buffer[:] = b"!" * len(buffer)

    assert client.ask(m.Lines(memoryview(buffer)), scribble) == written(20)
    assert [one.value for one in client.rig.finish()] == [float(i) for i in range(20)]


def test_an_error_of_the_persister_is_the_reply_and_the_connection_goes_on(client: Connection) -> None:
    steps = client.begin(m.Lines(line("load", "a", 1)))
    client.rig.run_until(steps, NeedReferences)
    with pytest.raises(StopIteration):
        steps.throw(InvalidRequest("the persister is broken"))
    error(client.replies[-1][2], "invalid_request")
    assert client.rig.finish() == []
    assert client.ask(m.Lines(line("load", "a", 1))) == written(1)


def test_an_error_after_a_first_batch_says_what_is_stored_and_waits_for_it_as_written_does(
    rig: IngestRig,
) -> None:
    n = limits.BATCH_LINES_MAX
    client = Connection(rig)
    assert client.ask(m.Lines(line("load", "a", 0, NOW_S))) == written(1)
    known = b"".join(line("load", "a", i, NOW_S - i) for i in range(n - 1))
    steps = client.begin(m.Lines(b"# a comment\n" + known + b"nonsense\n" + line("load", "b", 1) * 3))
    rig.run_until(steps, NeedReferences)
    with pytest.raises(StopIteration):
        steps.throw(InvalidRequest("the persister is broken", key=7))
    request_id, level, reply = client.replies[-1]
    error(reply, "invalid_request")
    counts = {"written": n - 1, "rejected": 1, "ignored": 0, "reasons": {"bad_syntax": 1}, "durable": True}
    assert reply.details == {"key": 7, **counts}
    assert (request_id, level) == (3, Ack.DURABLE)
    assert client.positions[-1] == rig.engine.ring.position()
    assert len(rig.finish()) == n
    assert client.ask(m.Lines(line("load", "b", 1))) == written(1)


def test_a_farewell_in_the_middle_of_a_batch_promises_nothing(rig: IngestRig) -> None:
    client = Connection(IngestRig(ring_bytes=1024))
    text = b"".join(line("load", f"h{i}", i) for i in range(300))
    steps = client.begin(m.Lines(text))
    client.rig.run_until(steps, NeedRoom)
    with pytest.raises(StopIteration):
        steps.throw(Unavailable("the worker is stopping"))
    assert (client.replies[-1][1], client.replies[-1][2].details) == (None, {})
    assert 0 < len(client.rig.finish()) < 300
    client.rig.close()


# --- open


def test_opening_a_handle_creates_nothing(client: Connection) -> None:
    assert client.open(path(), path("flops"), path("ops", "b", "core", "1"), path("scrape")) == [0, 1, 2, 3]
    assert client.replies[-1][2].types == bytes([F32, F64, U64, 0])
    assert client.rig.directory.writer.counts()["n_series"] == 0
    assert client.rig.counter("handles_open") == 4
    client.session.close()
    assert client.rig.counter("handles_open") == 0


def test_handles_go_on_counting_and_no_series_is_an_answer_too(client: Connection) -> None:
    assert client.open() == []
    assert client.open(path()) == [0]
    assert client.open(*[path("load", f"h{i}") for i in range(300)]) == list(range(1, 301))


def test_an_unknown_metric_is_refused_when_it_is_opened_and_its_handle_number_not_used_again() -> None:
    rig = IngestRig(register=False)
    client = Connection(rig)
    reply = client.ask(m.Open([path("ops"), path("nope"), path("flops")]))
    assert np.frombuffer(reply.handles, "<u4").tolist() == [0, m.HANDLE_NONE, 2]
    assert reply.errors == [[1, "unknown_metric"]]
    assert client.ask(columns([0], [NOW_S], [1], U64)) == written(1)
    for handle in (m.HANDLE_NONE, 1):
        reply = client.ask(columns([handle], [NOW_S], [1], U64))
        error(reply, "unknown_handle")
    assert client.ask(columns([2], [NOW_S], [1], F64)) == written(1)
    assert [one.name for one in rig.finish()] == ["c/a:ops", "c/a:flops"]
    rig.close()


def test_a_spec_defines_a_metric_that_nothing_else_does() -> None:
    rig = IngestRig(register=False)
    client = Connection(rig)
    assert client.open(path("own"), path("more"), specs=[[10, "sum", "u64", "B", []]]) == [0, 1]
    assert client.ask(columns([0, 1], [NOW_S], [1, 2], U64)) == written(2)
    assert rig.directory.writer.metric(0).step_s == 10
    rig.finish()
    rig.close()


@pytest.mark.parametrize(
    "specs", [[None, None, None], [], [[60, "max", "f32", "", []]], [[60, "avg", "f16", "", []]]]
)
def test_specs_that_make_no_sense_are_an_error(client: Connection, specs: list[Any]) -> None:
    reply = client.ask(m.Open([path("m1"), path("m2")], specs))
    assert isinstance(reply, m.Error)
    assert reply.code in ("invalid_request", "config")
    assert client.open(path("m1"), specs=[None]) == [0]


def test_more_handles_than_allowed_are_refused_before_anyone_is_asked(
    client: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDLES_PER_CONNECTION_MAX", 5)
    client.open(path("load", "a"), path("load", "b"))
    n = len(client.rig.effects)
    error(client.ask(m.Open([path("load", str(i)) for i in range(4)])), "limit_exceeded")
    assert len(client.rig.effects) == n
    assert client.open(*[path("load", str(i)) for i in range(3)]) == [2, 3, 4]


# --- columns


def test_a_matrix_of_samples_is_stored_and_counted(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"))
    assert client.ask(columns(handles, [NOW_S - 60, NOW_S], [[1, 2], [3, 4]])) == written(4)
    assert client.replies[-1][1] is Ack.DURABLE
    assert client.rig.finish() == [
        Stored("c/a:load", NOW_S - 60, 1.0), Stored("c/b:load", NOW_S - 60, 2.0),
        Stored("c/a:load", NOW_S, 3.0), Stored("c/b:load", NOW_S, 4.0),
    ]  # fmt: skip
    assert client.rig.counter("written") == client.rig.counter("samples") == 4


@pytest.mark.parametrize(("vtype", "value"), [(F32, 1.5), (F64, 1e300), (U64, 2**63)])
def test_each_type_keeps_its_values(client: Connection, vtype: int, value: float) -> None:
    metric = {F32: "load", F64: "flops", U64: "ops"}[vtype]
    handles = client.open(path(metric))
    assert client.ask(columns(handles, [NOW_S], [value], vtype)) == written(1)
    assert client.rig.finish() == [Stored(f"c/a:{metric}", NOW_S, value)]


def test_series_are_interned_with_the_first_frame_and_asked_about_no_more(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"))
    for i in range(3):
        client.ask(columns(handles, [NOW_S + 60 * i], [[1, 2]]))
    assert [type(one) for one in client.rig.effects] == [NeedPaths, NeedPaths]
    assert client.rig.counter("frames") == 5


def test_handles_of_removed_series_are_interned_again(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"), path("load", "c"))
    client.ask(columns(handles, [NOW_S], [[1, 2, 3]]))
    assert len(client.rig.finish()) == 3
    client.rig.directory.remove(1)
    assert client.ask(columns(handles, [NOW_S + 60], [[4, 5, 6]])) == written(3)
    assert [one.paths for one in client.rig.effects if isinstance(one, NeedPaths)][2:] == [
        [path("load", "b")]
    ]
    assert client.rig.finish()[3:] == [
        Stored("c/a:load", NOW_S + 60, 4.0), Stored("c/b:load", NOW_S + 60, 5.0), Stored("c/c:load", NOW_S + 60, 6.0),
    ]  # fmt: skip


def test_a_frame_like_the_last_ones_is_looked_at_again_once_a_series_has_lapsed(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"))
    for i in range(4):
        client.ask(columns(handles, [NOW_S + 60 * i], [[i, i]]))
    assert len(client.rig.finish()) == 8
    asked = len(client.rig.effects)
    client.rig.directory.writer.remove_begin(1)
    assert client.ask(columns(handles, [NOW_S + 240], [[5, 6]])) == written(2)
    assert [one.paths for one in client.rig.effects[asked:]] == [[path("load", "b")]]
    assert client.rig.directory.writer.remove_finish(1) == b"", "the question has cancelled the removal"
    for i in range(5, 8):
        client.ask(columns(handles, [NOW_S + 60 * i], [[i, i]]))
    client.rig.finish()
    client.rig.directory.remove(0)
    assert client.ask(columns(handles, [NOW_S + 480], [[7, 8]])) == written(2)
    assert [one.paths for one in client.rig.effects[asked + 1 :]] == [[path("load", "a")]]
    assert {one.name for one in client.rig.finish()} == {"c/a:load", "c/b:load"}


def test_handles_known_as_one_type_are_not_taken_for_another(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"))
    for i in range(3):
        client.ask(columns(handles, [NOW_S + 60 * i], [[1, 2]]))
    reply = client.ask(columns(handles, [NOW_S + 240], [[1, 2]], U64))
    assert "handle 0 is a grid series of f32; the frame holds u64" in error(reply, "unknown_handle").message
    client.rig.directory.era(0, anchor_s=NOW_S, era_start=NOW_S + 200, type_code=U64)
    reply = client.ask(columns(handles, [NOW_S + 300], [[3, 4]]))
    assert "handle 0 is a grid series of u64; the frame holds f32" in error(reply, "unknown_handle").message


def test_a_handle_follows_its_series_into_another_era_unless_the_type_is_another(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"))
    client.ask(columns(handles, [NOW_S], [[1, 2]]))
    client.rig.finish()
    client.rig.directory.era(0, anchor_s=NOW_S + 7, era_start=NOW_S + 37)
    assert client.ask(columns(handles, [NOW_S + 60], [[3, 4]])) == written(2)
    stored = client.rig.finish()
    assert [one.value for one in stored] == [1.0, 2.0, 3.0, 4.0]
    client.rig.directory.era(1, anchor_s=NOW_S, era_start=NOW_S + 100, type_code=U64)
    reply = client.ask(columns(handles, [NOW_S + 120], [[5.5, 6.5]]))
    assert "handle 1 is a grid series of u64; the frame holds f32" in error(reply, "unknown_handle").message
    assert client.ask(columns(handles[:1], [NOW_S + 120], [[5.5]])) == written(1)
    assert client.ask(columns(handles[1:], [NOW_S + 120], [[6]], U64)) == written(1)
    assert len(client.rig.finish()) == 6


def test_a_handle_of_a_series_that_exists_already_is_not_interned(client: Connection) -> None:
    client.ask(m.Lines(line("load", "a", 1)))
    handles = client.open(path("load", "a"))
    n = len(client.rig.effects)
    assert client.ask(columns(handles, [NOW_S], [[2]])) == written(1)
    assert len(client.rig.effects) == n
    assert {one.name for one in client.rig.finish()} == {"c/a:load"}


def test_the_same_handle_twice_in_a_frame_is_the_same_series_and_the_last_value_comes_last(
    client: Connection,
) -> None:
    (handle,) = client.open(path())
    assert client.ask(columns([handle, handle], [NOW_S], [[1, 2]])) == written(2)
    assert client.ask(columns([handle] * 2, [NOW_S], [[3, NAN]])) == written(1, bad_value=1)
    assert [one.value for one in client.rig.finish()] == [1.0, 2.0, 3.0]
    assert client.rig.directory.writer.counts()["n_series"] == 1


def test_missing_and_impossible_values_are_counted_and_the_others_stored(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"))
    values = [[1, NAN], [float("inf"), 2], [-float("inf"), NAN]]
    assert client.ask(columns(handles, [NOW_S, NOW_S + 60, NOW_S + 120], values)) == written(2, bad_value=4)
    (ops,) = client.open(path("ops"))
    assert client.ask(columns([ops], [NOW_S, NOW_S + 10], [[2**64 - 1], [0]], U64)) == written(1, bad_value=1)
    assert [one.value for one in client.rig.finish()] == [1.0, 2.0, 0]


def test_a_series_gets_its_grid_from_its_first_sample_and_none_without_one(client: Connection) -> None:
    handles = client.open(*[path("load", host) for host in "abc"])
    values = [[NAN, NAN, 1], [NAN, 2, 3]]
    assert client.ask(columns(handles, [NOW_S + 7, NOW_S - 30], values)) == written(3, bad_value=3)
    assert {one.name for one in client.rig.finish()} == {"c/b:load", "c/c:load"}
    writer = client.rig.directory.writer
    assert writer.counts()["n_series"] == 2
    assert [int(one) for one in writer.series_table()["anchor_s"]] == [NOW_S - 30 - 30] * 2
    assert client.ask(columns(handles[:1], [NOW_S + 7], [[4]])) == written(1)
    assert int(writer.series_table()["anchor_s"][2]) == NOW_S + 7 - 30
    client.rig.finish()


def test_times_outside_the_window_are_counted_and_make_no_series(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"))
    times = [NOW_S - 49 * 3600, NOW_S, NOW_S + 3601, NOW_S + 3600, -1, -(2**63), 2**63 - 1]
    reply = client.ask(columns(handles, times, [[i, i] for i in range(7)]))
    assert reply == written(4, bad_timestamp=4, too_late=2, too_far_ahead=4)
    assert [one.value for one in client.rig.finish()] == [1.0, 1.0, 3.0, 3.0]
    (other,) = client.open(path("load", "late"))
    assert client.ask(columns([other], [0], [[1]])) == written(0, too_late=1)
    assert client.rig.directory.writer.counts()["n_series"] == 2


@pytest.mark.parametrize("vtype", [F32, F64, U64])
def test_without_retention_each_series_refuses_what_it_could_not_hold_beside_its_newest_sample(
    vtype: int,
) -> None:
    rig = IngestRig(retention_s=0)
    client = Connection(rig)
    type_name = {F32: "f32", F64: "f64", U64: "u64"}[vtype]
    specs = [[step_s, "sum", type_name, "", []] for step_s in (1, 60)]
    handles = client.open(path("fast"), path("slow"), specs=specs)
    newest = NOW_S + 3600
    fast, slow = (newest - step_s * limits.SERIES_SLOTS_MAX for step_s in (1, 60))
    times = [slow - 1, slow, fast - 1, fast, newest, -1]
    frame = columns(handles, times, [[10 * i, 10 * i + 1] for i in range(6)], vtype)
    for _ in range(2):
        assert client.ask(frame) == written(6, bad_timestamp=2, too_late=4)
        assert sorted((one.name[-4:], one.t, one.value) for one in rig.finish()) == [
            ("fast", fast, 30), ("fast", newest, 40),
            ("slow", slow, 11), ("slow", fast - 1, 21), ("slow", fast, 31), ("slow", newest, 41),
        ]  # fmt: skip
        rig.stored.clear()
    if vtype != U64:
        frame = columns(handles, [slow - 1, fast], [[1, NAN], [NAN, 2]], vtype)
        assert client.ask(frame) == written(1, bad_value=1, too_late=2)
    rig.close()


def test_a_value_or_a_row_is_too_late_by_its_own_metrics_retention() -> None:
    specs = {
        "short": MetricSpec("short", retention_s=3600),
        "kept": MetricSpec("kept", retention_s=0),
        "pulse": MetricSpec("pulse", 0, "none", "u64", retention_s=3600),
    }
    rig = IngestRig(retention_s=7200, specs=specs)
    client = Connection(rig)
    handles = client.open(path("short"), path("load"), path("kept"))
    times = [NOW_S - back for back in (3600, 3601, 7201, 10**9)]
    frame = columns(handles, times, [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(4)])
    for _ in range(2):  # the second time the handles are known
        rig.stored.clear()
        assert client.ask(frame) == written(7, too_late=5)
        assert sorted(one.value for one in rig.finish()) == [0, 1, 2, 11, 12, 22, 32]
    (pulse,) = client.open(path("pulse"))
    rig.stored.clear()
    oldest_ms = 1000 * (NOW_S - 3600)
    assert client.ask(rows(pulse, [oldest_ms, oldest_ms - 1, 1000 * NOW_S], [5, 6, 7])) == written(
        2, too_late=1
    )
    assert [one.value for one in rig.finish()] == [(5,), (7,)]
    assert client.ask(rows(pulse, [oldest_ms - 1], [8])) == written(0, too_late=1)
    rig.close()


@pytest.mark.parametrize(("handles", "times"), [([], []), ([], [NOW_S]), ([0], [])])
def test_a_frame_without_values_is_acknowledged(
    client: Connection, handles: list[int], times: list[int]
) -> None:
    client.open(path())
    assert client.ask(columns(handles, times, [])) == written(0)
    assert client.rig.finish() == []
    assert client.rig.counter("batches") == 0


def test_a_frame_for_the_wrong_series_is_refused_whole(client: Connection) -> None:
    handles = client.open(path("load"), path("flops"), path("beat"), path("scrape"))
    for frame, text in [
        (
            columns(handles[:2], [NOW_S], [[1, 2]], F32),
            "handle 1 is a grid series of f64; the frame holds f32",
        ),
        (columns(handles[:1], [NOW_S], [[1]], U64), "handle 0 is a grid series of f32; the frame holds u64"),
        (
            columns([0, handles[2]], [NOW_S], [[1, 1]], F32),
            "handle 2 is a stamped series of u64; the frame holds f32",
        ),
        (columns([handles[3]], [NOW_S], [[1]], F64), "handle 3 is a stamped series of several types"),
        (columns([0, 4], [NOW_S], [[1, 1]], F32), "handle 4 was never opened"),
        (columns([m.HANDLE_NONE], [NOW_S], [[1]], F32), "handle 4294967295 was never opened"),
        (rows(0, [1000 * NOW_S], [[1]]), "handle 0 is a grid series of f32; the frame holds rows"),
    ]:
        assert text in error(client.ask(frame), "unknown_handle").message
    assert client.rig.finish() == []
    assert client.rig.directory.writer.counts()["n_series"] == 0


def test_fields_whose_lengths_do_not_fit_are_refused(client: Connection) -> None:
    client.open(path())
    good = columns([0], [NOW_S], [[1]])
    for frame in (
        replace(good, handles=b"123"), replace(good, times=b"1234567"), replace(good, values=b"12345"),
        replace(good, values=b""), replace(good, handles=bytes(8)), replace(good, times=bytes(16)),
        m.Rows(0, b"123", b""), m.Rows(0, bytes(8), bytes(7)), m.Rows(0, bytes(8), b""), m.Rows(0, b"", bytes(8)),
    ):  # fmt: skip
        error(client.ask(frame), "invalid_request")
    assert client.ask(good) == written(1)


def test_more_values_than_a_frame_may_have_are_refused(
    client: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COLUMNS_VALUES_MAX", 3)
    client.open(path())
    error(client.ask(columns([0, 0], [NOW_S, NOW_S + 60], [[1, 2], [3, 4]])), "limit_exceeded")
    assert client.ask(columns([0], [NOW_S, NOW_S + 60, NOW_S + 120], [[1], [3], [4]])) == written(3)


def test_fields_need_not_be_aligned(client: Connection) -> None:
    client.open(path("flops"), path("beat"))
    frame = columns([0], [NOW_S, NOW_S + 60], [[1.5], [2.5]], F64)
    for offset in range(8):
        views = [
            memoryview(bytes(offset) + part)[offset:] for part in (frame.handles, frame.times, frame.values)
        ]
        assert client.ask(m.Columns(views[0], views[1], views[2], F64)) == written(2)
        views = [memoryview(bytes(offset) + part)[offset:] for part in (frame.times, frame.times)]
        assert client.ask(m.Rows(1, *views)) == written(0, too_late=2)
    assert len(client.rig.finish()) == 16


def test_series_beyond_the_limit_are_refused_and_the_others_of_the_frame_stored() -> None:
    rig = IngestRig(max_series=2)
    client = Connection(rig)
    handles = client.open(*[path("load", host) for host in "abcd"])
    for i in range(2):
        reply = client.ask(columns(handles, [NOW_S + 60 * i, NOW_S + 600], [[1, 2, 3, 4], [5, 6, 7, 8]]))
        assert reply == written(4, series_limit=4)
    assert [one.value for one in rig.finish()] == [1.0, 2.0, 5.0, 6.0] * 2
    rig.directory.remove(0)
    assert client.ask(columns(handles[2:3], [NOW_S], [[9]])) == written(1)
    assert rig.finish()[-1] == Stored("c/c:load", NOW_S, 9.0)
    rig.close()


def test_a_metric_that_became_unknown_is_ignored_and_known_again_later() -> None:
    rig = IngestRig()
    client = Connection(rig)
    handles = client.open(path("load", "a"))
    rig.set_policy(False, 2)
    assert client.ask(columns(handles, [NOW_S], [[1]])) == written(0, unknown_metric=1)
    rig.set_policy(True, 3)
    assert client.ask(columns(handles, [NOW_S], [[2]])) == written(1)
    assert [one.value for one in rig.finish()] == [2.0]
    rig.close()


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (path("load", ""), "no_host"), (path("load", "a", cluster=""), "no_cluster"), (path(""), "bad_syntax"),
        (path("load", "h" * 256), "too_long"), (path("load", "a\x00"), "bad_encoding"),
        (path("load", "a", "core", "\x85"), "bad_encoding"), (path("l" * 65_536), "too_long"),
    ],
)  # fmt: skip
def test_a_series_with_impossible_names_is_refused_with_its_reason(
    client: Connection, series: list[str], reason: str
) -> None:
    opened = client.ask(m.Open([series, path()]))
    if opened.errors:
        assert opened.errors == [[0, reason]]
    else:
        assert client.ask(columns([0, 1], [NOW_S], [[1, 2]])) == written(1, **{reason: 1})
        assert [one.value for one in client.rig.finish()] == [2.0]


def test_a_ring_that_is_full_in_the_middle_of_a_frame_loses_and_duplicates_nothing() -> None:
    rig = IngestRig(ring_bytes=1024)
    client = Connection(rig)
    handles = client.open(*[path("flops", f"h{i}") for i in range(7)])
    values = np.arange(7 * 50, dtype="<f8").reshape(50, 7)
    for frame in (values, values[:3]):
        times = [NOW_S + 60 * i for i in range(len(frame))]
        assert client.ask(columns(handles, times, frame, F64)) == written(frame.size)
    found = [one.value for one in rig.finish()]
    assert found == [*values.T.reshape(-1).tolist(), *values[:3].reshape(-1).tolist()]
    assert any(isinstance(one, NeedRoom) for one in rig.effects)
    rig.close()


def test_nothing_of_a_frame_is_published_before_all_its_series_are_resolved(client: Connection) -> None:
    handles = client.open(path("load", "a"), path("load", "b"))
    client.ask(columns(handles[:1], [NOW_S], [[1]]))
    steps = client.begin(columns(handles, [NOW_S + 60], [[2, 3]]))
    client.rig.run_until(steps, NeedPaths)
    assert client.rig.engine.ring.position() == client.rig.engine.ring.head()
    assert client.rig.slot.epoch % 2 == 1, "references are in hand"
    with pytest.raises(StopIteration):
        steps.throw(StoreFull("no room for another level"))
    error(client.replies[-1][2], "store_full")
    assert [one.value for one in client.rig.finish()] == [1.0]
    assert client.ask(columns(handles, [NOW_S + 60], [[2, 3]])) == written(2)


def test_a_full_store_is_a_typed_error_for_columns_and_rows_and_counted_for_lines(client: Connection) -> None:
    grid, stamped = client.open(path(), path("beat"))
    client.rig.is_full = True
    error(client.ask(columns([grid], [NOW_S], [[1]])), "store_full")
    error(client.ask(rows(stamped, [1000 * NOW_S], [[1]])), "store_full")
    assert client.ask(m.Lines(line("load", "a", 1))) == written(0, store_full=1)
    assert client.rig.finish() == []


def test_requests_are_carried_out_in_order_and_answered_by_their_own_ids(client: Connection) -> None:
    handles = client.open(path())
    for message in (
        columns(handles, [NOW_S], [[1]]),
        m.Lines(line("load", "a", 2)),
        m.Ping(),
        columns([9], [], []),
    ):
        client.rig.run(client.begin(message))
    assert [reply[0] for reply in client.replies] == [1, 2, 3, 4, 5, 6]
    assert [reply[1] for reply in client.replies] == [None, None, Ack.DURABLE, Ack.DURABLE, None, None]
    assert [one.value for one in client.rig.finish()] == [1.0, 2.0]


def test_a_request_under_way_when_its_connection_ends_is_carried_out(client: Connection) -> None:
    handles = client.open(path())
    steps = client.begin(columns(handles, [NOW_S], [[1]]))
    client.rig.run_until(steps, NeedPaths)
    opening = client.begin(m.Open([path("load", "b")]))
    client.rig.run_until(opening, NeedPaths)
    client.session.close()
    client.rig.run_on(steps)
    client.rig.run_on(opening)
    assert client.rig.finish() == [Stored("c/a:load", NOW_S, 1.0)]
    assert client.rig.counter("handles_open") == 0


# --- rows


def bits(*values: float) -> list[int]:
    return [int(one) for one in np.array(values, "<f8").view("<u8")]


def test_rows_of_several_columns_are_stored_whole(client: Connection) -> None:
    (handle,) = client.open(path("scrape"))
    t = 1000 * NOW_S
    assert client.ask(rows(handle, [t + 1, t], [[5, *bits(0.5)], [6, *bits(NAN)]])) == written(2)
    assert client.rig.finish() == [
        Stored("c/a:scrape", t + 1, (5, *bits(0.5))), Stored("c/a:scrape", t, (6, *bits(NAN))),
    ]  # fmt: skip
    assert client.rig.counter("written") == 2
    assert client.rig.counter("samples") == 4


def test_rows_without_a_value_or_with_an_infinite_one_are_refused_alone(client: Connection) -> None:
    scrape, beat = client.open(path("scrape"), path("beat"))
    t, none = 1000 * NOW_S, 2**64 - 1
    words = [[1, *bits(1)], [none, *bits(NAN)], [none, *bits(2)], [3, *bits(float("inf"))]]
    assert client.ask(rows(scrape, [t, t + 1, t + 2, t + 3], words)) == written(2, bad_value=2)
    assert client.ask(rows(beat, [t, t + 1], [[none], [4]])) == written(1, bad_value=1)
    assert [one.value[0] for one in client.rig.finish()] == [1, none, 4]


def test_rows_outside_the_window_are_counted(client: Connection) -> None:
    (handle,) = client.open(path("beat"))
    t = 1000 * NOW_S
    stamps = [t, -1, t - 49 * 3_600_000, t + 3_600_999, t + 3_601_000, -(2**63), 2**63 - 1]
    reply = client.ask(rows(handle, stamps, [[i] for i in range(7)]))
    assert reply == written(2, bad_timestamp=2, too_late=1, too_far_ahead=2)
    assert [one.value for one in client.rig.finish()] == [(0,), (3,)]


def test_rows_of_another_width_are_refused(client: Connection) -> None:
    (handle,) = client.open(path("scrape"))
    reply = client.ask(rows(handle, [1000 * NOW_S], [[1, 2, 3]]))
    assert error(reply, "invalid_request").details == {"columns": 2}
    assert client.rig.finish() == []


def test_no_rows_and_too_many_rows(client: Connection) -> None:
    (handle,) = client.open(path("beat"))
    assert client.ask(rows(handle, [], [])) == written(0)
    n = limits.RUN_VALUES_MAX + 1
    error(client.ask(rows(handle, [1000 * NOW_S] * n, [[1]] * n)), "limit_exceeded")
    assert client.ask(rows(handle, [1000 * NOW_S] * (n - 1), [[1]] * (n - 1))) == written(n - 1)


def test_rows_of_a_series_beyond_the_limit_are_counted() -> None:
    rig = IngestRig(max_series=1)
    client = Connection(rig)
    first, second = client.open(path("beat", "a"), path("beat", "b"))
    assert client.ask(rows(first, [1000 * NOW_S], [[1]])) == written(1)
    assert client.ask(rows(second, [1000 * NOW_S] * 2, [[1]] * 2)) == written(0, series_limit=2)
    rig.finish()
    rig.close()


def test_rows_of_many_columns_wait_for_room_and_come_whole() -> None:
    rig = IngestRig(ring_bytes=1 << 16)
    client = Connection(rig)
    names = [[f"c{i}", "u64"] for i in range(limits.STAMPED_COLUMNS_MAX)]
    (handle,) = client.open(path("wide"), specs=[[0, "none", "u64", "", names]])
    words = np.arange(500 * len(names), dtype="<u8").reshape(500, -1)
    assert client.ask(rows(handle, [1000 * NOW_S + i for i in range(500)], words)) == written(500)
    assert [one.value for one in rig.finish()] == [tuple(row) for row in words.tolist()]
    rig.close()


def test_handles_of_removed_stamped_series_are_interned_again(client: Connection) -> None:
    (handle,) = client.open(path("beat"))
    client.ask(rows(handle, [1000 * NOW_S], [[1]]))
    client.rig.finish()
    client.rig.directory.remove(0)
    assert client.ask(rows(handle, [1000 * NOW_S], [[2]])) == written(1)
    assert [one.value for one in client.rig.finish()] == [(1,), (2,)]
