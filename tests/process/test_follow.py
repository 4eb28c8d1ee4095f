"""Following a real store: what is written comes by itself, once applied, whatever happens to workers and subscribers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

import mstore
from mstore.client.following import FollowBatch
from mstore.client.sync_following import Follow
from mstore.errors import EmptyCluster, InvalidRequest, LimitExceeded
from tests.stores import Server, until

Serve = Callable[..., Server]
PATIENCE_S = 20.0
Sample = tuple[str, str, int, float]


def samples_of(batch: FollowBatch) -> list[Sample]:
    """(path, metric, time, value), series by series."""
    return [
        (series.path, series.metric, int(t_ms) // 1000, float(value))
        for series, times_ms, values in batch.runs()
        for t_ms, value in zip(times_ms, values, strict=True)
    ]


def receive(follow: Follow, n: int) -> list[Sample]:
    """The next n samples; fewer when nothing more comes."""
    found: list[Sample] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < n and time.monotonic() < deadline:
        batch = follow.next(1.0)
        found += samples_of(batch) if batch is not None else []
    return found


def test_what_is_written_comes_to_whoever_follows_it(serve: Serve, now: int) -> None:
    server = serve()
    with server.client() as client, client.follow("fritz/*", "load") as follow:
        client.write(
            f"load,cluster=fritz,hostname=a value=1 {now}\nload,cluster=fritz,hostname=b value=2 {now}\n"
        )
        client.write(
            f"mem,cluster=fritz,hostname=a value=3 {now}\nload,cluster=alex,hostname=a value=4 {now}\n"
        )
        client.write(f"load,cluster=fritz,hostname=a value=5 {now + 60}\n")
        assert receive(follow, 3) == [
            ("fritz/a", "load", now, 1.0),
            ("fritz/b", "load", now, 2.0),
            ("fritz/a", "load", now + 60, 5.0),
        ]
        assert follow.next(0.3) is None
        assert [series.path for series in follow.series] == ["fritz/a", "fritz/b"]


def test_a_sample_comes_within_a_tenth_of_a_second_of_its_write(serve: Serve, now: int) -> None:
    """The median of many: one may meet a busy moment of the machine."""
    server = serve()
    with server.client(ack="memory") as client, client.follow("fritz", "load") as follow:
        waits = []
        for i in range(40):
            began = time.monotonic()
            client.write(f"load,cluster=fritz,hostname=a value={i} {now + 60 * i}\n")
            assert receive(follow, 1) == [("fritz/a", "load", now + 60 * i, float(i))]
            waits.append(time.monotonic() - began)
            time.sleep(0.005)
    assert sorted(waits)[len(waits) // 2] < 0.1, waits


def test_deeper_levels_rows_and_integers_come_exactly(serve: Serve, now: int) -> None:
    server = serve(
        '[metrics.reads]\nstep = 60\ntype = "u64"\naggregation = "sum"\n[metrics.beat]\nstep = 0\ntype = "u64"\n'
    )
    with server.client() as client, client.follow("fritz/a/*") as follow:
        exact = 2**63 + 1
        client.write(f"reads,cluster=fritz,hostname=a,type=hwthread,type-id=7 value={exact}u {now}\n")
        client.write(f"beat,cluster=fritz,hostname=a,type=disk,type-id=0 value={exact}u {now * 1000 + 123}\n")
        found: list[tuple[str, list[int], list[int]]] = []
        while len(found) < 2:
            batch = follow.next(PATIENCE_S)
            assert batch is not None
            found += [(one.path, times.tolist(), values.tolist()) for one, times, values in batch.runs()]
    assert found == [
        ("fritz/a/hwthread7", [now * 1000], [exact]),
        ("fritz/a/disk0", [now * 1000 + 123], [exact]),
    ]


def test_what_memory_holds_comes_first_when_a_time_is_given(serve: Serve, now: int) -> None:
    server = serve()
    with server.client() as client:
        lines = [f"load,cluster=fritz,hostname=h{i % 3} value={i} {now - 60 * i}" for i in range(300)]
        client.write("\n".join(lines))
        with client.follow("fritz", since=now - 60 * 30) as follow:
            client.write(f"load,cluster=fritz,hostname=h0 value=-1 {now + 60}\n")
            found = receive(follow, 32)
            again = [] if (batch := follow.next(0.3)) is None else samples_of(batch)
    held = {(f"fritz/h{i % 3}", "load", now - 60 * i, float(i)) for i in range(31)}
    newest = ("fritz/h0", "load", now + 60, -1.0)
    assert set(found) == held | {newest}
    assert set(again) <= {newest}, "what comes meanwhile may come from memory and from the log"
    assert [one for one in found if one[0] == "fritz/h0"][-1] == newest, "whether from memory or from the log"


def test_nothing_is_left_out_however_series_come_and_blocks_fall(serve: Serve, now: int) -> None:
    """Several writers register series all the time; each follower sees every sample exactly as a query does."""
    server = serve("ingest_workers = 2\n")
    n_hosts, n_ticks = 40, 60
    with (
        server.client() as client,
        client.follow("fritz", "load") as every,
        client.follow("fritz/h1*") as some,
    ):
        for tick in range(n_ticks):
            hosts = range(1 + n_hosts * (tick + 1) // n_ticks)
            client.write(
                "\n".join(
                    f"load,cluster=fritz,hostname=h{host} value={tick * 1000 + host} {now + 60 * tick}"
                    for host in hosts
                )
            )
        expected = [
            (f"fritz/h{host}", "load", now + 60 * tick, float(tick * 1000 + host))
            for tick in range(n_ticks)
            for host in range(1 + n_hosts * (tick + 1) // n_ticks)
        ]
        assert sorted(receive(every, len(expected))) == sorted(expected)
        matching = [sample for sample in expected if sample[0].startswith("fritz/h1")]
        assert sorted(receive(some, len(matching))) == sorted(matching)
        assert every.next(0.3) is None


def test_who_does_not_take_what_comes_is_told_how_much_was_missed_and_may_resume(
    serve: Serve, now: int
) -> None:
    server = serve('max_future = "365d"\n')
    n_hosts, n_ticks = 2000, 400
    with server.client(ack="memory") as client, client.follow("fritz", "load") as follow:
        client.write("\n".join(f"load,cluster=fritz,hostname=h{h} value=0 {now}" for h in range(n_hosts)))
        assert len(receive(follow, n_hosts)) == n_hosts
        writer = client.writer()
        handles = writer.open([("fritz", f"h{h}", "load") for h in range(n_hosts)])
        times = now + 60 * np.arange(1, n_ticks + 1)
        for first in range(0, n_ticks, 20):  # about 20 MB in all, nobody takes any
            part = times[first : first + 20]
            writer.write(handles, part, np.repeat(part - now, n_hosts).reshape(len(part), n_hosts))
        writer.flush()
        writer.close()
        n_seen, missed, since = 0, 0, 0
        while n_seen + missed < n_hosts * n_ticks:
            batch = follow.next(PATIENCE_S)
            assert batch is not None, (n_seen, missed)
            n_seen += len(batch)
            missed += batch.missed
            since = batch.missed_since or since
        assert missed > 0
        assert n_seen + missed == n_hosts * n_ticks
        assert now < since <= int(times[-1])

        follow.resume(since)
        wanted = {(f"fritz/h{h}", int(t)) for h in range(n_hosts) for t in times if t >= since}
        got: set[tuple[str, int]] = set()
        while not wanted <= got:
            batch = follow.next(PATIENCE_S)
            assert batch is not None, (len(wanted), len(got))
            for series, times_ms, values in batch.runs():
                seconds = times_ms // 1000
                assert (values[seconds > now] == (seconds - now)[seconds > now]).all()
                got.update((series.path, int(t)) for t in seconds)


@pytest.mark.parametrize("killed", ["query", "persister"])
def test_a_subscription_outlives_the_processes_that_feed_it(serve: Serve, now: int, killed: str) -> None:
    server = serve()
    with server.client() as client, client.follow("fritz", "load") as follow:
        client.write(f"load,cluster=fritz,hostname=a value=1 {now}\n")
        assert receive(follow, 1) == [("fritz/a", "load", now, 1.0)]
        pid = server.worker_pid(killed)
        os.kill(pid, signal.SIGKILL)
        until(lambda: server.worker_pid(killed) not in (0, pid), 30)
        client.write(f"load,cluster=fritz,hostname=a value=2 {now + 60}\n")
        seen: set[Sample] = set()
        gaps: list[tuple[int, int]] = []
        while ("fritz/a", "load", now + 60, 2.0) not in seen:
            batch = follow.next(PATIENCE_S)
            assert batch is not None
            seen.update(samples_of(batch))
            if batch.missed:
                gaps.append((batch.missed, batch.missed_since))
        assert len(gaps) == 1
        assert gaps[0][0] == -1
        assert gaps[0][1] <= now


def test_a_store_that_nobody_follows_wakes_nobody(serve: Serve, now: int) -> None:
    server = serve()
    with server.client() as client:
        with client.follow("fritz") as follow:
            until(lambda: client.info()["counters"]["followers"] == 1, 10)
            client.write(f"load,cluster=fritz,hostname=a value=1 {now}\n")
            assert receive(follow, 1)
        until(lambda: client.info()["counters"]["followers"] == 0, 10)


def test_asyncio_follows_as_well_and_a_wait_cut_short_loses_nothing(serve: Serve, now: int) -> None:
    server = serve()

    async def play() -> list[Sample]:
        async with mstore.AsyncClient(server.directory) as client:
            follow = await client.follow(["fritz", "*"], ["load"])
            async with follow:
                found: list[Sample] = []
                for i in range(30):
                    early = await follow.next(0.001)
                    found += samples_of(early) if early is not None else []
                    await client.write(f"load,cluster=fritz,hostname=a value={i} {now + 60 * i}\n")
                    batch = await follow.next(0.002 * (i % 5))
                    found += samples_of(batch) if batch is not None else []
                while len(found) < 30 and (batch := await follow.next(PATIENCE_S)) is not None:
                    found += samples_of(batch)
                return found

    found = asyncio.run(play())
    assert found == [("fritz/a", "load", now + 60 * i, float(i)) for i in range(30)]


def test_a_selector_that_is_none_is_a_typed_error(serve: Serve) -> None:
    with serve().client() as client:
        for selector, error in (
            ("", EmptyCluster),
            ("a/b/c/d/e", InvalidRequest),
            ("f[3-1]", InvalidRequest),
        ):
            with pytest.raises(error):
                client.follow(selector)


def test_more_subscriptions_than_a_connection_may_have_are_refused_and_the_others_go_on(
    serve: Serve, now: int
) -> None:
    from mstore import limits
    from mstore.ipc import framing
    from mstore.ipc import messages as m

    server = serve()
    with server.connect("query") as sock, server.client() as client:
        sock.sendall(m.encode(m.Hello(1, "query"), 1))
        for i in range(limits.FOLLOWS_PER_CONNECTION_MAX + 1):
            sock.sendall(m.encode(m.Follow("fritz", []), 2 + i))
        decoder = framing.FrameDecoder(tags=m.TAGS)
        replies: list[m.Message] = []
        while len(replies) < limits.FOLLOWS_PER_CONNECTION_MAX + 2:
            replies += [m.decode_frame(frame) for frame in decoder.feed(sock.recv(1 << 16))]
        assert isinstance(replies[-1], m.Error)
        assert replies[-1].code == LimitExceeded.code
        sock.sendall(m.encode(m.Cancel(2), 0))
        client.write(f"load,cluster=fritz,hostname=a value=1 {now}\n")
        n_samples, cancelled = 0, False
        while n_samples < limits.FOLLOWS_PER_CONNECTION_MAX - 1 or not cancelled:
            for frame in decoder.feed(sock.recv(1 << 16)):
                message = m.decode_frame(frame)
                n_samples += isinstance(message, m.FollowedSamples)
                cancelled = cancelled or (isinstance(message, m.Error) and frame.request_id == 2)
                assert not (isinstance(message, m.FollowedSamples) and frame.request_id == 2)
