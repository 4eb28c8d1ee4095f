"""An import against a store that only remembers: what is opened, what is written, what is counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mstore.client.questions import Question
from mstore.client.results import WriteResult
from mstore.compat import importing
from mstore.compat.bin_snapshot import write_bin
from mstore.compat.contents import Checkpoint, Stretch
from mstore.compat.imported import Journal, Report
from mstore.compat.importing import Import, Wanted, together, usual_step
from mstore.compat.json_checkpoint import write_json
from mstore.compat.reading import Samples
from mstore.compat.walk import walk
from mstore.config import Config
from mstore.errors import StoreFull
from mstore.frames import Series
from mstore.model import Metric, MetricSpec, SeriesPath

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "compat"
START = 1_700_000_000


class FakeStore:
    """Client and writer at once."""

    def __init__(self, there: Sequence[SeriesPath] = (), unknown: str = "register") -> None:
        self.there = list(there)
        self.unknown = unknown
        self.paths: list[SeriesPath] = []
        self.specs: list[MetricSpec | None] = []
        self.samples: dict[SeriesPath, list[tuple[int, float]]] = {}
        self.refused: dict[int, str] = {}
        self.n_frames = self.n_flushes = self.n_writers = self._n_written = 0
        self.full_after = 1 << 30
        self.types: dict[str, str] = {}
        self.stored: dict[str, Series] = {}

    def children(self, *path: str) -> list[str]:
        return []

    def query_many(self, questions: Iterable[Question]) -> list[Series | list[Series]]:
        return [self.stored[question.metric] for question in questions]

    def config(self) -> Config:
        return Config(unknown_metrics=self.unknown)

    def metrics(self, cluster: str | None = None) -> list[Metric]:
        wide = [Metric("fritz", name, 60, type=kind) for name, kind in self.types.items()]
        return [Metric("fritz", "cpu_load", 300), Metric("fritz", "mem_bw", 60), *wide]

    def host_series(self, cluster: str, host: str) -> list[SeriesPath]:
        return [path for path in self.there if (path.cluster, path.host) == (cluster, host)]

    def writer(self) -> FakeStore:
        self.n_writers += 1
        return self

    def open(self, series: Sequence[SeriesPath], spec: MetricSpec | None = None) -> NDArray[np.uint32]:
        first = len(self.paths)
        self.paths += series
        self.specs += [spec] * len(series)
        for handle, path in enumerate(series, first):
            if path.metric == "acc_mem":
                self.refused[handle] = "unknown_metric"
            if path.metric == "nv_link":
                self.refused[handle] = "series_limit"
        return np.arange(first, len(self.paths), dtype=np.uint32)

    def write(self, handles: Any, times: Any, values: Any) -> None:
        self.n_frames += 1
        if self.n_frames > self.full_after:
            raise StoreFull("no room")
        for column, handle in enumerate(handles):
            assert handle not in self.refused
            rows = zip(times.tolist(), values[:, column].tolist(), strict=True)
            self.samples.setdefault(self.paths[handle], []).extend(rows)
        self._n_written += values.size

    def flush(self) -> WriteResult:
        self.n_flushes += 1
        n, self._n_written = self._n_written, 0
        return WriteResult(written=n)

    def close(self) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path) -> Path:
    folder = tmp_path / "fritz" / "f0201"
    folder.mkdir(parents=True)
    for name in ("1699999760.json", f"{START}.bin", "current.wal"):
        shutil.copy(GOLDEN / name, folder)
    return folder


def imported(root: Path, store: FakeStore, journal: Journal | None = None, **wanted: Any) -> Report:
    return Import(store, Wanted(**wanted), journal).run(walk(root)[0])


def test_samples_are_written_with_their_own_times_in_the_order_of_the_files(
    tmp_path: Path, host: Path
) -> None:
    store = FakeStore()
    report = imported(tmp_path, store)
    assert store.samples[SeriesPath("fritz", "f0201", "cpu_load")] == [
        (1_699_999_760, 0.5), (1_699_999_820, 0.7), (START, 0.5), (START + 60, float(np.float32(0.7))),
        (START + 240, 1.25), (START + 300, 1.5),
    ]  # fmt: skip
    assert report.result.written == 17 - 2 - 1 - 1
    assert report.result.ignored == 2
    assert dict(report.unknown_metrics) == {"acc_mem": 2}
    assert (report.result.rejected, report.result.reasons["series_limit"]) == (2, 2)
    tally = report.clusters["fritz"]
    assert (tally.hosts, tally.n_files, tally.n_series, tally.n_samples) == ({"f0201"}, 3, 5, 17)
    assert (tally.t_first, tally.t_last) == (1_699_999_760, START + 300)
    assert not report.whole


def test_a_metric_is_defined_by_the_files_step_where_the_store_registers(tmp_path: Path, host: Path) -> None:
    store = FakeStore()
    imported(tmp_path, store)
    steps = {path.metric: spec.step_s for path, spec in zip(store.paths, store.specs, strict=True) if spec}
    assert steps == {"cpu_load": 60, "mem_bw": 60, "mem_used": 30, "acc_mem": 60, "nv_link": 60}
    ignoring = FakeStore(unknown="ignore")
    imported(tmp_path, ignoring)
    assert set(ignoring.specs) == {None}


def test_levels_that_the_store_has_keep_their_type_and_id(tmp_path: Path, host: Path) -> None:
    store = FakeStore(
        [SeriesPath("fritz", "f0201", "x", "sock", "et0"), SeriesPath("fritz", "f9", "x", "s", "ocket0")]
    )
    imported(tmp_path, store)
    assert SeriesPath("fritz", "f0201", "mem_bw", "sock", "et0") in store.samples


def test_clusters_and_times_that_are_not_wanted_are_left(tmp_path: Path, host: Path) -> None:
    store = FakeStore()
    assert imported(tmp_path, store, clusters=("alex",)).clusters == {}
    assert store.samples == {}
    report = imported(tmp_path, store, clusters=("fritz",), start=START + 60, end=START + 241)
    assert store.samples[SeriesPath("fritz", "f0201", "cpu_load")] == [
        (START + 60, float(np.float32(0.7))), (START + 240, 1.25),
    ]  # fmt: skip
    assert report.clusters["fritz"].t_last == START + 240


def test_without_a_store_files_are_only_counted(tmp_path: Path, host: Path) -> None:
    report = Import(None, Wanted()).run(walk(tmp_path)[0])
    assert (report.clusters["fritz"].n_samples, report.result, report.whole) == (17, WriteResult(), True)


def test_a_step_that_is_longer_in_the_store_is_told(tmp_path: Path, host: Path) -> None:
    assert imported(tmp_path, FakeStore()).coarser == {("fritz", "cpu_load"): (60, 300)}


def test_files_that_were_imported_before_are_passed_over_until_they_change(
    tmp_path: Path, host: Path
) -> None:
    state = tmp_path / "state"
    first = imported(tmp_path / "fritz", FakeStore(), Journal(state))
    again = imported(tmp_path / "fritz", FakeStore(), Journal(state))
    assert (first.n_done_before, again.n_done_before, again.clusters) == (0, 3, {})
    (host / "current.wal").write_bytes((GOLDEN / "torn.wal").read_bytes())
    third = imported(tmp_path / "fritz", FakeStore(), Journal(state))
    assert third.n_done_before == 2
    assert [path.name for path, _ in third.damaged] == ["current.wal"]
    assert imported(tmp_path / "fritz", FakeStore(), Journal(state)).n_done_before == 2


def test_what_a_full_store_had_not_taken_is_not_noted_as_done(tmp_path: Path, host: Path) -> None:
    store = FakeStore()
    store.full_after = 1
    one_run = Import(store, Wanted(), Journal(tmp_path / "state"))
    with pytest.raises(StoreFull):
        one_run.run(walk(tmp_path / "fritz")[0])
    assert one_run.report.clusters["fritz"].n_files == 0
    assert imported(tmp_path / "fritz", FakeStore(), Journal(tmp_path / "state")).n_done_before == 0


def test_progress_is_told_in_bytes_of_files(tmp_path: Path, host: Path) -> None:
    told: list[tuple[int, int]] = []
    Import(None, Wanted(), tell=lambda n_bytes, n_samples: told.append((n_bytes, n_samples))).run(
        walk(tmp_path)[0]
    )
    sizes = [(host / name).stat().st_size for name in ("1699999760.json", f"{START}.bin", "current.wal")]
    assert told == [(sizes[0], 4), (sum(sizes[:2]), 13), (sum(sizes), 17)]


def test_a_writer_with_too_many_handles_is_replaced(
    tmp_path: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_HANDLES_MAX", 2)
    store = FakeStore()
    report = imported(tmp_path, store)
    assert store.n_writers > 1
    assert report.result.written == 13


def test_levels_that_no_store_has_are_counted_and_the_rest_of_the_file_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "fritz" / "f1"
    folder.mkdir(parents=True)
    one = np.ones(2, np.float32)
    stretches = [
        Stretch(levels, "m", 60, 60, one) for levels in ((), ("",), ("a1", "b2", "c3"), ("a1", "b2"))
    ]
    (folder / "60.bin").write_bytes(write_bin(Checkpoint(60, 180, stretches)))
    store = FakeStore()
    report = imported(tmp_path, store)
    assert set(store.samples) == {
        SeriesPath("fritz", "f1", "m"),
        SeriesPath("fritz", "f1", "m", "a", "1", "b", "2"),
    }
    assert report.damaged == [
        (folder / "60.bin", "2 series of levels without a name or deeper than 2 below the host")
    ]


def test_samples_at_the_same_times_are_written_side_by_side() -> None:
    def made(metric: str, *times: int) -> Samples:
        return Samples(
            SeriesPath("c", "h", metric), 60, np.array(times), np.arange(len(times), dtype=np.float32)
        )

    given = [made("a", 0, 60), made("b", 0, 60), made("c", 0, 120)]
    groups = [
        ([one.path.metric for one in members], times.tolist(), matrix.tolist())
        for members, times, matrix in together(given)
    ]
    assert groups == [(["a", "b"], [0, 60], [[0.0, 0.0], [1.0, 1.0]]), (["c"], [0, 120], [[0.0], [1.0]])]


def test_the_usual_distance_of_a_log_s_samples_is_its_step() -> None:
    assert usual_step(np.array([0, 60, 119, 180, 240, 600])) == 60
    assert usual_step(np.array([0, 60])) == 0
    assert usual_step(np.array([5, 5, 5])) == 0


@pytest.mark.parametrize(
    ("kind", "exact", "file_type", "rounded"),
    [
        ("u64", (1 << 60) + 12345, np.float32, True), ("u64", (1 << 60) + 12345, np.float64, True),
        ("u64", 16_777_217, np.float32, True), ("u64", 16_777_217, np.float64, False),
        ("f64", 1 / 3, np.float32, True), ("f64", 1 / 3, np.float64, False), ("f64", 0.5, np.float32, False),
    ],
)  # fmt: skip
def test_what_is_stored_exactly_is_not_overwritten_by_its_rounding(
    tmp_path: Path, kind: str, exact: float, file_type: Any, rounded: bool
) -> None:
    """Of four slots: the rounding of what is stored, another value, one where none is stored, and one beyond."""
    store = FakeStore([SeriesPath("fritz", "f1", "bytes")])
    store.types["bytes"] = kind
    dtype = np.uint64 if kind == "u64" else np.float64
    held = np.array([exact, exact, 0], dtype)
    store.stored["bytes"] = Series(held, START, 60, valid=np.array([True, True, False]))
    there = np.array([exact, 7.0, 5.0, 6.0], dtype).astype(file_type)
    (tmp_path / "fritz" / "f1").mkdir(parents=True)
    stretch = Stretch((), "bytes", START, 60, there)
    content = write_json(Checkpoint(START, START + 240, [stretch]))
    (tmp_path / "fritz" / "f1" / f"{START}.json").write_bytes(content)
    report = Import(store, Wanted()).run(walk(tmp_path)[0])
    written = dict(store.samples[SeriesPath("fritz", "f1", "bytes")])
    assert (report.n_exact, START in written) == ((1, False) if rounded else (0, True))
    assert {START + 60: 7.0, START + 120: 5.0, START + 180: 6.0}.items() <= written.items()
