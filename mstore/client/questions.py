"""Questions for samples: what a client asks of one metric, and many of them on one connection.

Questions that are asked together are sent while answers to earlier ones are still to come, so that store and
client work at the same time and nobody waits for a round trip:

    client   q1 q2 q3 q4 ..........  q5 q6 ....
    store          a1   a2   a3   a4   a5   a6
                                ^ half of what may be under way is answered: more is sent
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mstore import limits, times
from mstore.client.session import Session
from mstore.errors import InvalidStep, ProtocolError
from mstore.ipc import messages
from mstore.ipc.transport import Steps

if TYPE_CHECKING:
    from mstore.frames import Series

Id: TypeAlias = "str | int"
Ids: TypeAlias = "Id | Sequence[Id] | None"
"""One id asks for one series, a sequence (of one, too) for a list of series."""

RESOLUTION_S_MAX = 2**31 - 1

UNDER_WAY_BYTES_MAX = 32 * limits.KIB
"""Of questions without an answer. A store that waits for us to take answers reads no questions: these always fit
into the socket, so that sending them never waits for the store, nor the store for us, for ever."""
SENT_AT_ONCE_MAX = 256
"""Questions a system call, each a buffer of its own; the system allows 1024."""


class Question(NamedTuple):
    """One question of Client.query_many(): the arguments of Client.query()."""

    cluster: str
    host: str
    metric: str
    start: times.TimeLike
    end: times.TimeLike
    type: str | None = None
    type_ids: Ids = None
    subtype: str | None = None
    subtype_ids: Ids = None
    aggregate: bool = False
    resolution: int = 0
    archive: bool = True

    def message(self, now_s: int, timeout_s: float | None) -> messages.Query:
        """What is sent; relative times count from now_s. raises InvalidStep, InvalidTimeRange"""
        resolution = int(self.resolution)
        if not 0 <= resolution <= RESOLUTION_S_MAX:
            raise InvalidStep(f"resolution={self.resolution!r}: expected 0 to {RESOLUTION_S_MAX} seconds")
        return messages.Query(
            self.cluster, self.host, self.metric,
            times.to_seconds(self.start, now_s), times.to_seconds(self.end, now_s),
            self.type, _ids(self.type_ids), self.subtype, _ids(self.subtype_ids), bool(self.aggregate), resolution,
            0 if timeout_s is None else int(timeout_s * 1000), bool(self.archive),
        )  # fmt: skip


def series_of(answer: messages.Message) -> Series | list[Series]:
    """What an Answer says. raises ProtocolError when it is none"""
    if not isinstance(answer, messages.Answer):
        raise ProtocolError(f"Query was answered by {type(answer).__name__}")
    found = [_series_type().from_wire(entry) for entry in answer.series]
    if answer.many:
        return found
    if len(found) != 1:
        raise ProtocolError(f"an answer with {len(found)} series to a question for one")
    return found[0]


def answered(
    session: Session, asked: Iterable[messages.Query], until_s: Callable[[], float]
) -> Steps[list[Series | list[Series]]]:
    """The answers to questions, in their order.

    until_s  gives the monotonic time by which the next answer must have come: time-outs are for progress
    raises   the first error that the store answers; what is then under way is left to the session's owner
    """
    found: list[Series | list[Series]] = []
    waiting: deque[tuple[int, int]] = deque()  # request id, bytes
    n_bytes = 0
    left = deque(asked)
    while left or waiting:
        batch: list[int] = []
        while left and len(batch) < SENT_AT_ONCE_MAX:
            size = _size(left[0])
            if waiting and n_bytes + size > UNDER_WAY_BYTES_MAX:
                break
            batch.append(session.post(left.popleft()))
            waiting.append((batch[-1], size))
            n_bytes += size
        if batch:
            yield from session.transmit(batch, until_s())
        while waiting and (not left or n_bytes > UNDER_WAY_BYTES_MAX // 2):
            request_id, size = waiting.popleft()
            n_bytes -= size
            found.append(series_of((yield from session.reply(request_id, until_s()))))
    return found


def _size(message: messages.Query) -> int:
    """About the bytes of a question; ids are what may make it large."""
    n = 64 + len(message.cluster) + len(message.host) + len(message.metric)
    for ids in (message.type_ids, message.subtype_ids):
        if ids is not None:
            n += len(ids) if isinstance(ids, str) else sum(map(len, ids)) + 3 * len(ids)
    return n


@cache
def _series_type() -> type[Series]:
    from mstore.frames import Series  # numpy is loaded by the first answer, not by the import

    return Series


def _ids(ids: Ids) -> str | list[str] | None:
    """One id stays one (one series is asked for), several become a list; integers become text."""
    if ids is None or isinstance(ids, str):
        return ids
    if isinstance(ids, Iterable):
        return [str(one) for one in ids]
    return str(ids)
