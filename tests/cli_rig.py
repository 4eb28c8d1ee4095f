"""The command line without a store: a stand-in for the client, and what runs a command over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mstore.cli import common
from mstore.cli import main as cli
from mstore.client.results import WriteResult
from mstore.model import Metric, MetricSpec

START_S = 1_700_000_000
TREE: dict[str, Any] = {"fritz": {"f10": {"core0": {}, "core10": {}, "core2": {}}, "f2": {}}}


class FakeWriter:
    """Takes columns and remembers them by path."""

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.paths: list[Any] = []
        self.n = 0

    def __enter__(self) -> FakeWriter:
        return self

    def __exit__(self, *args: object) -> None:
        self.flush()

    def open(self, series: list[Any], spec: MetricSpec | None = None) -> Any:
        first = len(self.paths)
        self.paths += series
        self.client.specs.append(spec)
        return np.arange(first, len(self.paths), dtype=np.uint32)

    def write(self, handles: Any, times: Any, values: Any) -> None:
        assert values.shape == (len(times), len(handles))
        self.n += values.size
        for column, handle in enumerate(handles.tolist()):
            for row, t in enumerate(times.tolist()):
                self.client.samples[self.paths[handle], t] = float(values[row, column])

    def flush(self) -> WriteResult:
        n, self.n = self.n, 0
        return WriteResult(written=n)


class FakeClient:
    """A store of one cluster that accepts what begins with a letter."""

    def __init__(self) -> None:
        self.text = b""
        self.calls: list[tuple[Any, ...]] = []
        self.specs: list[MetricSpec | None] = []
        self.samples: dict[tuple[Any, int], float] = {}
        self.answer: Any = None
        self.options: dict[str, Any] = {}
        self.n_looks = 0

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def write(self, lines: bytes, cluster: str | None = None, precision: str | None = None) -> WriteResult:
        self.text += lines
        self.calls.append(("write", cluster, precision))
        bad = sum(line.startswith(b"?") for line in lines.splitlines())
        ignored = sum(line.startswith(b"!") for line in lines.splitlines())
        reasons = {name: n for name, n in (("bad_syntax", bad), ("unknown_metric", ignored)) if n}
        return WriteResult(len(lines.splitlines()) - bad - ignored, bad, ignored, reasons)

    def writer(self) -> FakeWriter:
        return FakeWriter(self)

    def query(self, *args: Any, **options: Any) -> Any:
        self.calls.append(("query", args, options))
        return self.answer(*args) if callable(self.answer) else self.answer

    def children(self, *path: str) -> list[str]:
        place: dict[str, Any] = TREE
        for part in path:
            place = place.get(part, {})
        return list(place)

    def metrics(self, cluster: str | None = None) -> list[Metric]:
        grid = Metric("fritz", "mem_bw", 60, aggregation="sum", type="f32", unit="GB/s")
        return [grid, Metric("fritz", "job_bytes", 0, aggregation="none", type="u64")]

    def info(self) -> dict[str, Any]:
        self.n_looks += 1
        return {
            "version": "0.1.0",
            "dir": "/srv/m",
            "state": "ready",
            "full": True,
            "degraded": False,
            "now_s": START_S,
            "started_s": START_S - 3700,
            "counts": {
                "live_series": 20000,
                "max_series": 4_000_000,
                "n_levels": 3,
                "n_metrics": 2,
                "n_keys": 1,
            },
            "memory": {
                "segments": {
                    "samples": {"used_bytes": 3 << 30, "allocated_bytes": 4 << 30, "reserved_bytes": 8 << 30},
                    "ring-0": {"allocated_bytes": 16 << 20, "reserved_bytes": 16 << 20},
                }
            },
            "log": {
                "written_seq": 1200,
                "durable_seq": 1199,
                "segments": 1,
                "spares": 2,
                "segment_bytes": 192 << 20,
            },
            "counters": {
                "lines": 5000 * self.n_looks,
                "rejected_bad_value": 7,
                "rejected_no_host": 0,
                "restarts": 1,
            },
            "workers": [
                {"kind": "ingest", "index": 0, "pid": 77, "started_s": START_S - 95, "connections": 2}
            ],
        }


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()

    def open_client(args: Any, **options: Any) -> FakeClient:
        fake.options = options
        return fake

    monkeypatch.setattr(common, "open_client", open_client)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line: (status, what it printed, what it said to standard error)."""

    def call(*argv: str) -> tuple[int, str, str]:
        try:
            status = cli.main(list(argv))
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call
