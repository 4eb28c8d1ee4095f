"""What a client can do, as steps: the one body behind Client and AsyncClient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mstore import clock, limits, times
from mstore.client import lines
from mstore.client.pool import Pool, Settings
from mstore.client.results import Metric, WriteResult
from mstore.client.session import Session
from mstore.client.window import Window
from mstore.errors import InvalidRequest, InvalidStep, ProtocolError
from mstore.ipc import messages
from mstore.ipc.transport import Steps
from mstore.model import SeriesPath

if TYPE_CHECKING:
    from mstore.frames import Series

T = TypeVar("T")
M = TypeVar("M", bound=messages.Message)

WINDOW = 8
"""Lines frames under way at a time: enough to hide a disk's fdatasync behind the next megabytes."""

RESOLUTION_S_MAX = 2**31 - 1

Id: TypeAlias = "str | int"
Ids: TypeAlias = "Id | Sequence[Id] | None"
"""One id asks for one series, a sequence (of one, too) for a list of series."""

_CONTROL: dict[str, Callable[[], messages.Message]] = {
    "stop": messages.Stop,
    "restart": messages.Restart,
    "reload": messages.Reload,
    "snapshot": messages.Snapshot,
}


class Operations:
    """Steps for each method of a client; `pool` is shared by all of them."""

    def __init__(self, settings: Settings) -> None:
        if settings.ack not in messages.ACKS:
            raise InvalidRequest(f"ack={settings.ack!r}: allowed are {', '.join(messages.ACKS)}")
        if not settings.timeout_s > 0:
            raise InvalidRequest(f"timeout={settings.timeout_s!r}: expected a number of seconds above 0")
        self.settings = settings
        self.pool = Pool(settings)

    def write(self, source: lines.Source, cluster: str | None, precision: str | None) -> Steps[WriteResult]:
        if (precision or "") not in messages.PRECISIONS:
            raise InvalidRequest(f"precision={precision!r}: allowed are {', '.join(messages.PRECISIONS[1:])}")
        chosen = self.settings.cluster if cluster is None else cluster
        frames = (messages.Lines(piece, precision or "") for piece in lines.pieces(source))
        return self._with_session("ingest", chosen, lambda session: self._stream(session, frames))

    def put(
        self, path: SeriesPath, values: Mapping[str, Any], ts: times.TimeLike | None, unit: str | None
    ) -> Steps[WriteResult]:
        # The stamp is set here and not by the store, so that a resend is the same line again.
        stamp_ms = lines.stamp_ms(ts, clock.now_ms())
        return self.write(lines.put_lines(path, values, stamp_ms, unit or ""), "", "ms")

    def query(
        self, cluster: str, host: str, metric: str, start: times.TimeLike, end: times.TimeLike,
        type: str | None, type_ids: Ids, subtype: str | None, subtype_ids: Ids, aggregate: bool,
        resolution: int, timeout_s: float | None,
    ) -> Steps[Series | list[Series]]:  # fmt: skip
        if not 0 <= int(resolution) <= RESOLUTION_S_MAX:
            raise InvalidStep(f"resolution={resolution!r}: expected 0 to {RESOLUTION_S_MAX} seconds")
        now_s = clock.now_s()
        question = messages.Query(
            cluster, host, metric, times.to_seconds(start, now_s), times.to_seconds(end, now_s),
            type, _ids(type_ids), subtype, _ids(subtype_ids), bool(aggregate), int(resolution),
            0 if timeout_s is None else int(timeout_s * 1000),
        )  # fmt: skip
        answer = yield from self._ask(question, messages.Answer, timeout_s)
        from mstore.frames import Series  # numpy is loaded by the first answer, not by the import

        found = [Series.from_wire(entry) for entry in answer.series]
        if answer.many:
            return found
        if len(found) != 1:
            raise ProtocolError(f"an answer with {len(found)} series to a question for one")
        return found[0]

    def children(self, path: Sequence[str]) -> Steps[list[str]]:
        reply = yield from self._ask(messages.Children(list(path)), messages.Names)
        return [str(name) for name in reply.names]

    def paths(self, depth: int) -> Steps[list[tuple[str, ...]]]:
        if not 0 <= depth <= limits.PATH_DEPTH_MAX:
            raise InvalidRequest(f"depth={depth!r}: expected 0 to {limits.PATH_DEPTH_MAX}")
        reply = yield from self._ask(messages.Paths(depth), messages.Names)
        return [(path,) if isinstance(path, str) else tuple(map(str, path)) for path in reply.names]

    def metrics(self, cluster: str | None) -> Steps[list[Metric]]:
        reply = yield from self._ask(messages.Metrics(cluster), messages.MetricList)
        return [Metric.of(entry) for entry in reply.metrics]

    def info(self) -> Steps[dict[str, Any]]:
        reply = yield from self._ask(messages.Info(), messages.InfoReply)
        return reply.info

    def ping(self) -> Steps[None]:
        yield from self._ask(messages.Ping(), messages.Done)

    def control(self, verb: str) -> Steps[dict[str, Any]]:
        make = _CONTROL.get(verb)
        if make is None:
            raise InvalidRequest(f"{verb!r} is no control request: allowed are {', '.join(_CONTROL)}")
        reply = yield from self._ask(make(), messages.Done, role="control")
        return reply.details

    def until_s(self, timeout_s: float | None = None) -> float:
        return clock.monotonic_s() + (self.settings.timeout_s if timeout_s is None else timeout_s)

    def _ask(
        self, message: messages.Message, kind: type[M], timeout_s: float | None = None, role: str = "query"
    ) -> Steps[M]:
        until_s = self.until_s(timeout_s)
        reply = yield from self._with_session(role, "", lambda session: session.exchange(message, until_s))
        if not isinstance(reply, kind):
            raise ProtocolError(f"{type(message).__name__} was answered by {type(reply).__name__}")
        return reply

    def _with_session(self, role: str, cluster: str, work: Callable[[Session], Steps[T]]) -> Steps[T]:
        session = self.pool.take(role, cluster)
        try:
            return (yield from work(session))
        finally:
            self.pool.give(session, role, cluster)

    def _stream(self, session: Session, frames: Iterable[messages.Lines]) -> Steps[WriteResult]:
        window = Window(session, WINDOW, self.until_s)
        for frame in frames:
            if window.error is not None:
                break
            yield from window.send(frame)
        yield from window.drain()
        return window.take_result()


def _ids(ids: Ids) -> str | list[str] | None:
    """One id stays one (one series is asked for), several become a list; integers become text."""
    if ids is None or isinstance(ids, str):
        return ids
    if isinstance(ids, Iterable):
        return [str(one) for one in ids]
    return str(ids)
