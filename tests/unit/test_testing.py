"""mstore.testing: a store in the test's own process takes and answers what a client asks."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mstore
import mstore.testing
from mstore.errors import ConfigError, InvalidRequest, ProtocolError, Timeout, UnknownMetric
from mstore.model import MetricSpec
from mstore.testing.memory import RING_BYTES

T0 = 1_700_000_040
FOREVER = 'retention = "0"\n'


def line(metric: str = "load", host: str = "h1", value: object = 1.5, t: int = T0) -> str:
    return f"{metric},cluster=c,hostname={host} value={value} {t}\n"


def test_lines_are_written_and_read_back() -> None:
    with mstore.testing.store(FOREVER) as client:
        result = client.write(line() + line(value="x") + line(t=T0 + 60, value=2))
        assert (result.written, result.rejected, result.durable) == (2, 1, True)
        found = client.query("c", "h1", "load", T0, T0 + 120)
        assert isinstance(found, mstore.Series)
        assert found.values.tolist() == [1.5, 2.0]
        assert client.children("c") == ["h1"]


def test_the_configuration_is_followed() -> None:
    config = FOREVER + 'unknown_metrics = "ignore"\n[metrics.ops]\nstep = 10\ntype = "u64"\nunit = "1/s"\n'
    with mstore.testing.store(config) as client:
        result = client.write(line("ops", value=7) + line("other"))
        assert (result.written, result.ignored) == (1, 1)
        found = client.query("c", "h1", "ops", T0, T0 + 10)
        assert isinstance(found, mstore.Series)
        assert (found.values.dtype, found.step, found.unit) == (np.uint64, 10, "1/s")
        with pytest.raises(UnknownMetric):
            client.query("c", "h1", "other", T0, T0 + 10)


def test_retention_decides_what_is_accepted() -> None:
    with mstore.testing.store('retention = "1h"') as client:
        assert client.write(line()).reasons == {"too_late": 1}


def test_a_wrong_configuration_is_an_error() -> None:
    with pytest.raises(ConfigError), mstore.testing.store("nonsense = 1"):
        raise AssertionError("a store was made of it")


def test_columns_and_rows_are_written_by_handle() -> None:
    with mstore.testing.store(FOREVER) as client, client.writer() as writer:
        handles = writer.open(
            [("c", f"h{i}", "power") for i in range(50)], MetricSpec("power", 60, "sum", "f64")
        )
        writer.write(handles, [T0, T0 + 60], np.arange(100.0).reshape(2, 50))
        (rows,) = writer.open([("c", "h1", "scrape")], MetricSpec("scrape", 0)).tolist()
        writer.rows(rows, [T0 * 1000 + 5], [[0.25]])
        assert writer.flush().written == 101
        assert client.latest("c/*", "power").values.tolist() == list(range(50, 100))
        scrape = client.query("c", "h1", "scrape", T0, T0 + 1)
        assert isinstance(scrape, mstore.Series)
        assert scrape.times_ms.tolist() == [T0 * 1000 + 5]


def test_more_than_the_ring_holds_goes_through_it() -> None:
    n, m = 200, 3 * RING_BYTES // (4 * 200)
    with mstore.testing.store(FOREVER) as client, client.writer() as writer:
        handles = writer.open([("c", f"h{i}", "power") for i in range(n)])
        times = T0 + 60 * np.arange(m)
        writer.write(handles, times, np.ones((m, n), np.float32))
        assert writer.flush().written == n * m
        assert int(client.stats("c", "power", T0, T0 + 60 * m).counts[0]) == n * m


def test_what_is_followed_comes_with_the_write() -> None:
    with mstore.testing.store(FOREVER) as client:
        client.write(line())
        with client.follow("c", "load", since=T0 - 60) as follow:
            client.write(line(host="h2", value=2))
            batches = [follow.next(1.0), follow.next(1.0)]
            found = [
                (series.host, float(values[0]), batch.stored)
                for batch in batches if batch is not None for series, _, values in batch.runs()
            ]  # fmt: skip
            assert found == [("h1", 1.5, True), ("h2", 2.0, False)]
            assert follow.next(0.01) is None
        client.write(line())  # nobody follows any more


def test_threads_share_a_store() -> None:
    with mstore.testing.store(FOREVER) as client:
        with client.follow("c") as follow:
            threads = [threading.Thread(target=client.write, args=(line(host=f"h{i}"),)) for i in range(8)]
            for thread in threads:
                thread.start()
            seen = 0
            while seen < 8:
                batch = follow.next(10.0)
                assert batch is not None
                seen += len(batch)
            for thread in threads:
                thread.join()
        assert len(client.children("c")) == 8


def test_the_asynchronous_client_uses_the_same_store() -> None:
    async def play(client: mstore.AsyncClient) -> int:
        async with client:
            await client.write(line())
            follow = await client.follow("c")
            await client.write(line(t=T0 + 60))
            batch = await follow.next(5.0)
            await follow.close()
            assert batch is not None
            return len(batch)

    with mstore.testing.store(FOREVER) as client:
        assert asyncio.run(play(client.aio())) == 1
        assert client.stats("c", "load", T0, T0 + 120).counts.tolist() == [2]


def test_attached_programs_have_their_reader() -> None:
    with mstore.testing.store(FOREVER) as client:
        client.write(line())
        (chunk,) = client.reader.chunks("c", "h1", "load")
        assert chunk.values[~np.isnan(chunk.values)].tolist() == [1.5]
        del chunk


def test_orders_are_refused_in_words() -> None:
    with mstore.testing.store() as client:
        for order in (client.free_all, lambda: client.protect("c", "h1"), lambda: client.control("stop")):
            with pytest.raises(InvalidRequest, match="no processes, no log and no files"):
                order()
        assert client.info(starting=True)["state"] == "ready"


def test_stores_know_nothing_of_each_other() -> None:
    with mstore.testing.store(FOREVER) as one, mstore.testing.store(FOREVER) as other:
        one.write(line())
        assert other.children() == []
        assert one.children() == ["c"]


def test_a_closed_store_answers_no_more_and_keeps_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with mstore.testing.store(FOREVER) as client:
        client.write(line())
        found = client.query("c", "h1", "load", T0, T0 + 60)
    with pytest.raises(InvalidRequest):
        client.children()
    with pytest.raises(InvalidRequest, match="gone"):
        client.reader.children()
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert isinstance(found, mstore.Series)
    assert found.values.tolist() == [1.5]


def test_a_request_that_nobody_answers_times_out() -> None:
    from mstore.ipc.transport import Receive, run

    with mstore.testing.store() as client:
        client.ping()
        session = client._ops.pool.take("query")

        def wait() -> object:
            yield Receive(session.link, 0.0)

        with pytest.raises(Timeout):
            run(wait())  # type: ignore[arg-type]


def test_what_is_no_frame_of_the_protocol_is_refused() -> None:
    from mstore.ipc.transport import Receive, Send, run

    with mstore.testing.store() as client:
        client.ping()
        session = client._ops.pool.take("query")

        def send() -> object:
            yield Send(session.link, [b"\xff" * 64], 1e12)
            received = yield Receive(session.link, 1e12)
            session._take(received)

        with pytest.raises(ProtocolError):
            run(send())  # type: ignore[arg-type]


def test_the_example_of_the_documentation_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def send_load(client: mstore.Client, host: str, value: float, at: int) -> None:
        client.put("fritz", host, {"cpu_load": value}, at)

    module = ModuleType("mycollector")
    module.send_load = send_load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mycollector", module)
    text = (Path(__file__).parents[2] / "docs" / "testing-your-code.md").read_text()
    names: dict[str, Any] = {}
    exec(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0], names)
    names["test_the_load_is_sent_under_the_hosts_name"]()
    assert "send_load" in names
