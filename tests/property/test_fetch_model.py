"""The batch request against a dict of samples: random trees, phases, gaps, ranges, ids, resolutions and scales."""

from __future__ import annotations

import math
import os
import random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query_rig import T0, Store
from tests.unplugged import unplugged

STEPS = {"load": 60, "flops": 60, "ops": 10}
CORES = [str(core) for core in range(4)]

Samples = dict[int, float]
"""By slot; slot k has the nominal time first + k * step."""


class Model:
    """What was written, by (metric, host, core), and the answer as it should be."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self.series: dict[tuple[str, str, str], tuple[int, int, Samples]] = {}
        for metric, step in STEPS.items():
            for host in ("f1", "f2"):
                for core in rng.sample(CORES, 3):
                    first = T0 + rng.randrange(-step, step)
                    ref = store.open(metric, host, "core", core, t=first)
                    found: Samples = {}
                    for _ in range(rng.randrange(1, 5)):
                        slot = rng.randrange(-600, 600) if found else 0
                        values = [float(rng.randrange(100)) for _ in range(rng.randrange(1, 200))]
                        store.put(ref, first + slot * step, values, step)
                        found |= {slot + i: value for i, value in enumerate(values)}
                    self.series[metric, host, core] = (ref & 0xFFFF_FFFF, first, found)

    def values(self, metric: str, host: str, cores: list[str], start: int, end: int) -> list[float | None]:
        """Slot by slot: the first series' slot that contains the time, and at its nominal time all others'."""
        step = STEPS[metric]
        chosen = sorted(
            self.series[metric, host, core] for core in cores if (metric, host, core) in self.series
        )
        n = max(0, math.ceil((end - start) / step))
        if not chosen:
            return [None] * n
        phase = chosen[0][1]
        found: list[float | None] = []
        for k in range(n):
            slot = (start + k * step - phase + step // 2) // step
            at = phase + slot * step
            here = [one[2].get((at - one[1] + step // 2) // step) for one in chosen]
            present = [value for value in here if value is not None]
            total = float(np.sum(present, dtype=np.float64)) if present else None
            found.append(total if total is None or metric != "load" else total / len(present))
        return found


def expected(values: list[float | None], step: int, resolution: int, scale: float) -> dict[str, Any]:
    present = [value for value in values if value is not None]
    statistics = [min(present), max(present), sum(present) / len(present)] if present else [None] * 3
    factor = resolution // step if resolution > step else 1
    buckets = [values[i : i + factor] for i in range(0, len(values), factor)]
    kept = [[value for value in bucket if value is not None] for bucket in buckets]
    means = [sum(bucket) / len(bucket) if bucket else None for bucket in kept]
    scaled = [None if value is None else value * scale for value in (means if factor > 1 else values)]
    low, high, mean = (None if one is None else one * scale for one in statistics)
    return {"data": scaled, "resolution": step * factor, "min": low, "max": high, "avg": mean}


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(same(*pair) for pair in zip(found, wanted, strict=True))
    if wanted is None or found is None:
        return found is wanted
    return math.isclose(found, wanted, rel_tol=1e-5, abs_tol=1e-9)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 12))
def test_every_entry_equals_that_of_a_dict_of_samples(seed: int, n: int) -> None:
    rng = random.Random(seed)
    store = Store(f"mstore-test-fetch-{os.getpid()}")
    try:
        model = Model(store, rng)
        start = T0 + rng.randrange(-20_000, 20_000)
        end = start + rng.randrange(0, 20_000)
        queries, wanted = [], []
        for _ in range(n):
            metric, host = rng.choice(sorted(STEPS)), rng.choice(["f1", "f2", "f3"])
            cores = rng.sample([*CORES, "9"], rng.randrange(1, 5))
            step = STEPS[metric]
            resolution, scale = rng.choice([0, step, 2 * step, 7 * step]), rng.choice([1.0, 0.5, 3.0])
            together = rng.random() < 0.5
            queries.append({
                "metric": metric, "host": host, "type": "core", "type-ids": cores, "aggreg": together,
                "resolution": resolution, "scale-by": scale,
            })  # fmt: skip
            groups = [cores] if together else [[core] for core in cores]
            wanted.append(
                [
                    expected(model.values(metric, host, one, start, end), step, resolution, scale)
                    for one in groups
                ]
            )
        document = {
            "cluster": "fritz",
            "from": start,
            "to": end,
            "queries": queries,
            "resample-algo": "average",
        }
        answer = store.reader.fetch(document)
        assert unplugged(store.reader, T0).fetch(document).to_json() == answer.to_json()
        results = answer.to_dict()["results"]
        assert [len(row) for row in results] == [len(row) for row in wanted]
        for query, row, wanted_row in zip(queries, results, wanted, strict=True):
            for found, one in zip(row, wanted_row, strict=True):
                got = {**found, "data": found.get("data", [])}
                assert (got["from"], got["to"]) == (start, start + len(one["data"]) * one["resolution"])
                for key, value in one.items():
                    assert same(got[key], value), f"seed {seed}: {key} of {query}: {got[key]} is not {value}"
    finally:
        store.close()
