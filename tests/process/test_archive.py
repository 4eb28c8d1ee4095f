"""A running store and its archive: what leaves memory is found there, and every question is answered as before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

import mstore
from mstore.errors import ArchiveError, StorageError, Timeout
from mstore.frames import Series
from tests.stores import Server, until

DAY_S = 86_400
ARCHIVE = '[archive]\nmode = "archive"\ninterval = "10s"\n'
TIGHT = f'retention = "1h"\n{ARCHIVE}'
LONG = 'retention = "30d"\n[archive]\nmode = "archive"\ninterval = "7d"\n'

Serve = Callable[..., Server]


def written(client: mstore.Client, now: int, *, hosts: int = 3, hours: int = 20) -> None:
    """Samples of several metrics of each type, node and hwthread level, over many hours up to now."""
    writer = client.writer()
    specs = {
        "load": mstore.MetricSpec("load", 60, "avg", "f32", "procs"),
        "flops": mstore.MetricSpec("flops", 60, "sum", "f64", "GFlops/s"),
        "ops": mstore.MetricSpec("ops", 60, "sum", "u64"),
    }
    start = (now - hours * 3600) // 60 * 60
    times = np.arange(start, now - 60, 60)
    for metric, spec in specs.items():
        paths = [("fritz", f"f{h}", metric) for h in range(hosts)]
        paths += [("fritz", f"f{h}", metric, "hwthread", str(t)) for h in range(hosts) for t in range(4)]
        handles = writer.open(paths, spec)
        rng = np.random.default_rng(len(metric))
        values: Any = rng.normal(size=(len(times), len(paths))) * 1e6
        if spec.type == "u64":
            values = (1 << 60) + rng.integers(0, 1 << 40, (len(times), len(paths))).astype(np.uint64)
        writer.write(handles, times, values)
    assert writer.flush().rejected == 0
    writer.close()


def asked(ask: Callable[..., Any], now: int) -> list[Any]:
    """Answers over all of it, and over parts: single series, lists, aggregates, means."""
    found = []
    for start, end in ((now - 30 * 3600, now), (now - 15 * 3600, now - 5 * 3600)):
        for metric in ("load", "flops", "ops"):
            found.append(ask("fritz", "f1", metric, start, end))
            found.append(ask("fritz", "f2", metric, start, end, type="hwthread"))
            found.append(ask("fritz", "f0", metric, start, end, type="hwthread", aggregate=True))
            found.append(
                ask("fritz", "f0", metric, start, end, type="hwthread", type_ids="2", resolution=600)
            )
    return [plain(one) for one in found]


def plain(answer: Any) -> Any:
    if isinstance(answer, list):
        return [plain(one) for one in answer]
    assert isinstance(answer, Series)
    return answer.to_wire()


@pytest.fixture
def root(short_dir: Path) -> Iterator[Path]:
    yield short_dir / "archive"
    shutil.rmtree(short_dir / "archive", ignore_errors=True)


def rows_in(root: Path) -> int:
    return int(ds.dataset(root, partitioning="hive").count_rows())


def same_rows_once(root: Path) -> None:
    """Nothing is in the archive twice."""
    table = ds.dataset(root, partitioning="hive").to_table(columns=["series", "timestamp", "metric"])
    keys = set(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    assert len(keys) == table.num_rows


def test_what_is_archived_and_freed_is_answered_from_the_archive(serve: Serve, root: Path, now: int) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now)
        before = asked(client.query, now)
        done = client.archive(delete=True)
        assert (done["rows"], done["failed"]) == (rows_in(root), [])
        assert done["freed"] > 0
        assert asked(client.query, now) == before
        alone = [plain(client.query("fritz", "f1", "load", now - 30 * 3600, now, archive=False))]
        assert alone[0] != before[0]
        questions = [mstore.Question("fritz", f"f{h}", "ops", now - 30 * 3600, now) for h in range(3)]
        with mstore.attach(server.directory) as reader:
            assert asked(reader.query, now) == before
            assert plain(reader.query("fritz", "f1", "load", now - 30 * 3600, now, archive=False)) == alone[0]
        assert [plain(one) for one in client.query_many(questions)] == [
            plain(client.query(*one[:5])) for one in questions
        ]
    same_rows_once(root)


def test_what_retention_frees_is_archived_before_and_served_from_there(
    serve: Serve, root: Path, now: int
) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now)
        before = asked(client.query, now)
    server.stop()
    (server.directory / "mstore.toml").write_text(TIGHT)
    server.start()  # what is too old by now is kept until it is archived
    with server.client(timeout=300) as client:
        until(lambda: client.info()["counters"]["chunks_freed"], "retention", 200)
        assert client.info()["counters"]["archive_passes"]
        assert asked(client.query, now) == before
        hidden = client.query("fritz", "f1", "load", now - 10 * 3600, now - 2 * 3600, archive=False)
        assert isinstance(hidden, Series)
        assert not hidden.valid.any()
    same_rows_once(root)


def kinds(client: mstore.Client, now: int) -> list[Any]:
    """Answers of other kinds over a socket; comparable."""
    start, end = now - 15 * 3600, now - 600
    batch = {
        "cluster": "fritz", "from": start, "to": end, "for-all-nodes": ["load"],
        "queries": [{"metric": "flops", "host": "f2", "type": "hwthread", "type-ids": ["0", "3"]}],
    }  # fmt: skip
    return [
        client.fetch(batch).to_json(),
        client.node_data("fritz", start, end, metrics=["load"]).to_json(),
        client.stats("fritz/*", "flops", start, end).to_wire(),
        client.top("fritz/*", "load", start, end, 2).to_wire(),
        plain(client.series("fritz/f0,f1", "load", start, end)),
        plain(client.query("fritz", "f1", "ops", start, end, function="rate")),
    ]


def test_of_protected_hosts_memory_keeps_what_is_archived_and_every_answer_is_as_before(
    serve: Serve, root: Path, now: int
) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now)
        client.protect("fritz", ["f0"])
        before = kinds(client, now)
    server.stop()
    (server.directory / "mstore.toml").write_text(TIGHT)
    server.start()
    with server.client(timeout=300) as client:
        until(lambda: client.info()["counters"]["chunks_freed"], "retention", 200)
        assert kinds(client, now) == before

        def kept(host: str) -> int:
            old = client.query("fritz", host, "load", now - 15 * 3600, now - 5 * 3600, archive=False)
            assert isinstance(old, Series)
            return int(np.count_nonzero(old.valid))

        assert (kept("f0"), kept("f1")) == (600, 0)
        n_freed = client.info()["counters"]["chunks_freed"]
        client.protect("fritz", ["f0"], "clear")
        until(lambda: client.info()["counters"]["chunks_freed"] > n_freed, "the end of protection", 400)
        assert kept("f0") == 0
        assert kinds(client, now) == before
    same_rows_once(root)


def test_samples_that_come_after_their_time_was_archived_are_archived_again(
    serve: Serve, root: Path, now: int
) -> None:
    server = serve(LONG)
    line = "load,cluster=c,hostname=a value={} {}\n"
    with server.client(timeout=60) as client:
        client.write("".join(line.format(i, now - 36_000 + 60 * i) for i in range(60)))
        assert client.archive()["rows"] == 60
        client.write(line.format(777, now - 36_000 + 600))  # another value for a slot that is archived
        client.write(line.format(888, now - 36_000 + 60 * 70))  # a slot that had none
        assert client.archive(delete=True)["rows"] == 2
        table = ds.dataset(root, partitioning="hive").to_table(columns=["timestamp", "value"])
        assert sorted(table["value"].to_pylist())[-2:] == [777, 888]
        answer = client.query("c", "a", "load", now - 36_000, now - 36_000 + 71 * 60)
        assert isinstance(answer, Series)
        assert (answer.values[10], answer.values[70]) == (777, 888)
        assert np.count_nonzero(answer.valid) == 61


def test_what_is_evicted_at_the_cap_is_answered_from_the_files_and_from_the_archive(
    serve: Serve, root: Path, now: int
) -> None:
    server = serve(f'memory_cap = "48MiB"\ningest_workers = 1\n{LONG}')
    with server.client(timeout=300) as client:
        writer = client.writer()
        paths = [("c", f"h{i}", "load") for i in range(2000)]
        handles = writer.open(paths, mstore.MetricSpec("load", 60, "avg", "f32"))
        first = (now - 3 * DAY_S) // 60 * 60
        n_rounds = 4200
        for at in range(0, n_rounds, 100):
            times = first + 60 * np.arange(at, at + 100)
            values = np.arange(at, at + 100, dtype=np.float32)[:, None] + np.arange(2000, dtype=np.float32)
            writer.write(handles, times, values)
        assert writer.flush().rejected == 0
        writer.close()
        counters = client.info()["counters"]
        assert counters["chunks_evicted"] > 0
        assert counters["archive_lost"] == 0

        def whole(host: int) -> bool:
            answer = client.query("c", f"h{host}", "load", first, first + 60 * n_rounds)
            assert isinstance(answer, Series)
            wanted = np.arange(n_rounds, dtype=np.float32) + np.float32(host)
            return bool(np.array_equal(answer.values, wanted))

        for host in (0, 7, 1999):
            assert whole(host), "what is on its way to the archive"
        assert client.archive()["failed"] == []
        assert not list((server.directory / "leaving").iterdir())
        for host in (0, 7, 1999):
            assert whole(host), "what is in the archive"
    same_rows_once(root)
    assert rows_in(root) == 2000 * n_rounds


@pytest.mark.parametrize("point", ["archive.written", "archive.published", "archive.committed"])
def test_a_helper_killed_at_any_point_leaves_nothing_half_and_nothing_twice(
    serve: Serve, root: Path, now: int, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = root.parent / "faults"
    orders.mkdir()
    monkeypatch.setenv("MSTORE_FAULT", str(orders))
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now, hosts=1)
        before = asked(client.query, now)
        (orders / "archive").write_text(f"{point} 1")
        with pytest.raises(mstore.MstoreError, match="helper failed"):
            client.archive()
        assert (orders / "archive.hit").exists()
        if (root / "cluster=fritz").exists():
            same_rows_once(root)
        done = client.archive(delete=True)
        assert done["failed"] == []
        same_rows_once(root)
        assert asked(client.query, now) == before


def test_a_store_that_was_killed_goes_on_archiving_where_it_was(serve: Serve, root: Path, now: int) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now, hosts=1)
        before = asked(client.query, now)
        first = client.archive()["rows"]
    server.kill()
    server.start()
    with server.client(timeout=300) as client:
        assert client.archive(delete=True)["rows"] == 0
        assert rows_in(root) == first
        assert asked(client.query, now) == before


def test_the_oldest_days_go_when_the_archive_grows_beyond_its_bytes(
    serve: Serve, root: Path, now: int
) -> None:
    server = serve(LONG + 'max_bytes = "200KiB"\n')
    with server.client(timeout=300) as client:
        written(client, now, hours=200)
        done = client.archive()
        assert done["days_deleted"] > 0
        days = sorted(path.name for path in (root / "cluster=fritz").iterdir())
        assert len(days) + done["days_deleted"] >= 8
        size = sum(path.stat().st_size for path in root.rglob("*.parquet"))
        assert size <= 200 << 10 or len(days) == 1
    assert "is deleted" in server.log_text()


DELETE = """
retention = "1h"
unknown_metrics = "register"
[metrics.event]
step = 0
retention = "5s"
[archive]
mode = "delete"
interval = "10s"
"""


def test_in_mode_delete_nothing_is_archived_any_more_and_what_there_is_is_read_within_its_bytes(
    serve: Serve, root: Path, now: int
) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now, hosts=3, hours=100)
        before = asked(client.query, now)
        assert client.archive(delete=True)["failed"] == []
    n_rows = rows_in(root)
    assert server.stop() == 0
    config = server.directory / "mstore.toml"
    config.write_text(DELETE)
    server.start()
    with server.client(timeout=300) as client:
        assert asked(client.query, now) == before
        stamp = int(time.time())
        assert client.write("event,cluster=fritz,hostname=new value=1\n").written == 1
        until(lambda: "new" not in client.children("fritz"), "a host whose samples have left memory", 90)
        assert len(client.query("fritz", "new", "event", stamp - 60, stamp + 60)) == 0
        assert rows_in(root) == n_rows
        assert not list((server.directory / "leaving").glob("*")), "nobody would take them"
        with pytest.raises(ArchiveError, match="has no archive"):
            client.archive()
        days = sorted(path.name for path in (root / "cluster=fritz").iterdir())
        bound = sum(path.stat().st_size for path in root.rglob("*.parquet")) // 2
        config.write_text(f"{DELETE}max_bytes = {bound}\n")
        client.control("reload")
        until(lambda: "is deleted" in server.log_text(), "the oldest days to go")
        until(lambda: sum(path.stat().st_size for path in root.rglob("*.parquet")) <= bound, "few bytes")
        left = sorted(path.name for path in (root / "cluster=fritz").iterdir())
        assert left == days[-len(left) :]
        oldest = client.query("fritz", "f1", "load", now - 100 * 3600, now - 90 * 3600)
        assert isinstance(oldest, Series)
        assert not oldest.valid.any()
        recent = client.query("fritz", "f1", "load", now - 10 * 3600, now - 2 * 3600)
        assert isinstance(recent, Series)
        assert recent.valid.all()


def test_a_store_without_an_archive_refuses_to_archive(serve: Serve) -> None:
    with serve("").client() as client, pytest.raises(mstore.MstoreError, match="has no archive"):
        client.archive()


def test_what_of_the_archive_cannot_be_read_is_said_and_the_rest_is_answered(
    serve: Serve, root: Path, now: int
) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now, hosts=1, hours=60)
        client.archive(delete=True)
        damaged = sorted(root.glob("cluster=fritz/*/*.parquet"))[1]
        damaged.write_bytes(damaged.read_bytes()[:-100])
        answer = client.query("fritz", "f0", "load", now - 70 * 3600, now)
        assert isinstance(answer, Series)
        assert str(damaged) in answer.why
        assert 0 < np.count_nonzero(answer.valid) < 60 * 60 - 2


def test_the_reader_of_the_archive_ends_with_a_question_that_takes_too_long(
    serve: Serve, root: Path, now: int
) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now, hosts=1)
        client.archive(delete=True)
        with pytest.raises(Timeout):
            client.query("fritz", "f0", "load", now - 20 * 3600, now, timeout=0.001)
        answer = client.query("fritz", "f0", "load", now - 20 * 3600, now)
        assert isinstance(answer, Series)
        assert answer.valid.any()


def test_a_stopped_store_is_archived_as_a_start_would_find_it(serve: Serve, root: Path, now: int) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now, hosts=1)
        client.protect("fritz", ["f0"])
        before = asked(client.query, now)
    server.stop()
    command = [sys.executable, "-m", "mstore", "archive", "--dir", str(server.directory)]
    done = subprocess.run([*command, "--now", "--delete"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    same_rows_once(root)
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True).stdout
    assert "fritz" in listed
    server.start()
    with server.client(timeout=300) as client:
        left = client.query("fritz", "f0", "load", now - 20 * 3600, now, archive=False)
        assert isinstance(left, Series)
        assert np.count_nonzero(left.valid) < 600
        assert asked(client.query, now) == before
        assert client.protected() == {"fritz": ["f0"]}


def test_the_idle_reader_of_the_archive_is_gone_with_its_worker(serve: Serve, root: Path, now: int) -> None:
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now, hosts=1)
        client.archive(delete=True)
        client.query("fritz", "f0", "load", now - 20 * 3600, now)
        pid = server.worker_pid("query")
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert children
    server.stop()
    until(lambda: not any(os.path.exists(f"/proc/{one}") for one in children), "its end")
    assert time.time() > now


def test_an_archive_that_a_reload_switches_on_is_written_without_an_order(serve: Serve, now: int) -> None:
    server = serve("")
    with server.client() as client:
        written(client, now)
        (server.directory / "mstore.toml").write_text(ARCHIVE)
        client.control("reload")
        assert until(lambda: client.info()["counters"]["archive_passes"], "a pass")


def test_a_pass_into_a_directory_that_a_reload_leaves_counts_for_nothing(
    serve: Serve, now: int, tmp_path: Path
) -> None:
    """What memory still has is not freed for it, and goes into the new directory."""
    old, new = (LONG + f'directory = "{tmp_path / name}"\n' for name in ("old", "new"))
    server = serve(old)
    with server.client(timeout=120) as client, ThreadPoolExecutor(1) as pool:
        written(client, now)
        before = asked(client.query, now)
        ordered = pool.submit(client.archive, delete=True)
        helper = until(lambda: _helper_of(server), "the helper")
        os.kill(helper, signal.SIGSTOP)
        try:
            (server.directory / "mstore.toml").write_text(new)
            client.control("reload")
        finally:
            os.kill(helper, signal.SIGCONT)
        with pytest.raises(ArchiveError, match="the configuration has changed meanwhile"):
            ordered.result(120)
        assert asked(client.query, now) == before
        assert client.archive(delete=True)["freed"] > 0
        assert asked(client.query, now) == before
        shutil.rmtree(tmp_path / "new")
        with pytest.raises(StorageError, match="is its file system mounted"):
            client.archive()
        assert not (tmp_path / "new").exists()
        found = client.query("fritz", "f0", "load", now - 20 * 3600, now)
        assert f"there is no archive at {tmp_path / 'new'}" in found.why


def test_an_archive_whose_file_system_hangs_holds_up_neither_a_start_nor_a_reload_nor_a_stop(
    serve: Serve, root: Path, now: int, tmp_path: Path
) -> None:
    """A pipe in place of a manifest: who opens it to read waits until somebody writes."""
    server = serve(LONG)
    with server.client(timeout=300) as client:
        written(client, now, hosts=1)
        client.archive()
        before = asked(client.query, now)
    assert server.stop() == 0
    manifest = next(root.glob("_manifest/*.json"))
    content = manifest.read_bytes()
    manifest.unlink()
    os.mkfifo(manifest)
    server.start()
    assert "does not say how far it is" in server.log_text()
    with server.client(timeout=20) as client:
        assert asked(client.query, now) == before
        assert client.write(f"load,cluster=fritz,hostname=f0 value=1 {now}\n").durable
        client.control("reload")
        (server.directory / "mstore.toml").write_text(LONG + f'directory = "{tmp_path / "other"}"\n')
        client.control("reload")  # what hangs is given up
        assert client.archive()["failed"] == []
        (server.directory / "mstore.toml").write_text(LONG)
        client.control("reload")
        # Older than what the archive is complete to, which nobody knows now: it is noted as late.
        assert client.write(f"load,cluster=fritz,hostname=f0 value=2 {now}\n").durable
    assert server.stop() == 0
    manifest.unlink()
    manifest.write_bytes(content)
    server.start()
    with server.client(timeout=300) as client:
        assert client.archive(delete=True)["rows"] == 1
        same_rows_once(root)


def _helper_of(server: Server) -> int:
    """Process id of the archive helper; 0 while there is none."""
    persister = server.worker_pid("persister")
    for pid in Path(f"/proc/{persister}/task/{persister}/children").read_text().split():
        if Path(f"/proc/{pid}/cmdline").read_text().startswith("mstore: archive "):
            return int(pid)
    return 0
