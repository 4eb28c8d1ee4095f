"""Questions for samples: what a client asks of one metric, and many of them on one connection.

Questions that are asked together go as few messages, the next one while the answer to the one before is still to come:
so that store and client work at the same time, and nobody waits for a round trip.

    client   q1..q250  q251..q500        .......  q501..q750
    store                        a1..a250   a251..a500
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mstore import choices, limits, times
from mstore.client.answers import deadline_ms
from mstore.client.session import Session
from mstore.errors import InvalidRequest, InvalidStep, ProtocolError
from mstore.ipc import messages
from mstore.ipc.transport import Steps

if TYPE_CHECKING:
    from mstore.frames import Series

Id: TypeAlias = "str | int"
Ids: TypeAlias = "Id | Sequence[Id] | None"
"""One id asks for one series, a sequence (of one, too) for a list of series."""

MESSAGE_BYTES_MAX = 16 * limits.KIB
"""Of the questions in one message, about; a single one may be larger."""
UNDER_WAY_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
"""Of questions without an answer. A store that waits for us to take answers reads no questions: these always fit
into the socket, so that sending them never waits for the store, nor the store for us, for ever."""


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
    algo: str = "average"
    function: str = ""
    window: int = 0
    missing: str = "skip"
    scale_by: float = 1.0
    fill: str = "none"
    max_gap: int = 0
    archive: bool = True

    def message(self, now_s: int, timeout_s: float | None) -> messages.Query:
        """What is sent; relative times count from now_s. raises InvalidStep, InvalidTimeRange, InvalidRequest"""
        if (
            self[_PATH_ENDS:] == _AS_STORED
        ):  # nearly all: there is nothing to be checked in words that are not said
            return messages.Query(
                self.cluster, self.host, self.metric,
                times.to_seconds(self.start, now_s), times.to_seconds(self.end, now_s),
                self.type, _ids(self.type_ids), self.subtype, _ids(self.subtype_ids), deadline_ms=deadline_ms(timeout_s),
            )  # fmt: skip
        resolution = _span_s("resolution", self.resolution, InvalidStep)
        return messages.Query(
            self.cluster, self.host, self.metric,
            times.to_seconds(self.start, now_s), times.to_seconds(self.end, now_s),
            self.type, _ids(self.type_ids), self.subtype, _ids(self.subtype_ids), bool(self.aggregate), resolution,
            deadline_ms(timeout_s),
            self.algo, self.function, _span_s("window", self.window, InvalidRequest), self.missing,
            choices.finite_factor(self.scale_by), self.fill, _span_s("max_gap", self.max_gap, InvalidRequest),
            bool(self.archive),
        )  # fmt: skip


_PATH_ENDS = Question._fields.index("aggregate")
_AS_STORED = Question("", "", "", 0, 0)[_PATH_ENDS:]
"""What follows the path when samples are asked for as they are stored."""


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
    session: Session, asked: Sequence[messages.Query], deadline_ms: int, until_s: Callable[[], float]
) -> Steps[list[Series | list[Series]]]:
    """The answers to questions, in their order.

    until_s  gives the monotonic time by which the next answer must have come: time-outs are for progress
    raises   the first error that the store answers; what is then under way is left to the session's owner
    """
    found: list[Series | list[Series] | None] = [None] * len(asked)
    left: deque[range] = deque(_portions(asked))
    waiting: deque[tuple[int, range, int]] = deque()  # request id, questions, bytes
    n_bytes = 0
    while left or waiting:
        while left:
            portion = left[0]
            size = sum(_size(asked[index]) for index in portion)
            if waiting and n_bytes + size > UNDER_WAY_BYTES_MAX:
                break
            left.popleft()
            fields = [messages.fields_of(asked[index]) for index in portion]
            request_id = session.post(messages.QueryMany(fields, deadline_ms))
            waiting.append((request_id, portion, size))
            n_bytes += size
            yield from session.transmit([request_id], until_s())
        request_id, portion, size = waiting.popleft()
        n_bytes -= size
        answers = answers_of((yield from session.reply(request_id, until_s())))
        if not 0 < len(answers) <= len(portion):
            raise ProtocolError(f"{len(answers)} answers to {len(portion)} questions")
        for index, answer in zip(portion, answers, strict=False):
            found[index] = answer
        if len(answers) < len(portion):  # all together would have been too much for one message
            left.appendleft(portion[len(answers) :])
    return [answer for answer in found if answer is not None]


def answers_of(reply: messages.Message) -> list[Series | list[Series]]:
    """What Stacked says. raises ProtocolError when it is none"""
    if not isinstance(reply, messages.Stacked):
        raise ProtocolError(f"QueryMany was answered by {type(reply).__name__}")
    from mstore.stacked import Stack, answers  # with it comes numpy

    stack = Stack(reply.table, reply.texts, reply.values, reply.coverage, reply.stamps, reply.columns)
    return answers(reply.counts, stack)


def _portions(asked: Sequence[messages.Query]) -> Iterator[range]:
    """The questions of each message."""
    first, n_bytes = 0, 0
    for index, question in enumerate(asked):
        size = _size(question)
        if index > first and n_bytes + size > MESSAGE_BYTES_MAX:
            yield range(first, index)
            first, n_bytes = index, 0
        n_bytes += size
    if first < len(asked):
        yield range(first, len(asked))


def _size(message: messages.Query) -> int:
    """About the bytes of a question; ids are what may make it large."""
    n = 32 + len(message.cluster) + len(message.host) + len(message.metric)
    n += len(message.algo) + len(message.function) + len(message.missing) + len(message.fill)
    for ids in (message.type_ids, message.subtype_ids):
        if ids is not None:
            n += len(ids) if isinstance(ids, str) else sum(map(len, ids)) + 3 * len(ids)
    return n


@cache
def _series_type() -> type[Series]:
    from mstore.frames import Series  # numpy is loaded by the first answer, not by the import

    return Series


def _span_s(name: str, seconds: int, error: type[InvalidRequest]) -> int:
    if not 0 <= seconds <= limits.QUERY_SPAN_S_MAX:
        raise error(f"{name}={seconds!r}: expected 0 to {limits.QUERY_SPAN_S_MAX} seconds")
    return int(seconds)


def _ids(ids: Ids) -> str | list[str] | None:
    """One id stays one (one series is asked for), several become a list; integers become text."""
    if ids is None or isinstance(ids, str):
        return ids
    if isinstance(ids, Iterable):
        return [str(one) for one in ids]
    return str(ids)
