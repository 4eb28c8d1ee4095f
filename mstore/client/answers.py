"""Batch requests and views of jobs and nodes: what is asked and read, as steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mstore import choices, clock
from mstore.ipc import messages
from mstore.ipc.transport import Steps

if TYPE_CHECKING:
    from mstore.fetching.answer import Fetched
    from mstore.fetching.request import FetchRequest
    from mstore.health import Health
    from mstore.jobs.loaded import Loaded
    from mstore.jobs.request import LoadRequest

M = TypeVar("M", bound=messages.Message)


class AnswerOperations:
    """Of Operations."""

    def _ask(
        self, message: messages.Message, kind: type[M], timeout_s: float | None = None, role: str = "query"
    ) -> Steps[M]:
        raise NotImplementedError

    def fetch(self, request: Mapping[str, Any] | FetchRequest, timeout_s: float | None) -> Steps[Fetched]:
        from mstore.fetching.request import FetchRequest

        asked = FetchRequest.parse(request, clock.now_s())
        message = messages.Fetch.of(asked, deadline_ms(timeout_s))
        reply = yield from self._ask(message, messages.FetchAnswer, timeout_s)
        return reply.fetched(asked)

    def load(self, request: LoadRequest, timeout_s: float | None) -> Steps[Loaded]:
        message = messages.Load.of(request, deadline_ms(timeout_s))
        reply = yield from self._ask(message, messages.LoadAnswer, timeout_s)
        return reply.loaded(request.cluster)

    def health(
        self,
        cluster: str,
        nodes: str | Sequence[str] | None,
        metrics: Sequence[str] | None,
        timeout_s: float | None,
    ) -> Steps[Health]:
        from mstore.hostlists import hosts_asked

        asked = choices.names("metrics", metrics)
        message = messages.CheckHealth(
            cluster, hosts_asked(nodes), None if asked is None else list(asked), deadline_ms(timeout_s)
        )
        reply = yield from self._ask(message, messages.HealthAnswer, timeout_s)
        return reply.health(cluster)


def deadline_ms(timeout_s: float | None) -> int:
    """What a message says of the seconds its answer is of use; 0 = as the connection's greeting says."""
    return 0 if timeout_s is None else max(int(timeout_s * 1000), 1)
