"""`mstore dump` beside a running store, and of what a killed one leaves."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.stores import Server

Serve = Callable[..., Server]
CONFIG = '[metrics.load]\nstep = 10\ntype = "f64"\n[metrics.bytes]\nstep = 10\ntype = "u64"\n'


def dump(directory: Path, *argv: str) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "mstore", "dump", "--dir", str(directory), "--json", *argv]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
    )
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def samples_of(documents: list[dict[str, Any]]) -> dict[tuple[str, int], Any]:
    """(CLUSTER/HOST METRIC, nominal second) -> value, from the records of the log in their order."""
    names: dict[int, str] = {}
    metrics: dict[int, str] = {}
    series: dict[int, tuple[str, int, int]] = {}
    found: dict[tuple[str, int], Any] = {}
    for one in documents:
        if one["what"] == "level" and "level_id" in one:
            parent = names.get(one["parent"], "")
            names[one["id"]] = f"{parent}/{one['level_id']}".strip("/")
        elif one["what"] == "metric":
            metrics[one["index"]] = one["name"]
        elif one["what"] == "series":
            series[one["slot"]] = (
                f"{names[one['level']]} {metrics[one['metric']]}",
                one["anchor_s"],
                one["step_s"],
            )
        elif "values" in one and "times" in one:
            times, slots = one["times"], one["slots"]
            for at, value in enumerate(one["values"]):
                name, anchor, step = series[slots[at % len(slots)]]
                t = times[at % len(times)]
                found[name, (t - anchor) // step * step + anchor + step // 2] = value
    return found


def test_the_log_of_a_running_store_holds_exactly_what_was_written(serve: Serve, now: int, seed: int) -> None:
    chance = random.Random(seed)
    server = serve(CONFIG)
    first = now // 10 * 10 - 600
    lines = []
    for i in range(60):
        for host in ("h1", "h2"):
            lines.append(
                f"load,cluster=c,hostname={host} value={chance.uniform(-1e9, 1e9)!r} {first + 10 * i}"
            )
            lines.append(f"bytes,cluster=c,hostname={host} value={chance.randrange(2**63)}i {first + 10 * i}")
    lines += chance.sample(lines, 20)  # the same again: the last one wins
    server.send_text("\n".join(lines).encode() + b"\n")
    status, documents = dump(server.directory)
    assert status == 0, [one for one in documents if "wrong" in one]
    written = samples_of([one for one in documents if one["file"].endswith(".wal")])
    expected = {}
    with server.client() as client:
        for host in ("h1", "h2"):
            for metric in ("load", "bytes"):
                answer = client.query("c", host, metric, first, now + 1)
                for t, value, valid in zip(
                    answer.times.tolist(), answer.values.tolist(), answer.valid.tolist(), strict=True
                ):
                    if valid:
                        expected[f"c/{host} {metric}", t] = value
    assert len(expected) == 240
    assert written == expected
    chunks = [one for one in documents if one["what"] == "chunk" and one["file"].startswith("/dev/shm/")]
    in_memory = sorted(value for one in chunks for value in one["values"] if value not in (None, 2**64 - 1))
    assert in_memory == sorted(expected.values())


def test_what_a_killed_store_leaves_can_be_dumped_without_its_lock(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    server.send_text(f"load,cluster=c,hostname=h1 value=1.5 {now}\n".encode())
    server.kill()
    status, documents = dump(server.directory, "--type", "row,column,scatter")
    assert status == 0
    assert [one["values"] for one in documents if "values" in one] == [[1.5]]
    assert any(one["file"].endswith("-control") for one in documents)
    server.start()
    assert dump(server.directory)[0] == 0
