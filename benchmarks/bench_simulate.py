"""How fast is the load generator? It must not be what limits a measurement of the store.

    python benchmarks/bench_simulate.py [--series 50000] [--ticks 10]

Prints samples a second of `values` (the random walks) and `text` (formatting), and the ratio to a plain
Python loop over f-strings in the same run. MSTORE_FIXTURES adds a real cluster.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

from mstore.simulate import Batch, Simulator, builtin_cluster
from mstore.simulate.text import series_key
from mstore.topology import Cluster, load_cluster

END_S = 1_700_000_000
STEP_S = 60


def grown(cluster: Cluster, n_series: int) -> Cluster:
    """The built-in cluster with as many nodes as it takes for n_series."""
    sub = cluster.subclusters["cpu"]
    per_node = sum(1 for _ in cluster.paths(sub, ""))
    hosts = tuple(f"n{i:05}" for i in range(max(1, n_series // per_node)))
    return replace(cluster, subclusters={"cpu": replace(sub, hosts=hosts)})


def plain_python(simulator: Simulator, batch: Batch) -> tuple[bytes, float]:
    """The batch's lines, and the seconds that the loop alone took."""
    keys = [series_key(simulator.paths[index]).decode() for index in batch.index.tolist()]
    decimals = simulator.decimals[batch.index].tolist()
    values = simulator.values(batch).tolist()
    start = time.perf_counter()
    text = "".join(
        f"{key} value={value:.{places}f} {batch.t_s}\n" if value else f"{key} value=0 {batch.t_s}\n"
        for key, value, places in zip(keys, values, decimals, strict=True)
    ).encode()
    return text, time.perf_counter() - start


def measure(name: str, cluster: Cluster, ticks: int) -> None:
    simulator = Simulator(cluster, seed=1, step_s=STEP_S)
    start = time.perf_counter()
    batches = list(simulator.span(ticks * STEP_S, END_S))
    walked = time.perf_counter()
    texts = [simulator.lines(batch) for batch in batches]
    formatted = time.perf_counter()
    n_lines = sum(len(batch.index) for batch in batches)
    plain_text, plain_s = plain_python(simulator, batches[0])
    assert plain_text == texts[0]
    plain = len(batches[0].index) / plain_s
    text_speed = n_lines / (formatted - walked)
    line_bytes = sum(map(len, texts)) / n_lines
    print(f"{name}: {len(simulator.paths):,} series, {n_lines:,} lines, {line_bytes:.0f} bytes a line")
    print(f"  values      {n_lines / (walked - start) / 1e6:6.2f} M/s")
    ratio = f"{text_speed / plain:.1f} x a Python loop ({plain / 1e6:.2f} M/s)"
    print(f"  text        {text_speed / 1e6:6.2f} M lines/s = {ratio}")
    print(f"  both        {n_lines / (formatted - start) / 1e6:6.2f} M lines/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the load generator.")
    parser.add_argument("--series", type=int, default=50_000)
    parser.add_argument("--ticks", type=int, default=10)
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    measure("built-in", grown(builtin_cluster(), args.series), args.ticks)
    if fixtures := os.environ.get("MSTORE_FIXTURES"):
        fritz = load_cluster(Path(fixtures) / "clusters" / "fritz.json")
        measure("fritz", fritz if args.series >= 500_000 else _first(fritz, args.series), args.ticks)


def _first(cluster: Cluster, n_series: int) -> Cluster:
    name, sub = next(iter(cluster.subclusters.items()))
    per_node = sum(1 for _ in cluster.paths(sub, ""))
    return replace(cluster, subclusters={name: replace(sub, hosts=sub.hosts[: max(1, n_series // per_node)])})


if __name__ == "__main__":
    main()
