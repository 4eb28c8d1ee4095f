"""A store exported in every format of the reference and imported into a fresh one answers alike, times and bits."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import mstore
from mstore import SeriesPath
from mstore.frames import Series
from tests.process.test_cli_store import bad, good, run
from tests.stores import Server, until

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "compat"
STEP_S = 60
CONFIG = f"""
retention = "0"
[metrics.load]
step = {STEP_S}
[metrics.bw]
step = {STEP_S}
aggregation = "sum"
[metrics.fast]
step = 10
[metrics.wide]
step = {STEP_S}
type = "f64"
[metrics.count]
step = {STEP_S}
type = "u64"
[metrics.beat]
step = 0
"""
GPU = "00000000:49:00.0"
PATHS = [
    SeriesPath(cluster, host, *rest)
    for cluster, hosts in (("fritz", ("f2", "f10")), ("alex", ("a1",)))
    for host in hosts
    for rest in (
        ("load",), ("load", "hwthread", "0"), ("load", "hwthread", "1"), ("bw", "socket", "0"), ("fast",),
        ("load", "accelerator", GPU), ("load", "accelerator", GPU, "nvlink", "3"), ("bw", "network", "enp1s0"),
        ("bw", "disk", "/dev/nvme0"), ("wide",), ("count",),
    )
]  # fmt: skip
HOURS = 26


@pytest.fixture
def stores() -> Iterator[Callable[..., Server]]:
    """Started stores, each in a directory of its own."""
    made: list[Server] = []

    def start(config: str = CONFIG) -> Server:
        made.append(Server(Path(tempfile.mkdtemp(prefix="ms-")), config).start())
        return made[-1]

    yield start
    for server in made:
        if server.process is not None and server.process.poll() is None:
            server.stop()
        shutil.rmtree(server.directory, ignore_errors=True)


def fill(client: mstore.Client, first_s: int, seed: int) -> None:
    """Every series of PATHS, with gaps; float32 of any size, -0.0 and subnormal ones among them."""
    rng = np.random.default_rng(seed)
    with client.writer() as writer:
        for path in PATHS:
            step = 10 if path.metric == "fast" else STEP_S
            times = first_s + 7 + step * np.arange(HOURS * 3600 // step)
            times = times[rng.random(len(times)) > 0.05]
            if path.metric == "count":
                values = rng.integers(0, 1 << 50, len(times)).astype(np.uint64)
            elif path.metric == "wide":
                values = rng.normal(size=len(times)) * 1e10
            else:
                words = rng.integers(0, 1 << 32, len(times), dtype=np.uint32)
                values = words.view(np.float32)
                values = np.where(np.isfinite(values), values, np.float32(-0.0))
            writer.write(writer.open([path]), times, values)
        handles = writer.open([("fritz", "f2", "beat")])
        writer.rows(int(handles[0]), [first_s * 1000], [1.0])
        result = writer.flush()
    assert (result.rejected, result.ignored) == (0, 0)


def answers(client: mstore.Client, start: int, end: int) -> dict[SeriesPath, Series]:
    found = {}
    for path in PATHS:
        series = client.query(
            path.cluster, path.host, path.metric, start, end,
            type=path.type or None, type_ids=path.type_id or None,
            subtype=path.subtype or None, subtype_ids=path.subtype_id or None,
        )  # fmt: skip
        assert isinstance(series, Series)
        found[path] = series
    return found


def expected_values(series: Series, form: str) -> np.ndarray:
    """What survives the format: float32, in JSON float64."""
    if series.metric not in ("wide", "count") or form == "json":
        return series.values
    return series.values.astype(np.float32).astype(series.values.dtype)


@pytest.mark.parametrize("form", ["bin", "json", "wal", "parquet"])
def test_a_fresh_store_answers_alike_after_an_export_and_an_import(
    stores: Callable[..., Server], tmp_path: Path, form: str, now: int, seed: int
) -> None:
    first, second = stores(), stores()
    start = (now - HOURS * 3600) // 3600 * 3600
    with first.client() as client:
        fill(client, start, seed)
    done = run("export", str(tmp_path), "--format", form, "--json", directory=first.directory)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["series"] == len(PATHS)
    assert told["notes"].get("series of stamped metrics, which have no step") == 1
    assert told["notes"].get("series of f64 or u64 with values rounded", 0) == (0 if form == "json" else 6)
    took = json.loads(good("import", str(tmp_path), "--json", directory=second.directory))
    assert (took["whole"], took["written"], took["rejected"]) == (True, told["samples"], 0)
    again = json.loads(good("import", str(tmp_path), "--json", directory=second.directory))
    assert again["written"] == told["samples"]
    with first.client() as one, second.client() as other:
        wanted, found = (answers(client, start, now + 60) for client in (one, other))
    for path in PATHS:
        left, right = wanted[path], found[path]
        assert left.times.tolist() == right.times.tolist(), path
        assert left.values.dtype == right.values.dtype
        assert left.valid.tolist() == right.valid.tolist(), path
        assert expected_values(left, form).tobytes() == right.values.tobytes(), path


def test_an_export_over_the_socket_is_the_same_as_from_memory(
    stores: Callable[..., Server], tmp_path: Path, now: int, seed: int
) -> None:
    from mstore.compat.exporting import Export
    from mstore.compat.source import asked, attached

    server = stores()
    start = (now - HOURS * 3600) // 3600 * 3600
    with server.client() as client, mstore.attach(server.directory) as reader:
        fill(client, start, seed)
        for name, source in (("socket", asked(client)), ("memory", attached(reader))):
            Export(source, tmp_path / name, "bin", start, now).run()
    files = {
        name: {
            path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.bin")
        }
        for name in ("socket", "memory")
    }
    assert files["socket"] == files["memory"]
    assert len(files["memory"]) >= 9


def test_the_reference_s_own_files_become_answers(stores: Callable[..., Server], tmp_path: Path) -> None:
    """Checkpoint, snapshot and log of one host side by side, the log last."""
    host = tmp_path / "fritz" / "f0201"
    host.mkdir(parents=True)
    for name in ("1699999760.json", "1700000000.bin", "current.wal"):
        shutil.copy(GOLDEN / name, host)
    server = stores('retention = "0"\n')
    took = json.loads(good("import", str(tmp_path), "--json", directory=server.directory))
    assert took["clusters"]["fritz"] == {
        "hosts": 1, "files": 3, "series": 5, "samples": 17, "from": 1_699_999_760, "to": 1_700_000_300,
    }  # fmt: skip
    with server.client() as client:
        load = client.query("fritz", "f0201", "cpu_load", 1_699_999_760, 1_700_000_320)
        link = client.query(
            "fritz", "f0201", "nv_link", 1_700_000_000, 1_700_000_300,
            type="accelerator", type_ids=GPU, subtype="nvlink", subtype_ids="3",
        )  # fmt: skip
        steps = {metric.name: metric.step_s for metric in client.metrics("fritz")}
    assert isinstance(load, Series)
    assert isinstance(link, Series)
    there = {
        t: v for t, v, ok in zip(load.times.tolist(), load.values.tolist(), load.valid, strict=True) if ok
    }
    assert there == {
        1_699_999_760: 0.5, 1_699_999_820: np.float32(0.7), 1_700_000_000: 0.5, 1_700_000_060: np.float32(0.7),
        1_700_000_240: 1.25, 1_700_000_300: 1.5,
    }  # fmt: skip
    assert [value for value in link.values.tolist() if value == value] == [7.0, 8.0]
    assert steps == {"cpu_load": 60, "mem_bw": 60, "mem_used": 30, "acc_mem": 60, "nv_link": 60}


def test_a_checkpoint_becomes_rows_of_the_archive(stores: Callable[..., Server], tmp_path: Path) -> None:
    """The reference's own case: two metrics of a host and one of a socket, three values each, are nine rows."""
    start = 1_600_001_000
    host = tmp_path / "in" / "testcluster" / "node001"
    host.mkdir(parents=True)

    def metric(*values: float) -> dict[str, object]:
        return {"frequency": 60, "start": start, "data": list(values)}

    below = {"metrics": {"mem_bw": metric(100, 110, 200)}, "children": {}, "from": start, "to": start + 60}
    document = {
        "metrics": {"cpu_load": metric(0.5, 0.7, 0.9), "mem_used": metric(45, 46, 47)},
        "children": {"socket0": below}, "from": start, "to": start + 60,
    }  # fmt: skip
    (host / f"{start}.json").write_text(json.dumps(document))
    server = stores('retention = "0"\n')
    good("import", str(tmp_path / "in"), directory=server.directory)
    good("export", str(tmp_path / "out"), "--format", "parquet", directory=server.directory)
    (path,) = (tmp_path / "out").rglob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 9
    assert {(row["cluster"], row["hostname"]) for row in rows} == {("testcluster", "node001")}
    assert sorted((row["metric"], row["scope"], row["scope_id"], row["timestamp"], row["value"]) for row in rows) == [
        (name, scope, scope_id, start + 60 * k, np.float32(value))
        for name, scope, scope_id, values in (
            ("cpu_load", "node", "", (0.5, 0.7, 0.9)), ("mem_bw", "socket", "0", (100, 110, 200)),
            ("mem_used", "node", "", (45, 46, 47)),
        )
        for k, value in enumerate(values)
    ]  # fmt: skip


def test_what_is_sound_is_imported_and_the_rest_is_reported(
    stores: Callable[..., Server], tmp_path: Path
) -> None:
    host = tmp_path / "fritz" / "f1"
    (host / "60").mkdir(parents=True)
    shutil.copy(GOLDEN / "1700000000.bin", host)
    (host / "1700043200.bin").write_bytes((GOLDEN / "1700000000.bin").read_bytes()[:-9])
    (host / "1700086400.json").write_text('{"metrics":')
    (host / "1700129600.bin.tmp").write_bytes(b"x")
    (host / "1700129601.bin").write_bytes(b"")
    shutil.copy(GOLDEN / "torn-and-appended.wal", host / "current.wal")
    (host / "notes.txt").write_text("hello")
    (host / "newest.json").write_text("{}")
    (host / "60" / "1700000000.avro").write_bytes(b"Obj\x01")
    shutil.copy(GOLDEN / "current.wal", tmp_path / "fritz" / "current.wal")
    server = stores('retention = "0"\n')
    done = run("import", str(tmp_path), directory=server.directory)
    assert done.returncode == 1
    assert "12 samples written" in done.stdout
    said = done.stderr
    for text in (
        "1700043200.bin: damaged at", "1700086400.json: damaged at 11", "1700129601.bin: damaged at 0",
        "current.wal: 20 bytes at 39 are no records", "notes.txt: not a file of the reference",
        "newest.json: its name is no", "Avro checkpoints are not read", "fritz/current.wal: it lies in no host's directory",
        "1700129600.bin.tmp: left over",
    ):  # fmt: skip
        assert text in said, said
    told = json.loads(run("import", str(tmp_path), "--salvage", "--json", directory=server.directory).stdout)
    assert told["written"] == 12 + 8


def test_wrong_usage_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "1.bin").write_bytes(b"x")
    nothing = str(tmp_path / "nothing")
    for argv, said in (
        (("import", str(tmp_path), "--as", "fritz"), "expected CLUSTER/HOST"),
        (("import", str(tmp_path), "--from", "-1h", "--to", "-2h"), "--from -1h is after --to -2h"),
        (("import", nothing), "no such file or directory"),
    ):
        assert said in bad(*argv, status=2, directory=tmp_path)
    assert "no store runs in" in bad("export", nothing, directory=tmp_path)
    assert not Path(nothing).exists()


def test_old_samples_are_refused_and_it_is_said_what_to_do(
    stores: Callable[..., Server], tmp_path: Path
) -> None:
    server = stores('retention = "2d"\n')
    done = run("import", str(GOLDEN / "current.wal"), "--as", "fritz/f1", directory=server.directory)
    assert done.returncode == 1
    assert "0 samples written" in done.stdout
    assert "4 samples refused: too_late 4" in done.stderr
    assert 'raise "retention"' in done.stderr


def test_unknown_metrics_are_counted_by_name_and_are_no_failure(stores: Callable[..., Server]) -> None:
    server = stores('retention = "0"\n[metrics.cpu_load]\nstep = 300\n')
    done = run("import", str(GOLDEN / "1700000000.bin"), "--as", "fritz/f1", directory=server.directory)
    assert "acc_mem 2" in done.stdout
    assert "mem_bw 2" in done.stdout
    assert "cpu_load: every 60 s in the files, every 300 s in the store" in done.stderr
    assert done.returncode == 0


def test_a_second_run_passes_over_what_the_state_file_names(
    stores: Callable[..., Server], tmp_path: Path
) -> None:
    host = tmp_path / "fritz" / "f1"
    host.mkdir(parents=True)
    shutil.copy(GOLDEN / "1700000000.bin", host)
    server = stores('retention = "0"\n')
    ask = ("import", str(tmp_path / "fritz"), "--json", "--state", str(tmp_path / "done"))
    first = json.loads(good(*ask, directory=server.directory))
    shutil.copy(GOLDEN / "current.wal", host)
    second = json.loads(good(*ask, directory=server.directory))
    assert (first["written"], first["files_before"]) == (9, 0)
    assert (second["written"], second["files_before"]) == (4, 1)
    assert list(first["clusters"]) == ["fritz"]


def reloaded(server: Server, table: str) -> None:
    """The store goes on with a table of its configuration more."""
    (server.directory / "mstore.toml").write_text(f"{CONFIG}{table}\n")
    good("reload", directory=server.directory)


def test_a_store_exports_by_itself_when_an_interval_has_ended(
    stores: Callable[..., Server], now: int
) -> None:
    """The first one goes back as far as `keep`; `mstore info` tells, and an import reads the files."""
    server = stores()
    with server.client() as client:
        fill(client, (now - HOURS * 3600) // 3600 * 3600, 1)
    reloaded(server, '[export]\ndirectory = "out"\nformat = "bin"\ninterval = "1h"\nkeep = "6h"')
    note = until(lambda: server.info()["export"].get("last"), "an export", 90)
    files = {path.stem for path in (server.directory / "out" / "fritz" / "f2").iterdir()}
    assert files == {str(start) for start in range(note["start"], note["end"], 3600)}
    assert len(files) in (5, 6)
    assert (note["format"], note["directory"]) == ("bin", str(server.directory / "out"))
    until(lambda: server.info()["counters"]["exports"] == 1, "the export's count")
    assert f"as bin in {server.directory / 'out'}" in good("info", directory=server.directory)
    took = json.loads(good("import", str(server.directory / "out"), "--dry-run", "--json"))
    assert took["clusters"]["fritz"]["samples"] + took["clusters"]["alex"]["samples"] == note["samples"]


def test_an_export_that_fails_is_told_and_holds_nobody_up(stores: Callable[..., Server], now: int) -> None:
    server = stores()
    with server.client() as client:
        fill(client, now - HOURS * 3600, 1)
    reloaded(server, '[export]\ndirectory = "/proc/nowhere"\ninterval = "1h"')
    until(lambda: server.info()["counters"]["export_errors"], "a failed export", 90)
    assert "no export: the export helper failed: cannot make directory" in server.log_text()
    assert "failed exports" in good("info", directory=server.directory)
    with server.client() as client:
        assert client.put("fritz", "f2", {"load": 1.5}).written == 1
