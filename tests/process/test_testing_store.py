"""mstore.testing beside a served store: the same random writes are counted and answered alike, to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

import mstore
import mstore.testing
from mstore.errors import MstoreError
from mstore.model import MetricSpec
from tests.stores import Server

Serve = Callable[..., Server]
CONFIG = """
retention = "0"
[metrics.load]
step = 60
aggregation = "avg"
unit = "procs"
[metrics.flops]
step = 10
aggregation = "sum"
type = "f64"
[metrics.ops]
step = 10
aggregation = "sum"
type = "u64"
[metrics.beat]
step = 0
type = "u64"
"""
T0 = 1_700_000_000
SPAN_S = 4 * 3600
METRICS = ("load", "flops", "ops", "beat", "found")


def random_line(rng: random.Random) -> str:
    metric = rng.choice(METRICS)
    value: Any = rng.choice(
        [rng.uniform(-1e3, 1e3), rng.randrange(1 << 40), 0, "1e39", "x", f"{rng.random():.3f}"]
    )
    below = rng.choice(["", f",type=hwthread,type-id={rng.randrange(4)}", ",type=socket,type-id=0",
                        f",stype=disk,stype-id=d{rng.randrange(2)}"])  # fmt: skip
    t = T0 + rng.randrange(SPAN_S)
    stamp = rng.choice(
        [f" {t}", f" {t}000", f" {t}000000000", " 12ab", f" {1 << 62}"] if rng.random() < 0.1 else [f" {t}"]
    )
    host = (
        rng.choice(["h1", "h2", "h10", "bad host", ""]) if rng.random() < 0.05 else f"h{rng.randrange(1, 6)}"
    )
    return f"{metric},cluster=c,hostname={host}{below} value={value}{stamp}\n"


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, in a form that can be compared, or its error."""
    try:
        found = call()
    except MstoreError as error:
        return type(error).__name__, error.message
    if isinstance(found, mstore.Series):
        return found.to_wire()
    if isinstance(found, list) and found and isinstance(found[0], mstore.Series):
        return [one.to_wire() for one in found]
    return repr(found)


def write_all(client: mstore.Client, rng: random.Random) -> list[Any]:
    """The same seed writes the same."""
    results = []
    for _ in range(6):
        result = client.write("".join(random_line(rng) for _ in range(500)))
        results.append((result.written, result.rejected, result.ignored, dict(result.reasons)))
        with client.writer() as writer:
            hosts = [f"w{rng.randrange(8)}" for _ in range(4)]
            handles = writer.open(
                [("c", host, "power") for host in hosts], MetricSpec("power", 30, "sum", "f64")
            )
            times = sorted(T0 + 30 * rng.randrange(400) for _ in range(20))
            values = np.array([[rng.choice([rng.random(), float("nan")]) for _ in hosts] for _ in times])
            writer.write(handles, times, values)
            flushed = writer.flush()
            results.append((flushed.written, flushed.rejected, flushed.ignored, dict(flushed.reasons)))
    return results


def questions(client: mstore.Client, rng: random.Random) -> list[Any]:
    found: list[Any] = [
        sorted(client.children()),
        sorted(client.children("c")),
        repr(sorted(client.metrics("c"), key=str)),
    ]
    for host in sorted(client.children("c")):
        found.append(sorted(map(str, client.host_series("c", host))))
    for _ in range(120):
        host, metric = f"{rng.choice('hw')}{rng.randrange(9)}", rng.choice([*METRICS, "power", "none"])
        start = T0 + rng.randrange(-600, SPAN_S)
        end = start + rng.randrange(7200)
        options: dict[str, Any] = rng.choice([
            {}, {"type": "hwthread"}, {"type": "hwthread", "aggregate": True}, {"resolution": 300, "algo": "max"},
            {"function": "rate", "window": 300}, {"fill": "linear"}, {"type": "hwthread", "type_ids": [0, "9"]},
        ])  # fmt: skip
        found.append(outcome(lambda: client.query("c", host, metric, start, end, **options)))  # noqa: B023
    for metric in (*METRICS, "power"):
        found.append(outcome(lambda: client.latest("c/*", metric)))  # noqa: B023
        found.append(outcome(lambda: client.stats("c/*", metric, T0, T0 + SPAN_S, (50,))))  # noqa: B023
        found.append(outcome(lambda: client.above("c", metric, 0.0, 60, at=T0 + SPAN_S)))  # noqa: B023
    request = {"cluster": "c", "from": T0, "to": T0 + 3600, "for-all-nodes": ["load", "power"]}
    found.append(client.fetch(request).to_json())
    found.append([(one.path, one.n_bytes, one.samples) for one in client.sizes("c/*")])
    return found


def test_random_writes_are_answered_as_by_a_served_store(serve: Serve, seed: int) -> None:
    server = serve(CONFIG, "--ingest-workers", "1")
    with server.client() as served, mstore.testing.store(CONFIG) as local:
        expected = write_all(served, random.Random(seed))
        assert write_all(local, random.Random(seed)) == expected
        assert sum(one[0] for one in expected) > 1000
        assert sum(one[1] for one in expected) > 100
        answers = questions(served, random.Random(seed + 1))
        for number, (ours, theirs) in enumerate(
            zip(questions(local, random.Random(seed + 1)), answers, strict=True)
        ):
            assert ours == theirs, number
        samples = [one for one in answers if isinstance(one, list) and one and isinstance(one[0], dict)]
        assert len(samples) > 30
