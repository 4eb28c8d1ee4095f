"""`mstore follow` against a stand-in store: a line a sample, gaps on standard error, an end where one is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mstore.cli import common, main
from mstore.client.following import FollowBatch, FollowedSeries

T0_MS = 1_700_000_000_000
LOAD = FollowedSeries("fritz", "f1", "load", "", "", "", "", 60, "procs", ())
READS = FollowedSeries("fritz", "f2", "reads", "disk", "/home", "", "", 60, "", ())
SCRAPE = FollowedSeries("fritz", "f3", "scrape", "", "", "", "", 0, "", (("n", "u64"), ("s", "f64")))


def words(*values: float) -> list[int]:
    return np.array(values, np.float64).view(np.uint64).tolist()


def batch(index: list[int], types: list[int], found: list[int], **fields: Any) -> FollowBatch:
    times = [T0_MS + 60_000 * i for i in range(len(index))]
    return FollowBatch(
        [LOAD, READS, SCRAPE], np.array(index, np.uint32), np.array(times, np.int64), np.array(types, np.uint8),
        np.array(found, np.uint64), **fields,
    )  # fmt: skip


class FakeStore:
    """What is asked of it, and what it has to tell."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()
        self.batches = [
            batch([0, 1, 2], [1, 3, 0], [*words(1.25), 2**63 + 1, 7, *words(0.5)]),
            batch([], [], [], missed=1234, missed_since=T0_MS // 1000),
            batch([0], [1], words(2.0), missed=-1, missed_since=T0_MS // 1000),
        ]

    def __enter__(self) -> FakeStore:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def follow(self, selector: str, metrics: Any, *, since: Any) -> FakeStore:
        self.asked = (selector, metrics, since)
        return self

    def __iter__(self) -> Iterator[FollowBatch]:
        return iter(self.batches)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    found = FakeStore()
    monkeypatch.setattr(common, "open_client", lambda args: found)
    return found


def test_a_line_says_when_where_what_and_how_much(
    fake: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["follow", "fritz", "load", "reads", "--since", "-10m", "--utc"]) == 0
    out, err = capsys.readouterr()
    assert fake.asked == ("fritz", ["load", "reads"], "-10m")
    assert [line.split() for line in out.splitlines()] == [
        ["22:13:20", "fritz/f1", "load", "1.25", "procs"],
        ["22:14:20", "fritz/f2/disk/home", "reads", "9.22337e+18"],
        ["22:15:20", "fritz/f3", "scrape", '{"n":', "7,", '"s":', "0.5}"],
        ["22:13:20", "fritz/f1", "load", "2", "procs"],
    ]
    assert "1,234 samples were left out, none older than 2023-11-14 22:13:20" in err
    assert "some samples were left out" in err


def test_csv_and_json_are_exact(fake: FakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["follow", "fritz", "--format", "csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert fake.asked == ("fritz", None, None)
    assert rows[0] == "time_ms,cluster,host,level,metric,value,unit"
    assert rows[2] == f"{T0_MS + 60_000},fritz,f2,disk/home,reads,{2**63 + 1},"
    assert main.main(["follow", "fritz", "--format", "json"]) == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert documents[1] == {
        "time_ms": T0_MS + 60_000, "cluster": "fritz", "host": "f2", "metric": "reads", "type": "disk",
        "type_id": "/home", "value": 2**63 + 1,
    }  # fmt: skip
    assert documents[2]["value"] == {"n": 7, "s": 0.5}


def test_it_ends_after_as_many_samples_as_asked_for(
    fake: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["follow", "fritz", "--count", "2", "--utc"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main.main(["follow", "fritz", "--count", "0"]) == 2
