"""What is wrong with a question is said by the same error wherever it is asked: clients, readers, several clusters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import mstore
from mstore import choices, clock, errors
from mstore.client import questions, selecting
from mstore.client.following import FollowBatch, FollowedSeries
from mstore.client.life import LifeOperations
from mstore.frames import Series
from mstore.hostlists import hosts_asked
from mstore.ipc import messages
from mstore.jobs.request import LoadRequest
from mstore.testing import store


@pytest.mark.parametrize("value", ["hot", None, float("nan"), float("inf"), [1]])
def test_a_level_is_a_finite_number_before_it_is_sent(value: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="value="):
        selecting.above("c/*", "m", value, "5m", False, "now", None)


@pytest.mark.parametrize("percents", [("50",), (None,), (101,), (-1,), (float("nan"),), [50] * 101])
def test_percentiles_are_numbers_before_they_are_sent(percents: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="percentiles"):
        selecting.stats("c/*", "m", 0, 1, percents, "level", None)


def test_percentiles_may_be_any_numbers() -> None:
    assert choices.percentiles(np.array([5, 95])) == [5.0, 95.0]


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", None, 10**9])
def test_a_ranking_has_a_whole_number_of_rows(k: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="k="):
        selecting.top("c/*", "m", 0, 1, k, "avg", True, "level", None)
    assert choices.ranks(np.int64(3)) == 3


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.health("c", metrics="load"),
        lambda client: client.health("c", nodes="h[1"),
        lambda client: client.node_data("c", 0, 1, metrics="load"),
        lambda client: client.node_data("c", 0, 1, nodes="h[1"),
        lambda client: client.node_list_data("c", 0, 1, scopes="node"),
    ],
)
def test_a_text_is_no_list_of_names_and_a_bad_hostlist_a_bad_question(ask: Callable[[Any], object]) -> None:
    with store() as memory:
        for asked in (memory, memory.reader):
            with pytest.raises(errors.InvalidRequest):
                ask(asked)


def test_hosts_are_names_a_hostlist_or_all() -> None:
    assert hosts_asked(None) is None
    assert hosts_asked(("h[1-2]", "h3")) == ["h[1-2]", "h3"]
    assert hosts_asked("h[1-2],h3") == ["h1", "h2", "h3"]
    with pytest.raises(errors.InvalidRequest):
        next(iter(LifeOperations().protect("c", "h[1", None, None)))
    with pytest.raises(errors.InvalidRequest, match="scopes='node'"):
        LoadRequest.of_nodes("c", 0, 1, 0, scopes="node")


def test_a_time_out_of_less_than_a_millisecond_is_none_of_half_a_minute() -> None:
    message = questions.Question("c", "h", "m", 0, 60).message(0, 0.0004)
    assert message.deadline_ms == 1


def test_followed_samples_of_two_types_are_each_read_as_their_own() -> None:
    series = [FollowedSeries("c", "h", "m", "", "", "", "", 60, "", ())]
    words = np.array([2**60 + 1, np.float64(1.5).view(np.uint64), 7], np.uint64)
    batch = FollowBatch(
        series, np.zeros(3, np.uint32), np.array([0, 60_000, 120_000]),
        np.array([messages.TYPE_U64, messages.TYPE_F64, messages.TYPE_U64], np.uint8), words,
    )  # fmt: skip
    found = [(times.tolist(), values.tolist()) for _, times, values in batch.runs()]
    assert found == [([0, 120_000], [2**60 + 1, 7]), ([60_000], [1.5])]


def test_clients_and_readers_answer_the_same_questions() -> None:
    with store() as memory:
        now = clock.now_s()
        memory.write("".join(f"m,cluster=c,hostname=h{n} value={n} {now - 60}\n" for n in range(3)))
        asked = [
            mstore.Question(
                "c", "h0", "m", datetime.fromtimestamp(now - 600, UTC), str(now), scale_by=2, fill="previous"
            ),
            mstore.Question("c", "h1", "m", now - 600, now, "node", resolution=120, algo="max"),
            mstore.Question("c", "h2", "m", now - 600, now, "core", (n for n in (1, 2))),  # type: ignore[arg-type]
        ]
        there = memory.reader.query_many(asked)
        asked[2] = asked[2]._replace(type_ids=[1, 2])
        for here, found in zip(memory.query_many(asked), there, strict=True):
            pairs = zip(here, found, strict=True) if isinstance(here, list) else [(here, found)]
            for one, other in pairs:
                assert isinstance(one, Series)
                assert isinstance(other, Series)
                assert (one.times.tolist(), one.step) == (other.times.tolist(), other.step)
                assert np.array_equal(one.values, other.values, equal_nan=True)
                assert (one.host, one.type_id, one.why) == (other.host, other.type_id, other.why)
