"""Interning requests of a worker, answered by the persister: logged first, then published, then answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mstore.errors import MstoreError, StorageError, StoreFull
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.workers.intern_connection import InternConnection


class FakePersister:
    """Notes the order of everything; interning `full` fails half way, `known` is no news."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.half = b""
        self.log_error: MstoreError | None = None
        self.directory = SimpleNamespace(intern=self.intern, take_log=self.take_log, publish=self.publish)

    def intern(self, keys: bytes, offsets: bytes, times: bytes, cluster: bytes) -> Any:
        if keys == b"full":
            self.half = b"half of full;"
            raise StoreFull("no room for a level")
        return b"ref:" + keys, b"t", b"k", b"" if keys == b"known" else b"record of " + keys + b";"

    def take_log(self) -> bytes:
        half, self.half = self.half, b""
        return half

    def publish(self) -> None:
        self.done.append("publish")

    def append_catalog(self, records: bytes) -> None:
        self.done.append(records)
        if self.log_error is not None:
            raise self.log_error

    def admit(self) -> None: ...
    def log_the_unlogged(self) -> None: ...
    def opened(self, connection: object) -> None: ...
    def write(self, data: bytes) -> None:
        self.done += [m.decode_frame(frame) for frame in framing.FrameDecoder().feed(data)]


@pytest.fixture
def persister() -> FakePersister:
    return FakePersister()


def receive(persister: FakePersister, *keys: bytes) -> list[Any]:
    connection = InternConnection(persister)  # type: ignore[arg-type]
    connection.connection_made(persister)  # type: ignore[arg-type]
    requests = [m.Intern(b"", key, b"", b"") for key in keys]
    connection.data_received(b"".join(m.encode(one, i + 1) for i, one in enumerate(requests)))
    return [message.refs if isinstance(message, m.Interned) else message for message in persister.done]


def test_requests_that_arrive_together_are_one_block_logged_before_they_are_published(
    persister: FakePersister,
) -> None:
    found = receive(persister, b"a", b"known", b"b")
    assert found == [b"record of a;record of b;", "publish", b"ref:a", b"ref:known", b"ref:b"]


def test_request_that_fails_leaves_the_others_alone_and_what_it_made_is_logged(
    persister: FakePersister,
) -> None:
    logged, published, first, failed = receive(persister, b"a", b"full")
    assert (logged, published, first) == (b"record of a;half of full;", "publish", b"ref:a")
    assert isinstance(failed, m.Error)
    assert failed.code == StoreFull.code


def test_nothing_is_published_and_no_reference_given_when_the_log_refuses(persister: FakePersister) -> None:
    persister.log_error = StorageError("no space")
    logged, *replies = receive(persister, b"a", b"known")
    assert logged == b"record of a;"
    assert [reply.code for reply in replies] == [StorageError.code] * 2
