"""Clients of a query worker: what they are told and when, on both kinds of loop."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore import clock, errors, limits
from mstore.config import Config
from mstore.frames import Series
from mstore.ipc import messages as m
from mstore.query.budget import Budget, Work
from mstore.shm import layout, segment
from mstore.shm.control import CONTROL_BYTES, Control
from mstore.workers import query_connection
from mstore.workers.query import QueryWorker
from mstore.workers.query_connection import QueryConnection
from mstore.workers.settings import hand_over
from mstore.workers.spec import WorkerSpec
from tests.query_rig import INSTANCE, T0, Store
from tests.worker_rig import FORGETS_TO_PAUSE, PATIENCE_S, Client, Supervised, play

N = 2880
CONFIG = Config()


class QueryRig(Supervised):
    """A query worker in the test's own loop, over a store with a few series."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, config: Config = CONFIG) -> None:
        super().__init__(monkeypatch)
        name = f"mstore-test-{os.getpid()}"
        self.store = Store(name)
        self.store.put(self.store.open("load"), T0, [float(i) for i in range(N)])
        self.store.put(self.store.open("ops", t=T0), T0, [1, 2, 3], 10)
        self.control_map = segment.create(f"{name}-control", layout.SEG_CONTROL, CONTROL_BYTES, INSTANCE)
        self.control_map.mark_ready()
        self.control = Control(self.control_map)
        names = {role: f"{name}-{role}" for role in ("control", "directory", "samples")}
        self.spec = WorkerSpec(
            "query",
            0,
            2,
            "nowhere",
            hand_over(config),
            INSTANCE,
            names,
            self.channels[1].sock.detach(),
            -1,
            (),
            (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),),
            os.getpid(),
        )

    async def __aenter__(self) -> QueryRig:
        self.worker = QueryWorker(self.spec)
        self._task = asyncio.get_running_loop().create_task(self.worker.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        self.channels[0].send(["stop"])
        await asyncio.wait_for(self._task, PATIENCE_S)
        self.forget_worker()
        os.close(self.spec.follow_fds[0])
        segment.unlink(self.control_map.name)
        del self.control
        self.control_map.close()
        self.store.close()

    async def greeted(self, **options: Any) -> Client:
        client = self.connect(**options)
        assert isinstance(await client.hello(role="query"), m.Welcome)
        return client

    def counter(self, name: str) -> int:
        return self.control.worker(2).snapshot()[name]

    def only(self) -> QueryConnection:
        (connection,) = self.worker._connections
        return connection


MakeRig = Callable[[], QueryRig]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRig:
    return lambda: QueryRig(monkeypatch)


def query(start: int = T0, n: int = N, deadline_ms: int = 0, metric: str = "load") -> m.Query:
    return m.Query("fritz", "f1", metric, start, start + 60 * n, deadline_ms=deadline_ms)


def values(reply: m.Message) -> list[float]:
    assert isinstance(reply, m.Answer), reply
    (entry,) = reply.series
    return Series.from_wire(entry).values.tolist()


def code(reply: m.Message) -> str:
    assert isinstance(reply, m.Error), reply
    return reply.code


def frames(*messages: tuple[int, m.Message]) -> bytes:
    return b"".join(m.encode(message, request_id) for request_id, message in messages)


HELLO = (1, m.Hello(1, "query"))


def test_every_request_is_answered_by_its_own_id_and_in_order(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = store.connect()
            requests = [
                query(), m.Children(["fritz"]), m.Paths(2), m.Metrics(), m.Info(), m.Ping(),
                m.Query("fritz", "f1", "nope", T0, T0 + 60), m.Query("fritz", "f1", "load", T0, T0 - 60),
            ]  # fmt: skip
            await client.send(frames(HELLO, *enumerate(requests, 2)))
            replies = [await client.reply() for _ in range(len(requests) + 1)]
            assert [request_id for request_id, _ in replies] == list(range(1, len(requests) + 2))
            found = [reply for _, reply in replies[1:]]
            assert values(found[0]) == [float(i) for i in range(N)]
            assert found[1:3] == [m.Names(["f1"]), m.Names([["fritz", "f1"]])]
            assert {type(one) for one in found[3:6]} == {m.MetricList, m.InfoReply, m.Done}
            assert [code(one) for one in found[6:]] == ["unknown_metric", "invalid_time_range"]
            assert store.counter("queries") == 1

    play(loop, scene)


def test_functions_and_all_that_follows_them_are_asked_over_the_socket(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            asked = [
                {"function": "rate"}, {"resolution": 14400, "algo": "max"}, {"scale_by": 2, "resolution": 86400},
                {"fill": "linear", "max_gap": 60, "missing": "propagate"},
                {"scale_by": float("nan")}, {"scale_by": float("inf"), "function": "rate"}, {"function": "ratio"},
                {"algo": "mode"}, {"fill": "guess"}, {"missing": "none"}, {"window": 60},
            ]  # fmt: skip
            questions = [m.Query("fritz", "f1", "load", T0, T0 + 60 * N, **more) for more in asked]
            await client.send(frames(*enumerate(questions, 2)))
            replies = [(await client.reply())[1] for _ in questions]
            assert values(replies[0])[1:] == [1 / 60] * (N - 1)
            assert values(replies[1]) == [float(i) for i in range(239, N, 240)]
            assert values(replies[2]) == [1439.0, 4319.0]
            assert values(replies[3]) == [float(i) for i in range(N)]
            assert [code(reply) for reply in replies[4:]] == ["invalid_request"] * 7
            assert store.counter("queries") == 4

    play(loop, scene)


def test_a_hello_that_cannot_be_served_is_a_typed_error_and_the_end(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m, "OLDEST_VERSION", 2)
    monkeypatch.setattr(m, "VERSION", 3)

    async def scene() -> None:
        async with rig() as store:
            for first, wanted in [
                (m.Hello(1, "query"), "version_mismatch"), (m.Hello(2, "ingest"), "protocol"), (m.Ping(), "protocol"),
                (m.Cancel(1), "protocol"),
            ]:  # fmt: skip
                client = store.connect()
                await client.send(frames((1, first)))
                request_id, error = await client.reply()
                assert (request_id, code(error)) == (0, wanted)
                if wanted == "version_mismatch":
                    assert error.details == {"oldest": 2, "newest": 3}
                assert await client.closed()
            client = store.connect()
            await client.send(frames((1, m.Hello(9, "query"))))
            assert (await client.reply())[1].version == 3

    play(loop, scene)


def test_what_comes_before_a_broken_frame_is_answered(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            for rubbish in (b"\x00" * 16, frames((9, m.Lines(b""))), b"\xc1\xff" + bytes(14)):
                client = await store.greeted()
                await client.send(frames((2, query(n=2)), (3, m.Ping())) + rubbish)
                assert values((await client.reply())[1]) == [0.0, 1.0]
                assert await client.reply() == (3, m.Done({}))
                request_id, error = await client.reply()
                assert request_id == 0
                assert code(error) in ("protocol", "unknown_message")
                assert await client.closed()

    play(loop, scene)


def test_a_half_closed_connection_gets_all_its_answers(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = store.connect(send_buffer=4096)
            await client.send(frames(HELLO, *((i, query()) for i in range(2, 42))))
            client.finish()
            assert isinstance((await client.reply())[1], m.Welcome)
            for i in range(2, 42):
                request_id, reply = await client.reply()
                assert request_id == i
                assert len(values(reply)) == N
            assert await client.closed()

    play(loop, scene)


def test_a_wall_clock_that_jumps_makes_no_query_slow(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            wall_ns = itertools.count(clock.now_ns(), 3_600_000_000_000)
            with monkeypatch.context() as patch:
                patch.setattr(clock, "now_ns", lambda: next(wall_ns))
                await client.ask(query())
                assert len(values((await client.reply())[1])) == N
            assert store.counter("query_us_total") < 60_000_000

    play(loop, scene)


def test_a_failure_nobody_thought_of_is_an_error_of_that_request(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            with monkeypatch.context() as patch:
                patch.setattr(QueryWorker, "answer", _broken)
                await client.ask(query())
                assert (await client.reply())[1] == m.Error(
                    "error", "the query worker failed: ValueError: a bug"
                )
            await client.ask(query(n=1))
            assert values((await client.reply())[1]) == [0.0]

    play(loop, scene)


def _broken(*_: object) -> None:
    raise ValueError("a bug")


# --- deadlines and cancelling


def test_a_query_that_cannot_be_answered_in_time_is_a_timeout(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            asked = []
            answer = QueryWorker.answer

            def slow(worker: QueryWorker, message: m.Message, budget: Budget) -> Any:
                asked.append(message)
                skipped[0] += 1.0
                return answer(worker, message, budget)

            skipped = [0.0]
            monotonic_s = clock.monotonic_s
            with monkeypatch.context() as patch:
                patch.setattr(QueryWorker, "answer", slow)
                patch.setattr(clock, "monotonic_s", lambda: monotonic_s() + skipped[0])
                requests = [query(n=1, deadline_ms=ms) for ms in (900, 1900, 1100, 100_000)]
                await client.send(frames(*enumerate(requests, 2)))
                replies = [(await client.reply())[1] for _ in requests]
            assert [code(one) for one in replies[:3]] == ["timeout"] * 3
            assert isinstance(replies[0].exception(), errors.Timeout)
            assert values(replies[3]) == [0.0]
            assert asked == [requests[0], requests[1], requests[3]], "one too late to begin with is not begun"

    play(loop, scene)


def test_the_deadline_of_hello_holds_for_requests_without_one(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = store.connect()
            now = [100.0]

            def slow(worker: QueryWorker, message: m.Message, budget: Budget) -> m.Message:
                now[0] += 1.0
                return m.Done({})

            with monkeypatch.context() as patch:
                patch.setattr(QueryWorker, "answer", slow)
                patch.setattr(clock, "monotonic_s", lambda: now[0])
                greeting = (1, m.Hello(1, "query", deadline_ms=500))
                await client.send(frames(greeting, (2, m.Ping()), (3, m.Ping(5000))))
                replies = [(await client.reply())[1] for _ in range(3)]
            assert code(replies[1]) == "timeout"
            assert replies[2] == m.Done({})

    play(loop, scene)


def test_a_query_cancelled_before_it_begins_is_never_begun(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            await client.send(
                frames((2, query()), (3, query(n=1)), (4, m.Cancel(2)), (5, m.Cancel(77)), (6, m.Ping()))
            )
            assert await client.reply() == (2, m.Error("cancelled", "cancelled by its sender"))
            request_id, reply = await client.reply()
            assert (request_id, values(reply)) == (3, [0.0])
            assert await client.reply() == (6, m.Done({}))
            assert (store.counter("queries"), store.counter("cancelled")) == (1, 1)

    play(loop, scene)


# --- long requests


def long_work(turns: list[str], name: str, n: int) -> Work[m.Message]:
    """n pieces of work, each noted; given up: noted, too."""
    try:
        for i in range(n):
            turns.append(f"{name}{i}")
            yield
        return m.Names([name])
    except GeneratorExit:
        turns.append(f"{name} ended")
        raise


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Children([name, n]) is n pieces of work, every piece a slice of its own; what was done, in order."""
    done: list[str] = []
    answer = QueryWorker.answer

    def sliced(worker: QueryWorker, message: m.Message, budget: Budget) -> Any:
        if isinstance(message, m.Children):
            return long_work(done, message.path[0], int(message.path[1]))
        done.append(type(message).__name__)
        return answer(worker, message, budget)

    monkeypatch.setattr(QueryWorker, "answer", sliced)
    monkeypatch.setattr(query_connection, "SLICE_S", 0.0)
    return done


FOR_EVER = str(10**9)
LONG = 10_000
"""Pieces that take long, also beside a test that waits some milliseconds for its turn."""


def test_while_a_long_request_is_answered_other_clients_are_and_its_own_wait(
    rig: MakeRig, loop: str, turns: list[str]
) -> None:
    last = f"a{LONG - 1}"

    async def scene() -> None:
        async with rig() as store:
            first, second = await store.greeted(), await store.greeted()
            await first.send(frames((2, m.Children(["a", str(LONG)])), (3, m.Ping())))
            await store.until(lambda: "a0" in turns)
            await second.send(frames((2, m.Children(["b", "3"])), (3, m.Info())))
            assert await second.reply() == (2, m.Names(["b"]))
            assert isinstance((await second.reply())[1], m.InfoReply)
            assert last not in turns, "the other one was not kept waiting"
            assert await first.reply() == (2, m.Names(["a"]))
            assert await first.reply() == (3, m.Done({}))
            assert turns.index("a0") < turns.index("b0") < turns.index("b2") < turns.index("Info")
            assert turns.index("Info") < turns.index(last) < turns.index("Ping")

    play(loop, scene)


def test_a_request_under_way_is_cancelled_at_its_next_turn(rig: MakeRig, loop: str, turns: list[str]) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            await client.send(frames((2, m.Children(["a", FOR_EVER])), (3, m.Ping())))
            await store.until(lambda: "a5" in turns)
            await client.send(frames((4, m.Cancel(2))))
            assert await client.reply() == (2, m.Error("cancelled", "cancelled by its sender"))
            assert await client.reply() == (3, m.Done({}))
            assert turns[-2:] == ["a ended", "Ping"]
            assert store.counter("cancelled") == 1

    play(loop, scene)


def test_a_request_under_way_stops_at_its_deadline(rig: MakeRig, loop: str, turns: list[str]) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            await client.send(frames((2, m.Children(["a", FOR_EVER], deadline_ms=50)), (3, m.Ping())))
            request_id, reply = await client.reply()
            assert (request_id, code(reply)) == (2, "timeout")
            assert await client.reply() == (3, m.Done({}))
            assert turns[-2:] == ["a ended", "Ping"]

    play(loop, scene)


def test_a_client_that_is_gone_is_worked_for_no_more(rig: MakeRig, loop: str, turns: list[str]) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            await client.send(frames((2, m.Children(["a", FOR_EVER])), (3, m.Ping())))
            await store.until(lambda: "a0" in turns)
            client.close()
            await store.until(lambda: turns[-1] == "a ended")
            await store.until(lambda: store.counter("connections_open") == 0)
            assert "Ping" not in turns

    play(loop, scene)


def test_a_half_closed_connection_gets_what_was_under_way_and_what_waited(
    rig: MakeRig, loop: str, turns: list[str]
) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            await client.send(
                frames((2, m.Children(["a", "300"])), (3, m.Ping()), (4, m.Children(["b", "3"])))
            )
            await store.until(lambda: "a0" in turns)
            client.finish()
            assert [await client.reply() for _ in range(3)] == [
                (2, m.Names(["a"])), (3, m.Done({})), (4, m.Names(["b"])),
            ]  # fmt: skip
            assert await client.closed()

    play(loop, scene)


# --- time limits


def test_a_frame_that_stays_unfinished_is_an_error_and_the_end(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNFINISHED_FRAME_S_MAX", 0.1)

    async def scene() -> None:
        async with rig() as store:
            for cut in (7, 16, 30):
                client = await store.greeted()
                await client.send(m.encode(query(), 2)[:cut])
                request_id, error = await client.reply()
                assert (request_id, code(error)) == (0, "timeout")
                assert await client.closed()

    play(loop, scene)


def test_an_idle_connection_has_no_timer(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            data = m.encode(query(n=1), 2)
            await client.send(data[:20])
            await store.until(lambda: store.only()._watch is not None)
            await client.send(data[20:])
            assert values((await client.reply())[1]) == [0.0]
            assert (store.only()._watch, store.only()._stalled) == (None, None)
            await client.ask(m.Ping())
            assert (await client.reply())[1] == m.Done({})

    play(loop, scene)


@pytest.fixture
def pausing_loop(loop: str) -> str:
    """Those that tell a protocol when it should write no more."""
    if loop == "asyncio" and FORGETS_TO_PAUSE:
        pytest.skip("asyncio of this Python never pauses a writer (CVE-2024-12254); stores run on uvloop")
    return loop


def test_a_reader_that_takes_nothing_is_disconnected_and_no_more_is_done_for_it(
    rig: MakeRig, pausing_loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STALLED_READER_S_MAX", 0.1)

    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted(send_buffer=4096)
            n = 500
            await client.send(frames(*((i, query()) for i in range(2, n))))
            await store.until(lambda: store.counter("connections_open") == 0)
            assert 0 < store.counter("queries") < n // 4
            other = await store.greeted()
            await other.ask(m.Ping())
            assert (await other.reply())[1] == m.Done({})

    play(pausing_loop, scene)


def test_a_reader_that_takes_a_little_is_kept_and_gets_everything(rig: MakeRig, pausing_loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted(send_buffer=4096)
            n = 40
            await client.send(frames(*((i, query()) for i in range(2, 2 + n)), (99, m.Ping())))
            await store.until(lambda: store.only()._stalled is not None)
            connection = store.only()
            assert connection._transport is not None
            waiting = connection._transport.get_write_buffer_size()
            taken, found = connection._n_sent - waiting, b""
            while connection._transport.get_write_buffer_size() == waiting:
                found += await client.receive(1000)
                await asyncio.sleep(0)
            before = connection._stalled
            assert before is not None
            before.cancel()
            connection._check_reader(taken)  # what the timer would do
            assert connection._stalled not in (None, before), "looked at again later"
            ids = [frame.request_id for frame in client._decoder.feed(found)]
            while 99 not in ids:
                data = await client.receive()
                assert data, "closed before the last answer"
                ids += [frame.request_id for frame in client._decoder.feed(data)]
            assert ids == [*range(2, 2 + n), 99]
            assert store.counter("queries") == n
            assert connection._stalled is None

    play(pausing_loop, scene)


def test_a_request_cancelled_behind_a_reader_that_stalls_is_answered_without_being_begun(
    rig: MakeRig, loop: str
) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted(send_buffer=4096)
            n = 100
            await client.send(
                frames(*((i, query()) for i in range(2, 2 + n)), (999, m.Cancel(n)), (1000, m.Ping()))
            )
            replies = dict([await client.reply() for _ in range(n + 1)])
            assert code(replies[n]) == "cancelled"
            assert store.counter("queries") == n - 1

    play(loop, scene)


def test_connections_are_closed_at_a_stop(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = await store.greeted()
            store.channels[0].send(["stop"])
            assert await client.closed()

    play(loop, scene)


def test_large_answers_arrive_whole(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            ref = store.store.open("flops", "f2")
            big = np.arange(200_000, dtype=np.float64)
            for at in range(0, len(big), 8192):
                store.store.put(ref, T0 + 60 * at, big[at : at + 8192].tolist())
            client = await store.greeted()
            await client.ask(m.Query("fritz", "f2", "flops", T0, T0 + 60 * len(big)))
            assert values((await client.reply())[1]) == big.tolist()

    play(loop, scene)
