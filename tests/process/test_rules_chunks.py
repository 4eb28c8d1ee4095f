"""Chunk views of an attached program, while the store replaces, frees and evicts the chunks behind them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import mstore
from mstore.errors import Unavailable
from mstore.ipc.transport import run
from tests.stores import Server, until

Serve = Callable[..., Server]


def text(host: str, start: int, n: int, step: int = 60) -> str:
    return "".join(f"m,cluster=c,hostname={host} value={k} {start + step * k}\n" for k in range(n))


def test_a_view_says_when_its_chunk_was_replaced_by_a_larger_one(serve: Serve, now: int) -> None:
    server = serve('retention = "0"\nunknown_metrics = "register"\n')
    t0 = now - 86400
    with server.client() as client, mstore.attach(server.directory) as reader:
        client.write(text("h", t0, 3))
        (small,) = reader.chunks("c", "h", "m")
        assert small.valid()
        assert small.values[:3].tolist() == [0, 1, 2]
        client.write(text("h", t0, 4))
        assert small.valid()  # another sample in the same place
        assert small.values[3] == 3
        client.write(text("h", t0, 600))
        assert not small.valid()
        views = list(reader.chunks("c", "h", "m"))
        assert [view.start for view in views] == [t0, t0 + 512 * 60]
        values = np.concatenate([view.values for view in views])
        assert all(view.valid() for view in views)
        assert values[~np.isnan(values)].tolist() == list(range(600))
        assert views[1].times[:2].tolist() == [t0 + 512 * 60, t0 + 513 * 60]
        with pytest.raises(ValueError, match="read-only"):
            views[0].values[0] = 1
        assert list(reader.chunks("c", "nobody", "m")) == []


def test_a_view_says_when_retention_freed_its_chunk_and_nothing_of_it_is_served(
    serve: Serve, now: int
) -> None:
    server = serve('retention = "320s"\nunknown_metrics = "register"\n[metrics.m]\nstep = 1\n')
    with server.client() as client, mstore.attach(server.directory) as reader:
        # The first sample is where chunk 0 begins; those before it are in chunk -1, which ends there.
        client.write(text("h", now - 305, 200, 1))
        client.write(text("h", now - 315, 10, 1))
        old, young = reader.chunks("c", "h", "m")
        assert (old.start, young.start) == (now - 305 - 512, now - 305)
        assert old.valid()
        until(lambda: not old.valid(), "the end of the first chunk", 60)
        assert young.valid()
        assert [view.start for view in reader.chunks("c", "h", "m")] == [now - 305]
        assert not client.query("c", "h", "m", now - 400, now - 305).valid.any()
    server.kill()
    server.start()
    with mstore.attach(server.directory) as reader:
        assert [view.start for view in reader.chunks("c", "h", "m")] == [now - 305]


def test_a_view_says_when_its_chunk_was_evicted_and_its_neighbours_stay_whole(serve: Serve, now: int) -> None:
    server = serve(
        'memory_cap = "24MiB"\nretention = "0"\nunknown_metrics = "register"\ningest_workers = 1\n'
    )
    start = now // 60 * 60 - 60 * 600_000
    with (
        server.client(ack="memory") as client,
        mstore.attach(server.directory) as reader,
        client.writer() as writer,
    ):
        handles = writer.open([("c", f"h{i}", "m") for i in range(4)])
        rows = 10_000

        def block(k: int) -> None:
            first = k * rows
            values = np.arange(first, first + rows, dtype=np.float64)
            writer.write(
                handles, start + 60 * np.arange(first, first + rows), np.repeat(values, 4).reshape(rows, 4)
            )
            assert writer.flush().written == 4 * rows

        block(0)
        oldest = next(reader.chunks("c", "h0", "m"))
        assert oldest.valid()
        assert oldest.values[:3].tolist() == [0, 1, 2]
        for k in range(1, 60):
            block(k)
            if not oldest.valid():
                break
        assert not oldest.valid()
        checked = 0
        for view in reader.chunks("c", "h1", "m"):
            values = view.values.copy()
            if view.valid():
                here = ~np.isnan(values)
                assert values[here].tolist() == ((view.times - start) // 60)[here].tolist()
                checked += 1
        assert checked


def test_everything_finds_the_store_by_its_environment_variable_and_stores_do_not_mix(
    serve: Serve, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv("MSTORE_DIR", str(server.directory))
    with mstore.connect() as client, mstore.attach() as reader:
        client.put("c", "h", {"m": 1}, now)
        assert reader.query("c", "h", "m", now, now + 1).values.tolist() == [1]
        assert (client.directory, reader.store_dir) == (server.directory, server.directory)
    with pytest.raises(Unavailable, match="no store"):
        mstore.connect(server.directory / "other")
    with pytest.raises(Unavailable, match="no store"):
        mstore.attach(server.directory / "other")


def test_a_store_greets_with_version_instance_limits_level_and_a_shard_map_of_one(serve: Serve) -> None:
    server = serve()
    with server.client(ack="memory", cluster="c") as client:
        welcomes = []
        for role in ("query", "ingest"):
            session = client._ops.settings.session(role, "c")
            run(session.connect(client._ops.until_s()))
            welcomes.append(session.welcome)
            session.forget()
        instance = client.info()["instance"]
    for welcome in welcomes:
        assert welcome is not None
        assert (welcome.version, welcome.instance, welcome.ack) == (1, instance, "memory")
        assert welcome.limits["frame_bytes"] > 0
        assert [entry[0] for entry in welcome.shard_map] == [0]
