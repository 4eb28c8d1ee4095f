"""Following series: one question on a connection of its own, answered again and again until it is closed.

    connect, greet, Follow  ->  FollowBegun   the table of series begins anew
                                Followed      series under their next indexes
                                FollowedSamples, FollowMissed  ->  one FollowBatch each

When the connection breaks it is made again and what memory holds from shortly before the break on is asked for. That
finds samples by their times, so the first batch then says that something may be missed: late samples of the gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mstore import clock
from mstore.client.pool import Settings
from mstore.errors import ProtocolError
from mstore.ipc import messages
from mstore.ipc.transport import AwaitMessages, LinkBroken, Received, Steps

LOOK_BACK_MS = 300_000
"""How far before the last message a new connection begins: nodes' clocks differ, collectors send in batches."""
NONE_MISSED = 0
UNKNOWN_MISSED = -1

_ROWS, _F32, _U64 = 0, messages.TYPE_F32, messages.TYPE_U64


class FollowedSeries(NamedTuple):
    """A series that is followed."""

    cluster: str
    host: str
    metric: str
    type: str
    type_id: str
    subtype: str
    subtype_id: str
    step_s: int
    """0 = stamped."""
    unit: str
    columns: tuple[tuple[str, str], ...]
    """(name, "f64" or "u64") of a stamped series; a single one has the name "value"."""

    @property
    def path(self) -> str:
        """cluster/host[/type+id[/subtype+id]]."""
        parts = (self.cluster, self.host, self.type + self.type_id, self.subtype + self.subtype_id)
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, eq=False)
class FollowBatch:
    """Samples as they were stored, oldest first, and how many could not be delivered before them.

    series        what `index` counts in; it grows as series come
    index         uint32[n]
    times_ms      int64[n], Unix milliseconds; grid series: the nominal time of the slot
    types         uint8[n]: 1 f32, 2 f64, 3 u64, 0 a row of a stamped series
    words         uint64[k]: a value each (floats as bits of a double), a row as many as it has columns
    stored        these were in memory before (`since`), they did not just come
    missed        0, or so many samples were not delivered (-1: nobody can say how many) ...
    missed_since  ... none of them older than this, Unix seconds
    """

    series: Sequence[FollowedSeries]
    index: NDArray[np.uint32]
    times_ms: NDArray[np.int64]
    types: NDArray[np.uint8]
    words: NDArray[np.uint64]
    stored: bool = False
    missed: int = NONE_MISSED
    missed_since: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def runs(self) -> Iterator[tuple[FollowedSeries, NDArray[np.int64], NDArray[Any]]]:
        """(series, times_ms int64[m], values [m]) for each series, in order of first sight.

        values  float64, or uint64 for metrics of type u64; rows of several columns: a structured array. A series whose
                type has changed between two of the samples comes once with each
        """
        widths = np.ones(len(self.index), np.int64)
        for i in np.flatnonzero(self.types == _ROWS).tolist():
            widths[i] = max(1, len(self.series[int(self.index[i])].columns))
        starts = np.cumsum(widths) - widths
        kinds = self.index.astype(np.int64) << 8 | np.where(self.types == _U64, _U64, 0)
        order = np.argsort(kinds, kind="stable")
        borders = np.flatnonzero(np.diff(kinds[order])) + 1
        groups = np.split(order, borders) if len(order) else []
        for places in sorted(groups, key=lambda group: int(group[0])):
            series = self.series[int(self.index[places[0]])]
            width = int(widths[places[0]])
            words = self.words[starts[places, None] + np.arange(width)]
            yield series, self.times_ms[places], _values(series, int(self.types[places[0]]), words)


def _values(series: FollowedSeries, value_type: int, words: NDArray[np.uint64]) -> NDArray[Any]:
    if len(series.columns) > 1:
        dtype = np.dtype([(name, "<u8" if kind == "u64" else "<f8") for name, kind in series.columns])
        return np.ascontiguousarray(words).view(dtype)[:, 0]
    unsigned = value_type == _U64 or (
        value_type == _ROWS and series.columns[:1] and series.columns[0][1] == "u64"
    )
    return words[:, 0] if unsigned else np.ascontiguousarray(words[:, 0]).view(np.float64)


class FollowSteps:
    """The steps of one subscription; used by one thread or task at a time."""

    def __init__(self, settings: Settings, selector: str, metrics: list[str], since_ms: int | None) -> None:
        self._session = settings.session("query", adapt=self._adapted)
        self._question = messages.Follow(selector, metrics, since_ms)
        self._since_ms = since_ms
        self._id = self._session.post(self._question)
        self._begun = False
        self._heard_ms = 0
        self._series: list[FollowedSeries] = []
        self._waiting: list[FollowBatch] = []
        self._broken_since_ms: int | None = None

    def refuse_child(self) -> None:
        """raises InvalidRequest in a process forked since: to be called before a lock is waited for"""
        self._session.refuse_child("subscription")

    @property
    def series(self) -> Sequence[FollowedSeries]:
        """What has been announced so far."""
        return self._series

    def begin(self, until_s: float) -> Steps[None]:
        """Until the store has said that it begins. raises Unavailable, LimitExceeded, ..."""
        while not self._begun:
            yield from self._receive(until_s)

    def batch(self, until_s: float) -> Steps[FollowBatch]:
        """The next batch. raises Timeout at until_s: nothing came, and the next call goes on"""
        while not self._waiting:
            yield from self._receive(until_s)
        return self._waiting.pop(0)

    def resume(self, since_ms: int) -> None:
        """Begin anew, with what memory holds from a time on, at the next call."""
        self._session.link.abort()
        self._begun = False
        self._waiting.clear()
        self._since_ms = since_ms

    def close(self) -> None:
        self._session.forget()

    def _adapted(self, message: messages.Message) -> messages.Message:
        if not isinstance(message, messages.Follow):
            return message
        return messages.Follow(message.selector, message.metrics, self._since_ms)

    def _receive(self, until_s: float) -> Steps[None]:
        yield from self._session.connect(until_s)
        try:
            received: Received = yield AwaitMessages(self._session.link, until_s)
        except LinkBroken:
            self._broke()
            return
        for request_id, message in received:
            if isinstance(message, messages.Error) and message.code == "unavailable":
                self._session.link.abort()
                self._broke()
                return
            if isinstance(message, messages.Error):
                self._session.link.abort()
                raise message.exception()
            if request_id != self._id:
                self._session.link.abort()
                raise ProtocolError(f"the store answered request {request_id}, which was never sent")
            self._take(message)
        self._heard_ms = clock.now_ms()

    def _broke(self) -> None:
        if self._begun:
            self._since_ms = self._broken_since_ms = self._heard_ms - LOOK_BACK_MS
        self._begun = False

    def _take(self, message: messages.Message) -> None:
        if isinstance(message, messages.FollowBegun):
            self._begun, self._series = True, []
        elif isinstance(message, messages.Followed):
            if message.first != len(self._series):
                raise ProtocolError(f"series {message.first} was announced, expected {len(self._series)}")
            self._series += [_series(entry) for entry in message.series]
        elif isinstance(message, messages.FollowedSamples):
            self._waiting.append(self._samples(message))
        elif isinstance(message, messages.FollowMissed):
            self._waiting.append(_gap(self._series, message.n_samples, message.since_ms))
        else:
            raise ProtocolError(f"Follow was answered by {type(message).__name__}")
        if self._begun and self._broken_since_ms is not None:
            self._waiting.append(_gap(self._series, UNKNOWN_MISSED, self._broken_since_ms))
            self._broken_since_ms = None

    def _samples(self, message: messages.FollowedSamples) -> FollowBatch:
        # Copies: the message's bytes are those of a buffer that is received into again.
        index = np.frombuffer(message.index, "<u4").copy()
        if len(index) and int(index.max()) >= len(self._series):
            raise ProtocolError(f"samples of series {int(index.max())}, of {len(self._series)} announced")
        return FollowBatch(
            self._series, index, np.frombuffer(message.stamps_ms, "<i8").copy(),
            np.frombuffer(message.types, "u1").copy(), np.frombuffer(message.words, "<u8").copy(),
            bool(message.stored),
        )  # fmt: skip


def _series(entry: Sequence[Any]) -> FollowedSeries:
    try:
        *names, step_s, unit, columns = entry
        pairs = tuple((str(text).rpartition(":")[0], str(text).rpartition(":")[2]) for text in columns)
        cluster, host, metric, kind, kind_id, subtype, subtype_id = map(str, names)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"an announced series that is none: {error}") from error
    return FollowedSeries(
        cluster, host, metric, kind, kind_id, subtype, subtype_id, int(step_s), str(unit), pairs
    )


def _gap(series: list[FollowedSeries], n_samples: int, since_ms: int) -> FollowBatch:
    none = np.zeros(0, np.uint32)
    return FollowBatch(
        series, none, none.astype(np.int64), none.astype(np.uint8), none.astype(np.uint64),
        missed=n_samples, missed_since=since_ms // 1000,
    )  # fmt: skip
