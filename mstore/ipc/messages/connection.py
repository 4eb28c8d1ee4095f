"""Messages of every connection: greeting, cancelling, errors, signs of life."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from mstore.errors import MstoreError, from_wire
from mstore.ipc import checks
from mstore.ipc.messages.base import Message, message
from mstore.ipc.messages.words import ACKS, PRECISIONS, ROLES


@message
class Hello(Message):
    """First frame of a client; `role` is one of ROLES, `ack` of ACKS, `precision` of PRECISIONS."""

    version: int
    role: str
    ack: str = "durable"
    cluster: str = ""
    precision: str = ""
    client: str = ""
    deadline_ms: int = 0


@message
class Welcome(Message):
    """The answer to Hello. `instance` changes with every fresh start of the store."""

    version: int
    instance: int
    limits: dict[str, int]
    ack: str
    shard_map: list[Any] = field(default_factory=list)
    server: str = ""


@message
class Cancel(Message):
    """Forget request `target` of this connection. Has no answer of its own; a request that had not
    finished is answered by Error `cancelled`."""

    target: int


@message
class Ping(Message):
    """A sign of life -> Done."""

    deadline_ms: int = 0


@message
class Done(Message):
    """It is done; what `details` say depends on the request."""

    details: dict[str, Any] = field(default_factory=dict)


@message
class Info(Message):
    """What a store says of itself. predict: also what its configuration will take of the memory."""

    deadline_ms: int = 0
    predict: bool = False


@message
class InfoReply(Message):
    """The store's figures: version, state, counters, memory."""

    info: dict[str, Any]


@message
class Error(Message):
    """A request failed; `code` is that of a class of mstore.errors. Request id 0: the connection failed."""

    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: MstoreError) -> Error:
        return cls(error.code, error.message, plain(error.details))

    def exception(self) -> MstoreError:
        return from_wire(self.code, self.message, self.details)


def plain(value: Any) -> Any:
    """A value as msgpack can carry it: containers of plain values stay, anything else becomes text."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return str(value)


RULES: checks.Rules = {
    ("Hello", "role"): checks.one_of(*ROLES),
    ("Hello", "ack"): checks.one_of(*ACKS),
    ("Hello", "precision"): checks.one_of(*PRECISIONS),
    ("Hello", "version"): checks.between(1, 0xFFFF),
    ("Welcome", "version"): checks.between(1, 0xFFFF),
    ("Welcome", "ack"): checks.one_of(*ACKS),
}
"""Checks beyond the type, by (message, field)."""
