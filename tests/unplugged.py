"""A Client without a socket: every request and every answer goes through its message, and a query worker's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from mstore import Client
from mstore.client.operations import Operations
from mstore.client.pool import Settings
from mstore.ipc import messages as m
from mstore.ipc.transport import Steps
from mstore.query import Reader
from mstore.query.budget import Budget, finished
from mstore.workers import selecting
from mstore.workers.query import QueryWorker

M = TypeVar("M", bound=m.Message)


class _Operations(Operations):
    def __init__(self, reader: Reader, now_s: int) -> None:
        super().__init__(Settings(Path("/nowhere")))
        worker: Any = object.__new__(QueryWorker)  # its answers alone: no segments of a store, no channel
        worker._reader = reader
        self._answers: dict[type[m.Message], Any] = {
            m.Query: worker._query, m.Fetch: worker._fetch, m.Load: worker._load, m.CheckHealth: worker._health,
            **selecting.answers(reader, lambda: now_s),
        }  # fmt: skip

    def _ask(
        self, message: m.Message, kind: type[M], timeout_s: float | None = None, role: str = "query"
    ) -> Steps[M]:
        asked = _through(message)
        found = self._answers[type(asked)](asked, Budget())
        reply = _through(found if isinstance(found, m.Message) else finished(found))
        assert isinstance(reply, kind)
        return reply
        yield  # a generator, as all steps are


def _through(message: m.Message) -> m.Message:
    return m.decode(message.TAG, memoryview(m.encode_body(message)))


def unplugged(reader: Reader, now_s: int) -> Client:
    """A client of what `reader` reads. Errors are raised by the worker's code itself."""
    client = Client("/nowhere")
    client._ops = _Operations(reader, now_s)
    return client
