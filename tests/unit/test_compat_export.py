"""An export from a store in this process: which files there are, what is left out, and that they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mstore.cli import exports as cli_exports
from mstore.compat import exporting, sinks
from mstore.compat.bin_snapshot import read_bin
from mstore.compat.exporting import Export
from mstore.compat.json_checkpoint import read_json
from mstore.compat.source import attached
from mstore.compat.tidying import remove_older
from mstore.compat.wal import LogReader
from mstore.config.export import FORMATS
from mstore.errors import StorageError
from mstore.persistence.files import Files
from tests.query_rig import T0, Store

NAN = float("nan")


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-test-export-{os.getpid()}")
    yield made
    made.close()


def run(
    store: Store, target: Path, form: str = "bin", start: int = T0, end: int = T0 + 600, **more: object
) -> sinks.Exported:
    return Export(attached(store.reader), target, form, start, end, **more).run()  # type: ignore[arg-type]


def files(root: Path) -> list[str]:
    return sorted(os.path.relpath(path, root) for path in root.rglob("*") if path.is_file())


def test_the_formats_are_known_everywhere_by_the_same_names() -> None:
    assert set(exporting.FORMATS) == set(FORMATS) == set(cli_exports.FORMATS)


def test_start_is_the_nominal_time_of_the_first_value_and_the_ends_are_samples(
    store: Store, tmp_path: Path
) -> None:
    store.put(store.open("load", t=T0 + 13), T0 + 13, [1.0, NAN, 3.0])
    store.put(store.open("flops", "f1", "core", "10", t=T0 + 77), T0 + 77, [2.5])
    done = run(store, tmp_path)
    (name,) = files(tmp_path)
    assert name == f"fritz/f1/{T0}.bin"
    found = read_bin((tmp_path / name).read_bytes())
    assert (found.start, found.end) == (T0, T0 + 600)
    read = {(one.levels, one.metric): (one.start, one.step_s, one.values.tolist()) for one in found.stretches}
    assert set(read) == {((), "load"), (("core10",), "flops")}
    assert read[("core10",), "flops"] == (T0 + 77, 60, [2.5])
    assert read[(), "load"][:2] == (T0 + 13, 60)
    assert np.array_equal(read[(), "load"][2], [1.0, NAN, 3.0], equal_nan=True)
    assert (done.n_hosts, done.n_series, done.n_samples, done.n_files) == (1, 2, 3, 1)
    assert done.n_bytes == (tmp_path / name).stat().st_size


def test_checkpoints_are_cut_at_multiples_of_the_window(store: Store, tmp_path: Path) -> None:
    store.put(store.open("load"), T0, [float(k) for k in range(30)])
    run(store, tmp_path, "json", T0, T0 + 1800, window_s=600)
    names = [int(Path(name).stem) for name in files(tmp_path)]
    assert names[0] == T0
    assert all(name % 600 == 0 for name in names[1:])
    parts = [read_json((tmp_path / "fritz" / "f1" / f"{name}.json").read_bytes()) for name in names]
    assert [one.end for one in parts[:-1]] == names[1:]
    values = [value for one in parts for value in one.stretches[0].values.tolist()]
    assert values == [float(k) for k in range(30)]


def test_a_checkpoint_with_too_many_values_becomes_several(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "VALUES_MAX", 20)
    monkeypatch.setattr(sinks, "_WINDOW_S_MIN", 60)
    store.put(store.open("load"), T0, [float(k) for k in range(50)])
    done = run(store, tmp_path, "bin", T0, T0 + 3000, window_s=86_400)
    parts = [read_bin((tmp_path / name).read_bytes()) for name in files(tmp_path)]
    assert len(parts) > 2
    assert [value for one in parts for value in one.stretches[0].values.tolist()] == [
        float(k) for k in range(50)
    ]
    assert (done.n_samples, done.n_series) == (50, 1)


def test_a_log_has_every_sample_at_its_nominal_time(store: Store, tmp_path: Path) -> None:
    store.put(store.open("load", t=T0 + 13), T0 + 13, [float(k) for k in range(100)])
    run(store, tmp_path, "wal", T0, T0 + 7200)
    reader = LogReader((tmp_path / "fritz/f1/current.wal").read_bytes())
    (points,) = [one for piece in reader.pieces() for one in piece]
    assert points.times.tolist() == [T0 + 13 + 60 * k for k in range(100)]
    assert points.values.tolist() == [float(k) for k in range(100)]


def test_a_table_has_a_row_a_sample_by_name_and_time(store: Store, tmp_path: Path) -> None:
    for host in ("f10", "f2"):
        store.put(store.open("load", host), T0, [1.0, 2.0])
        store.put(store.open("clock", host, "core", "1"), T0, [3.0], 10)
    run(store, tmp_path, "parquet")
    rows = pq.read_table(tmp_path / "fritz" / f"{T0}.parquet").to_pylist()
    keys = [(row["hostname"], row["metric"], row["scope"], row["scope_id"], row["timestamp"]) for row in rows]
    assert keys == [
        (host, *rest)
        for host in ("f10", "f2")
        for rest in (("clock", "core", "1", T0), ("load", "node", "", T0), ("load", "node", "", T0 + 60))
    ]


def test_wider_values_are_rounded_and_told_but_not_in_json(store: Store, tmp_path: Path) -> None:
    store.put(store.open("flops"), T0, [0.1, 1.5])
    store.put(store.open("flops", "f2"), T0, [0.5])
    store.put(store.open("ops"), T0, [(1 << 40) + 1, 7], 10)
    text = exporting.ROUNDED
    assert run(store, tmp_path / "b", "bin").notes[text] == 2
    assert run(store, tmp_path / "j", "json").notes[text] == 0
    found = read_json((tmp_path / "j/fritz/f1" / f"{T0}.json").read_bytes())
    assert {one.metric: one.values.tolist() for one in found.stretches} == {
        "flops": [0.1, 1.5],
        "ops": [(1 << 40) + 1, 7],
    }


def test_what_the_files_cannot_hold_is_left_out_and_told(store: Store, tmp_path: Path) -> None:
    store.rows(store.open("beat"), [(T0 * 1000, 1)], "Q")
    store.put(store.open("load", "f1", "core", "12"), T0, [1.0])
    store.put(store.open("load", "f1", "core1", "2"), T0, [2.0])
    store.put(store.open("load", "../f1"), T0, [3.0])
    store.put(store.open("load", "f1", cluster="a/b"), T0, [3.0])
    store.put(store.open("load", "f1", "x" * 200, "y" * 200), T0, [3.0])
    done = run(store, tmp_path, "wal")
    assert files(tmp_path) == ["fritz/f1/current.wal"]
    assert dict(done.notes) == {
        exporting.STAMPED: 1, exporting.TWICE: 1, exporting.TOO_LONG: 1, exporting.NO_DIRECTORY: 2,
    }  # fmt: skip
    assert done.left_out == ["'a/b' 'f1'", "'fritz' '../f1'"]
    assert done.n_samples == 1


@pytest.mark.parametrize("form", FORMATS)
def test_where_there_is_nothing_no_file_is_made(store: Store, tmp_path: Path, form: str) -> None:
    store.put(store.open("load"), T0, [1.0])
    done = run(store, tmp_path, form, T0 + 3600, T0 + 7200)
    assert (files(tmp_path), done.n_files, done.n_hosts) == ([], 0, 0)
    assert run(store, tmp_path, form, clusters=["alex"]).n_files == 0


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_that_fails_leaves_the_file_of_the_one_before(
    store: Store, tmp_path: Path, form: str
) -> None:
    class FullDisk(Files):
        def fdatasync(self, fd: int) -> None:
            raise StorageError("no space")

    store.put(store.open("load"), T0, [1.0])
    run(store, tmp_path, form)
    (name,) = files(tmp_path)
    before = (tmp_path / name).read_bytes()
    store.put(store.open("load"), T0, [2.0])
    with pytest.raises(StorageError, match="no space"):
        run(store, tmp_path, form, files=FullDisk())
    assert files(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == before


def test_progress_is_told_host_by_host(store: Store, tmp_path: Path) -> None:
    for host in ("f1", "f2"):
        store.put(store.open("load", host), T0, [1.0])
    told: list[tuple[int, int, int]] = []
    run(store, tmp_path, tell=lambda *numbers: told.append(numbers))
    assert told == [(1, 2, 1), (2, 2, 2)]


def test_the_oldest_sample_of_a_store_is_known_by_its_chunk(store: Store) -> None:
    source = attached(store.reader)
    assert source.oldest_s() is None
    store.put(store.open("load", t=T0 + 512 * 60), T0 + 512 * 60, [1.0])
    store.put(store.open("clock", t=T0), T0, [1.0], 10)
    oldest = source.oldest_s()
    assert oldest is not None
    assert T0 - 10 <= oldest <= T0


def test_old_files_of_the_format_are_removed_and_nothing_else(tmp_path: Path) -> None:
    names = [f"fritz/f1/{t}.bin" for t in (100, 200, 300)] + [
        "fritz/f2/100.bin",
        "fritz/f1/100.json",
        "fritz/100.bin",
    ]
    for name in [*names, "fritz/f1/current.wal", "fritz/f1/notes.bin"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert remove_older(Files(), tmp_path, "bin", 300) == 3
    assert files(tmp_path) == [
        "fritz/100.bin", "fritz/f1/100.json", "fritz/f1/300.bin", "fritz/f1/current.wal", "fritz/f1/notes.bin",
    ]  # fmt: skip
    assert not (tmp_path / "fritz/f2").exists()
    assert remove_older(Files(), tmp_path / "nowhere", "bin", 300) == 0
