"""What a store is told of its clusters is known to its query workers, its clients and attached programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mstore
from mstore import config as configuration
from mstore.errors import Unavailable
from tests.stores import Server, until

Serve = Callable[..., Server]


def cluster_json(name: str = "tiny", nodes: str = "n[1-2]") -> dict[str, Any]:
    """Two nodes of two sockets, two cores each, two threads a core."""
    return {
        "name": name,
        "metricConfig": [
            {"name": "cpu_load", "unit": {"base": ""}, "scope": "node", "aggregation": "avg", "timestep": 60},
            {"name": "flops", "unit": {"prefix": "G", "base": "F/s"}, "scope": "hwthread", "aggregation": "sum",
             "timestep": 60},
        ],
        "subClusters": [
            {"name": "main", "nodes": nodes, "topology": {
                "node": list(range(8)), "socket": [[0, 1, 4, 5], [2, 3, 6, 7]],
                "memoryDomain": [[0, 1, 4, 5], [2, 3, 6, 7]], "core": [[0, 4], [1, 5], [2, 6], [3, 7]]}},
        ],
    }  # fmt: skip


def test_topologies_and_definitions_reach_clients_and_attached_programs(
    serve: Serve, short_dir: Path
) -> None:
    (short_dir / "tiny.json").write_text(json.dumps(cluster_json()))
    server = serve(
        'topology = ["tiny.json"]\nminimum_points = 7\nretention = "3h"\n[metrics.extra]\nunit = "W"\n'
    )

    async def asked() -> Any:
        async with mstore.AsyncClient(short_dir) as client:
            return await client.clusters(), await client.config()

    with server.client() as client, mstore.attach(short_dir) as attached:
        known = [(client.clusters(), client.config()), asyncio.run(asked()), (attached.clusters(), None)]
    for clusters, config in known:
        assert list(clusters) == ["tiny"]
        assert clusters["tiny"].metrics["flops"].scope == "hwthread"
        assert clusters["tiny"].subclusters["main"].topology.cores == ((0, 4), (1, 5), (2, 6), (3, 7))
        if config is not None:
            assert (config.minimum_points, config.retention_s) == (7, configuration.Config().retention_s)
            assert config.metric("tiny", "extra").unit == "W"


def test_a_reload_is_followed_by_workers_and_by_programs_that_were_attached_before(
    serve: Serve, short_dir: Path
) -> None:
    (short_dir / "tiny.json").write_text(json.dumps(cluster_json()))
    server = serve('topology = ["tiny.json"]\n')
    with server.client() as client, mstore.attach(short_dir) as attached:
        assert attached.clusters()["tiny"].hosts() == ["n1", "n2"]
        (short_dir / "tiny.json").write_text(json.dumps(cluster_json(nodes="n[1-5]")))
        client.control("reload")
        for one in (client, attached):
            until(lambda one=one: len(one.clusters()["tiny"].hosts()) == 5, "the new topology")


def test_an_attached_program_that_asks_first_when_the_store_has_gone_is_told_how_to_go_on(
    serve: Serve, short_dir: Path
) -> None:
    (short_dir / "tiny.json").write_text(json.dumps(cluster_json()))
    server = serve('topology = ["tiny.json"]\n')
    given = configuration.load(short_dir / "mstore.toml")
    with mstore.attach(short_dir) as early, mstore.attach(short_dir) as late:
        assert list(early.clusters()) == ["tiny"]
        with mstore.attach(short_dir, config=given) as told:
            server.stop()
            assert list(told.clusters()) == ["tiny"]
        assert list(early.clusters()) == ["tiny"]
        with pytest.raises(Unavailable, match=r"attach\(DIR, config="):
            late.clusters()
