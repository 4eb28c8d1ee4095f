"""A framed session over an IngestRig: a client's end of it, and its messages in a few words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mstore.ingest.framed import FramedSession
from mstore.ipc import messages as m
from mstore.model import Ack
from tests.ingest_rig import IngestRig, Steps

F32, F64, U64 = m.TYPE_F32, m.TYPE_F64, m.TYPE_U64


class Connection:
    """A session, its replies, and short ways of saying things."""

    def __init__(self, rig: IngestRig, hello: m.Hello | None = None) -> None:
        self.rig = rig
        self.replies: list[tuple[int, Ack | None, m.Message]] = []
        self.positions: list[int] = []
        self.session = FramedSession(rig.engine, self._reply, self._welcome)
        self._ids = iter(range(1, 1_000_000))
        if hello is None:
            hello = m.Hello(1, "ingest", cluster="c")
        self.greeting = self.ask(hello)

    def _reply(self, request_id: int, level: Ack | None, message: m.Message) -> None:
        self.replies.append((request_id, level, message))
        self.positions.append(self.rig.engine.ring.head())

    @staticmethod
    def _welcome(hello: m.Hello) -> m.Message:
        return m.Welcome(1, 7, {}, hello.ack)

    def begin(self, message: m.Message) -> Steps:
        return self.session.handle(next(self._ids), message)

    def ask(self, message: m.Message, before: Callable[[object], None] | None = None) -> Any:
        """Handle one request that is answered before anything else; its reply."""
        n = len(self.replies)
        self.rig.run(self.begin(message), before)
        assert len(self.replies) == n + 1, "one request, one reply"
        return self.replies[-1][2]

    def open(self, *series: list[str], specs: list[Any] | None = None) -> list[int]:
        opened = self.ask(m.Open(list(series), specs))
        assert isinstance(opened, m.Opened), opened
        return np.frombuffer(opened.handles, "<u4").tolist()


def path(metric: str = "load", host: str = "a", *below: str, cluster: str = "c") -> list[str]:
    return [cluster, host, metric, *below, *[""] * (4 - len(below))]


def columns(handles: list[int], times: list[int], values: Any, vtype: int = F32) -> m.Columns:
    dtype = {F32: "<f4", F64: "<f8", U64: "<u8"}[vtype]
    return m.Columns(
        np.array(handles, "<u4").tobytes(),
        np.array(times, "<i8").tobytes(),
        np.array(values, dtype).tobytes(),
        vtype,
    )


def rows(handle: int, stamps: list[int], words: Any) -> m.Rows:
    return m.Rows(handle, np.array(stamps, "<i8").tobytes(), np.array(words, "<u8").tobytes())


def written(n: int, **reasons: int) -> m.Written:
    ignored = reasons.get("unknown_metric", 0)
    return m.Written(n, sum(reasons.values()) - ignored, ignored, reasons, True)


def error(reply: m.Message, code: str) -> m.Error:
    assert isinstance(reply, m.Error), reply
    assert reply.code == code, reply
    return reply
