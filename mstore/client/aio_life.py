"""What is kept and what goes, as an asyncio client calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from mstore.ipc.transport import Steps

if TYPE_CHECKING:
    from mstore.client.life import Selectors
    from mstore.client.operations import Operations
    from mstore.client.outcomes import Freed, Protection
    from mstore.selector import SelectorLike
    from mstore.sizes import LevelSize
    from mstore.times import TimeLike

T = TypeVar("T")


class AsyncLifeCalls:
    """Of an AsyncClient; see LifeCalls."""

    _ops: Operations

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    async def protect(
        self,
        cluster: str,
        hosts: str | Sequence[str],
        until: TimeLike | str | None = None,
        *,
        timeout: float | None = None,
    ) -> Protection:
        """As Client.protect."""
        return await self._run(self._ops.protect(cluster, hosts, until, timeout))

    async def protected(self, *, timeout: float | None = None) -> dict[str, list[str]]:
        """As Client.protected."""
        return await self._run(self._ops.protected(timeout))

    async def free(
        self,
        selector: Selectors,
        before: TimeLike,
        exclude: Sequence[SelectorLike] = (),
        *,
        timeout: float | None = None,
    ) -> Freed:
        """As Client.free."""
        return await self._run(self._ops.free(selector, before, exclude, timeout))

    async def free_all(self, *, timeout: float | None = None) -> Freed:
        """As Client.free_all."""
        return await self._run(self._ops.free_all(timeout))

    async def force_free(
        self, selector: Selectors = "*", exclude: Sequence[SelectorLike] = (), *, timeout: float | None = None
    ) -> Freed:
        """As Client.force_free."""
        return await self._run(self._ops.force_free(selector, exclude, timeout))

    async def sizes(
        self, selector: SelectorLike | None = None, *, depth: int = 1, timeout: float | None = None
    ) -> list[LevelSize]:
        """As Client.sizes."""
        return await self._run(self._ops.sizes(selector, depth, timeout))

    async def debug_dump(self, selector: SelectorLike, *, timeout: float | None = None) -> str:
        """As Client.debug_dump."""
        return await self._run(self._ops.debug_dump(selector, timeout))
