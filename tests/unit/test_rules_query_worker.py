"""One connection of a query worker: deadlines of requests that wait behind others."""

from __future__ import annotations

from typing import Any

import pytest

from mstore import clock
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.query.budget import Budget
from mstore.workers.query_connection import QueryConnection


class Slot:
    def add(self, name: str, n: int = 1) -> None:
        pass


class Worker:
    """Takes 40 ms for each answer, on a clock of its own."""

    def __init__(self) -> None:
        self.slot = Slot()
        self.now_s = 100.0
        self.asked = 0

    def opened(self, connection: QueryConnection) -> None:
        pass

    closed = opened

    def answered(self, message: m.Message, budget: Budget, took_us: int) -> None:
        pass

    def welcome(self, hello: m.Hello) -> m.Message:
        return m.Welcome(1, 1, {}, "durable", [[0, "query.sock"]], "")

    def answer(self, message: m.Message, budget: Budget) -> m.Message:
        self.asked += 1
        self.now_s += 0.040
        return m.Done({})


class Transport:
    def __init__(self) -> None:
        self.sent = b""

    def is_closing(self) -> bool:
        return False

    def writelines(self, parts: list[Any]) -> None:
        self.sent += b"".join(bytes(part) for part in parts)


def replies_to(hello: m.Hello, requests: list[m.Message], worker: Worker) -> list[str]:
    """What each request of one piece of bytes was answered: "done" or the code of an error."""
    connection, transport = QueryConnection(worker), Transport()  # type: ignore[arg-type]
    connection.connection_made(transport)  # type: ignore[arg-type]
    text = m.encode(hello, 1) + b"".join(m.encode(one, i) for i, one in enumerate(requests, 2))
    connection.get_buffer(-1)[: len(text)] = text
    connection.buffer_updated(len(text))
    decoder = framing.FrameDecoder(1 << 20, m.TAGS)
    found = {frame.request_id: m.decode_frame(frame) for frame in decoder.feed(transport.sent)}
    answers = [found[i] for i, one in enumerate(requests, 2) if not isinstance(one, m.Cancel)]
    return [one.code if isinstance(one, m.Error) else "done" for one in answers]


def test_a_request_is_answered_within_its_deadline_or_by_timeout_and_late_ones_cost_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker()
    monkeypatch.setattr(clock, "monotonic_s", lambda: worker.now_s)
    requests: list[m.Message] = [
        m.Ping(50), m.Ping(60), m.Ping(130), m.Ping(110), m.Ping(), m.Ping(1000),
    ]  # fmt: skip
    # The second is answered too late, after 80 ms; after 120 ms the two behind the third are not even begun.
    greeting = m.Hello(1, "query", deadline_ms=100)
    assert replies_to(greeting, requests, worker) == ["done", "timeout", "done", "timeout", "timeout", "done"]
    assert worker.asked == 4


def test_without_any_deadline_the_stores_own_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    monkeypatch.setattr(clock, "monotonic_s", lambda: worker.now_s)
    assert replies_to(m.Hello(1, "query"), [m.Ping()] * 3, worker) == ["done"] * 3


def test_a_request_cancelled_before_its_turn_is_answered_as_cancelled_and_costs_nothing() -> None:
    worker = Worker()
    requests: list[m.Message] = [m.Ping(), m.Ping(), m.Cancel(3), m.Cancel(99), m.Ping()]
    assert replies_to(m.Hello(1, "query"), requests, worker) == ["done", "cancelled", "done"]
    assert worker.asked == 2
