"""The memory that a configuration is said to take is that of a store filled so, within a few percent."""

from __future__ import annotations

import json
import math
import mmap
import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mstore import config
from mstore.apply.store import Store
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.shm import layout
from mstore.shm.control import CONTROL_BYTES
from mstore.shm.directory import DirectoryWriter, create_directory, directory_bytes
from mstore.shm.prediction import SeriesMemory, predict
from tests.samples_rig import column

N_NODES, N_THREADS = 40, 12
T0 = 1_700_000_000
METRICS = [
    {"name": "cpu_load", "timestep": 60, "scope": "node", "aggregation": "avg", "unit": {"base": ""}},
    {"name": "flops_any", "timestep": 60, "scope": "hwthread", "aggregation": "sum", "unit": {"base": "F/s"}},
    {"name": "mem_bw", "timestep": 30, "scope": "socket", "aggregation": "sum", "unit": {"base": "B/s"}},
    {"name": "ib_recv", "timestep": 60, "scope": "node", "aggregation": "sum", "unit": {"base": "B"}},
]  # fmt: skip
TEXT = '[metrics.ib_recv]\ntype = "u64"\n[metrics.mem_bw]\nretention = "12h"\n'


def cluster(n_nodes: int = N_NODES) -> dict[str, Any]:
    half = N_THREADS // 2
    sockets = [list(range(half)), list(range(half, N_THREADS))]
    return {
        "name": "tiny", "metricConfig": METRICS,
        "subClusters": [
            {"name": "all", "nodes": f"t[0001-{n_nodes:04}]",
             "topology": {"node": list(range(N_THREADS)), "socket": sockets}},
        ],
    }  # fmt: skip


@pytest.fixture
def configured(tmp_path: Path) -> config.Config:
    (tmp_path / "tiny.json").write_text(json.dumps(cluster()))
    return config.parse('topology = ["tiny.json"]\nretention = "48h"\n' + TEXT, tmp_path / "mstore.toml")


def filled(configured: config.Config, seed: int) -> tuple[Store, list[mmap.mmap], list[int]]:
    """Every series that the topology names, sent for five days from a moment of its host's own, with its retention.

    The moments are spread over the span of a chunk, as those of many hosts are: what is predicted is the average.
    """
    fds = [os.memfd_create(name) for name in ("directory", "samples")]
    sizes = directory_bytes(4000), layout.SAMPLES_DATA + 96 * layout.EXTENT_BYTES
    maps = []
    for fd, size in zip(fds, sizes, strict=True):
        os.ftruncate(fd, size)
        maps.append(mmap.mmap(fd, size))
    segments = [Segment(mapped, writable=True) for mapped in maps]
    create_directory(SimpleNamespace(segment=segments[0], fd=fds[0]), 4000, 7)
    directory = DirectoryWriter(segments[0], fds[0])
    directory.set_policy(False, 60, 1, 4000, 16_000)
    directory.set_metric_source(lambda cluster, name: configured.metric(cluster.decode(), name.decode()))
    store = Store(directory, Samples(segments[0], segments[1], fds[1], 0, True))
    rng = random.Random(seed)
    known = configured.clusters["tiny"]
    made: list[tuple[int, int, int, int]] = []
    span_s = 512 * 60 // N_NODES
    for sub in known.subclusters.values():
        for place, host in enumerate(sub.hosts):
            start_s = T0 + place * span_s + rng.randrange(span_s)
            for path in known.paths(sub, host):
                spec = configured.metric("tiny", path.metric)
                assert spec is not None
                below = f",type={path.type}" + (f",type-id={path.type_id}" if path.type_id else "")
                key = f"{path.metric},cluster=tiny,hostname={host}{below}".encode()
                offsets = np.array([0, len(key)], "<i8").tobytes()
                refs, types, _, _ = directory.intern(key, offsets, np.array([start_s], "<i8").tobytes())
                directory.publish()
                made.append((int(np.frombuffer(refs, "<u8")[0]), types[0], start_s, spec.step_s))
    for from_s in range(T0, T0 + 5 * 86_400, 7200):
        for ref, kind, start_s, step_s in made:
            first = max(0, -((start_s - from_s) // step_s))
            n = -((start_s - from_s - 7200) // step_s) - first
            if n > 0:
                slot, t_s = ref & 0xFFFF_FFFF, start_s + first * step_s
                store.apply_block(column(slot, t_s, step_s, np.ones(n), type=kind, generation=ref >> 32))
        kept_from_s = directory.kept_from_s(from_s + 7200, configured.retention_s)
        metrics = directory.series_table()["metric"]
        store.apply_block(store.plan_free(0, len(metrics), kept_from_s[metrics])[0])
    return store, maps, fds


def test_a_filled_store_takes_what_was_predicted_within_a_few_percent(
    configured: config.Config, seed: int
) -> None:
    store, maps, fds = filled(configured, seed)
    said = predict(configured, n_cores=2)
    counts = store.directory.counts()
    assert (said.nodes, said.series, said.levels) == (N_NODES, counts["live_series"], counts["n_levels"])
    assert said.samples_bytes == pytest.approx(store.samples.used_bytes(), rel=0.03)
    assert store.samples.used_bytes() < said.peak_bytes < 1.2 * said.samples_bytes
    assert said.directory_bytes == pytest.approx(store.directory.committed_bytes(), rel=0.03)
    assert said.samples_per_s == pytest.approx(N_NODES * (1 / 60 + N_THREADS / 60 + 2 / 30 + 1 / 60))
    del store
    for fd in fds:
        os.close(fd)
    maps.clear()


def test_a_series_takes_no_more_than_the_peak() -> None:
    span_s = 512 * 60
    for hours in (1, 8, 9, 48, 100):
        one = SeriesMemory.of(60, hours * 3600, "f32")
        ages_s = range(0, span_s, 60)  # of the newest chunk
        chunks = [1 + max(0, math.ceil((hours * 3600 - age) / span_s)) for age in ages_s]
        assert max(chunks) <= one.peak
        assert one.average == pytest.approx(sum(chunks) / len(chunks), abs=1)
        assert one.n_bytes < one.peak_bytes
    assert SeriesMemory.of(60, 0, "u64").n_bytes == pytest.approx(86_400 / span_s * 4160, rel=0.01)
    assert SeriesMemory.of(1, 40 * 86_400, "f32").table_class == layout.CLASS_TABLE_8 + 5


def test_nodes_scale_the_topology_and_need_none(configured: config.Config) -> None:
    one, ten = predict(configured, 2), predict(configured, 2, n_nodes=10 * N_NODES)
    assert (ten.nodes, ten.series) == (400, 10 * one.series)
    assert ten.samples_bytes == pytest.approx(10 * one.samples_bytes, rel=0.1)
    plain = config.parse("[metrics.a]\n[metrics.b]\nstep = 10\n[clusters.c.metrics.d]\n")
    found = predict(plain, 2, n_nodes=3000)
    assert (found.nodes, found.series) == (3000, 9000)
    assert predict(plain, 2).series == 0


def test_what_nobody_can_predict_is_said(configured: config.Config) -> None:
    found = predict(config.parse('[metrics.a]\nretention = "0"\n[metrics.e]\nstep = 0\n'), 2, n_nodes=10)
    assert (found.endless, found.unknown) == (["a"], ["e"])
    assert found.series == 10


def test_rings_and_control_are_counted_by_the_workers() -> None:
    found = predict(config.parse('ingest_workers = 3\nring_bytes = "16MiB"'), 2)
    assert found.fixed_bytes == CONTROL_BYTES + 3 * (layout.RING_DATA + (16 << 20))
    assert found.total_bytes == found.samples_bytes + found.directory_bytes + found.fixed_bytes
