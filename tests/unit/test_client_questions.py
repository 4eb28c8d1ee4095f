"""Questions over one connection: the short way of a single one, and many that are under way together."""

import asyncio
import itertools
import os
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mstore
from mstore import Question, choices, errors, limits, paths
from mstore.client import questions
from mstore.client.aio import AsyncClient
from mstore.client.sync import Client
from mstore.frames import Series
from mstore.ipc import framing, transport
from mstore.ipc import messages as m
from mstore.workers.selecting import stack_of
from tests.unit.test_client_store import FakeStore, fake_store


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with fake_store(tmp_path) as found:
        yield found


@pytest.fixture
def client(store: FakeStore) -> Any:
    with mstore.connect(store.directory, timeout=5) as found:
        yield found


def asked(n: int, metric: str = "m") -> list[Question]:
    return [Question("c", f"h{i}", f"{metric}{i}", 0, 60 * (1 + i % 7)) for i in range(n)]


def metrics_of(found: list[Any]) -> list[str]:
    assert all(isinstance(series, Series) for series in found)
    return [series.metric for series in found]


def test_a_question_says_all_that_is_to_be_done_with_the_samples() -> None:
    question = Question(
        "c", "h", "m", 0, 60, algo="lttb", function="rate", window=300, missing="propagate",
        scale_by=np.float32(2), fill="linear", max_gap=120,
    )  # fmt: skip
    message = question.message(0, None)
    sent = m.decode(message.TAG, m.encode_body(message))
    assert sent == m.Query(
        "c", "h", "m", 0, 60, algo="lttb", function="rate", window=300, missing="propagate",
        scale_by=2.0, fill="linear", max_gap=120,
    )  # fmt: skip
    assert Question("c", "h", "m", 0, 60).message(0, None) == m.Query("c", "h", "m", 0, 60)
    for wrong, told in (
        ({"window": -1}, "window=-1"), ({"max_gap": 2**31}, "max_gap"), ({"scale_by": None}, "scale_by=None"),
        ({"scale_by": float("inf")}, "finite"), ({"scale_by": "2"}, "finite"),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidRequest, match=told):
            Question("c", "h", "m", 0, 60, **wrong).message(0, None)


class Counting:
    """A socket that counts the calls of its methods."""

    def __init__(self, sock: socket.socket, counts: Counter[str]) -> None:
        self._sock = sock
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sock, name)
        if not callable(found) or name == "fileno":
            return found
        self._counts[name] += 1
        return found


class SlowStore:
    """A store that does what a query worker may do: it reads no question while the answer before is not taken.

    pieces  bytes of an answer that are sent at a time, each after a pause; 0 = all of it
    """

    def __init__(self, directory: Path, n_samples: int, pieces: int = 0) -> None:
        self.values = np.arange(n_samples, dtype=np.float32)
        self.pieces = pieces
        self._listener = socket.socket(socket.AF_UNIX)
        paths.run_dir(directory).mkdir(parents=True)
        self._listener.bind(paths.socket_path(directory, "query"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        decoder = framing.FrameDecoder(tags=m.TAGS)
        with sock:
            while data := sock.recv(4096):
                for tag, request_id, body in decoder.feed(data):
                    self._send(sock, m.encode(self._answer(m.decode(tag, bytes(body))), request_id))

    def _send(self, sock: socket.socket, data: bytes) -> None:
        size = self.pieces or len(data)
        for at in range(0, len(data), size):
            sock.sendall(data[at : at + size])
            if self.pieces:
                time.sleep(0.0002)

    def _answer(self, message: m.Message) -> m.Message:
        match message:
            case m.Hello():
                return m.Welcome(1, 1, {}, message.ack)
            case m.Query():
                series = Series(self.values, message.start, 60, metric=message.metric)
                return m.Answer(False, [series.to_wire()])
            case m.QueryMany():
                asked = [m.of_fields(m.Query, fields) for fields in message.questions]
                return stack_of([Series(self.values, one.start, 60, metric=one.metric) for one in asked])
            case _:
                return m.Done({})

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def ring_often() -> Iterator[None]:
    """A signal with a handler every 10 ms, as profilers send them."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# --- one question


def test_question_on_an_idle_connection_is_one_send_one_wait_and_one_receive(
    store: FakeStore, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (session,) = client._ops.pool._idle["query", ""]
    counts: Counter[str] = Counter()
    assert session.link.sock is not None
    session.link.sock = Counting(session.link.sock, counts)  # type: ignore[assignment]  # counts and passes on
    waits = []
    wait = transport._wait
    monkeypatch.setattr(transport, "_wait", lambda poll, until_s: (waits.append(1), wait(poll, until_s))[1])
    client.query("c", "h", "m", 0, 600)
    assert (counts, len(waits)) == ({"send": 1, "recv_into": 1}, 1)


def test_answer_that_comes_in_pieces_is_the_same_answer(tmp_path: Path) -> None:
    store = SlowStore(tmp_path, 200, pieces=7)
    with mstore.connect(tmp_path, timeout=20) as client:
        found = client.query("c", "h", "m", 0, 60)
        assert isinstance(found, Series)
        assert found.values.tolist() == store.values.tolist()
    store.close()


def test_signals_while_waiting_do_not_prolong_the_deadline(store: FakeStore, ring_often: None) -> None:
    with mstore.connect(store.directory, timeout=0.3) as client:
        store.answer = lambda _: None
        began = time.monotonic()
        with pytest.raises(errors.Timeout):
            client.query("c", "h", "m", 0, 60)
        assert time.monotonic() - began >= 0.3


def test_timeouts_longer_than_the_system_can_count_are_several_waits(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mstore.connect(store.directory, timeout=4_000_000) as client:
        assert client.info() == {"state": "ready"}
    monkeypatch.setattr(transport, "POLL_S_MAX", 0.01)
    late = threading.Event()

    def answer(message: m.Message) -> Any:
        late.wait(0.1)
        return store.usual(message)

    with mstore.connect(store.directory, timeout=5) as client:
        store.answer = answer
        assert client.info() == {"state": "ready"}


def test_deadline_that_has_passed_sends_nothing(store: FakeStore, client: Client) -> None:
    n_before = len(store.received)
    with pytest.raises(errors.Timeout):
        client.query("c", "h", "m", 0, 60, timeout=-1e-9)
    assert client.info() == {"state": "ready"}
    assert [type(message) for _, message in store.received[n_before:]] == [m.Info]


def test_request_larger_than_the_socket_is_sent_whole(store: FakeStore, client: Client) -> None:
    ids = [f"{i:0200d}" for i in range(15_000)]
    found = client.query("c", "h", "m", 0, 60, type="core", type_ids=ids)
    assert isinstance(found, list)
    assert [series.type_id for series in found] == ids


# --- many


def test_many_questions_are_answered_in_their_order(store: FakeStore, client: Client) -> None:
    found = client.query_many(asked(1500))
    assert metrics_of(found) == [f"m{i}" for i in range(1500)]
    assert [len(series) for series in found] == [1 + i % 7 for i in range(1500)]
    assert store.n_connections == 1
    assert client.query_many([]) == []


def test_questions_may_ask_for_lists_and_relative_times(store: FakeStore, client: Client) -> None:
    one, several = client.query_many(
        [Question("c", "h", "m", "-2h", "now"), Question("c", "h", "m", 0, 60, "core", [3, "12"])]
    )
    assert isinstance(one, Series)
    assert len(one) == 120
    assert isinstance(several, list)
    assert [series.type_id for series in several] == ["3", "12"]


def test_asyncio_client_answers_many_questions_alike(store: FakeStore) -> None:
    async def work() -> list[Any]:
        async with AsyncClient(store.directory, timeout=10) as client:
            return await client.query_many(asked(300))

    assert metrics_of(asyncio.run(work())) == [f"m{i}" for i in range(300)]


def test_first_error_ends_the_call_and_the_client_goes_on(store: FakeStore, client: Client) -> None:
    def answer(message: m.Message) -> Any:
        if isinstance(message, m.Query) and message.metric == "m7":
            return m.Error.of(errors.UnknownMetric("no metric m7", metric="m7"))
        return store.usual(message)

    store.answer = answer
    with pytest.raises(errors.UnknownMetric, match="m7"):
        client.query_many(asked(50))
    assert metrics_of(client.query_many(asked(3, "x"))) == ["x0", "x1", "x2"]


def test_too_many_questions_are_refused_before_any_is_sent(store: FakeStore, client: Client) -> None:
    def endless() -> Iterator[Question]:
        for n in itertools.count():
            assert n <= limits.QUERY_MANY_MAX, "no more are taken than it needs to know"
            yield Question("c", "h", "m", 0, 60)

    with pytest.raises(errors.LimitExceeded, match="more than 100000 questions"):
        client.query_many(endless())
    with pytest.raises(errors.LimitExceeded):
        choices.questions(endless())


def test_bad_question_is_refused_before_any_is_sent(store: FakeStore, client: Client) -> None:
    with pytest.raises(errors.InvalidStep, match="resolution=-1"):
        client.query_many([*asked(3), Question("c", "h", "m", 0, 60, resolution=-1)])
    assert store.requests(m.Query) == []


def test_broken_connection_asks_again_what_was_not_answered(store: FakeStore, client: Client) -> None:
    dropped: list[m.Message] = []

    def answer(message: m.Message) -> Any:
        if isinstance(message, m.Query) and message.metric == "m40" and not dropped:
            dropped.append(message)
            return "drop"
        return store.usual(message)

    store.answer = answer
    assert metrics_of(client.query_many(asked(100))) == [f"m{i}" for i in range(100)]
    assert (len(dropped), store.n_connections) == (1, 2)


def test_silent_store_is_a_timeout_counted_from_the_last_answer(store: FakeStore) -> None:
    def answer(message: m.Message) -> Any:
        if isinstance(message, m.Query):
            time.sleep(0.02)
            return None if message.metric == "m30" else store.usual(message)
        return store.usual(message)

    with mstore.connect(store.directory, timeout=0.4) as client:
        store.answer = answer
        with pytest.raises(errors.Timeout):
            client.query_many(asked(31))
        store.answer = store.usual
        assert len(client.query_many(asked(2))) == 2


def test_many_large_answers_do_not_lock_up_with_a_store_that_waits_for_its_reader(tmp_path: Path) -> None:
    store = SlowStore(tmp_path, 2000)
    long = "x" * 400
    with mstore.connect(tmp_path, timeout=10) as client:
        found = client.query_many(asked(6000, long))
    assert metrics_of(found) == [f"{long}{i}" for i in range(6000)]
    store.close()


def test_questions_under_way_stay_below_their_bound(store: FakeStore, client: Client) -> None:
    session = client._ops.pool.take("query")
    under_way: list[int] = []

    def until_s() -> float:
        under_way.append(
            sum(
                questions._size(m.of_fields(m.Query, fields))
                for message in session.unanswered.values() if isinstance(message, m.QueryMany)
                for fields in message.questions
            )
        )  # fmt: skip
        return time.monotonic() + 5

    asking = [question.message(0, None) for question in asked(3000)]
    assert len(transport.run(questions.answered(session, asking, 0, until_s))) == 3000
    client._ops.pool.give(session, "query")
    assert questions.UNDER_WAY_BYTES_MAX / 4 < max(under_way) <= questions.UNDER_WAY_BYTES_MAX


def test_sizes_of_questions_are_near_those_on_the_wire() -> None:
    for question in (
        Question("c", "h", "m", 0, 60),
        Question("cluster", "h" * 100, "m", 0, 60, "core", "17"),
        Question("cluster", "h", "m", 0, 60, "core", [str(i) for i in range(5000)]),
        Question(
            "c",
            "h",
            "m",
            1_700_000_000,
            1_700_086_400,
            "core",
            "17",
            "sub",
            "1",
            True,
            3600,
            "simple",
            "centred_moving_average",
            86_400,
            "propagate",
            0.001,
            "previous",
            86_400,
            False,
        ),
    ):
        message = question.message(0, None)
        assert 0.5 < questions._size(message) / len(m.encode(message)) < 2.5


def test_header_of_a_question_is_that_of_the_document() -> None:
    message = Question("c", "h", "m", 0, 60).message(0, 2.5)
    magic, tag, flags, length, request_id = struct.unpack("<BBHIQ", m.encode(message, 9)[:16])
    assert (magic, tag, flags, length, request_id) == (0xC1, 16, 0, len(m.encode_body(message)), 9)
    assert message.deadline_ms == 2500


def test_child_process_of_a_fork_can_ask_many_questions(store: FakeStore, client: Client) -> None:
    client.ping()
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if len(client.query_many(asked(20))) == 20 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(client.query_many(asked(20))) == 20


def test_client_closed_among_threads_leaves_no_connection_and_says_so(store: FakeStore) -> None:
    client = mstore.connect(store.directory, timeout=5)
    outcomes: list[str] = []

    def work() -> None:
        try:
            while True:
                client.query("c", "h", "m", 0, 60)
        except errors.InvalidRequest as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    client.close()
    for thread in threads:
        thread.join(10)
    assert outcomes == ["this client was closed: connect again"] * 6
    until = time.monotonic() + 5
    while store._connections and time.monotonic() < until:
        time.sleep(0.005)
    assert not store._connections


def test_a_store_that_answers_only_some_of_the_questions_is_asked_the_others_again(
    store: FakeStore, client: Client
) -> None:
    sizes: list[int] = []

    def answer(message: m.Message) -> Any:
        return store.usual(message)

    def some(message: m.QueryMany) -> Any:
        sizes.append(len(message.questions))
        return whole(m.QueryMany(message.questions[: max(1, len(message.questions) // 3)]))

    whole, store._many, store.answer = store._many, some, answer  # type: ignore[method-assign]
    assert metrics_of(client.query_many(asked(40))) == [f"m{i}" for i in range(40)]
    assert sizes[0] == 40
    assert sizes[-1] == 1


@pytest.mark.parametrize("n", [0, 41])
def test_as_many_answers_as_no_question_has_are_an_error(store: FakeStore, client: Client, n: int) -> None:
    series = Series(np.zeros(1, np.float32), 0, 60)
    store._many = lambda _: stack_of([series] * n)  # type: ignore[method-assign]
    with pytest.raises(errors.ProtocolError, match=f"{n} answers to 40"):
        client.query_many(asked(40))
