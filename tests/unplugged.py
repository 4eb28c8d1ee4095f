"""A Client without a socket: every request and every answer goes through its message, and a query worker's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from mstore import Client
from mstore.client.operations import Operations
from mstore.client.pool import Settings
from mstore.ipc import messages as m
from mstore.ipc.transport import Steps
from mstore.query import Reader
from mstore.query.budget import Budget, finished
from mstore.workers.answers import Answers

M = TypeVar("M", bound=m.Message)


class _Operations(Operations):
    def __init__(self, reader: Reader, now_s: int) -> None:
        super().__init__(Settings(Path("/nowhere")))
        self._answers = Answers(reader, reader._config, lambda _: {}, lambda: now_s)

    def _ask(
        self, message: m.Message, kind: type[M], timeout_s: float | None = None, role: str = "query"
    ) -> Steps[M]:
        asked = _through(message)
        found = self._answers.answer(asked, Budget())
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
