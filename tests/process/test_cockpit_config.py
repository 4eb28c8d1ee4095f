"""A store that is given the configuration file of ClusterCockpit's metric store, as it is."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.stores import Server


def test_a_store_runs_by_the_metric_stores_own_file(serve: Callable[..., Server], now: int) -> None:
    server = serve("", start=False)
    path = server.directory / "config.json"
    path.write_text(json.dumps({
        "main": {"addr": "0.0.0.0:8082", "jwt-public-key": "kzfYrYy+TzpanWZHJ5qSdMj5uKUWgq74BWhQG6copP0="},
        "metrics": {
            "cpu_load": {"frequency": 60, "aggregation": None}, "flops_any": {"frequency": 10, "aggregation": "sum"},
            "mem_bw": {"frequency": 60, "aggregation": "avg"},
        },
        "metric-store": {
            "checkpoints": {"interval": "12h", "directory": "./var/checkpoints"}, "memory-cap": 1,
            "retention-in-memory": "48h",
        },
    }))  # fmt: skip
    server.arguments = ["--dir", str(server.directory), "--config", str(path)]
    server.start()
    with server.client() as client:
        samples = (
            ("cpu_load", "type=node", now), ("flops_any", "type=core,type-id=0", now),
            ("flops_any", "type=core,type-id=1", now), ("never_named", "type=node", now),
            ("cpu_load", "type=node", now - 49 * 3600),
        )  # fmt: skip
        result = client.write(
            f"{name},cluster=c,hostname=h,{level} value=2 {t}\n" for name, level, t in samples
        )
        assert (result.written, result.ignored, dict(result.reasons)) == (
            3, 1, {"unknown_metric": 1, "too_late": 1},
        )  # fmt: skip
        assert {one.name: (one.step_s, one.aggregation) for one in client.metrics("c")} == {
            "cpu_load": (60, "none"), "flops_any": (10, "sum"),
        }  # fmt: skip
        assert client.query("c", "h", "flops_any", now, now + 10).values.tolist() == [4.0]
    assert "addr" in server.log_text(), "what is not followed is told"
