"""Answers in flat arrays: what goes through a message, what is refused, and answers that are made while a store changes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.errors import LimitExceeded, MstoreError, NotAggregatable, ProtocolError, Unavailable
from mstore.fetching.packed import EMPTY, HELD, NO_DATA, Packed, Packing
from mstore.fetching.request import FetchRequest
from mstore.ipc import messages as m
from mstore.jobs.request import LoadRequest
from mstore.query import items
from mstore.query.budget import PIECE_SAMPLES, PIECE_SERIES, Budget, Slices
from mstore.query.gather import Replan
from tests.jobs_rig import filled, job, reader, store_name
from tests.query_rig import T0, Store

PATH = ("c", "h", "m", "core", "1", "", "")
F32, F64, U64 = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<u8")


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-test-{os.getpid()}")
    for core in range(4):
        made.put(made.open("load", "f1", "core", str(core)), T0, [float(core)] * 5)
    yield made
    made.close()


def request(n: int = 3, **keys: Any) -> FetchRequest:
    queries = [{"metric": "load", "host": "f1", "type": "core", "type-ids": ["0", "9", "3"]}] * n
    return FetchRequest.parse(
        {"cluster": "fritz", "from": T0, "to": T0 + 300, "queries": queries, **keys}, T0
    )


def decoded(message: m.Message) -> Any:
    return m.decode(message.TAG, memoryview(m.encode_body(message)))


def test_series_of_every_kind_are_unpacked_as_they_were_packed() -> None:
    packing = Packing()
    packing.add(60, 60, 3, np.array([1, np.nan, 3], F32), F32, HELD, (1.0, 3.0, 2.0, 2), "W", "", "sum", 4)
    packing.fail(NotAggregatable("no", metric="x"))
    packing.add(0, 10, 2, np.array([7, 2**64 - 1], U64), U64, HELD)
    packing.add(0, 10, 2, None, U64, EMPTY, why="no samples in range", n_series=1)
    packing.add(0, 10, 2, None, F64, EMPTY, unit="W")
    packing.add(0, 10, 1000, None, F64, NO_DATA, (1.0, 2.0, 1.5, 9))
    packing.fail(NotAggregatable("no", metric="x"))
    packed = packing.packed()
    found = [packed.series(i, PATH) for i in range(7)]
    first = found[0]
    assert (first.values[0], first.start, first.stop, first.step, first.unit) == (1.0, 60, 240, 60, "W")
    assert (first.aggregation, first.n_series, first.path, first.n_samples) == ("sum", 4, "c/h/core1", 2)
    assert (first.min, first.max, first.avg) == (1.0, 3.0, 2.0)
    assert [type(one.error) for one in found] == [
        type(None),
        NotAggregatable,
        *[type(None)] * 4,
        NotAggregatable,
    ]
    assert (len(packed.errors), found[1].error) == (1, found[6].error)
    assert (found[2].values.tolist(), found[2].valid.tolist()) == ([7, 0], [True, False])
    assert (found[3].values.dtype, found[3].valid.tolist(), found[3].why) == (
        U64,
        [False, False],
        "no samples in range",
    )
    assert math.isnan(found[4].values[1])
    assert (len(found[5]), found[5].stop, found[5].avg) == (0, 10_000, 1.5)


def test_more_entries_than_are_packed_at_once_keep_their_order() -> None:
    packing = Packing()
    for k in range(10_000):
        packing.add(k, 60, 1, np.array([k], F32), F32, HELD)
    packed = packing.packed()
    assert [packed.series(k, PATH).values[0] for k in (0, 4095, 4096, 9999)] == [0, 4095, 4096, 9999]


def test_requests_go_through_messages_unchanged(store: Store) -> None:
    asked = request(2, **{"for-all-nodes": ["load"], "with-stats": False, "resample-algo": "last"})
    assert decoded(m.Fetch.of(asked, 5)).request() == asked
    load = LoadRequest.of_job(
        job("n1", ("n2", [0, 4], ["0:01"])), T0, ["flops"], ("core", "node"), 120, "max"
    )
    assert decoded(m.Load.of(load)).request() == load
    nodes = LoadRequest.of_nodes("tiny", T0, T0 + 60, T0, "n[1-3]", subcluster="main")
    assert decoded(m.Load.of(nodes)).request() == nodes


def test_answers_go_through_messages_unchanged(store: Store) -> None:
    asked = request(2, **{"for-all-nodes": ["load", "nope"]})
    fetched = store.reader.fetch(asked)
    again = decoded(m.FetchAnswer.of(fetched)).fetched(asked)
    assert again.to_json() == fetched.to_json()
    assert repr(again) == repr(fetched) == "<Fetched 4 rows, 8 series of fritz>"
    assert again[3][0].error.args == fetched[3][0].error.args
    health = store.reader.health("fritz", ["f1", "f2"], ["load"])
    assert decoded(m.HealthAnswer.of(health)).health("fritz").to_json() == health.to_json()


def test_answers_do_not_change_when_the_next_message_is_received(store: Store) -> None:
    """Small messages are decoded in place, in memory that is used again."""
    asked = request()
    fetched = store.reader.fetch(asked)
    body = bytearray(m.encode_body(m.FetchAnswer.of(fetched)))
    answer = m.decode(m.FetchAnswer.TAG, memoryview(body)).fetched(asked)  # type: ignore[attr-defined]
    body[:] = bytes(len(body))
    assert answer.to_json() == fetched.to_json()
    assert all(one.values.flags.aligned for row in answer for one in row)


@given(
    where=st.sampled_from(["sizes", "entries", "values", "notes"]),
    cut=st.integers(0, 300),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
)
def test_answers_that_are_none_are_protocol_errors(where: str, cut: int, at: int, byte: int) -> None:
    packing = Packing()
    for k in range(3):
        packing.add(k, 60, 5, np.arange(5, dtype=F32), F32, HELD, unit="W")
    packing.fail(NotAggregatable("no"))
    packed = packing.packed()
    asked = request(2)
    parts = {
        "sizes": np.array([3, 1], "<u4").tobytes(), "entries": packed.entries.tobytes(), "values": packed.values,
        "notes": msgpack.packb({"texts": list(packed.texts), "errors": [["e", "m", {}]], "hosts": []}),
    }  # fmt: skip
    changed = bytearray(parts[where][: len(parts[where]) - cut])
    if at < len(changed):
        changed[at] = byte
    try:
        answer = m.FetchAnswer(**{**parts, where: bytes(changed)}).fetched(asked)
        assert answer.to_dict()
    except (ProtocolError, OverflowError):
        pass


def test_an_answer_to_another_question_is_a_protocol_error(store: Store) -> None:
    message = m.FetchAnswer.of(store.reader.fetch(request(2)))
    with pytest.raises(ProtocolError):
        message.fetched(request(3))
    one_less = {"metric": "load", "host": "f1", "type": "core", "type-ids": ["0"]}
    with pytest.raises(ProtocolError):
        message.fetched(request(2, queries=[one_less, one_less]))[0]


# --- while the store changes, and within bounds


def test_items_are_planned_again_from_where_the_store_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = store.reader.fetch(request(4)).to_json()
    gathered, calls = items.gathered, []

    def sometimes(gatherer: Any, groups: Any) -> Any:
        calls.append(len(groups))
        if len(calls) in (1, 2, 4):
            raise Replan
        return gathered(gatherer, groups)

    monkeypatch.setattr(items, "gathered", sometimes)
    monkeypatch.setattr(items, "PIECE_SAMPLES", 20)
    budget = Budget()
    slices = Slices(store.reader.fetch_work(request(4), budget), budget)
    while not slices.run(0):
        pass
    assert slices.answer is not None
    assert slices.answer.to_json() == wanted
    assert len(calls) > 4
    assert (budget.samples, budget.series) == (4 * 2 * 5, 4 * 3)


def test_a_store_that_never_stands_still_is_unavailable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise Replan

    monkeypatch.setattr(items, "gathered", never)
    with pytest.raises(Unavailable):
        store.reader.fetch(request())


def test_work_is_done_in_pieces_of_bounded_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "PIECE_SERIES", 6)
    assert len(list(store.reader.fetch_work(request(10), Budget()))) == 5
    assert PIECE_SERIES * 300 < PIECE_SAMPLES


def test_bytes_of_an_answer_are_bounded_before_anything_is_gathered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "gathered", lambda *_: pytest.fail("gathered"))
    week = {"from": T0 - 7 * 86_400, "to": T0, "queries": [{"metric": "load", "host": "f9"}] * 20_000}
    with pytest.raises(LimitExceeded, match="bytes"):
        store.reader.fetch({"cluster": "fritz", **week})
    assert len(store.reader.fetch({"cluster": "fritz", **week, "with-data": False})) == 20_000


def test_a_loads_answer_goes_through_its_message_unchanged() -> None:
    made = filled(store_name())
    try:
        read = reader(made)
        asked = LoadRequest.of_job(
            job("n1", "n9"), T0, ["flops", "clock", "nope", "mem_bw"], ("socket", "node")
        )
        data = read._load(asked)
        again = decoded(m.LoadAnswer.of(data)).loaded("tiny")
        from mstore.jobs.views import JobData

        assert JobData(again).to_json() == JobData(data).to_json()
        assert [str(one) for one in again.errors()] == [str(one) for one in data.errors()]
        assert all(isinstance(one.error, MstoreError) for one in again.errors())
        message = m.LoadAnswer.of(data)
        with pytest.raises(ProtocolError):
            m.LoadAnswer(message.labels, message.entries, message.values, msgpack.packb({})).loaded("tiny")
        labels = np.frombuffer(message.labels, "<u4").copy()
        labels[2] = 99
        with pytest.raises(ProtocolError, match="host"):
            m.LoadAnswer(labels.tobytes(), message.entries, message.values, message.notes).loaded("tiny")
    finally:
        made.close()


def test_tables_that_do_not_fit_together_are_refused() -> None:
    entries = np.zeros(1, Packing().packed().entries.dtype)
    entries["type"] = 1
    assert len(Packed(entries, b"", [""], [])) == 1
    for name, value in (("error", 1), ("unit", 1), ("held", 3), ("type", 0), ("type", 4), ("n_slots", 2)):
        wrong = entries.copy()
        wrong[name] = value
        with pytest.raises(ProtocolError):
            Packed(wrong, b"", [""], [])
