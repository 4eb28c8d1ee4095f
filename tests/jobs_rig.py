"""A small cluster in ClusterCockpit's form, and a store filled with its metrics."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from mstore.config import Config
from mstore.model import SeriesPath
from mstore.query import Reader
from mstore.topology import Cluster, parse_cluster
from tests.query_rig import T0, Store

N = 5
TOPOLOGY = {
    "node": list(range(8)),
    "socket": [[0, 1, 4, 5], [2, 3, 6, 7]],
    "memoryDomain": [[0, 4], [1, 5], [2, 6], [3, 7]],
    "core": [[0, 4], [1, 5], [2, 6], [3, 7]],
}
"""Two sockets of two cores, two threads a core, whose numbers are four apart."""


def metric(name: str, scope: str, aggregation: str = "sum", unit: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "scope": scope, "aggregation": aggregation, "timestep": 60, "unit": unit, **more}


DOCUMENT: dict[str, Any] = {
    "name": "tiny",
    "metricConfig": [
        metric("cpu_load", "node", "avg"),
        metric("flops", "hwthread", unit={"prefix": "G", "base": "F/s"}),
        metric("power", "core", unit={"base": "W"}),
        metric("numa", "memoryDomain"),
        metric("mem_bw", "socket", unit={"prefix": "G", "base": "B/s"},
               subClusters=[{"name": "gpu", "remove": True, "peak": 1}]),
        metric("clock", "hwthread", "none", "MHz"),
        metric("acc_power", "accelerator", unit={"base": "W"}),
    ],
    "subClusters": [
        {"name": "main", "nodes": "n[1-2]", "topology": TOPOLOGY},
        {"name": "gpu", "nodes": "g1", "topology": {**TOPOLOGY, "accelerators": [{"id": "0:01"}, {"id": "0:02"}]}},
    ],
}  # fmt: skip
CLUSTER = parse_cluster(DOCUMENT)
CONFIG = Config(clusters={"tiny": CLUSTER})


def job(*resources: Any, **keys: Any) -> dict[str, Any]:
    """A meta.json; resources are hosts, or (host, threads) or (host, threads, accelerators)."""
    entries = []
    for one in resources or ("n1", "n2"):
        host, *more = (one,) if isinstance(one, str) else one
        entries.append({"hostname": host, **dict(zip(("hwthreads", "accelerators"), more, strict=False))})
    found = {
        "jobId": 7, "user": "u", "cluster": "tiny", "subCluster": "", "jobState": "completed",
        "startTime": T0, "duration": N * 60, "numNodes": len(entries), "resources": entries,
    }  # fmt: skip
    return {**copy.deepcopy(found), **keys}


def value(path: SeriesPath, slot: int) -> float:
    """What is stored: a power of two for every id, so that a sum says which were added and how often."""
    number = int(path.type_id) if path.type_id.isdigit() else ["0:01", "0:02", ""].index(path.type_id)
    return float((1 << number) * (slot + 1))


def filled(name: str, cluster: Cluster = CLUSTER) -> Store:
    """Every series that the nodes of the cluster send, N samples from T0 on."""
    store = Store(name)
    specs = {name: one.spec for name, one in cluster.metrics.items()}
    store.writer.set_metric_source(lambda _, metric: specs.get(metric.decode()))
    for path in all_paths(cluster):
        kind = "" if path.type == "node" else path.type
        ref = store.open(path.metric, path.host, kind, path.type_id, cluster=path.cluster)
        store.put(ref, T0, [value(path, slot) for slot in range(N)])
    return store


def all_paths(cluster: Cluster) -> Iterator[SeriesPath]:
    for sub in cluster.subclusters.values():
        for host in sub.hosts:
            yield from cluster.paths(sub, host)


def reader(store: Store, config: Config = CONFIG, now_s: int = T0 + N * 60) -> Reader:
    segments = store.directory_map.segment, store.samples_map.segment
    return Reader(*segments, config=lambda: config, now_s=lambda: now_s)


def store_name() -> str:
    return f"mstore-test-jobs-{os.getpid()}"


def firsts(series: list[Any]) -> list[float | None]:
    """The first value of each."""
    return [None if np.isnan(one.values[0]) else float(one.values[0]) for one in series]
