"""Batch requests, views of jobs and health of a real store: over the socket, awaited, attached; and at their bounds."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mstore
from mstore.errors import Timeout, UnknownSelector
from tests.jobs_rig import DOCUMENT, N, job
from tests.process.test_real_job import lines_of, own_job, real_job
from tests.stores import Server

Serve = Callable[..., Server]
Ask = Callable[..., Any]


class Awaited:
    """An AsyncClient, called as if it were a Client."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __getattr__(self, name: str) -> Ask:
        async def call(*args: Any, **options: Any) -> Any:
            async with mstore.AsyncClient(self._directory) as client:
                return await getattr(client, name)(*args, **options)

        return lambda *args, **options: asyncio.run(call(*args, **options))


@contextmanager
def every_way(directory: Path) -> Iterator[list[Any]]:
    with mstore.connect(directory) as client, mstore.attach(directory) as attached:
        yield [client, attached, Awaited(directory)]


def tiny(serve: Serve, directory: Path, start: int, more: str = "") -> Server:
    """A store of the small cluster: flops 1 + thread, mem_bw 1 + socket, cpu_load 1 to 5, N samples from start on."""
    (directory / "tiny.json").write_text(json.dumps(DOCUMENT))
    server = serve(f'topology = ["tiny.json"]\nretention = "0"\n{more}')
    lines = []
    for host in ("n1", "n2"):
        for k in range(N):
            at = start + 60 * k
            lines.append(f"cpu_load,cluster=tiny,hostname={host},type=node value={k + 1} {at}\n")
            lines += [
                f"{name},cluster=tiny,hostname={host},type={scope},type-id={i} value={i + 1} {at}\n"
                for name, scope, n in (
                    ("flops", "hwthread", 8),
                    ("mem_bw", "socket", 2),
                    ("clock", "hwthread", 8),
                )
                for i in range(n)
            ]
    with server.client() as client:
        assert client.write("".join(lines)).written == len(lines)
    return server


def test_a_batch_request_is_answered_alike_over_the_socket_awaited_and_attached(
    serve: Serve, short_dir: Path, now: int
) -> None:
    start = now - now % 60 - 3600
    tiny(serve, short_dir, start, "minimum_points = 4\n")
    request = {
        "cluster": "tiny", "from": start - 120, "to": start + 300,
        "queries": [
            {"metric": "cpu_load", "host": "n1", "scale-by": 0.1},
            {"metric": "flops", "host": "n2", "type": "hwthread", "type-ids": ["7", "99", "0"]},
            {"metric": "flops", "host": "n2", "type": "hwthread", "type-ids": ["7", "0"], "aggreg": True,
             "resolution": 120},
            {"metric": "clock", "host": "n1"},
            {"metric": "nope", "host": "n1"},
        ],
        "for-all-nodes": ["mem_bw"], "resample-algo": "max",
    }  # fmt: skip
    with every_way(short_dir) as clients:
        found = [client.fetch(request) for client in clients]
    texts = [one.to_json() for one in found]
    assert texts[0] == texts[1] == texts[2]
    answer = json.loads(texts[0])
    assert [len(row) for row in answer["results"]] == [1, 3, 1, 1, 1, 1, 1]
    assert answer["results"][0][0] == {
        "data": [None, None, 0.1, 0.2, 0.30000000000000004, 0.4, 0.5], "from": start - 120, "to": start + 300,
        "resolution": 60, "avg": 0.30000000000000004, "min": 0.1, "max": 0.5,
    }  # fmt: skip
    assert [entry["data"][2:4] for entry in answer["results"][1]] == [[8, 8], [None, None], [1, 1]]
    assert answer["results"][2][0]["data"] == [None, 9, 9, 9]
    assert "no aggregation" in answer["results"][3][0]["error"]
    assert "no metric 'nope'" in answer["results"][4][0]["error"]
    assert [query["host"] for query in answer["queries"][5:]] == ["n1", "n2"]
    assert [row[0]["data"][2] for row in answer["results"][5:]] == [3, 3]
    for one in found:
        assert (one[1][0].values.dtype, one[1][0].unit, one[1][1].why) == (np.float32, "GF/s", "no such id")


def test_views_of_a_job_are_alike_over_the_socket_awaited_and_attached(
    serve: Serve, short_dir: Path, now: int
) -> None:
    start = now - now % 60 - 3600
    tiny(serve, short_dir, start)
    meta = job("n1", ("n2", [0, 4]), startTime=start, duration=N * 60)
    with every_way(short_dir) as clients:
        views = [
            [
                client.job_data(meta, scopes=("socket", "node")),
                client.job_statistics(meta),
                client.job_scoped_statistics(meta, ["flops"], ("core",)),
                client.node_data("tiny", start, start + 300, nodes="n[1-2]", metrics=["cpu_load", "flops"]),
                client.node_list_data("tiny", start, start + 300, subcluster="main", scopes=("core",),
                                      metrics=["flops"], resolution=300, algo="last"),
            ]
            for client in clients
        ]  # fmt: skip
    texts = [[view.to_json() for view in one] for one in views]
    assert texts[0] == texts[1] == texts[2]
    data, stats, _, nodes, listed = views[0]
    assert [one.values[0] for one in data["flops"]["socket"].series] == [1 + 2 + 5 + 6, 3 + 4 + 7 + 8, 1 + 5]
    assert str(data.errors[0]).startswith("clock of n1/socket0")
    assert stats["cpu_load"]["n2"].avg == 3.0
    assert json.loads(texts[0][2])["flops"]["core"][-1] == {
        "hostname": "n2", "id": "0", "data": {"avg": 6.0, "min": 6.0, "max": 6.0},
    }  # fmt: skip
    assert nodes["n2"]["flops"].series[0].values.tolist() == [36.0] * N
    assert listed["n1"]["flops"]["core"].series[3].values.tolist() == [4.0 + 8.0]
    assert [type(one) for one in views[0]] == [type(one) for one in views[2]]


def test_health_is_alike_over_the_socket_awaited_and_attached(
    serve: Serve, short_dir: Path, now: int
) -> None:
    start = now - now % 60 - 240
    server = tiny(serve, short_dir, start)
    with server.client() as client:
        client.write(f"power,cluster=tiny,hostname=n1,type=core,type-id=0 value=1 {start - 600}\n")
    with every_way(short_dir) as clients:
        found = [client.health("tiny") for client in clients]
        for client in clients:
            with pytest.raises(UnknownSelector):
                client.healthy_metrics("tiny", "n3")
            assert client.healthy_metrics("tiny", "n1", ["power"]).degraded == ("power",)
    assert [one.to_dict() for one in found] == [found[0].to_dict()] * 3
    assert {host: (one.state, one.degraded, one.missing) for host, one in found[0].items()} == {
        "g1": ("failed", (), ()),
        "n1": ("partial", ("power",), ("numa",)),
        "n2": ("partial", (), ("power", "numa")),
    }


# --- a real job


def configured(serve: Serve, directory: Path, fixtures: Path, names: list[str], *, topology: bool) -> Server:
    """A store for the real job, with or without its cluster.json, which says that most metrics are below the node."""
    lines = ['retention = "0"', 'unknown_metrics = "register"']
    if topology:
        lines.insert(0, f"topology = [{json.dumps(str(fixtures / 'clusters' / 'emmy.json'))}]")
        lines += ["[clusters.emmy.metrics.rapl_power]"]
    else:
        lines += [f"[metrics.{name}]" for name in names]
    return serve("\n".join(lines) + "\n")


def check_view(server: Server, file: dict[str, Any], meta: dict[str, Any], doubtful: str = "") -> None:
    """The job's view has the values of its file and the statistics of its meta.json, those of `doubtful` left out."""
    with server.client() as client:
        assert client.write(lines_of(file, meta)).rejected == 0
        data, stats = client.job_data(meta, sorted(file)), client.job_statistics(meta, sorted(file))
        scoped = client.job_scoped_statistics(meta, sorted(file), ("node",))
    assert data.errors == []
    assert sorted(data) == sorted(file)
    shape = data.to_dict()
    for name, scopes in file.items():
        assert list(data[name]) == ["node"]
        expected = {one["hostname"]: one["data"] for one in scopes["node"]["series"]}
        found = data[name]["node"].series
        assert [one.host for one in found] == [one["hostname"] for one in meta["resources"]]
        for series in found:
            wanted = np.array([np.nan if one is None else one for one in expected[series.host]], np.float32)
            assert np.array_equal(series.values[: len(wanted)], wanted, equal_nan=True), (name, series.host)
            assert not series.valid[len(wanted) :].any()
        by_host = {one.host: one for one in scoped[name]["node"]}
        assert {host: (one.min, one.max, one.avg) for host, one in by_host.items()} == {
            host: (one.min, one.max, one.avg) for host, one in stats[name].items()
        }
        if name != doubtful:
            for said in (one for one in scopes["node"]["series"] if one.get("statistics")):
                check_statistics(by_host[said["hostname"]], said["statistics"], name)
            for entry in shape[name]["node"]["series"]:
                assert entry["data"][: len(expected[entry["hostname"]])] == expected[entry["hostname"]], name
            check_statistics(stats.of_job()[name], meta["statistics"][name], name)


def check_statistics(found: Any, said: dict[str, float], name: str) -> None:
    """Extremes are those of the file to the bit, a mean is as near as the file's two decimals."""
    extremes = [np.float32(found.min), np.float32(found.max)]
    assert extremes == [np.float32(said["min"]), np.float32(said["max"])], name
    assert found.avg == pytest.approx(said["avg"], abs=0.01), name


@pytest.mark.parametrize("topology", [False, True], ids=["without-topology", "with-topology"])
def test_the_view_of_a_real_job_is_its_file(
    serve: Serve, short_dir: Path, fixtures: Path | None, *, topology: bool
) -> None:
    if fixtures is None:
        pytest.skip("MSTORE_FIXTURES is not set: no real job")
    file, meta = real_job(fixtures)
    server = configured(serve, short_dir, fixtures, sorted(file), topology=topology)
    # ipc has more digits than a float32, and the file's own statistics of it contradict its data.
    check_view(server, file, meta, doubtful="ipc")


def test_the_view_of_a_job_of_our_own_is_its_file(serve: Serve) -> None:
    file, meta = own_job()
    resources = [{"hostname": host} for host in ("n1", "n2")]
    server = serve('retention = "0"\n' + "".join(f"[metrics.{name}]\n" for name in file))
    check_view(server, file, {**meta, "resources": resources, "duration": 12_000})


def test_units_of_the_real_jobs_cluster_are_those_of_its_file(
    serve: Serve, short_dir: Path, fixtures: Path | None
) -> None:
    if fixtures is None:
        pytest.skip("MSTORE_FIXTURES is not set: no real job")
    file, meta = real_job(fixtures)
    server = configured(serve, short_dir, fixtures, [], topology=True)
    with server.client() as client:
        client.write(lines_of({name: file[name] for name in ("mem_bw", "clock", "flops_any")}, meta))
        shape = client.job_data(meta, ["mem_bw", "clock", "flops_any"]).to_dict()
    assert {name: scopes["node"]["unit"] for name, scopes in shape.items()} == {
        name: file[name]["node"]["unit"] for name in ("mem_bw", "clock", "flops_any")
    }


# --- the page for users


def test_the_pages_examples_run_one_after_the_other(serve: Serve, short_dir: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "answers.md").read_text()
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    document = {**DOCUMENT, "name": "fritz", "metricConfig": [
        {**one, "name": {"flops": "flops_any"}.get(one["name"], one["name"])} for one in DOCUMENT["metricConfig"][:5]
    ], "subClusters": [{**DOCUMENT["subClusters"][0], "nodes": "f[0201-0202]"}]}  # fmt: skip
    (short_dir / "fritz.json").write_text(json.dumps(document))
    start = 1725620400
    meta = job("f0201", "f0202", cluster="fritz", startTime=start, duration=3600)
    (short_dir / "meta.json").write_text(json.dumps(meta))
    server = serve('topology = ["fritz.json"]\nretention = "0"\n')
    with server.client() as client:
        for name, scope, n in (
            ("cpu_load", "node", 1),
            ("flops_any", "hwthread", 8),
            ("mem_bw", "socket", 2),
        ):
            client.write(
                f"{name},cluster=fritz,hostname=f0201,type={scope},type-id={i} value={i + 1} {start + 60 * k}\n"
                for i in range(n)
                for k in range(60)
            )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", program], cwd=short_dir,
        env={**os.environ, "MSTORE_DIR": str(short_dir)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.splitlines()
    assert printed[0].startswith("2 [3. 3.")
    assert "240 6.0" in printed
    assert "f0201 1 2.0 GB/s" in printed
    assert printed[-7:] == [
        "['f0201', 'f0202']",
        "('cpu_load', 'flops_any', 'mem_bw') ('power', 'numa')",
        "failed",
        "['fritz']",
        "datetime64[ms, UTC] float32 cpu_load",
        "(12, 1)",
        "['time', 'cluster', 'host', 'level', 'metric', 'value']",
    ]


# --- bounds


def test_a_deadline_ends_a_large_batch_and_the_worker_serves_others_meanwhile(
    serve: Serve, short_dir: Path, now: int
) -> None:
    start = now - now % 60 - 3600
    server = tiny(serve, short_dir, start, "query_workers = 1\n")
    queries = [{"metric": "flops", "host": host} for host in ("n1", "n2")] * 5_000
    large = {"cluster": "tiny", "from": start, "to": start + 6000, "queries": queries}

    async def scene() -> int:
        async with mstore.AsyncClient(short_dir) as client:
            await client.ping()
            task = asyncio.create_task(client.fetch(large, timeout=600))
            n_served = 0
            while not task.done():
                await client.query("tiny", "n1", "cpu_load", start, start + 300, timeout=600)
                n_served += not task.done()
                await asyncio.sleep(0.01)
            assert len(task.result()) == len(queries)
            return n_served

    assert asyncio.run(scene()) > 0
    with server.client() as client:
        with pytest.raises(Timeout):
            client.fetch(large, timeout=0.05)
        assert len(client.fetch({**large, "queries": queries[:2]})) == 2
