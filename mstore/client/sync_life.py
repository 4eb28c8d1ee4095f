"""What is kept and what goes, as a blocking client calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mstore.ipc.transport import run

if TYPE_CHECKING:
    from mstore.client.life import Selectors
    from mstore.client.operations import Operations
    from mstore.client.outcomes import Freed, Protection
    from mstore.selector import SelectorLike
    from mstore.sizes import LevelSize
    from mstore.times import TimeLike


class LifeCalls:
    """Of a Client. timeout: seconds that the store may take, instead of the client's own

    protect() and the free calls are orders to the store: its own user may give them.
    """

    _ops: Operations

    def protect(
        self,
        cluster: str,
        hosts: str | Sequence[str],
        until: TimeLike | str | None = None,
        *,
        timeout: float | None = None,
    ) -> Protection:
        """Keep the data of hosts past retention, and evict it last; what it has come to, names that are unknown included.

        hosts   a hostlist such as "f[0101-0104]", or names; also of hosts that have sent nothing yet
        until   a time; None: until it is taken back; "clear": take it back
        raises  InvalidRequest: no name, or a time that is over; Unavailable; StorageError when it cannot be logged
        """
        return run(self._ops.protect(cluster, hosts, until, timeout))

    def protected(self, *, timeout: float | None = None) -> dict[str, list[str]]:
        """{cluster: hosts} that are protected now, by whomever, as far as they have data."""
        return run(self._ops.protected(timeout))

    def free(
        self,
        selector: Selectors,
        before: TimeLike,
        exclude: Sequence[SelectorLike] = (),
        *,
        timeout: float | None = None,
    ) -> Freed:
        """Free whole chunks that end by a time, of everything below the selected levels, protected or not.

        What goes is logged first: it does not come back after any restart. Hosts that are left with nothing vanish.
        before   Unix seconds, datetime, ISO 8601, or relative like "-2h" and "now"
        exclude  selectors of levels that keep what they have
        raises   InvalidRequest, EmptyCluster; StorageError, Degraded when the log refuses: a part may be gone by then
        """
        return run(self._ops.free(selector, before, exclude, timeout))

    def free_all(self, *, timeout: float | None = None) -> Freed:
        """Free everything there is."""
        return run(self._ops.free_all(timeout))

    def force_free(
        self, selector: Selectors = "*", exclude: Sequence[SelectorLike] = (), *, timeout: float | None = None
    ) -> Freed:
        """Free the oldest chunk of every series below the selected levels, however new it is. raises as free()"""
        return run(self._ops.force_free(selector, exclude, timeout))

    def sizes(
        self, selector: SelectorLike | None = None, *, depth: int = 1, timeout: float | None = None
    ) -> list[LevelSize]:
        """What levels hold, each with all below it, in natural order: those of a selector, or all of a depth.

        depth   without a selector: 1 = clusters, 2 = hosts, ...
        raises  InvalidRequest, EmptyCluster, LimitExceeded
        """
        return run(self._ops.sizes(selector, depth, timeout))

    def debug_dump(self, selector: SelectorLike, *, timeout: float | None = None) -> str:
        """The chunks below the levels of a selector, as JSON; Reader.debug_dump() says what is in it.

        raises  UnknownSelector when there is no such level; InvalidRequest, EmptyCluster, LimitExceeded
        """
        return run(self._ops.debug_dump(selector, timeout))
