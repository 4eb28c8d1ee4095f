"""The codec: what goes through, what is refused and how it is told, growth without a new version."""

from dataclasses import MISSING, fields
from typing import Any

import msgpack
import numpy as np
import pytest

from mstore import errors
from mstore.errors import BY_CODE
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.ipc.messages.tags import NAME_OF

MESSAGES: list[type[m.Message]] = [getattr(m, NAME_OF[tag]) for tag in sorted(m.TAGS)]
EXAMPLES: list[m.Message] = [
    m.Hello(1, "ingest", "memory", "fritz", "ns", "test", 5),
    m.Welcome(1, 2**63, {"frame_bytes": 1}, "durable", [], "mstore"),
    m.Lines(b"cpu,hostname=a value=1\n", "s", 9),
    m.Written(1, 2, 3, {"bad_syntax": 2}, True),
    m.Open([["c", "h", "m", "", "", "", ""]], [[60, "avg", "f32", "W", [["a", "f64"]]]], 1),
    m.Open([["c", "h", "m", "", "", "", ""]] * 2, [None, None]),
    m.Opened(b"\0\0\0\0", b"\1", [[0, "unknown_metric"]]),
    m.Columns(b"\0" * 4, b"\0" * 8, b"\0" * 4, 1),
    m.Rows(2**32 - 1, b"\0" * 8, b"\0" * 16),
    m.Query("c", "h", "m", -1, 2**40, "core", ["1", "2"], None, "x", True, 60, 7),
    m.Answer(True, [[{"unit": "W"}, b"\0" * 4, "<f4", 0, 60, None, None]]),
    m.Children(["c"]),
    m.Paths(2),
    m.Names([["a", "b"], "c"]),
    m.Metrics(None),
    m.MetricList([{"name": "a"}]),
    m.Info(),
    m.InfoReply({"a": {"b": [1, 2.5, None, True]}}),
    m.Cancel(2**64 - 1),
    m.Ping(),
    m.Done({}),
    m.Error("timeout", "late", {"s": 3}),
    m.Intern(b"c", b"keys", b"\0" * 16, b"\0" * 8),
    m.Interned(b"\0" * 8, b"\1", b"\1"),
    m.InternPaths([["c", "h", "m", "", "", "", ""]], b"\0" * 8, None),
    m.Stop(),
    m.Restart(),
    m.Reload(),
    m.Snapshot(1),
    m.Hold(60),
    m.ArchiveNow(["fritz"], True),
    m.States(),
    m.Follow("fritz/*", ["load"], 1000),
    m.FollowBegun(7, 3),
    m.Followed(0, [["c", "h", "m", "", "", "", "", 60, "W", []]]),
    m.FollowedSamples(b"\0" * 4, b"\0" * 8, b"\1", b"\0" * 8, 1),
    m.FollowMissed(-1, 5000),
    m.Clusters(),
    m.ClusterList("minimum_points = 0\n", [{"name": "fritz"}]),
    m.Fetch(
        "c", 0, 60, [["m", "h", 0, "core", ["0"], None, [], 2.0, True]], ["m"], True, False, True, "last", 3
    ),
    m.FetchAnswer(b"\1\0\0\0", b"\0" * 64, b"", b"\x80"),
    m.Load("c", 0, 60, [["h", [0, 1], None], ["g", [], ["0:01"]]], "main", None, ["node"], 60),
    m.LoadAnswer(b"\0" * 16, b"\0" * 64, b"", b"\x80"),
    m.CheckHealth("c", None, ["m"]),
    m.HealthAnswer(["h"], ["m"], b"\1", b"\2"),
    m.Protect("fritz", ["f0201"], 2**63 - 1),
    m.Free(["fritz/*"], 1_700_000_000, ["fritz/f0201"]),
    m.ForceFree(["*"], []),
    m.Protected(),
    m.Sizes("", 2),
    m.SizeList([["fritz", "f0201"]], b"\1" * 32),
    m.DebugDump("fritz/f0201"),
    m.Text(b"{}"),
    m.Select("fritz/f02[01-64]", "cpu_load"),
    m.Levels(b"fritz\tf0201\n"),
    m.SelectLatest("fritz/*", ["cpu_load"], "series", 300),
    m.SelectAbove("fritz", "cpu_load", 80.5, 300, True, 1_700_000_000),
    m.SelectStats("fritz/*", "cpu_load", 0, 60, [50, 95.5], "series"),
    m.SelectTop("fritz/*", "cpu_load", 0, 60, 3, "p95", False, "series"),
    m.SelectSeries(
        "fritz/*", "cpu_load", 0, 60, True, 240, "max", "rate", 300, "propagate", 2.5, "previous", 60
    ),
    m.QueryMany([["c", "h", "m", 0, 60]], 7),
    m.Stacked(b"\1" * 8, b"\2" * 48, b"a", b"\3" * 8, b"", b"\4" * 8, b"x:<f8"),
    m.Tables([["Latest", {"metric": "m"}, b"c\th\n", [["<f8", [], b"\0" * 8]]]]),
    m.HostSeries("fritz", "f0201"),
    m.SeriesPaths([["fritz", "f0201", "mem_bw", "socket", "0", "", ""]]),
]


def test_there_is_an_example_of_every_message_and_every_tag_is_its_own() -> None:
    assert {type(example) for example in EXAMPLES} == set(MESSAGES)
    assert [cls.TAG for cls in MESSAGES] == sorted(m.TAGS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_every_message_survives_a_round_trip(message: m.Message) -> None:
    data = m.encode(message, 77)
    (frame,) = framing.FrameDecoder(tags=m.TAGS).feed(data)
    assert (frame.tag, frame.request_id) == (message.TAG, 77)
    assert m.decode_frame(frame) == message
    assert b"".join(m.encode_parts(message, 77)) == data
    said = list(msgpack.unpackb(frame.body))
    assert said == [getattr(message, one.name) for one in fields(message)][: len(said)]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_every_truncation_is_a_protocol_error(message: m.Message) -> None:
    body = m.encode_body(message)
    for length in range(len(body)):
        with pytest.raises(errors.ProtocolError, match=type(message).__name__):
            m.decode(message.TAG, body[:length])


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_every_field_of_a_wrong_type_is_a_protocol_error_that_names_it(message: m.Message) -> None:
    values = [getattr(message, one.name) for one in fields(message)]
    for i, one in enumerate(fields(message)):
        if str(one.type) == "list[Any]":
            continue
        wrong = [*values[:i], "?" if str(one.type) == "float" else 1.5, *values[i + 1 :]]
        with pytest.raises(errors.ProtocolError, match=f"{type(message).__name__}.{one.name}"):
            m.decode(message.TAG, msgpack.packb(wrong))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_what_is_left_out_is_as_it_is_by_default_and_nothing_more_could_be(message: m.Message) -> None:
    said = len(msgpack.unpackb(m.encode_body(message)))
    assert m.fields_of(message) == [getattr(message, one.name) for one in fields(message)[:said]]
    for one in fields(message)[said:]:
        assert getattr(message, one.name) == one.default
    if said:
        last = fields(message)[said - 1]
        assert last.default is MISSING or getattr(message, last.name) != last.default


def test_a_plain_question_says_five_fields() -> None:
    assert msgpack.unpackb(m.encode_body(m.Query("c", "h", "m", 0, 60))) == ["c", "h", "m", 0, 60]
    assert len(msgpack.unpackb(m.encode_body(m.Query("c", "h", "m", 0, 60, archive=False)))) == 20


def test_newer_fields_are_passed_over_and_missing_ones_have_their_defaults() -> None:
    assert m.decode(m.Ping.TAG, msgpack.packb([0, "newer", {}])) == m.Ping()
    assert m.decode(m.Ping.TAG, msgpack.packb([])) == m.Ping()
    assert m.decode(m.Lines.TAG, msgpack.packb([b"x"])) == m.Lines(b"x")
    assert m.decode(m.Lines.TAG, msgpack.packb([b"x", "s", 0, 1, b"newer"])) == m.Lines(b"x", "s")
    with pytest.raises(errors.ProtocolError, match=r"Query: 4 fields, expected at least 5"):
        m.decode(m.Query.TAG, msgpack.packb(["c", "h", "m", 0]))


def test_unknown_tag_is_an_unknown_message() -> None:
    with pytest.raises(errors.UnknownMessage, match="tag 200"):
        m.decode(200, b"\x90")


@pytest.mark.parametrize(
    ("tag", "values", "named"),
    [
        (1, [1, "admin"], "Hello.role: expected one of ingest, query"),
        (1, [0, "query"], "Hello.version: 0, expected 1 to"),
        (1, [1, "query", "disk"], "Hello.ack"),
        (3, [b"", "h"], "Lines.precision"),
        (5, [[["c", "h", "m"]]], "Open.series: expected an array of arrays of 7"),
        (5, [[["c", "h", "m", "", "", "", 1]]], "expected strings"),
        (5, [[], [[60, "avg"]]], "Open.specs"),
        (7, [b"", b"", b"", 4], "Columns.type: 4, expected 1 to 3"),
        (8, [2**32, b"", b""], "Rows.handle"),
        (16, ["c", "h", "m", 0, 1, None, [1]], "Query.type_ids"),
        (17, [False, [[{}, b""]]], "Answer.series"),
        (4, [1, 1, 1, {"a": "b"}, True], "Written.reasons"),
        (26, [-1], "Ping.deadline_ms"),
    ],
)
def test_values_out_of_their_range_are_refused_by_name(tag: int, values: list[Any], named: str) -> None:
    with pytest.raises(errors.ProtocolError, match=named):
        m.decode(tag, msgpack.packb(values))


@pytest.mark.parametrize(
    "body", [b"", b"\x80", b"\xc0", b"\x90\x90", b"\xa1a", b"\xdd\xff\xff\xff\xff", b"\xc1" * 9]
)
def test_body_that_is_no_array_is_refused(body: bytes) -> None:
    for tag in sorted(m.TAGS):
        with pytest.raises(errors.ProtocolError):
            m.decode(tag, body)


def test_announced_sizes_allocate_nothing_and_deep_nesting_ends() -> None:
    import tracemalloc

    bombs = [
        b"\x91" * 100_000,
        b"\x91" + b"\xdd\x00\xff\xff\xff" * 2000,
        b"\x93\xc6\xff\xff\xff\xff\xc6\xff\xff\xff\xff",
    ]
    tracemalloc.start()
    try:
        for bomb in bombs:
            for tag in (m.Done.TAG, m.Open.TAG, m.Columns.TAG, m.InfoReply.TAG):
                with pytest.raises(errors.ProtocolError):
                    m.decode(tag, bomb)
        assert tracemalloc.get_traced_memory()[1] < 200 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_msgpack_extensions_are_refused() -> None:
    with pytest.raises(errors.ProtocolError):
        m.decode(m.Done.TAG, msgpack.packb([msgpack.ExtType(5, b"x")]))


def test_bulk_is_neither_copied_when_sent_nor_when_received() -> None:
    text = b"x" * 1_000_000
    parts = m.encode_parts(m.Lines(text, "s"), 5)
    assert [part.obj for part in parts if isinstance(part, memoryview)] == [text]
    data = b"".join(parts)
    (frame,) = framing.FrameDecoder().feed(data)
    message = m.decode_frame(frame)
    assert isinstance(message, m.Lines)
    assert isinstance(message.data, memoryview)
    assert message.data.obj is data
    assert (message.data, message.precision) == (text, "s")


def test_arrays_of_numpy_are_sent_as_their_bytes() -> None:
    values = np.arange(20_000, dtype="<f8")
    message = m.Columns(np.zeros(20_000, "<u4").data, np.zeros(1, "<i8").data, values.data, 2)
    data = b"".join(m.encode_parts(message, 1))
    found = m.decode(message.TAG, data[framing.HEADER_BYTES :])
    assert isinstance(found, m.Columns)
    assert bytes(found.values) == values.tobytes()


@pytest.mark.parametrize(
    "message",
    [m.Done({"a": {1, 2}}), m.Done({"a": 2**64}), m.Children(["\ud800"]), m.InfoReply({"a": np.zeros(1)})],
)
def test_what_cannot_be_sent_is_a_protocol_error_of_the_sender(message: m.Message) -> None:
    with pytest.raises(errors.ProtocolError, match="cannot be sent"):
        m.encode(message)


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_crosses_the_socket_as_its_own_class(code: str) -> None:
    error = BY_CODE[code]("what went wrong", n=3, path="p", odd={1, 2}.__class__)
    sent = m.Error.of(error)
    (frame,) = framing.FrameDecoder().feed(m.encode(sent, 1))
    found = m.decode_frame(frame)
    assert isinstance(found, m.Error)
    again = found.exception()
    assert type(again) is BY_CODE[code]
    assert (again.message, again.details["n"], again.details["path"]) == ("what went wrong", 3, "p")
    assert isinstance(again.details["odd"], str)


def test_error_code_of_a_newer_version_is_a_plain_error() -> None:
    assert type(m.Error("newer", "text").exception()) is errors.MstoreError
