"""What a client can do, as steps: the one body behind Client and AsyncClient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mstore import choices, clock, limits, times
from mstore.client import lines
from mstore.client.answers import AnswerOperations, deadline_ms
from mstore.client.life import LifeOperations
from mstore.client.pool import Pool, Settings
from mstore.client.questions import Question, answered, series_of
from mstore.client.selecting import SelectorOperations, selector_text
from mstore.errors import InvalidRequest, ProtocolError
from mstore.ipc import messages
from mstore.ipc.transport import Steps

if TYPE_CHECKING:
    from mstore.client.following import FollowSteps
    from mstore.client.results import WriteResult
    from mstore.config import Config
    from mstore.frames import Series
    from mstore.model import Metric, SeriesPath
    from mstore.selector import SelectorLike

M = TypeVar("M", bound=messages.Message)

WINDOW = 8
"""Lines frames under way at a time: enough to hide a disk's fdatasync behind the next megabytes."""

_CONTROL: dict[str, Callable[[str], messages.Message]] = {
    "stop": lambda memory: messages.Stop(memory=memory),
    "restart": lambda memory: messages.Restart(memory=memory),
    "reload": lambda _memory: messages.Reload(),
    "snapshot": lambda _memory: messages.Snapshot(),
}


class Operations(SelectorOperations, AnswerOperations, LifeOperations):
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
        return self._stream(chosen, frames)

    def put(
        self, path: SeriesPath, values: Mapping[str, Any], ts: times.TimeLike | None, unit: str | None
    ) -> Steps[WriteResult]:
        # The stamp is set here and not by the store, so that a resend is the same line again.
        stamp_ms = lines.stamp_ms(ts, clock.now_ms())
        return self.write(lines.put_lines(path, values, stamp_ms, unit or ""), "", "ms")

    def query(self, question: Question, timeout_s: float | None) -> Steps[Series | list[Series]]:
        message = question.message(clock.now_s(), timeout_s)
        return series_of((yield from self._ask(message, messages.Answer, timeout_s)))

    def query_many(
        self, questions: Iterable[Question], timeout_s: float | None
    ) -> Steps[list[Series | list[Series]]]:
        now_s = clock.now_s()
        asked = [question.message(now_s, None) for question in choices.questions(questions)]
        session = self.pool.take("query")
        try:
            return (
                yield from answered(session, asked, deadline_ms(timeout_s), lambda: self.until_s(timeout_s))
            )
        finally:
            self.pool.give(session, "query")

    def follow(
        self, selector: SelectorLike, metrics: str | Sequence[str] | None, since: times.TimeLike | None
    ) -> FollowSteps:
        """What follows; connected by its begin()."""
        from mstore.client.following import FollowSteps  # with it comes numpy

        names = [] if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
        since_ms = None if since is None else times.to_seconds(since, clock.now_s()) * 1000
        return FollowSteps(self.settings, selector_text(selector), names, since_ms)

    def children(self, path: Sequence[str]) -> Steps[list[str]]:
        reply = yield from self._ask(messages.Children(list(path)), messages.Names)
        return [str(name) for name in reply.names]

    def host_series(self, cluster: str, host: str) -> Steps[list[SeriesPath]]:
        from mstore.model import SeriesPath

        reply = yield from self._ask(messages.HostSeries(cluster, host), messages.SeriesPaths)
        return [SeriesPath(*one) for one in reply.series]

    def paths(self, depth: int) -> Steps[list[tuple[str, ...]]]:
        if not 0 <= depth <= limits.PATH_DEPTH_MAX:
            raise InvalidRequest(f"depth={depth!r}: expected 0 to {limits.PATH_DEPTH_MAX}")
        reply = yield from self._ask(messages.Paths(depth), messages.Names)
        return [(path,) if isinstance(path, str) else tuple(map(str, path)) for path in reply.names]

    def metrics(self, cluster: str | None) -> Steps[list[Metric]]:
        from mstore.model import Metric

        reply = yield from self._ask(messages.Metrics(cluster), messages.MetricList)
        return [Metric.of(entry) for entry in reply.metrics]

    def config(self) -> Steps[Config]:
        from mstore.config import heard  # most clients never ask

        reply = yield from self._ask(messages.Clusters(), messages.ClusterList)
        return heard(reply.toml, reply.clusters)

    def info(self, starting: bool = False, predict: bool = False) -> Steps[dict[str, Any]]:
        role = "control" if starting else "query"
        reply = yield from self._ask(messages.Info(predict=predict), messages.InfoReply, role=role)
        return reply.info

    def ping(self) -> Steps[None]:
        yield from self._ask(messages.Ping(), messages.Done)

    def control(self, verb: str, memory: str = "") -> Steps[dict[str, Any]]:
        make = _CONTROL.get(verb)
        if make is None:
            raise InvalidRequest(f"{verb!r} is no control request: allowed are {', '.join(_CONTROL)}")
        if memory not in messages.MEMORY or (memory and verb not in ("stop", "restart")):
            raise InvalidRequest(f'memory={memory!r}: a stop or a restart may "keep" or "free" it')
        return (yield from self._order(make(memory)))

    def archive(
        self, clusters: Sequence[str], delete: bool, timeout_s: float | None
    ) -> Steps[dict[str, Any]]:
        return (yield from self._order(messages.ArchiveNow(list(clusters), delete), timeout_s))

    def until_s(self, timeout_s: float | None = None) -> float:
        return clock.monotonic_s() + (self.settings.timeout_s if timeout_s is None else timeout_s)

    def _ask(
        self, message: messages.Message, kind: type[M], timeout_s: float | None = None, role: str = "query"
    ) -> Steps[M]:
        session = self.pool.take(role)
        try:
            reply = yield from session.exchange(message, self.until_s(timeout_s))
        finally:
            self.pool.give(session, role)
        return _checked(message, reply, kind)

    def _order(self, message: messages.Message, timeout_s: float | None = None) -> Steps[dict[str, Any]]:
        session = self.pool.take("control")
        try:
            reply = yield from session.order(message, self.until_s(timeout_s))
        finally:
            self.pool.give(session, "control")
        return _checked(message, reply, messages.Done).details

    def _stream(self, cluster: str, frames: Iterable[messages.Lines]) -> Steps[WriteResult]:
        from mstore.client.window import Window

        session = self.pool.take("ingest", cluster)
        try:
            window = Window(session, WINDOW, self.until_s)
            for frame in frames:
                if window.error is not None:
                    break
                yield from window.send(frame)
            yield from window.drain()
            return window.take_result()
        finally:
            self.pool.give(session, "ingest", cluster)


def _checked(message: messages.Message, reply: messages.Message, kind: type[M]) -> M:
    if not isinstance(reply, kind):
        raise ProtocolError(f"{type(message).__name__} was answered by {type(reply).__name__}")
    return reply
