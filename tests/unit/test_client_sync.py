"""The blocking client against a stand-in: results, reconnecting, threads, forks, interrupts, errors."""

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mstore
from mstore import Question, errors, limits
from mstore.client import lines as client_lines
from mstore.client.aio import AsyncClient
from mstore.client.results import WriteResult
from mstore.client.sync import Client
from mstore.ipc import messages as m
from mstore.model import Metric, MetricSpec, SeriesPath
from mstore.query import Reader
from tests.unit.test_client_store import FakeStore, fake_store


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with fake_store(tmp_path) as found:
        yield found


@pytest.fixture
def client(store: FakeStore) -> Any:
    with mstore.connect(store.directory, timeout=5) as found:
        yield found


# --- what it asks for, what it returns


def test_connecting_without_a_store_is_unavailable_at_once_and_names_the_socket(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(errors.Unavailable, match=r"query\.sock.*mstore serve"):
        mstore.connect(tmp_path, timeout=20)
    assert time.monotonic() - began < 2


def test_write_takes_text_bytes_files_and_iterables(store: FakeStore, client: Client, tmp_path: Path) -> None:
    text = "cpu,hostname=a value=1 1\ncpu,hostname=ü value=2 1\n"
    expected = WriteResult(2, 0, 0, {}, True)
    assert client.write(text) == expected
    assert client.write(text.encode()) == expected
    assert client.write(bytearray(text.encode())) == expected
    assert client.write(memoryview(text.encode())) == expected
    assert client.write(text.splitlines()) == expected
    assert client.write(line.encode() + b"\n" for line in text.splitlines()) == expected
    (tmp_path / "lines").write_text(text)
    with (tmp_path / "lines").open("rb") as file:
        assert client.write(file) == expected
    assert store.text == text.encode() * 7


def test_empty_write_sends_nothing_and_returns_zeros(store: FakeStore, client: Client) -> None:
    assert client.write(b"") == WriteResult()
    assert client.write([]) == WriteResult()
    assert store.requests(m.Lines) == []


def test_large_write_is_cut_at_line_ends_and_loses_no_byte(store: FakeStore, client: Client) -> None:
    text = b"".join(b"cpu,hostname=h%d value=%d 1700000000\n" % (i % 1000, i) for i in range(60_000))
    result = client.write(text)
    assert result.written == 60_000
    assert store.text == text
    frames = store.requests(m.Lines)
    assert len(frames) == -(-len(text) // client_lines.PIECE_BYTES)
    assert all(bytes(frame.data).endswith(b"\n") for frame in frames)


def test_line_beyond_the_limit_reaches_the_store_as_one_too_long_line() -> None:
    long = b"x" * (3 * client_lines.PIECE_BYTES)
    found = [bytes(piece) for piece in client_lines.pieces(b"a\n" + long + b"\nb\n")]
    assert b"".join(found[:1]) == b"a\n"
    assert found[1] == b"x" * (limits.LINE_BYTES_MAX + 1)
    assert found[2:] == [b"b\n"]


def test_counts_of_all_frames_are_added_up(store: FakeStore, client: Client) -> None:
    store.answer = lambda _: m.Written(3, 2, 1, {"bad_syntax": 2, "unknown_metric": 1}, True)
    result = client.write(b"l\n" * (2 * client_lines.PIECE_BYTES // 2))
    assert result == WriteResult(6, 4, 2, {"bad_syntax": 4, "unknown_metric": 2}, True)


def test_one_result_that_is_not_durable_makes_the_sum_not_durable() -> None:
    assert not (WriteResult(durable=True) + WriteResult(durable=False)).durable


def test_cluster_and_ack_are_told_in_the_greeting_and_precision_in_the_frame(store: FakeStore) -> None:
    with mstore.connect(store.directory, ack="memory", cluster="fritz") as client:
        client.write("l", precision="ns")
        client.write("l", cluster="alex")
    roles = [(hello.role, hello.cluster, hello.ack) for hello in store.hellos]
    assert roles == [("query", "", "memory"), ("ingest", "fritz", "memory"), ("ingest", "alex", "memory")]
    assert [frame.precision for frame in store.requests(m.Lines)] == ["ns", ""]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"ack": "disk"}, "durable, memory"),
        ({"timeout": 0}, "above 0"),
        ({"timeout": float("nan")}, "above 0"),
    ],
)
def test_bad_arguments_of_connect_say_what_is_allowed(
    tmp_path: Path, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=named):
        Client(tmp_path, **arguments)


def test_bad_precision_says_what_is_allowed(client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="s, ms, us, ns"):
        client.write("l", precision="h")


def test_put_writes_one_escaped_line_for_each_metric(store: FakeStore, client: Client) -> None:
    values = {"mem used": 1.5, "flops": np.float32(2), "n": np.int64(7)}
    client.put(
        "fr,itz", "a=b", values, 1_700_000_000, type="core", type_id=3, subtype="x", subtype_id="y", unit="W"
    )
    tags = b",cluster=fr\\,itz,hostname=a\\=b,type=core,type-id=3,stype=x,stype-id=y,unit=W"
    assert store.text == b"".join(
        name + tags + b" value=" + value + b" 1700000000000\n"
        for name, value in ((b"mem\\ used", b"1.5"), (b"flops", b"2.0"), (b"n", b"7"))
    )
    assert store.requests(m.Lines)[0].precision == "ms"


def test_put_stamps_the_line_itself_so_that_a_resend_is_the_same_line() -> None:
    moment = datetime(2024, 5, 29, 16, 26, 40, 250_000, tzinfo=UTC)
    assert client_lines.stamp_ms(None, 1_700_000_000_123) == 1_700_000_000_123
    assert client_lines.stamp_ms(moment, 0) == 1_717_000_000_250
    assert client_lines.stamp_ms(1_717_000_000.25, 0) == 1_717_000_000_250
    assert client_lines.stamp_ms("-2h", 7_200_000) == 0


@pytest.mark.parametrize("name", ["", "a\\", "#a", "a\nb"])
def test_put_refuses_names_that_line_protocol_cannot_carry(client: Client, name: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="cannot be written"):
        client.put("c", "h", {name: 1.0})


@pytest.mark.parametrize("value", [True, "many", None, np.bool_(True)])
def test_put_refuses_what_is_no_number(client: Client, value: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="no number"):
        client.put("c", "h", {"m": value})


def test_query_returns_one_series_for_one_id_and_a_list_for_a_list(store: FakeStore, client: Client) -> None:
    one = client.query("fritz", "f0201", "power", 600, 1200, type="core", type_ids=3)
    assert isinstance(one, mstore.Series)
    assert (one.start, one.step, len(one), one.unit, one.type_id) == (600, 60, 10, "W", "3")
    assert one.values.tolist() == list(range(10))
    several = client.query("fritz", "f0201", "power", 600, 1200, type="core", type_ids=[3, "12"])
    assert isinstance(several, list)
    assert [series.type_id for series in several] == ["3", "12"]
    assert store.requests(m.Query)[1].type_ids == ["3", "12"]


def test_query_times_are_turned_into_seconds_before_they_are_sent(store: FakeStore, client: Client) -> None:
    before = int(time.time())
    client.query("c", "h", "m", "-2h", "now")
    client.query("c", "h", "m", datetime(1970, 1, 1, 0, 10), 1200, resolution=120, aggregate=True, timeout=2)
    first, second = store.requests(m.Query)
    assert first.end - first.start == 7200
    assert 0 <= first.end - before <= 5
    assert (second.start, second.end, second.resolution, second.aggregate) == (600, 1200, 120, True)
    assert (first.deadline_ms, second.deadline_ms) == (0, 2000)


def test_a_time_before_1970_does_not_take_protection_back(store: FakeStore, client: Client) -> None:
    store.answer = lambda _: m.Done({"protected": 0})
    for until in ("clear", 0, "1969-01-01", 5):
        client.protect("fritz", "f1", until)
    assert [message.until_s for _, message in store.received if isinstance(message, m.Protect)] == [
        0,
        1,
        1,
        5,
    ]


def test_a_question_has_the_same_arguments_wherever_it_is_asked(store: FakeStore, client: Client) -> None:
    def arguments(method: Any) -> dict[str, Any]:
        found = inspect.signature(method).parameters.values()
        return {one.name: one.default for one in found if one.name not in ("self", "timeout")}

    asked = arguments(Client.query)
    assert arguments(AsyncClient.query) == arguments(Reader.query) == asked
    assert {name: asked[name] for name in Question._field_defaults} == Question._field_defaults
    more = {
        "aggregate": True, "resolution": 120, "algo": "max", "function": "rate", "window": 60,
        "missing": "propagate", "scale_by": 2.5, "fill": "previous", "max_gap": 30,
    }  # fmt: skip
    client.query("c", "h", "m", 0, 600, **more)
    (sent,) = store.requests(m.Query)
    assert {name: getattr(sent, name) for name in more} == more


def test_lists_and_info_come_back_as_plain_python(store: FakeStore, client: Client) -> None:
    assert client.children() == ["fritz"]
    assert client.children("fritz") == ["a", "b"]
    assert client.host_series("fritz", "f0201") == [SeriesPath("fritz", "f0201", "mem_bw", "socket", "0")]
    assert client.paths(2) == [("fritz", "f0201"), ("fritz", "f0202")]
    assert client.metrics("fritz") == [Metric("fritz", "mem", 60, "GB", "sum", "f64")]
    assert client.info() == {"state": "ready"}
    assert client.control("reload") == {"did": "Reload"}
    with pytest.raises(errors.InvalidRequest, match="stop, restart, reload, snapshot"):
        client.control("explode")


def test_error_of_the_store_is_raised_as_the_same_class_with_its_details(
    store: FakeStore, client: Client
) -> None:
    store.answer = lambda _: m.Error.of(errors.UnknownMetric("no metric x", metric="x"))
    with pytest.raises(errors.UnknownMetric, match="no metric x") as caught:
        client.query("c", "h", "x", 0, 60)
    assert caught.value.details == {"metric": "x"}
    store.answer = store.usual
    client.ping()
    assert store.n_connections == 1, "an answered error is no reason for a new connection"


def test_error_to_one_frame_ends_a_write_after_the_others_are_answered(
    store: FakeStore, client: Client
) -> None:
    answers = iter([m.Written(1, 0, 0, {}, True), m.Error.of(errors.StoreFull("full"))])
    store.answer = lambda _: next(answers, m.Written(1, 0, 0, {}, True))
    with pytest.raises(errors.StoreFull, match="full"):
        client.write(b"l\n" * (2 * client_lines.PIECE_BYTES))
    store.answer = store.usual
    assert client.write("l").written == 1
    assert store.n_connections == 2, "one for questions, one for writes, none was lost"


def test_connections_are_used_again(store: FakeStore, client: Client) -> None:
    for _ in range(5):
        client.ping()
        client.write("l")
    assert store.n_connections == 2


def test_closed_client_refuses_further_calls(client: Client) -> None:
    client.close()
    with pytest.raises(errors.InvalidRequest, match="closed"):
        client.ping()


# --- broken connections


def test_idle_connection_that_the_store_closed_is_replaced_unnoticed(
    store: FakeStore, client: Client
) -> None:
    store.drop_connections()
    assert client.info() == {"state": "ready"}
    assert client.write("l").written == 1


def test_write_is_resent_whole_and_in_order_when_the_store_drops_it_midway(
    store: FakeStore, client: Client
) -> None:
    dropped = []

    def answer(message: m.Message) -> Any:
        if len(store.requests(m.Lines)) == 3 and not dropped:
            dropped.append(message)
            return "drop"
        return store.usual(message)

    store.answer = answer
    text = b"".join(b"cpu,hostname=h value=%d 1700000000\n" % i for i in range(400_000))
    assert len(text) > 3 * client_lines.PIECE_BYTES
    result = client.write(text)
    assert dropped
    assert result.written == 400_000
    # A stand-in that applies frames as they come: the same lines again at most, in the same order.
    pieces = [bytes(piece) for piece in client_lines.pieces(text)]
    second = [message for number, message in store.received if isinstance(message, m.Lines) and number == 3]
    assert [bytes(frame.data) for frame in second] == pieces[-len(second) :]


def test_client_waits_for_a_store_that_restarts(store: FakeStore, client: Client) -> None:
    client.ping()
    store.refuse()
    timer = threading.Timer(0.3, store.start)
    timer.start()
    assert client.info() == {"state": "ready"}
    timer.join()


def test_store_that_stays_away_is_unavailable_when_the_time_is_up(store: FakeStore) -> None:
    with mstore.connect(store.directory, timeout=0.5) as client:
        store.refuse()
        began = time.monotonic()
        with pytest.raises(errors.Unavailable):
            client.info()
        assert 0.1 < time.monotonic() - began < 2


def test_worker_that_says_unavailable_is_asked_again_on_a_new_connection(
    store: FakeStore, client: Client
) -> None:
    answers = iter([m.Error("unavailable", "this worker stops")])
    store.answer = lambda message: next(answers, None) or store.usual(message)
    assert client.info() == {"state": "ready"}
    assert store.n_connections == 2


def test_no_answer_in_time_is_a_timeout_and_the_next_call_works(store: FakeStore) -> None:
    with mstore.connect(store.directory, timeout=0.3) as client:
        store.answer = lambda _: None
        with pytest.raises(errors.Timeout, match="again is safe"):
            client.write("l")
        with pytest.raises(TimeoutError):
            client.query("c", "h", "m", 0, 60, timeout=0.1)
        store.answer = store.usual
        assert client.info() == {"state": "ready"}


def test_garbage_from_the_store_is_a_protocol_error_and_not_retried(store: FakeStore, client: Client) -> None:
    store.answer = lambda _: m.Names(["not", "info"])
    with pytest.raises(errors.ProtocolError, match="Info was answered by Names"):
        client.info()


def test_connection_level_error_is_raised(store: FakeStore, client: Client) -> None:
    original = store._reply

    def refuse(number: int, message: m.Message) -> Any:
        if isinstance(message, m.Hello):
            return m.Error.of(errors.VersionMismatch("speak version 2", oldest=2, newest=2))
        return original(number, message)

    store._reply = refuse  # type: ignore[method-assign]  # a store of another version
    with pytest.raises(errors.VersionMismatch, match="version 2"):
        client.write("l")


# --- threads, forks, interrupts


def test_threads_share_a_client(store: FakeStore, client: Client) -> None:
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(20):
                found = client.query("c", "h", f"m{i}", 0, 600)
                assert isinstance(found, mstore.Series)
                assert found.metric == f"m{i}"
                assert client.write(f"cpu,hostname=t{i} value=1 1").written == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert len(store.requests(m.Query)) == 160
    assert store.n_connections <= 17


_FORK = """
import os, sys, mstore
client = mstore.connect(sys.argv[1], timeout=10)
writer = client.writer()
handles = writer.open([("c", "h", "m")])
child = os.fork()
if child == 0:
    code = 1
    try:
        assert client.info() == {"state": "ready"}
        assert client.write("l").written == 1
        try:
            writer.write(handles, [1], [1.0])
        except mstore.errors.InvalidRequest as error:
            code = 0 if "fork" in str(error) else 2
        writer.close()
    finally:
        os._exit(code)
assert client.info() == {"state": "ready"}
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
writer.write(handles, [1], [1.0])
assert writer.flush().written == 1
assert client.info() == {"state": "ready"}
"""


def test_child_after_a_fork_makes_its_own_connections_and_the_parent_keeps_its(store: FakeStore) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK, str(store.directory)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    by_connection = {number for number, message in store.received if isinstance(message, m.Info)}
    assert len(by_connection) == 2


def test_interrupt_ends_a_call_tells_the_store_and_leaves_the_client_usable(
    store: FakeStore, client: Client
) -> None:
    asked = threading.Event()

    def answer(message: m.Message) -> Any:
        if isinstance(message, m.Query):
            asked.set()
            return None
        return store.usual(message)

    def interrupt() -> None:
        asked.wait(5)
        time.sleep(0.2)  # the store may know of the question before the client waits for the answer
        os.kill(os.getpid(), signal.SIGINT)

    store.answer = answer
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        client.query("c", "h", "m", 0, 60)
    thread.join(5)
    assert client.info() == {"state": "ready"}
    until = time.monotonic() + 5
    while not store.requests(m.Cancel) and time.monotonic() < until:
        time.sleep(0.005)
    assert len(store.requests(m.Cancel)) == 1


# --- columns


def test_columns_arrive_as_they_were_written(store: FakeStore, client: Client) -> None:
    with client.writer() as writer:
        handles = writer.open([SeriesPath("c", f"h{i}", "m") for i in range(3)])
        assert (handles.dtype, handles.tolist()) == (np.uint32, [0, 1, 2])
        values = np.arange(6, dtype=np.float64).reshape(2, 3)
        writer.write(handles, [60, 120], values)
        assert writer.flush() == WriteResult(6)
    (frame,) = store.requests(m.Columns)
    assert np.frombuffer(frame.handles, "<u4").tolist() == [0, 1, 2]
    assert np.frombuffer(frame.times, "<i8").tolist() == [60, 120]
    assert np.array_equal(np.frombuffer(frame.values, "<f4").reshape(2, 3), values)
    assert store.requests(m.Open)[0].series[2] == ["c", "h2", "m", "", "", "", ""]


def test_large_matrix_is_cut_into_frames_that_add_up(store: FakeStore, client: Client) -> None:
    n, times = 300_000, np.arange(4) * 60
    values = np.arange(n * 4, dtype=np.float32).reshape(4, n)
    with client.writer(window=2) as writer:
        handles = writer.open([("c", f"h{i}", "m") for i in range(n)])
        writer.write(handles, times, values)
        assert writer.flush().written == n * 4
    frames = store.requests(m.Columns)
    assert len(frames) > 1
    again = np.concatenate([np.frombuffer(frame.values, "<f4").reshape(-1, n) for frame in frames])
    assert np.array_equal(again, values)
    assert sum(len(message.series) for message in store.requests(m.Open)) == n


def test_spec_is_sent_for_each_series_and_refused_handles_are_told(store: FakeStore, client: Client) -> None:
    writer = client.writer()
    spec = MetricSpec("x", step_s=0, columns=(("a", "f64"), ("b", "u64")))
    writer.open([("c", "h", "m")])
    writer.open([("c", "h", "m2"), ("c", "h", "nope", "core", "1")], spec)
    assert writer.refused == {2: "unknown_metric"}
    message = store.requests(m.Open)[1]
    assert message.specs == [[0, "avg", "f32", "", [["a", "f64"], ["b", "u64"]]]] * 2
    assert message.series[1] == ["c", "h", "nope", "core", "1", "", ""]
    writer.close()


def test_samples_of_refused_handles_are_counted_and_not_sent(store: FakeStore, client: Client) -> None:
    with client.writer() as writer:
        handles = writer.open([("c", "h", "m"), ("c", "h", "nope"), ("c", "h", "m2")])
        writer.write(handles, [60, 120], np.arange(6.0).reshape(2, 3))
        writer.rows(1, [1, 2, 3], [1.0, 2.0, 3.0])
        writer.write(handles[1:2], [60], [1.0])
        assert writer.flush() == WriteResult(4, 0, 6, {"unknown_metric": 6})
    (frame,) = store.requests(m.Columns)
    assert np.frombuffer(frame.handles, "<u4").tolist() == [0, 2]
    assert np.frombuffer(frame.values, "<f4").tolist() == [0.0, 2.0, 3.0, 5.0]


def test_rows_are_sent_as_eight_byte_words(store: FakeStore, client: Client) -> None:
    rows = np.array([(1.5, 2), (2.5, 3)], dtype=[("a", "<f8"), ("b", "<u8")])
    with client.writer() as writer:
        (handle,) = writer.open([("c", "h", "m")])
        writer.rows(handle, [1000, 2000], rows)
        writer.rows(handle, np.array(["1970-01-01T00:00:03"], "datetime64[ns]"), [[7.0]])
        assert writer.flush().written == 3
    first, second = store.requests(m.Rows)
    assert bytes(first.values) == rows.tobytes()
    assert np.frombuffer(second.stamps, "<i8").tolist() == [3000]
    assert np.frombuffer(second.values, "<f8").tolist() == [7.0]


def test_values_that_do_not_fit_u64_become_the_missing_value() -> None:
    from mstore.client.columns import to_type

    missing = 2**64 - 1
    floats = np.array([0.0, 3.0, -1.0, 1.5, np.nan, np.inf, 2.0**64, 2.0**63])
    assert to_type(floats, m.TYPE_U64).tolist() == [0, 3, *[missing] * 5, 2**63]
    assert to_type(np.array([-1, 0, 5]), m.TYPE_U64).tolist() == [missing, 0, 5]
    assert to_type(np.array([2**64 - 2], np.uint64), m.TYPE_U64).tolist() == [2**64 - 2]
    assert np.isinf(to_type(np.array([1e300]), m.TYPE_F32)).all()


def test_writer_opens_again_and_translates_handles_after_a_reconnect(
    store: FakeStore, client: Client
) -> None:
    writer = client.writer()
    handles = writer.open([("c", "h0", "m"), ("c", "h1", "m")])
    writer.write(handles, [60], [1.0, 2.0])
    assert writer.flush().written == 2
    store.first_handle = 500
    store.drop_connections()
    writer.write(handles[::-1], [120], [3.0, 4.0])
    assert writer.flush().written == 2
    last = store.requests(m.Columns)[-1]
    assert np.frombuffer(last.handles, "<u4").tolist() == [501, 500]
    assert len(store.requests(m.Open)) == 2
    writer.close()


def test_handles_changed_in_place_between_writes_are_sent_as_they_are(
    store: FakeStore, client: Client
) -> None:
    with client.writer() as writer:
        handles = writer.open([("c", f"h{i}", "m") for i in range(3)])
        mine = handles[:2].copy()
        writer.write(mine, [60], [1.0, 2.0])
        writer.write(mine, [120], [1.0, 2.0])
        mine[1] = 2
        writer.write(mine, [180], [1.0, 2.0])
        mine[1] = 3
        with pytest.raises(errors.UnknownHandle):
            writer.write(mine, [240], [1.0, 2.0])
        writer.flush()
    sent = [np.frombuffer(frame.handles, "<u4").tolist() for frame in store.requests(m.Columns)]
    assert sent == [[0, 1], [0, 1], [0, 2]]


def test_values_are_sent_in_the_type_that_a_reconnect_has_brought(store: FakeStore, client: Client) -> None:
    writer = client.writer()
    handles = writer.open([("c", "h0", "m")])
    writer.write(handles, [60], [1.0])
    writer.flush()
    store.handle_type = m.TYPE_F64
    store.drop_connections()
    writer.write(handles, [120], [2.0])
    writer.flush()
    writer.write(handles, [180], [3.0])
    writer.flush()
    assert [frame.type for frame in store.requests(m.Columns)][-1] == m.TYPE_F64
    writer.close()


def test_array_changed_after_write_does_not_change_what_is_resent(store: FakeStore, client: Client) -> None:
    writer = client.writer()
    handles = writer.open([("c", "h0", "m")])
    values = np.array([1.0], np.float32)
    store.answer = lambda _: None
    writer.write(handles, [60], values)
    values[:] = 9.0
    while not store.requests(m.Columns):
        time.sleep(0.005)
    store.answer = store.usual
    store.drop_connections()
    assert writer.flush().written == 1
    assert [np.frombuffer(frame.values, "<f4")[0] for frame in store.requests(m.Columns)] == [1.0, 1.0]
    writer.close()


def test_error_to_a_frame_is_raised_by_the_next_flush_and_counts_are_kept(
    store: FakeStore, client: Client
) -> None:
    writer = client.writer()
    handles = writer.open([("c", "h0", "m")])
    answers = iter([m.Error.of(errors.UnknownHandle("gone"))])
    store.answer = lambda message: next(answers, None) or store.usual(message)
    writer.write(handles, [60], [1.0])
    writer.write(handles, [120], [1.0])
    with pytest.raises(errors.UnknownHandle, match="gone"):
        writer.flush()
    assert writer.flush().written == 1
    writer.close()


def test_wrong_shapes_and_unknown_handles_are_refused_before_anything_is_sent(client: Client) -> None:
    writer = client.writer()
    handles = writer.open([("c", "h0", "m")])
    with pytest.raises(errors.InvalidRequest, match="m x n"):
        writer.write(handles, [60], [1.0, 2.0])
    with pytest.raises(errors.UnknownHandle):
        writer.write([7], [60], [1.0])
    with pytest.raises(errors.InvalidRequest, match="no series"):
        writer.open(["c/h/m"])
    with pytest.raises(errors.InvalidRequest, match="window"):
        client.writer(window=0)
    writer.write(handles, [], [])
    assert writer.flush() == WriteResult()
    writer.close()


def test_threads_share_a_writer(store: FakeStore, client: Client) -> None:
    writer = client.writer(window=4)
    handles = writer.open([("c", f"h{i}", "m") for i in range(8)])

    def work(i: int) -> None:
        for t in range(25):
            writer.write(handles[i : i + 1], [t * 60], [float(i)])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert writer.flush().written == 200
    writer.close()
