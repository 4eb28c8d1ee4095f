"""A real 24-hour job (where the fixture is), and one of our own in the same form, through a whole store."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stores import Server

Serve = Callable[..., Server]
Job = dict[str, Any]


def own_job() -> tuple[Job, Job]:
    """Two hosts, two metrics, gaps; statistics computed from the numbers here."""
    data = {
        "cpu_load": [[0.25, None, 3.5, 4.125] * 50, [1.0, 2.0, None, None] * 50],
        "ipc": [[0.5] * 200, [None] * 199 + [0.75]],
    }
    hosts = ["n1", "n2"]
    job = {
        name: {
            "node": {
                "timestep": 60,
                "series": [
                    {"hostname": host, "data": values} for host, values in zip(hosts, rows, strict=True)
                ],
            }
        }
        for name, rows in data.items()
    }
    statistics = {}
    for name, rows in data.items():
        present = np.array([value for row in rows for value in row if value is not None])
        statistics[name] = {"min": present.min(), "max": present.max(), "avg": present.mean()}
    return job, {"cluster": "own", "startTime": 1_700_000_000, "statistics": statistics}


def real_job(fixtures: Path) -> tuple[Job, Job]:
    job = json.loads(gzip.decompress((fixtures / "jobs" / "emmy-1404397.json.gz").read_bytes()))
    meta = json.loads((fixtures / "jobs" / "emmy-1404397.meta.json").read_text())
    return job, meta


def lines_of(job: Job, meta: Job) -> str:
    start = meta["startTime"]
    found = []
    for name, scopes in job.items():
        for scope in scopes.values():
            step = scope["timestep"]
            for series in scope["series"]:
                head = f"{name},cluster={meta['cluster']},hostname={series['hostname']},type=node value="
                found += [
                    f"{head}{value!r} {start + i * step}\n"
                    for i, value in enumerate(series["data"])
                    if value is not None
                ]
    return "".join(found)


def check_job(server: Server, job: Job, meta: Job, dtype: str, avg_tolerance: float) -> int:
    start, n_series = meta["startTime"], 0
    with server.client() as client:
        assert client.write(lines_of(job, meta)).rejected == 0
        for name, scopes in job.items():
            present = []
            for series in scopes["node"]["series"]:
                data = np.array([np.nan if value is None else value for value in series["data"]])
                # The grid begins with the first sample: nominal times are the samples' own.
                found = client.query(meta["cluster"], series["hostname"], name, start, start + 60 * len(data))
                assert found.times.tolist() == list(range(start, start + 60 * len(data), 60))
                assert np.array_equal(found.values, data.astype(dtype), equal_nan=True), (
                    name,
                    series["hostname"],
                )
                present.append(np.asarray(found.values, dtype=float)[~np.isnan(found.values)])
                n_series += 1
            values, expected = np.concatenate(present), meta["statistics"][name]
            if (
                name != "ipc" or meta["cluster"] == "own"
            ):  # the real file's statistics of ipc contradict its own data
                rounded = np.array([expected["min"], expected["max"]]).astype(dtype).astype(float)
                assert [values.min(), values.max()] == rounded.tolist(), name
                assert values.mean() == pytest.approx(expected["avg"], abs=avg_tolerance), name
    return n_series


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_job_of_our_own_comes_back_equal(serve: Serve, dtype: str) -> None:
    job, meta = own_job()
    metrics = "".join(f'[metrics.{name}]\ntype = "{dtype}"\n' for name in job)
    server = serve(f'retention = "0"\n{metrics}')
    assert check_job(server, job, meta, {"f32": "float32", "f64": "float64"}[dtype], 1e-6) == 4


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_real_job_comes_back_equal_in_all_288_series(
    serve: Serve, fixtures: Path | None, dtype: str
) -> None:
    job, meta = real_job(fixtures) if fixtures else own_job()
    metrics = "".join(f'[metrics.{name}]\ntype = "{dtype}"\n' for name in job)
    server = serve(f'retention = "0"\n{metrics}')
    n_series = check_job(server, job, meta, {"f32": "float32", "f64": "float64"}[dtype], 0.01)
    assert n_series == (288 if fixtures else 4)


def ask(server: Server, *argv: str) -> str:
    """What a `mstore` command prints."""
    command = [sys.executable, "-m", "mstore", *argv, "--dir", str(server.directory)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_job_command_shows_what_the_jobs_files_say(
    serve: Serve, fixtures: Path | None, tmp_path: Path
) -> None:
    job, meta = real_job(fixtures) if fixtures else own_job()
    n_slots = max(len(series["data"]) for scopes in job.values() for series in scopes["node"]["series"])
    hosts = [series["hostname"] for series in next(iter(job.values()))["node"]["series"]]
    # The file's last slots lie behind the end of the job.
    meta |= {"duration": 60 * n_slots, "resources": [{"hostname": host} for host in hosts]}
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(meta))
    server = serve('retention = "0"\n' + "".join(f'[metrics.{name}]\ntype = "f64"\n' for name in job))
    with server.client() as client:
        client.write(lines_of(job, meta))

    shown = json.loads(ask(server, "job", str(path), "--format", "json"))
    assert shown["missing"] == []
    for name, scopes in job.items():
        series = shown["data"][name]["node"]["series"]
        assert [one["hostname"] for one in series] == hosts
        for found, expected in zip(series, scopes["node"]["series"], strict=True):
            padded = expected["data"] + [None] * (n_slots - len(expected["data"]))
            assert found["data"] == padded, (name, found["hostname"])

    rows = list(csv.DictReader(io.StringIO(ask(server, "job", str(path), "--format", "csv"))))
    assert len(rows) == len(job) * len(hosts)
    for row in rows:
        data = next(
            one["data"] for one in job[row["metric"]]["node"]["series"] if one["hostname"] == row["host"]
        )
        present = np.array([value for value in data if value is not None])
        assert [float(row["min"]), float(row["max"])] == [present.min(), present.max()]
        assert float(row["avg"]) == pytest.approx(present.mean(), rel=1e-12)
        assert int(row["samples"]) == len(present)
    for line in ask(server, "job", str(path), "--utc").splitlines():
        if (name := line.partition(" ")[0]) in job and name != "ipc":
            low, mean, high = (float(cell) for cell in line.split()[2:5])
            said = meta["statistics"][name]
            assert (low, high) == pytest.approx((said["min"], said["max"]), rel=1e-4)
            assert mean == pytest.approx(said["avg"], abs=0.01)
