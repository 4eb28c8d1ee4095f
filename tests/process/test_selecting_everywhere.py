"""Questions by selector and many questions at once: one answer from the blocking and asyncio clients and attached."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mstore
from mstore import Question, errors
from mstore.frames import Series
from mstore.query import Request
from mstore.tables import Paths, Table
from tests.stores import Server

CONFIG = """
retention = "0"
unknown_metrics = "register"
[metrics.load]
unit = "procs"
[metrics.flops]
aggregation = "sum"
type = "f64"
[metrics.clock]
aggregation = "none"
[metrics.ops]
type = "u64"
aggregation = "sum"
"""
T0 = 1_700_000_040
HOSTS = [f"f{i}" for i in range(12)]


def plain(found: Any) -> Any:
    """An answer as what it would be on a socket."""
    if isinstance(found, list):
        return [plain(one) for one in found]
    return found.texts if isinstance(found, Paths) else found.to_wire()


class Everywhere:
    """Asks in every way, and insists on one answer, or one error."""

    def __init__(self, server: Server) -> None:
        self.directory = server.directory
        self.client = server.client()
        self.reader = mstore.attach(server.directory)

    def close(self) -> None:
        self.client.close()
        self.reader.close()
        del self.reader  # its memory is given back when nobody holds it

    def ask(self, name: str, *args: Any, **options: Any) -> Any:
        ways = (
            lambda: getattr(self.reader, name)(*args, **options),
            lambda: getattr(self.client, name)(*args, **options),
            lambda: asyncio.run(self._awaited(name, *args, **options)),
        )
        found = [self._outcome(way) for way in ways]
        assert [kind for kind, _ in found] == [found[0][0]] * 3, found
        if isinstance(found[0][1], Exception):
            raise found[0][1]
        assert [plain(one) for _, one in found] == [plain(found[0][1])] * 3
        assert repr(found[1][1]) == repr(found[0][1])
        return found[1][1]

    @staticmethod
    def _outcome(way: Callable[[], Any]) -> tuple[type, Any]:
        try:
            found = way()
        except errors.MstoreError as error:
            return type(error), error
        return type(found), found

    async def _awaited(self, name: str, *args: Any, **options: Any) -> Any:
        async with mstore.AsyncClient(self.directory) as client:
            return await getattr(client, name)(*args, **options)


@pytest.fixture
def everywhere(serve: Callable[..., Server]) -> Iterator[Everywhere]:
    server = serve(CONFIG)
    rng = random.Random(int(os.environ.get("MSTORE_SEED", "7")))
    lines = []
    for host in HOSTS:
        for k in range(200):
            stamp = f"{T0 + 60 * k + rng.randrange(20)}"
            if rng.random() < 0.9:
                lines.append(f"load,cluster=fritz,hostname={host} value={rng.random():.4f} {stamp}\n")
            for thread in range(4):
                tags = f"cluster=fritz,hostname={host},type=hwthread,type-id={thread}"
                lines.append(f"flops,{tags} value={rng.random():.9f} {stamp}\n")
                lines.append(f"clock,{tags} value={rng.randrange(3000)} {stamp}\n")
            lines.append(f"ops,cluster=fritz,hostname={host} value={2**60 + k}u {stamp}\n")
    with server.client() as client:
        assert client.write("".join(lines)).rejected == 0
    made = Everywhere(server)
    yield made
    made.close()


END = T0 + 200 * 60


def test_every_question_by_selector_has_one_answer(everywhere: Everywhere) -> None:
    ask = everywhere.ask
    assert ask("select", "fritz/f1*").texts == ["fritz/f1", "fritz/f10", "fritz/f11"]
    assert len(ask("select", "fritz/*/hwthread*", "flops")) == 48
    (load, ops) = ask("latest", "fritz/f[0-20]", ["load", "ops"])
    assert (len(load), int(np.count_nonzero(load.valid)), load.unit) == (21, 12, "procs")
    assert ops.values[0] == 2**60 + 199
    assert ask("latest", ["fritz", "*"], "flops", per="series").n_series.sum() == 48
    assert len(ask("above", "fritz", "flops", -1, 600, at=END)) == 48
    figures = ask("stats", "fritz/*", "flops", T0, END, (5, 50, 99.5))
    assert figures.counts.tolist() == [800] * 12
    assert ask("stats", "fritz", "ops", T0, END, per="series").maxs.max() == 2**60 + 199
    assert len(ask("top", "fritz/*", "load", T0, END, k=3, by="p90", largest=False)) == 3
    found = ask("series", "fritz/*,nope", "flops", T0, END, resolution=600, algo="max")
    assert [len(one) for one in found] == [20] * 13
    whole = ask("series", "fritz", "flops", T0, END, aggregate=True)
    assert whole.coverage.max() == 48


def test_what_cannot_be_answered_is_one_error_everywhere(everywhere: Everywhere) -> None:
    for error, name, args in (
        (errors.UnknownSelector, "latest", ("nope/*", "load")),
        (errors.UnknownMetric, "stats", ("fritz/*", "nope", T0, END)),
        (errors.EmptyCluster, "select", ("",)),
        (errors.InvalidTimeRange, "top", ("fritz/*", "load", END, T0)),
        (errors.NotAggregatable, "latest", ("fritz/*", "clock")),
        (errors.NotAggregatable, "series", ("fritz/*", "clock", T0, END)),
        (errors.InvalidStep, "series", ("fritz/*", "load", T0, END, False, 61)),
        (errors.InvalidRequest, "above", ("fritz/*", "load", float("nan"))),
        (errors.InvalidRequest, "select", ("fritz/f[1",)),
        (errors.InvalidRequest, "top", ("fritz/*", "load", T0, END, 5, "mode")),
    ):
        with pytest.raises(error):
            everywhere.ask(name, *args)


def test_many_questions_at_once_are_answered_as_each_alone(everywhere: Everywhere) -> None:
    rng = random.Random(int(os.environ.get("MSTORE_SEED", "7")))
    asked = []
    for _ in range(700):
        metric = rng.choice(["load", "flops", "ops"])
        more: dict[str, Any] = {}
        if metric == "flops":
            more = rng.choice(
                [{"type": "hwthread"}, {"type": "hwthread", "aggregate": True}, {"type": "hwthread", "type_ids": "2"},
                 {"type": "hwthread", "type_ids": ["3", "9"]}, {}]
            )  # fmt: skip
        start = T0 + rng.randrange(-3000, 12_000)
        asked.append(
            Question("fritz", rng.choice([*HOSTS, "nope"]), metric, start, start + rng.randrange(9000),
                     resolution=rng.choice([0, 0, 600]), **more)
        )  # fmt: skip
    found = everywhere.client.query_many(asked)
    assert plain(found) == plain([everywhere.client.query(**question._asdict()) for question in asked])
    requests = [
        Request(q.cluster, q.host, q.metric, q.start, q.end, q.type, q.type_ids, aggregate=q.aggregate,
                resolution=q.resolution)
        for q in asked
    ]  # fmt: skip
    assert plain(found) == plain(everywhere.reader.query_many(requests))
    assert isinstance(found[0], Series | list)
    with pytest.raises(errors.UnknownMetric):
        everywhere.client.query_many([*asked[:3], Question("fritz", "f1", "nope", 0, 60)])


def test_tables_of_a_client_are_tables(everywhere: Everywhere) -> None:
    assert isinstance(everywhere.client.latest("fritz/*", "load"), Table)
