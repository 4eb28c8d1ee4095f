"""A store at its memory cap, or in a /dev/shm that is too small: it keeps the newest, refuses by name, and goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mstore
from mstore.shm.segment import name_prefix
from tests.stores import Server, SmallServer, until

Serve = Callable[..., Server]
STEP = 60
CHUNK = 512
MIB = 1 << 20


def held_bytes(server: Server) -> int:
    """Memory of all segments of the store."""
    prefix = name_prefix(server.directory)
    return sum(e.stat().st_blocks * 512 for e in os.scandir("/dev/shm") if e.name.startswith(prefix))


def fill_with_columns(client: mstore.Client, n_series: int, n_slots: int, end: int) -> np.ndarray:
    """n_slots values of each series, in order of time; the value tells series and slot."""
    values = (np.arange(n_slots)[:, None] * 10 + np.arange(n_series)[None, :] % 7).astype(np.float32)
    times = end - STEP * np.arange(n_slots, 0, -1)
    with client.writer() as writer:
        handles = writer.open([("c", f"h{i}", "m") for i in range(n_series)])
        for first in range(0, n_slots, 64):
            writer.write(handles, times[first : first + 64], values[first : first + 64])
        assert writer.flush().written == values.size
    return values


def test_eviction_takes_the_oldest_of_all_series_and_it_stays_gone_after_a_kill(
    serve: Serve, now: int
) -> None:
    config = 'memory_cap = "24MiB"\nring_bytes = "4MiB"\nretention = "0"\nmax_series = 10000\n'
    server = serve(config)
    n_series, n_slots = 1500, 16 * CHUNK
    end = now // STEP * STEP
    with server.client() as client:
        values = fill_with_columns(client, n_series, n_slots, end)
        before = read_all_series(client, n_series, end - n_slots * STEP, end)
    assert held_bytes(server) <= 24 * MIB
    missing = np.isnan(before)
    assert 0.4 < missing.mean() < 0.9, "about a third of it fits"
    kept_from = np.where(missing.all(axis=1), n_slots, missing.sum(axis=1))
    for i in range(n_series):
        assert missing[i, : kept_from[i]].all(), "what is missing is the oldest"
        assert np.array_equal(before[i, kept_from[i] :], values[kept_from[i] :, i])
    assert kept_from.max() - kept_from.min() <= 2 * CHUNK, "no series lost more than another"
    assert server.info()["counters"]["chunks_evicted"] > n_series
    told = [line for line in server.log_text().splitlines() if "of the oldest samples" in line]
    assert "memory_cap, 24MiB, is reached" in told[0]
    assert len(told) <= 2, "once a minute"
    server.kill()
    (server.directory / "mstore.toml").write_text(config.replace("24MiB", "512MiB"))
    server.start()
    with server.client() as client:
        after = read_all_series(client, n_series, end - n_slots * STEP, end)
    assert np.array_equal(before, after, equal_nan=True)


def read_all_series(client: mstore.Client, n_series: int, start: int, end: int) -> np.ndarray:
    return np.stack([client.query("c", f"h{i}", "m", start, end).values for i in range(n_series)])


def test_a_store_full_of_series_takes_new_ones_again_when_retention_has_freed(serve: Serve, now: int) -> None:
    server = serve(
        'memory_cap = "16MiB"\nring_bytes = "4MiB"\nretention = "10s"\nmax_series = 1000000\n'
        "[metrics.event]\nstep = 0\n"
    )
    with server.client() as client:
        refused = 0
        for k in range(200):
            result = client.write(
                "".join(f"event,cluster=c,hostname=h{k}x{i} value={i}\n" for i in range(2000))
            )
            refused = result.reasons.get("store_full", 0)
            assert result.written + refused == 2000
            if refused:
                break
        assert refused, "nothing was ever refused"
        assert held_bytes(server) <= 16 * MIB
        assert client.write("event,cluster=c,hostname=h0x0 value=5\n").written == 1, "an old one goes on"

        def taken_again() -> bool:
            return client.write("event,cluster=c,hostname=later value=1\n").written == 1

        until(taken_again, "a new series after retention", 60)
    assert held_bytes(server) <= 16 * MIB


def test_a_dev_shm_that_is_too_small_is_a_full_store_and_nothing_dies(short_dir: Path, now: int) -> None:
    server = SmallServer(short_dir, 'ring_bytes = "4MiB"\nretention = "0"\nmax_series = 100000\n', 16)
    server.start()
    try:
        with server.client(timeout=10) as client:
            client.write(f"m,cluster=c,hostname=first value=1 {now}\n")
            refused = 0
            for k in range(60):
                lines = [f"m,cluster=c,hostname=h{k}x{i} value={i} {now}\n" for i in range(2000)]
                result = client.write("".join(lines))
                assert result.written + result.reasons.get("store_full", 0) == 2000
                refused += result.reasons.get("store_full", 0)
                if refused:
                    break
            assert refused, "everything fitted"
            assert server.left() > 0, "the reserve for series that exist"
            later = now + 1
            assert client.write(f"m,cluster=c,hostname=h0x0 value=7 {later + STEP}\n").written == 1
            assert client.query("c", "first", "m", now, now + STEP).values.tolist() == [1.0]
        info = server.info()
        assert info["counters"]["restarts"] == 0
        assert server.stop() == 0
        server.size_mib = 64
        server.start()
        with server.client() as client:
            assert client.query("c", "first", "m", now, now + STEP).values.tolist() == [1.0]
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


def test_old_samples_make_way_in_a_dev_shm_that_is_too_small(short_dir: Path, now: int) -> None:
    server = SmallServer(short_dir, 'ring_bytes = "4MiB"\nretention = "0"\nmax_series = 10000\n', 24)
    server.start()
    n_series, n_slots, end = 1000, 24 * CHUNK, now // STEP * STEP
    try:
        with server.client(timeout=30) as client:
            values = fill_with_columns(client, n_series, n_slots, end)
            got = read_all_series(client, n_series, end - n_slots * STEP, end)
        assert np.array_equal(got[:, -CHUNK:], values[-CHUNK:].T)
        assert np.isnan(got).mean() > 0.2
        info = server.info()
        assert info["counters"]["chunks_evicted"] > 0
        assert info["counters"]["restarts"] == 0
    finally:
        server.stop()
