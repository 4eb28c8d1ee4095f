"""The greeting that opens every framed connection: which Hello a socket takes, and the Welcome it answers with."""

from __future__ import annotations

from typing import Final

from mstore import limits
from mstore.errors import ProtocolError, VersionMismatch
from mstore.ipc import messages as m

LIMITS: Final[dict[str, dict[str, int]]] = {
    "ingest": {
        "frame_bytes": limits.FRAME_BYTES_MAX,
        "line_bytes": limits.LINE_BYTES_MAX,
        "columns_values": limits.COLUMNS_VALUES_MAX,
    },
    "query": {"frame_bytes": limits.FRAME_BYTES_MAX, "answer_bytes": limits.ANSWER_BYTES_MAX},
    "control": {"frame_bytes": limits.CONTROL_FRAME_BYTES_MAX},
}
"""What is enforced on a connection, by socket: the `limits` of its Welcome."""

_SERVED_AT: Final = {"ingest": "ingest", "query": "query", "control": "control", "worker": "control"}
"""The one socket of each role. `worker` is between the store's own processes and never offered to others."""

assert set(_SERVED_AT) == set(m.ROLES)
assert set(_SERVED_AT.values()) == set(LIMITS)


def accept_hello(message: m.Message, which: str) -> m.Hello:
    """The first message of a connection to `which`.sock, if it is a Hello that this socket serves.

    raises VersionMismatch, with the versions that are spoken; ProtocolError for another message or another socket's role
    """
    if not isinstance(message, m.Hello):
        raise ProtocolError("the first message of a connection must be Hello")
    if message.version < m.OLDEST_VERSION:
        raise VersionMismatch(
            f"version {message.version} of the protocol is no longer spoken: use {m.OLDEST_VERSION} to {m.VERSION}",
            oldest=m.OLDEST_VERSION, newest=m.VERSION,
        )  # fmt: skip
    if _SERVED_AT[message.role] != which:
        raise ProtocolError(
            f"role {message.role} is not served at {which}.sock, which takes role {which}:"
            f" connect to {_SERVED_AT[message.role]}.sock",
            role=message.role, expected=which,
        )  # fmt: skip
    return message


def welcome(hello: m.Hello, which: str, instance: int, version: str) -> m.Welcome:
    """The answer to an accepted Hello: the newest protocol both speak, the limits in force, mstore's own version."""
    return m.Welcome(
        min(hello.version, m.VERSION),
        instance,
        dict(LIMITS[which]),
        hello.ack,
        [[0, f"{which}.sock"]],
        f"mstore {version}",
    )
