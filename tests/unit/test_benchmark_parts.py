"""What the benchmarks say of their own runs is right: the parts that need no store."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mstore
from benchmarks import bench_others, bench_recovery, bench_restart, references
from benchmarks.bench_follow import Following, account, cases, check, waits_ms
from benchmarks.follower import Received
from benchmarks.grid_values import grid_values, same_bits
from benchmarks.load import HWTHREADS, Load
from benchmarks.other_stores import VictoriaMetrics, exported, private_bytes, selected
from benchmarks.references import machine
from mstore.client.following import FollowBatch
from mstore.frames import Series
from mstore.shm.segment import huge_pages
from tests.samples_rig import row

T0 = 1_725_620_400


def batch(values: list[float], missed: int = 0) -> FollowBatch:
    n = len(values)
    words = np.array(values, np.float32).astype(np.float64).view(np.uint64)
    index, types = np.zeros(n, np.uint32), np.ones(n, np.uint8)
    return FollowBatch([], index, np.zeros(n, np.int64), types, words, missed=missed)


# --- followers


def test_a_follower_counts_what_came_and_what_it_was_told_to_have_missed() -> None:
    received = Received()
    for one in (batch([10.01, 99.99]), batch([], missed=5), batch([12.34])):
        received.take(one)
    assert (received.seen, received.missed, received.hundredths) == (3, 5, 1001 + 9999 + 1234)
    received.take(batch([], missed=-1))
    received.take(batch([], missed=7))
    assert received.missed == -1, "once nobody knows, nobody knows"
    assert "nobody knows" in account([received, Received(seen=1)])


def test_samples_that_neither_came_nor_were_told_to_be_missed_are_an_error() -> None:
    written = np.array([[1000, 2000], [3000, 4000]])
    check(Received(seen=4, hundredths=10_000), written, "all")
    check(Received(seen=3, missed=1, hundredths=6000), written, "all")
    check(Received(seen=1, missed=-1), written, "all")
    with pytest.raises(AssertionError, match="3 samples came, 0 were told to be missed, 4 were written"):
        check(Received(seen=3, hundredths=6000), written, "all")
    with pytest.raises(AssertionError, match="not what was written"):
        check(Received(seen=4, hundredths=10_001), written, "all")


def test_followers_of_four_hosts_follow_different_ones_and_one_follows_everything() -> None:
    load = Load(T0, 1, 1, hosts=8)
    asked = cases(8)
    assert [len(one) for one in asked.values()] == [0, 1, 1, 4]
    four = np.concatenate([one.series(load) for one in asked["4 of a host each"]])
    assert len(np.unique(four)) == 4 * HWTHREADS
    assert [one.selector for one in asked["4 of a host each"]] == [f"alex/f{k:04d}" for k in (0, 2, 4, 6)]
    assert asked["1 of everything"] == [Following("alex", tuple(range(8)), everything=True)]
    assert len(asked["1 of everything"][0].series(load)) == load.n_series


def test_a_wait_is_counted_from_the_write_of_its_host() -> None:
    began = {(0, T0): 10.0, (1, T0): 11.0, (0, T0 + 60): 20.0, (1, T0 + 60): 21.0}
    came = [("f0024", T0, 10.5), ("f0025", T0, 11.25), ("f0025", T0 + 60, 21.125)]
    assert waits_ms([Received(arrivals=came[:1]), Received(arrivals=came[1:])], began).tolist() == [
        500,
        250,
        125,
    ]


# --- other stores


def test_parts_hold_so_many_lines_and_all_of_them_are_those_of_the_ticks() -> None:
    load = Load(T0, 3, 1, hosts=2)
    parts = load.parts(2, 100)
    assert [part.count(b"\n") for part in parts] == [100, 44]
    assert b"".join(parts) == load.tick(2)
    assert b"".join(bench_others.bodies_of(load, 1, 3)) == load.tick(1) + load.tick(2)
    assert bench_others.host_of(HWTHREADS + 5) == ("f0001", 5)


def test_samples_that_a_store_dropped_changed_or_made_up_are_counted() -> None:
    load = Load(T0, 4, 1, hosts=1)
    times = T0 + 60 * np.arange(4)
    values = load.values[:, 7] / 100

    def wrong(times: np.ndarray, values: np.ndarray) -> int:
        return bench_others.n_wrong((times, values), load, 7, 4)

    assert wrong(times, values) == wrong(times, values.astype(np.float32).astype(np.float64)) == 0
    assert wrong(times[1:], values[1:]) == 1, "dropped"
    assert wrong(np.append(times, T0 + 240), np.append(values, 1.0)) == 1, "made up"
    assert wrong(np.append(times, T0), np.append(values, values[0])) == 1, "twice"
    assert wrong(times, values + np.array([0, 0.01, 0, 0])) == 2, (
        "one is missing, another one is there in its place"
    )
    assert wrong(times[:0], values[:0]) == 4


def test_answers_of_other_stores_become_times_and_values_in_order() -> None:
    lines = [
        {"metric": {}, "values": [3, 4.5], "timestamps": [120_000, 180_000]},
        {"metric": {}, "values": [1, 2], "timestamps": [0, 60_000]},
    ]
    times, values = exported("\n".join(map(json.dumps, lines)).encode())
    assert (times.tolist(), values.tolist()) == ([0, 60, 120, 180], [1, 2, 3, 4.5])
    assert [len(column) for column in exported(b"")] == [0, 0]
    series = {"name": "cpu_user", "columns": ["time", "value"], "values": [[0, 1.5], [60, 2]]}
    times, values = selected(json.dumps({"results": [{"statement_id": 0, "series": [series]}]}).encode())
    assert (times.tolist(), values.tolist()) == ([0, 60], [1.5, 2.0])
    assert [len(column) for column in selected(b'{"results":[{"statement_id":0}]}')] == [0, 0]
    with pytest.raises(AssertionError, match="database not found"):
        selected(b'{"results":[{"error":"database not found: bench"}]}')


def test_memory_is_what_a_process_has_beside_shared_memory() -> None:
    rollup = (
        "Rss: 9000 kB\nPss: 600 kB\nPss_Anon: 100 kB\nPss_File: 20 kB\nPss_Shmem: 480 kB\nShared_Clean: 7 kB"
    )
    assert private_bytes(rollup) == 120 * 1024


def test_ratios_say_how_many_times_as_good_mstore_is() -> None:
    mine = bench_others.Figures(10.0, 100.0, [100.0], 50.0, 40.0, 2.0, 5, 0)
    other = bench_others.Figures(5.0, 20.0, [20.0], 100.0, 80.0, 3.0, 5, 0)
    assert bench_others.ratios({"mstore": mine}) == []
    assert bench_others.ratios({"mstore": mine, "X": other, "Y": mine}) == [
        "lines/s, steady order: mstore 5 x X, 1 x Y",
        "lines/s, first sight: mstore 2 x X, 1 x Y",
        "memory a series: mstore 2 x X, 1 x Y",
        "one series x 24 h: mstore 1.5 x X, 1 x Y",
    ]


def test_a_program_is_found_by_its_option_or_in_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, influxdb = bench_others.PROGRAMS
    monkeypatch.setenv("PATH", str(tmp_path))
    assert influxdb.find(None) is None
    assert "--influxd DIR/usr/bin/influxd" in influxdb.how_to_get_it()
    program = tmp_path / "influxd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert influxdb.find(None) == influxdb.find(program) == str(program)
    assert influxdb.find(tmp_path / "elsewhere") is None


class Taker(http.server.BaseHTTPRequestHandler):
    """Takes lines as the other stores do; refuses what has the word bad in it."""

    protocol_version = "HTTP/1.1"
    taken: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append(body)
        refusal = b"partial write" if b"bad" in body else b""
        self.send_response(400 if refusal else 204)
        self.send_header("Content-Length", str(len(refusal)))
        self.end_headers()
        self.wfile.write(refusal)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def taker(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    Taker.taken = []
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server,
        subprocess.Popen([sys.executable, "-c", ""]) as process,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield VictoriaMetrics(tmp_path, process, server.server_address[1])
        server.shutdown()
        thread.join()


def test_every_body_is_sent_once_on_some_stream(taker: VictoriaMetrics) -> None:
    bodies = [b"line %d\n" % k for k in range(50)]
    assert taker.write(bodies) > 0
    assert sorted(Taker.taken) == sorted(bodies)


def test_a_store_that_refuses_lines_ends_the_comparison(taker: VictoriaMetrics) -> None:
    with pytest.raises(AssertionError, match="status 400: partial write"):
        taker.write([b"good\n", b"bad\n", b"good\n"])


# --- recovery


@contextlib.contextmanager
def loaded() -> Iterator[bench_recovery.Memory]:
    """Three series, a chunk each, as the recovery benchmark writes them."""
    memory = bench_recovery.Memory(100, 1 << 20)
    refs, _ = memory.intern(3)
    memory.store.apply_block(bench_recovery.columns(refs, 0, 0))
    yield memory
    memory.close()


def apply(memory: bench_recovery.Memory, i: int, slot: int, value: float) -> None:
    ref = memory.directory.find_series_path(*bench_recovery.path_of(i))
    t = bench_recovery.T0 + slot * bench_recovery.STEP_S
    memory.store.apply_block(row(ref & 0xFFFF_FFFF, t, [value]))


def test_what_was_written_and_nothing_else_is_what_a_load_is_held_against() -> None:
    with loaded() as memory:
        memory.compare(np.array([512, 512, 512]))
        with pytest.raises(AssertionError, match="series 1: what was loaded is not"):
            memory.compare(np.array([512, 511, 512]))
        with pytest.raises(AssertionError, match="series 3 is not there"):
            memory.compare(np.full(4, 512))


@pytest.mark.parametrize("slot", [0, 300, 511])
def test_a_load_with_one_bit_changed_is_noticed(slot: int) -> None:
    value = grid_values(np.array([2]), np.array([slot]))
    changed = (value.view(np.uint32) ^ np.uint32(1)).view(np.float32)
    with loaded() as memory:
        apply(memory, 2, slot, float(changed[0, 0]))
        with pytest.raises(AssertionError, match="series 2: what was loaded is not"):
            memory.compare(np.full(3, 512))


@pytest.mark.parametrize("slot", [-1, 512])
def test_a_load_with_a_sample_beside_those_that_were_written_is_noticed(slot: int) -> None:
    with loaded() as memory:
        apply(memory, 0, slot, 1.5)
        with pytest.raises(AssertionError, match="series 0: what was loaded is not"):
            memory.compare(np.full(3, 512))


def test_a_load_with_times_a_step_later_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded() as memory:
        monkeypatch.setattr(bench_recovery, "T0", bench_recovery.T0 - 1)
        with pytest.raises(AssertionError, match="series 0 is of other times"):
            memory.compare(np.full(3, 512))


def test_every_slot_of_every_series_has_bits_of_its_own() -> None:
    values = grid_values(np.arange(200), np.arange(600))
    assert len(np.unique(values)) > 0.98 * values.size, "of 2^23 possible ones"
    assert not any(same_bits(values[i], values[j]) for i in range(20) for j in range(i))
    assert ((values >= 1) & (values < 2)).all()


# --- references


def test_the_line_of_the_machine_says_how_shared_memory_is_mounted() -> None:
    assert machine().endswith(f", /dev/shm huge={huge_pages()}")


def test_first_touch_is_told_of_large_pages_where_the_mount_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(references, "huge_pages", lambda: "never")
    per_s, text = references.first_touch(32 << 20)
    assert per_s > 0
    assert text.endswith("GB/s by pages of 4 KiB")
    monkeypatch.setattr(references, "huge_pages", lambda: "advise")
    per_s, text = references.first_touch(32 << 20)
    assert text.endswith(f"{per_s / 1e9:.2f} by 2 MiB")


def test_a_bare_listener_takes_all_connections_and_leaves_nothing(tmp_path: Path) -> None:
    assert 0 <= references.bare_listener_cpu_s(20, 0.2) < 1


# --- restarts


class Held:
    """A client of a store that holds what it is told to."""

    def __init__(self, start: int, values: np.ndarray) -> None:
        self.start, self.values = start, values

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def query(self, *_: object, **__: object) -> list[Series]:
        return [Series(row, self.start, 60, type_id=str(i)) for i, row in enumerate(self.values)]


def test_a_restart_that_changes_a_bit_a_time_or_a_series_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = grid_values(np.arange(3), np.arange(-1, 5))
    whole[:, [0, -1]] = np.nan
    flipped, swapped = whole.copy(), whole[[1, 0, 2]]
    flipped.view(np.uint32)[2, 3] ^= 1

    def compare(values: np.ndarray, start: int = T0 - 60) -> int:
        monkeypatch.setattr(mstore, "connect", lambda *_, **__: Held(start, values))
        return bench_restart.compare(tmp_path, 3, T0, 4, np.random.default_rng(1))

    assert compare(whole) == 3
    for values in (flipped, swapped):
        with pytest.raises(AssertionError, match="what is read is not what was written"):
            compare(values)
    with pytest.raises(AssertionError, match="other times"):
        compare(whole, T0)
    with pytest.raises(AssertionError, match="others"):
        compare(whole[:2])
