"""The asyncio client against the same stand-in: same results, cancellation, many tasks, several loops."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import uvloop

import mstore
from mstore import errors
from mstore.client.aio import AsyncClient, connect_async
from mstore.client.results import WriteResult
from mstore.ipc import messages as m
from mstore.model import Metric, SeriesPath
from tests.unit.test_client_store import FakeStore, fake_store

T = TypeVar("T")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with fake_store(tmp_path) as found:
        yield found


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def call(work: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)

    return call


def test_every_call_gives_what_the_blocking_client_gives(store: FakeStore, run: Any) -> None:
    async def work() -> None:
        async with await connect_async(store.directory, timeout=5) as client:
            assert await client.write("a\nb\n", precision="s") == WriteResult(2)
            assert (await client.put("c", "h", {"m": 1.0}, 5)).written == 1
            found = await client.query("c", "h", "m", 0, 600, type_ids=["1", "2"])
            assert isinstance(found, list)
            assert [len(series) for series in found] == [10, 10]
            assert await client.children() == ["fritz"]
            assert await client.host_series("fritz", "f0201") == [
                SeriesPath("fritz", "f0201", "mem_bw", "socket", "0")
            ]
            assert await client.paths(2) == [("fritz", "f0201"), ("fritz", "f0202")]
            assert await client.metrics() == [Metric("fritz", "mem", 60, "GB", "sum", "f64")]
            assert await client.info() == {"state": "ready"}
            assert await client.control("snapshot") == {"did": "Snapshot"}
            async with client.writer() as writer:
                handles = await writer.open([("c", "h", "m"), ("c", "h", "nope")])
                await writer.write(handles, [60], [[1.0, 2.0]])
                await writer.rows(0, [1], [1.0])
                assert writer.refused == {1: "unknown_metric"}
                assert await writer.flush() == WriteResult(2, 0, 1, {"unknown_metric": 1})

    run(work())


def test_large_write_is_cut_sent_and_counted(store: FakeStore, run: Any) -> None:
    text = b"".join(b"cpu,hostname=h value=%d 1700000000\n" % i for i in range(100_000))

    async def work() -> WriteResult:
        async with AsyncClient(store.directory, timeout=10) as client:
            return await client.write(text)

    assert run(work()).written == 100_000
    assert store.text == text


def test_many_tasks_share_a_client_and_its_connections_are_bounded(store: FakeStore, run: Any) -> None:
    async def one(client: AsyncClient, i: int) -> str:
        found = await client.query("c", "h", f"m{i}", 0, 60)
        assert isinstance(found, mstore.Series)
        return found.metric

    async def work() -> list[str]:
        async with AsyncClient(store.directory, timeout=10) as client:
            return await asyncio.gather(*(one(client, i) for i in range(100)))

    assert run(work()) == [f"m{i}" for i in range(100)]
    assert store.n_connections <= 16


def test_cancelled_task_ends_at_once_and_the_store_is_told(store: FakeStore, run: Any) -> None:
    def answer(message: m.Message) -> Any:
        return None if isinstance(message, m.Query) else store.usual(message)

    async def work() -> None:
        async with AsyncClient(store.directory, timeout=10) as client:
            task = asyncio.create_task(client.query("c", "h", "m", 0, 60))
            while not store.requests(m.Query):
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.info() == {"state": "ready"}

    store.answer = answer
    run(work())
    until = time.monotonic() + 5
    while not store.requests(m.Cancel) and time.monotonic() < until:
        time.sleep(0.005)
    assert len(store.requests(m.Cancel)) == 1


def test_cancelled_writer_call_is_finished_by_the_next_flush(store: FakeStore, run: Any) -> None:
    async def work() -> int:
        client = AsyncClient(store.directory, timeout=10)
        writer = client.writer(window=1)
        handles = await writer.open([("c", "h", "m")])
        store.answer = lambda _: None
        await writer.write(handles, [60], [1.0])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.write(handles, [120], [2.0]), 0.1)
        store.answer = store.usual
        await writer.write(handles, [180], [3.0])
        total = await writer.flush()
        writer.close()
        await client.close()
        return total.written

    assert run(work()) == 2, (
        "the frame in the window and the last one; the cancelled call had sent nothing yet"
    )
    values = [np.frombuffer(frame.values, "<f4")[0] for frame in store.requests(m.Columns)]
    assert values == [1.0, 1.0, 3.0]


def test_timeouts_and_restarts_are_those_of_the_blocking_client(store: FakeStore, run: Any) -> None:
    async def work() -> None:
        async with AsyncClient(store.directory, timeout=0.3) as client:
            await client.ping()
            store.answer = lambda _: None
            with pytest.raises(errors.Timeout):
                await client.ping()
            store.answer = store.usual
            store.drop_connections()
            await client.ping()
            store.refuse()
            with pytest.raises(errors.Unavailable):
                await client.ping()

    run(work())


def test_store_that_is_not_there_is_unavailable(tmp_path: Path, run: Any) -> None:
    with pytest.raises(errors.Unavailable, match="mstore serve"):
        run(connect_async(tmp_path))


def test_client_may_be_used_by_one_loop_after_another(store: FakeStore) -> None:
    client = AsyncClient(store.directory, timeout=5)
    for _ in range(3):
        asyncio.run(client.ping())
    asyncio.run(client.close())
    assert len(store.requests(m.Ping)) == 3
    assert store.n_connections == 1
