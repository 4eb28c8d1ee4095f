"""`mstore job` over a small cluster's store: what it prints, draws and says is missing."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore.cli import common, job_view
from mstore.cli import main as cli
from mstore.cli.job_view import Missing
from tests.jobs_rig import N, filled, job, reader, store_name
from tests.query_rig import T0, Store

pytestmark = pytest.mark.usefixtures("fonts_open")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = filled(store_name())
    yield made
    made.close()


@pytest.fixture
def run(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """run(a job's document or text, *options) -> (status, what it printed, what it complained of)."""
    asked = reader(store)
    monkeypatch.setattr(common, "open_client", lambda args, **options: contextlib.nullcontext(asked))
    monkeypatch.setenv("COLUMNS", "80")

    def call(document: Any, *argv: str) -> tuple[int, str, str]:
        path = tmp_path / "meta.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        try:
            status = cli.main(["job", str(path), "--utc", *argv])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def row(out: str, name: str) -> list[str]:
    """The cells of the first line that begins with a name."""
    return next(line.split() for line in out.splitlines() if line.startswith(name))


def test_the_overview_has_a_line_a_metric_with_figures_of_all_samples(run: Run) -> None:
    status, out, err = run(job(user="ada"))
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "job 7  2 hosts of tiny, completed, user ada"
    assert out.splitlines()[1] == "2023-11-14 22:13 to 22:18 UTC, 5 min"
    # The eight threads of a node hold 1, 2, 4, ... 128 times the slot's number: 255, 510, ... 1275 in sum.
    assert row(out, "flops")[:6] == ["flops", "GF/s", "10", "255", "765", "1275"]
    assert max(map(len, out.splitlines())) <= 80
    assert "missing" in out
    assert "clock of n[1-2] (2 hosts): " in out  # it cannot be aggregated


def test_chosen_metrics_show_their_hosts_and_parts(run: Run) -> None:
    _, out, _ = run(job(), "--metric", "mem_bw", "--scope", "node", "socket")
    assert row(out, "mem_bw at socket")[3:5] == ["GB/s", "20"]
    assert row(out, "n1 ")[:2] == ["n1", "5"]
    assert [line.split()[0] for line in out.splitlines() if "/socket" in line] == [
        f"n{host}/socket{i}" for host in (1, 2) for i in (0, 1)
    ]


def test_a_long_list_of_hosts_is_cut_and_says_so(run: Run) -> None:
    document = job(*["n1", "n2"] * 6)
    _, out, _ = run(document, "--metric", "cpu_load", "--rows", "3")
    assert "... 9 more (--rows 0 prints all)" in out
    _, out, _ = run(document, "--metric", "cpu_load", "--rows", "0")
    assert sum(line.startswith(("n1 ", "n2 ")) for line in out.splitlines()) == 12


def test_what_is_missing_is_said_with_its_reason(run: Run) -> None:
    _, out, _ = run(job("n1", "n9"), "--metric", "cpu_load", "mem_bw", "nope", "--scope", "socket")
    told = out[out.index("missing\n") :]
    assert "  all 2 metrics of n9: no such host\n" in told
    assert "  cpu_load at socket: shown at node, where it is stored\n" in told
    assert "  nope: there is no metric 'nope' in cluster 'tiny'\n" in told


def test_a_metric_that_the_jobs_hosts_do_not_have_is_said(run: Run) -> None:
    status, out, _ = run(job("g1", subCluster="gpu"), "--metric", "mem_bw")
    assert status == 1
    assert "mem_bw: no host of this job has this metric" in out


def test_a_host_that_lacks_everything_is_one_line() -> None:
    found = [Missing("no such host", name, "node", ("n9",)) for name in ("a", "b", "c")]
    assert job_view.told(found, 3) == ["all 3 metrics of n9: no such host"]
    assert job_view.told(found, 4) == ["a, b, c of n9: no such host"]


def test_a_job_of_a_time_without_samples_makes_the_status_1(run: Run) -> None:
    status, out, _ = run(job(startTime=T0 - 86_400), "--metric", "cpu_load")
    assert status == 1
    assert "cpu_load of n[1-2] (2 hosts): no samples in range" in out


def test_a_cluster_that_the_store_does_not_know_is_said(run: Run) -> None:
    status, out, err = run(job(cluster="moon"))
    assert status == 1
    assert "moon" in out + err


def test_csv_has_a_line_a_series_and_the_reason_of_what_is_missing(run: Run) -> None:
    status, out, err = run(job("n1", "n9"), "--metric", "power", "--scope", "core", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert [(one["host"], one["id"]) for one in rows if one["host"] == "n1"] == [
        ("n1", str(i)) for i in range(4)
    ]
    assert [float(rows[0][name]) for name in ("samples", "min", "avg", "max")] == [5, 1, 3, 5]
    assert {one["why"] for one in rows if one["host"] == "n9"} == {"no such host"}
    assert "n9: no such host" in err


def test_json_is_the_archives_shape_and_what_is_missing(run: Run) -> None:
    _, out, _ = run(job("n1", "n9"), "--metric", "cpu_load", "--format", "json")
    document = json.loads(out)
    assert (document["jobId"], document["start"], document["end"]) == (7, T0, T0 + 60 * N)
    series = document["data"]["cpu_load"]["node"]["series"]
    assert [one["hostname"] for one in series] == ["n1", "n9"]
    assert len(series[0]["data"]) == N
    assert document["missing"] == [
        {"metric": "cpu_load", "scope": "node", "hosts": ["n9"], "why": "no such host"}
    ]


def test_a_coarser_resolution_does_not_change_the_statistics(run: Run) -> None:
    _, out, _ = run(job(), "--metric", "cpu_load", "--resolution", "2m", "--format", "json")
    series = json.loads(out)["data"]["cpu_load"]["node"]["series"][0]
    _, out, _ = run(job(), "--metric", "cpu_load", "--format", "json")
    native = json.loads(out)["data"]["cpu_load"]["node"]["series"][0]
    assert len(series["data"]) == 3
    assert series["statistics"] == native["statistics"]


@pytest.mark.parametrize("hosts", [2, 12])
def test_plots_are_lines_of_few_hosts_and_a_band_of_many(run: Run, hosts: int) -> None:
    status, out, _ = run(job(*["n1", "n2"] * (hosts // 2)), "--metric", "cpu_load", "--format", "plot")
    assert status == 0
    assert ("max of 12" in out) is (hosts == 12)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(("name", "magic"), [("job.png", b"\x89PNG\r\n"), ("job.svg", b"<?xml")])
def test_pictures_are_files_of_their_kind(run: Run, tmp_path: Path, name: str, magic: bytes) -> None:
    assert run(job(), "--plot", str(tmp_path / name))[0] == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_no_picture_is_made_of_nothing(run: Run, tmp_path: Path) -> None:
    status, _, err = run(
        job(startTime=T0 - 86_400), "--metric", "cpu_load", "--plot", str(tmp_path / "x.png")
    )
    assert (status, (tmp_path / "x.png").exists()) == (1, False)
    assert "no samples in range" in err


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "holds no JSON object"),
        ({"cluster": "tiny"}, "startTime"),
        (job(resources=[]), "resources"),
        (job(resources=[{"hostname": 7}]), "resources[0].hostname"),
        (job(duration=-5), "duration"),
    ],
)
def test_a_file_that_is_no_job_is_one_line_and_status_2(run: Run, document: Any, told: str) -> None:
    status, out, err = run(document)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_a_file_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["job", str(tmp_path / "none.json")]) == 1
    assert "none.json: No such file or directory" in capsys.readouterr().err


def test_a_band_spans_all_series_at_every_time() -> None:
    from mstore.cli.courses import band
    from mstore.frames import Series

    nan = float("nan")
    one = Series(np.array([1.0, nan, 3.0, nan], np.float32), T0, 60)
    other = Series(np.array([5.0, 7.0, nan], np.float64), T0 + 60, 60)
    times, low, mean, high = band([one, other])
    assert times.tolist() == [T0, T0 + 60, T0 + 120, T0 + 180]
    assert np.array_equal(low, [1, 5, 3, nan], equal_nan=True)
    assert np.array_equal(mean, [1, 5, 5, nan], equal_nan=True)
    assert np.array_equal(high, [1, 5, 7, nan], equal_nan=True)
