"""Faults that stores of this kind are known for, one test each: a real store is put where they would show.

Named D1 .. D17c for data and P6 .. P8 for operation; what each is about is told in the first line of its test. D16, a
provider of protected hosts that nobody can speak to, is in test_life.py: test_d16_... Wrong answers, D18 to D29, are in
test_known_faults_answers.py.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mstore
from mstore.client.sync import Client
from mstore.shm.segment import name_prefix, stale, unlink
from tests.stores import Server, read_all, until
from tests.torture.kill_writers import exchange
from tests.torture.kills import processes_of
from tests.torture.machine import Machine, scatter

Serve = Callable[..., Server]
STEP_S = 10
PLAIN = f'default_step = {STEP_S}\nretention = "0"\ningest_workers = 1\nquery_workers = 1\n'
HOSTS = 50


def lines(
    metric: str, times: Iterator[int] | range, value: Callable[[int, int], float], hosts: int = HOSTS
) -> str:
    return "".join(
        f"{metric},cluster=c,hostname=h{host} value={value(host, t)} {t}\n"
        for t in times
        for host in range(hosts)
    )


def by_time(host: int, t: int) -> float:
    return float((t // STEP_S) % 100_000) + host / 100


def values(server: Server, metric: str, host: int, start: int, stop: int) -> list[float]:
    with server.client() as client:
        found = client.query("c", f"h{host}", metric, start, stop)
    assert isinstance(found, mstore.Series)
    return [float(value) for value in found.values]


def assert_written(
    server: Server, metric: str, times: range, value: Callable[[int, int], float] = by_time
) -> None:
    """All of `times` are there for every host: exactly these values at exactly these times."""
    with server.client() as client:
        for host in range(0, HOSTS, 7):
            found = client.query("c", f"h{host}", metric, times[0], times[-1] + STEP_S)
            assert isinstance(found, mstore.Series)
            kept = {
                int(t): float(v) for t, v in zip(found.times, found.values, strict=True) if not np.isnan(v)
            }
            for t in times:
                assert kept.get(t) == float(np.float32(value(host, t))), (metric, host, t)


def power_off(server: Server) -> None:
    """Every process dies at once and the memory is gone; the files stay."""
    server.kill()
    until(lambda: not processes_of(server.directory), "the children to end")
    for name in stale(name_prefix(server.directory)):
        unlink(name)


def remove_log(server: Server) -> None:
    for path in (server.directory / "wal").iterdir():
        path.unlink()


def grid(now: int, ago_s: int) -> int:
    return (now - ago_s) // STEP_S * STEP_S


def snapshot(server: Server) -> None:
    with server.client() as client:
        client.control("snapshot")


def test_d01_samples_that_arrive_during_a_snapshot_are_protected(serve: Serve, now: int) -> None:
    """A store pauses its log while it takes a snapshot: what comes meanwhile is in neither, and a crash loses it."""
    server = serve(PLAIN)
    start = grid(now, 400_000)
    halt = threading.Event()
    sent: list[int] = []

    def write() -> None:
        with server.client() as client:
            while not halt.is_set():
                t = start + len(sent) * STEP_S
                assert client.write(lines("m", range(t, t + 1), by_time)).written == HOSTS
                sent.append(t)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            snapshot(server)
        n = len(sent)
        until(lambda: len(sent) > n, "one more column")
    finally:
        halt.set()
        thread.join()
    power_off(server)
    server.start()
    assert_written(server, "m", range(sent[0], sent[-1] + 1, STEP_S))


def test_d02_interfaces_of_a_node_are_series_of_their_own(serve: Serve, now: int) -> None:
    """A subtype counts only below a typed level: all network cards of a node overwrite one series."""
    server = serve(PLAIN)
    t = grid(now, 100)
    text = "".join(
        f"net,cluster=c,hostname=h,type=node,stype=network,stype-id={card} value={value} {t}\n"
        for card, value in (("eth0", 1), ("ib0", 2))
    )
    assert server.send_text(text.encode()).startswith(b"written=2 rejected=0")
    with server.client() as client:
        for card, value in (("eth0", 1.0), ("ib0", 2.0)):
            found = client.query(
                "c", "h", "net", t, t + STEP_S, type="node", subtype="network", subtype_ids=card
            )
            assert isinstance(found, mstore.Series)
            assert found.values.tolist() == [value], card


def test_d03_a_line_without_a_host_does_not_take_the_host_or_time_of_the_line_before(
    serve: Serve, now: int
) -> None:
    """The place of the line before is remembered: a line without a host, or a time, is written there."""
    server = serve(PLAIN)
    t = grid(now, 5000)
    text = f"m,cluster=c,hostname=h0 value=1 {t}\nm,cluster=c value=2 {t + STEP_S}\nm,cluster=c,hostname=h1 value=3\n"
    reply = server.send_text(text.encode())
    assert reply.startswith(b"written=2 rejected=1"), reply
    assert values(server, "m", 0, t, t + 10 * STEP_S).count(2.0) == 0
    assert values(server, "m", 1, t, t + STEP_S) in ([], [pytest.approx(np.nan, nan_ok=True)])
    recent = values(server, "m", 1, int(time.time()) - 60, int(time.time()) + 60)
    assert 3.0 in recent, "no time means now"


def test_d04_no_line_whatsoever_keeps_the_store_from_starting_again(serve: Serve, now: int) -> None:
    """Names become directories: one line without a host leaves a file where the next start expects none."""
    server = serve(PLAIN)
    t = grid(now, 100)
    bad = [
        f"m,cluster=c value=1 {t}", f"m,hostname=h0 value=1 {t}", f"m value=1 {t}", f"m,cluster=,hostname= value=1 {t}",
        f"m,cluster=..,hostname=../../etc value=1 {t}", f"m,cluster=a/b,hostname=/ value=1 {t}",
        f"{'m' * 5000},cluster=c,hostname=h value=1 {t}",
    ]  # fmt: skip
    for line in bad:
        server.send_text(f"{line}\n".encode())
    assert server.send_text(lines("m", range(t, t + 1), by_time).encode()).startswith(b"written=50 ")
    files = {path.relative_to(server.directory).parts[0] for path in server.directory.rglob("*")}
    assert files <= {"lock", "run", "wal", "snapshots", "mstore.toml", "server.log", "quarantine"}
    for end in (power_off, Server.stop):
        end(server)
        server.start()
        assert_written(server, "m", range(t, t + 1))


def test_d05_a_time_that_is_none_is_refused_and_other_precisions_are_understood(
    serve: Serve, now: int
) -> None:
    """Whatever is not a number of seconds silently becomes the time of arrival."""
    server = serve(PLAIN)
    t = grid(now, 5000)
    for bad in ("12ab", "99999999999999999999", "-", "1e9", f"{t} x"):
        reply = server.send_text(f"bad,cluster=c,hostname=h0 value=1 {bad}\n".encode())
        assert b"written=0 " in reply, (bad, reply)
    for factor, precision in ((10**9, "ns"), (10**6, "us"), (10**3, "ms"), (1, "s")):
        text = f"# mstore precision={precision}\np{precision},cluster=c,hostname=h0 value=7 {t * factor}\n"
        assert server.send_text(text.encode()).startswith(b"written=1 "), precision
        assert values(server, f"p{precision}", 0, t, t + STEP_S) == [7.0], precision
    with server.client() as client:
        assert "bad" not in {metric.name for metric in client.metrics("c")}


def test_d06_what_is_written_behind_a_torn_end_of_the_log_is_found_again(serve: Serve, now: int) -> None:
    """After a crash the log goes on behind half a record, and everything behind it is unreadable at the next one."""
    server = serve(PLAIN)
    start = grid(now, 5000)
    for life in range(3):
        t = start + life * 20 * STEP_S
        assert b"rejected=0" in server.send_text(lines("m", range(t, t + 200, STEP_S), by_time).encode())
        power_off(server)
        tear_the_end(server.directory)
        server.start()
        assert_written(server, "m", range(start, t + 200, STEP_S))
    assert "torn end cut" in server.log_text()


def tear_the_end(directory: Path) -> None:
    """Half a block behind the last one, as a power cut leaves it."""
    path = max((directory / "wal").glob("*.wal"))
    text = path.read_bytes()
    used = len(text.rstrip(b"\0"))
    used += -used % 8
    first = text[4096 : 4096 + 64]
    with open(path, "r+b") as file:
        file.seek(used)
        file.write(first[:56])


def test_d07_what_was_replayed_is_in_the_next_snapshot(serve: Serve, now: int) -> None:
    """The first snapshot after a crash covers only what came since; then the log with everything before goes."""
    server = serve(PLAIN)
    start = grid(now, 5000)
    assert b"rejected=0" in server.send_text(lines("m", range(start, start + 500, STEP_S), by_time).encode())
    power_off(server)
    server.start()
    snapshot(server)
    power_off(server)
    remove_log(server)
    server.start()
    assert_written(server, "m", range(start, start + 500, STEP_S))


def test_d08_a_snapshot_that_failed_leaves_no_hole_in_the_next_one(serve: Serve, now: int) -> None:
    """After a partial failure the next snapshot starts later, and the log that covered the gap is removed."""
    server = serve(PLAIN)
    start = grid(now, 5000)
    folder = server.directory / "snapshots"
    for attempt in range(4):
        t = start + attempt * 200
        assert b"rejected=0" in server.send_text(lines("m", range(t, t + 200, STEP_S), by_time).encode())
        if attempt % 2 == 0:
            folder.mkdir(exist_ok=True)
            folder.rename(folder.with_name("away"))
            folder.write_text("not a directory")
            with pytest.raises(mstore.MstoreError):
                snapshot(server)
            folder.unlink()
            folder.with_name("away").rename(folder)
        else:
            snapshot(server)
    power_off(server)
    server.start()
    assert_written(server, "m", range(start, start + 800, STEP_S))


def test_d09_a_sample_from_the_future_does_not_block_its_series(serve: Serve, now: int) -> None:
    """One host with a wrong clock opens a chunk in the future: all its right samples are then too old."""
    server = serve(PLAIN)
    t = grid(now, 300)
    for ahead_s in (400, 86_400, 512 * STEP_S * 3, 10**9):
        server.send_text(f"m,cluster=c,hostname=h0 value=9 {grid(now, -ahead_s)}\n".encode())
    assert b"written=1 rejected=0" in server.send_text(f"m,cluster=c,hostname=h0 value=5 {t}\n".encode())
    assert values(server, "m", 0, t, t + STEP_S) == [5.0]


def test_d10_late_samples_and_overwritten_ones_are_in_the_next_snapshot(serve: Serve, now: int) -> None:
    """A snapshot takes the time since the last one: what came late, or changed something older, is in none."""
    server = serve(PLAIN)
    start = grid(now, 40_000)
    late = range(start, start + 200, STEP_S)
    recent = range(start + 30_000, start + 30_200, STEP_S)
    for times in (recent, late):
        assert b"rejected=0" in server.send_text(lines("m", times, by_time).encode())
        snapshot(server)

    def other(host: int, t: int) -> float:
        return by_time(host, t) + 1000

    assert b"rejected=0" in server.send_text(lines("m", range(start, start + 50, STEP_S), other).encode())
    snapshot(server)
    power_off(server)
    remove_log(server)
    server.start()
    assert_written(server, "m", recent)
    assert_written(server, "m", range(start + 50, start + 200, STEP_S))
    assert_written(server, "m", range(start, start + 50, STEP_S), other)


def test_d11_a_flood_is_held_back_and_never_dropped(serve: Serve, now: int) -> None:
    """The log's queue is full, so records are dropped, with a warning for every ten thousandth."""
    server = serve(PLAIN + 'ring_bytes = "4MiB"\n')
    start = grid(now, 400_000)
    times = range(start, start + 30_000 * STEP_S, STEP_S)  # some 6 MB of records
    assert b"rejected=0" in server.send_text(lines("m", times[:1], by_time).encode())
    text = f"# mstore ack=memory\n{lines('m', times, by_time)}".encode()
    persister = server.worker_pid("persister")
    os.kill(persister, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(server.send_text, text)
            until(lambda: server.info()["counters"]["ring_full_waits"] or reply.done(), "a full ring")
            assert not reply.done(), "the sender is held"
            os.kill(persister, signal.SIGCONT)
            assert reply.result().startswith(f"written={len(times) * HOSTS} rejected=0".encode())
    finally:
        os.kill(persister, signal.SIGCONT)
    power_off(server)
    server.start()
    assert_written(server, "m", times)


def test_d12_one_damaged_file_is_told_and_stops_nothing(serve: Serve, now: int) -> None:
    """No checksums, no syncs: a flipped byte is served, a half-written file ends every start with an error."""
    server = serve(PLAIN)
    start = grid(now, 5000)
    for part in range(2):
        t = start + part * 200
        assert b"rejected=0" in server.send_text(lines("m", range(t, t + 200, STEP_S), by_time).encode())
        snapshot(server)
    power_off(server)
    folder = server.directory / "snapshots"
    (folder / "0000000000000001.snapshot.tmp").write_bytes(b"half")
    newest = max(
        (path for path in folder.iterdir() if path.suffix != ".tmp"), key=lambda path: path.stat().st_size
    )
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0x40
    newest.write_bytes(content)
    server.start()
    assert_written(server, "m", range(start, start + 400, STEP_S))
    assert server.info()["degraded"]
    assert "damaged" in server.log_text()


CHUNK_BEGAN_S = 5000
"""Ago: longer than an hour, and less than the 5120 s that a chunk has."""


def begun_too_early(serve: Serve, now: int) -> tuple[Server, range]:
    """A store without retention and the times of its samples: one chunk of each host, begun more than an hour ago."""
    server = serve(PLAIN)
    times = range(grid(now, CHUNK_BEGAN_S), grid(now, 0), STEP_S)
    assert b"rejected=0" in server.send_text(lines("m", times, by_time).encode())
    with server.client() as client:
        assert client.sizes("c")[0].chunks == HOSTS
    return server, times


def keep(server: Server, retention: str) -> None:
    """From the next start or reload on."""
    config = server.directory / "mstore.toml"
    config.write_text(re.sub('retention = "[^"]*"', f'retention = "{retention}"', config.read_text()))


def within_the_hour(times: range) -> range:
    """What a retention of an hour serves for some minutes more."""
    return times[-(3600 - 300) // STEP_S :]


@pytest.mark.parametrize("files", ["log", "snapshot", "snapshot alone, and old"])
def test_d13_what_a_chunk_holds_within_retention_survives_restarts(
    serve: Serve, now: int, files: str
) -> None:
    """A chunk that began before the retention period is not loaded again, with all that is younger in it."""
    server, times = begun_too_early(serve, now)
    if files != "log":
        snapshot(server)
    keep(server, "1h")
    for _ in range(2):
        power_off(server)
        if files == "snapshot alone, and old":
            remove_log(server)
            for path in (server.directory / "snapshots").iterdir():
                os.utime(path, (now - 86_400, now - 86_400))
        server.start()
        assert not server.info()["last_recovery"]["adopted"]
        assert_written(server, "m", within_the_hour(times))


def test_d14_no_memory_cap_means_none(serve: Serve, now: int) -> None:
    """A cap of 0 means "always above": emergency freeing every half a minute."""
    server = serve(PLAIN + 'memory_cap = "0"\n')
    times = range(grid(now, 300_000), grid(now, 0), STEP_S)
    with server.client() as client, client.writer() as writer:
        handles = writer.open([mstore.SeriesPath("c", f"h{host}", "m") for host in range(HOSTS)])
        matrix = np.array([[by_time(host, t) for host in range(HOSTS)] for t in times], np.float32)
        writer.write(handles, list(times), matrix)
        writer.flush()
    assert server.info()["counters"]["chunks_evicted"] == 0
    assert server.info()["counters"]["chunks_freed"] == 0
    assert_written(server, "m", range(times[0], times[100], STEP_S))


def test_d15_a_name_that_is_too_long_is_refused_and_harms_no_other_record(serve: Serve, now: int) -> None:
    """A name of 256 bytes overflows its length in the log: nothing behind it can be read."""
    server = serve(PLAIN)
    t = grid(now, 300)
    for n in (255, 256, 257, 300, 65_536):
        server.send_text(
            f"{'x' * n},cluster=c,hostname=h0,type=hwthread,type-id={'7' * n} value=1 {t}\n".encode()
        )
        assert b"rejected=0" in server.send_text(lines("m", range(t, t + 1), by_time).encode())
    power_off(server)
    server.start()
    assert_written(server, "m", range(t, t + 1))
    assert not server.info()["degraded"]


def test_d15_a_log_that_grows_is_cut_only_behind_snapshots(serve: Serve, now: int) -> None:
    """The log reaches its size limit and is deleted, though nothing else holds the data."""
    server = serve(PLAIN + 'wal_bytes = "128MiB"\n')
    n_series, first = 20_000, grid(now, 100_000)
    with server.client() as client, client.writer() as writer:
        handles = writer.open([mstore.SeriesPath("c", f"h{host}", "m") for host in range(n_series)])
        row = np.arange(n_series, dtype=np.float32)
        n = 0
        for n_snapshots in (1, 2, 3):
            for _ in range(1800):  # 144 MB
                writer.write(handles, [first + n * STEP_S], row[None, :] + n)
                n += 1
            writer.flush()
            until(lambda: server.info()["counters"]["snapshots"] >= n_snapshots, "a snapshot")  # noqa: B023
    assert len(list((server.directory / "wal").glob("*.wal"))) < n * n_series * 4 // (64 << 20) + 3
    power_off(server)
    server.start()
    with server.client() as client:
        for host in (0, 9_999, n_series - 1):
            found = client.query("c", f"h{host}", "m", first, first + n * STEP_S)
            assert isinstance(found, mstore.Series)
            assert np.array_equal(found.values, np.arange(n, dtype=np.float32) + host)


def test_d17_what_began_too_early_but_ended_in_time_is_kept(serve: Serve, now: int) -> None:
    """Files are removed by when they begin, though their end is still within the retention period."""
    server, times = begun_too_early(serve, now)
    keep(server, "1h")
    with server.client() as client:
        client.control("reload")
    until(lambda: server.info()["counters"]["retention_passes"] >= 1, "a retention pass")
    snapshot(server)
    keep(server, "1d")  # so that everything that was kept is served
    power_off(server)
    remove_log(server)
    server.start()
    assert_written(server, "m", times)


def test_d17_the_log_of_a_host_that_is_gone_is_read_no_more(serve: Serve, now: int) -> None:
    """Logs of hosts that have vanished are kept, and replayed by every start for good."""
    server = serve('retention = "5s"\ningest_workers = 1\nquery_workers = 1\n[metrics.event]\nstep = 0\n')
    gone = "".join(f"event,cluster=c,hostname=gone{host} value=1\n" for host in range(500))
    busy = "event,cluster=c,hostname=busy value=1\n"
    with server.client() as client:
        assert client.write(gone).written == 500
        power_off(server)
        server.start()
        assert server.info()["last_recovery"]["samples_from_log"] == 500
        until(lambda: client.info()["counters"]["series_removed"] >= 500, "all removals", 60)
        assert client.write(busy).written == 1
        snapshot(server)
        assert client.write(busy).written == 1
    for _ in range(2):
        power_off(server)
        server.start()
        found = server.info()
        assert found["last_recovery"]["samples_from_log"] == 1
        assert found["last_recovery"]["samples_from_snapshots"] <= 1
        assert found["counts"]["live_series"] == 1
        with server.client() as client:
            assert client.children("c") == ["busy"]


def test_d17b_restarts_move_no_sample_and_round_no_value(serve: Serve, now: int) -> None:
    """A file knows when it was asked for, not where its grid stands: each restart shifts and rounds a little."""
    config = PLAIN + '[metrics.f]\ntype = "f64"\n[metrics.u]\ntype = "u64"\n[metrics.event]\nstep = 0\n'
    server = serve(config)
    start = now - 3333
    doubles = {start + k * STEP_S: 0.1 + k * 1e-13 for k in range(200)}
    integers = {start + k * STEP_S: (1 << 63) + k for k in range(200)}
    stamps = {start * 1000 + k * 1237: k * 0.3 for k in range(100)}
    text = "".join(
        f"{name},cluster=c,hostname=h0 value={value}{mark} {t}\n"
        for name, found, mark in (("f", doubles, ""), ("u", integers, "u"))
        for t, value in found.items()
    )
    text_ms = "".join(f"event,cluster=c,hostname=h0 value={value!r} {t}\n" for t, value in stamps.items())
    assert b"rejected=0" in server.send_text(text.encode())
    assert b"rejected=0" in server.send_text(f"# mstore precision=ms\n{text_ms}".encode())

    def everything() -> list[tuple[list[int], list[float]]]:
        found = []
        with server.client() as client:
            for metric in ("f", "u", "event"):
                series = client.query("c", "h0", metric, start - 100, now)
                assert isinstance(series, mstore.Series)
                found.append((np.asarray(series.times).tolist(), np.asarray(series.values).tolist()))
        return found

    before = everything()
    assert set(doubles.values()) <= set(before[0][1])
    assert set(integers.values()) <= set(before[1][1])
    for end in (Server.stop, power_off, Server.stop, Server.kill):
        end(server)
        server.start()
        np.testing.assert_equal(everything(), before)


def test_d17c_what_was_taken_before_a_stop_is_kept_and_nothing_else_is_acknowledged(
    serve: Serve, now: int
) -> None:
    """A stop drops the messages that are queued, or dies of one that comes while its queue is closed."""
    server = serve(PLAIN)
    start = grid(now, 90_000)
    acknowledged: list[int] = []

    def send() -> None:
        t = start
        with contextlib.suppress(OSError):
            while exchange(server.directory, lines("m", range(t, t + 1), by_time)).startswith(b"written=50 "):
                acknowledged.append(t)
                t += STEP_S

    for _ in range(2):
        threads = [threading.Thread(target=send)]
        acknowledged.clear()
        threads[0].start()
        until(lambda: len(acknowledged) > 20, "some samples")
        assert server.stop() == 0
        threads[0].join()
        server.start()
        assert_written(server, "m", range(start, acknowledged[-1] + 1, STEP_S))
    assert "Traceback" not in server.log_text()


def test_p06_a_series_that_is_removed_while_it_is_written_loses_nothing(serve: Serve, seed: int) -> None:
    """A batch keeps the place of its series; when that is pruned meanwhile, the rest goes where nobody looks."""
    server = serve('retention = "5s"\n[metrics.event]\nstep = 0\n')
    rng = random.Random(seed)
    due = [(0.0, batch) for batch in range(2000)]  # when its 20 names come, or come back
    began = time.monotonic()
    n_batches = n_behind = 0
    with server.client() as client:
        while n_behind < 1000:
            at, batch = heapq.heappop(due)
            time.sleep(max(0.0, at - (time.monotonic() - began)))
            # A name that is not written goes after 10 to 20 s: within retention and two passes, or a bit later.
            heapq.heappush(due, (time.monotonic() - began + rng.uniform(10, 20), batch))
            n_batches += 1
            value, names = float(n_batches), [f"h{batch}.{k}" for k in range(20)]
            text = "".join(f"event,cluster=c,hostname={name} value={value}\n" for name in names)
            assert client.write(text).written == 20
            now = int(time.time())
            asked = [mstore.Question("c", name, "event", now - 3, now + 1) for name in names]
            for name, found in zip(names, client.query_many(asked), strict=True):
                assert isinstance(found, mstore.Series)
                assert value in found.values.tolist(), (n_batches, name)
            if n_behind or client.info()["counters"]["series_removed"] > 1000:
                n_behind += 1
            assert time.monotonic() - began < 90, "series that come back late enough to be removed before"
    assert server.info()["counters"]["stale_samples"] == 0


def test_p07_a_store_that_reads_its_files_back_says_so_and_refuses_no_connection(
    serve: Serve, now: int
) -> None:
    """A restart decodes record by record for minutes, and its port is closed meanwhile."""
    server = serve(PLAIN)
    n_series, first = 20_000, grid(now, 90_000)
    times = range(first, first + 500 * STEP_S, STEP_S)
    with server.client() as client, client.writer() as writer:
        handles = writer.open([mstore.SeriesPath("c", f"h{host}", "m") for host in range(n_series)])
        values_of = np.array([[by_time(host, t) for host in range(n_series)] for t in times], np.float32)
        writer.write(handles, list(times), values_of)
        assert writer.flush().written == values_of.size
    power_off(server)
    server.begin()
    persister = until(lambda: processes_of(server.directory).get("persister"), "the persister")
    with Client(server.directory) as client, server.connect("ingest") as sender:
        sender.sendall(lines("after", times[-1:], by_time).encode())
        sender.shutdown(socket.SHUT_WR)
        found: dict[str, Any] = {}
        while not found:  # it reads for some milliseconds, then it is stopped and looked at
            time.sleep(0.005)
            os.kill(persister, signal.SIGSTOP)
            try:
                told = client.info(starting=True)
                assert told["state"] in ("starting", "replaying")
                found = told["recovery"]
                if found and found["phase"] != "log":
                    found = {}
                if found:
                    server.connect("ingest").close()
                    sender.settimeout(0.3)
                    with pytest.raises(TimeoutError):
                        sender.recv(1)
            finally:
                os.kill(persister, signal.SIGCONT)
        assert found["all_bytes"] > values_of.nbytes > found["done_bytes"]
        assert found["percent"] < 100
        server.ready()
        sender.settimeout(30)
        reply = read_all(sender)
        assert client.info(starting=True)["recovery"] == {}
    assert reply.startswith(b"written=50 rejected=0"), reply
    assert not server.info()["last_recovery"]["adopted"]
    assert_written(server, "m", times)
    assert_written(server, "after", times[-1:])


def test_p07_reading_back_takes_no_python_for_each_sample() -> None:
    """The log is decoded by reflection, value by value."""

    def calls(n_records: int) -> int:
        machine = Machine()
        refs, definitions = machine.intern([f"m{k}" for k in range(8)], 1_700_000_000)
        machine.store.apply_block(definitions)
        machine.store.directory.publish()
        records = b"".join(scatter(refs, [1.0] * 8, 1_700_000_000 + k * STEP_S) for k in range(n_records))
        n_calls = 0

        def count(_frame: object, _event: str, _argument: object) -> None:
            nonlocal n_calls
            n_calls += 1

        sys.setprofile(count)
        try:
            machine.store.apply_block(records)
        finally:
            sys.setprofile(None)
        return n_calls

    assert calls(2) == calls(200) > 0


def test_p08_a_stop_that_is_cut_short_loses_nothing(serve: Serve, now: int) -> None:
    """The last snapshot takes longer than the patience of whoever stops the store."""
    server = serve(PLAIN)
    start = grid(now, 90_000)
    for life, patience_s in enumerate((0.0, 0.02, 0.1, 0.3)):
        t = start + life * 2000
        assert b"rejected=0" in server.send_text(lines("m", range(t, t + 2000, STEP_S), by_time).encode())
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        time.sleep(patience_s)
        power_off(server)
        server.start()
        assert_written(server, "m", range(start, t + 2000, STEP_S))
