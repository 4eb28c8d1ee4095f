"""What is kept and what goes: protected hosts, freeing, sizes; what is asked and read, as steps."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mstore import clock
from mstore.client.answers import deadline_ms
from mstore.client.selecting import selector_text
from mstore.errors import InvalidRequest, ProtocolError
from mstore.ipc import messages
from mstore.ipc.transport import Steps
from mstore.times import TimeLike, to_seconds

if TYPE_CHECKING:
    from mstore.client.outcomes import Freed, Protection
    from mstore.selector import Selector, SelectorLike
    from mstore.sizes import LevelSize

M = TypeVar("M", bound=messages.Message)

FOR_GOOD_S, NOT_S = (1 << 63) - 1, 0
"""Until somebody says otherwise; not protected any more."""
EVER_S = 1 << 53
"""A time that nothing is behind."""

Selectors: TypeAlias = "SelectorLike | Sequence[Selector]"
"""One selector, or a sequence of Selectors."""


class LifeOperations:
    """Of Operations."""

    def _ask(
        self, message: messages.Message, kind: type[M], timeout_s: float | None = None, role: str = "query"
    ) -> Steps[M]:
        raise NotImplementedError

    def _order(self, message: messages.Message, timeout_s: float | None = None) -> Steps[dict[str, Any]]:
        raise NotImplementedError

    def protect(
        self, cluster: str, hosts: str | Sequence[str], until: TimeLike | str | None, timeout_s: float | None
    ) -> Steps[Protection]:
        from mstore.client.outcomes import Protection
        from mstore.hostlists import hosts_asked

        message = messages.Protect(cluster, hosts_asked(hosts) or [], _until_s(until), deadline_ms(timeout_s))
        return Protection.of((yield from self._order(message, timeout_s)))

    def protected(self, timeout_s: float | None) -> Steps[dict[str, list[str]]]:
        reply = yield from self._ask(messages.Protected(deadline_ms(timeout_s)), messages.Names, timeout_s)
        found: dict[str, list[str]] = {}
        for cluster, host in reply.names:
            found.setdefault(str(cluster), []).append(str(host))
        return found

    def free(
        self, selector: Selectors, before: TimeLike, exclude: Sequence[SelectorLike], timeout_s: float | None
    ) -> Steps[Freed]:
        before_s = to_seconds(before, clock.now_s())
        message = messages.Free(_texts(selector), before_s, _excluded(exclude), deadline_ms(timeout_s))
        return (yield from self._freed(message, timeout_s))

    def free_all(self, timeout_s: float | None) -> Steps[Freed]:
        return (yield from self._freed(messages.Free(["*"], EVER_S, [], deadline_ms(timeout_s)), timeout_s))

    def force_free(
        self, selector: Selectors, exclude: Sequence[SelectorLike], timeout_s: float | None
    ) -> Steps[Freed]:
        message = messages.ForceFree(_texts(selector), _excluded(exclude), deadline_ms(timeout_s))
        return (yield from self._freed(message, timeout_s))

    def _freed(self, message: messages.Message, timeout_s: float | None) -> Steps[Freed]:
        from mstore.client.outcomes import Freed

        return Freed.of((yield from self._order(message, timeout_s)))

    def sizes(
        self, selector: SelectorLike | None, depth: int, timeout_s: float | None
    ) -> Steps[list[LevelSize]]:
        from mstore.sizes import LevelSize

        text = "" if selector is None else selector_text(selector)
        message = messages.Sizes(text, depth, deadline_ms(timeout_s))
        reply = yield from self._ask(message, messages.SizeList, timeout_s)
        numbers = array("Q", bytes(reply.sizes))
        if len(numbers) != 4 * len(reply.paths):
            raise ProtocolError(f"{len(numbers)} numbers for {len(reply.paths)} levels")
        return [
            LevelSize(tuple(map(str, path)), *numbers[4 * n : 4 * n + 4])
            for n, path in enumerate(reply.paths)
        ]

    def debug_dump(self, selector: SelectorLike, timeout_s: float | None) -> Steps[str]:
        message = messages.DebugDump(selector_text(selector), deadline_ms(timeout_s))
        reply = yield from self._ask(message, messages.Text, timeout_s)
        return bytes(reply.text).decode()


def _until_s(until: TimeLike | str | None) -> int:
    if until is None:
        return FOR_GOOD_S
    if until == "clear":
        return NOT_S
    return max(to_seconds(until, clock.now_s()), 1)  # before 1970 as much past as then; 0 would mean NOT_S


def _texts(selector: Selectors) -> list[str]:
    from mstore.selector import Selector

    if isinstance(selector, list | tuple) and selector and all(isinstance(one, Selector) for one in selector):
        return [str(one) for one in selector]
    return [selector_text(selector)]  # type: ignore[arg-type]  # parse() says what is wrong with it


def _excluded(exclude: Sequence[SelectorLike]) -> list[str]:
    from mstore.selector import Selector

    if isinstance(exclude, str | Selector):
        raise InvalidRequest(
            f"exclude={exclude!r}: expected a sequence of selectors, such as [{str(exclude)!r}]"
        )
    return [selector_text(one) for one in exclude]
