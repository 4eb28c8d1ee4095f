"""The changeover machine's ground in the persister: the flag, epochs, rings, and the definitions."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mstore import clock
from mstore.errors import Degraded, StorageError
from mstore.kernels._ring import fence_full
from mstore.shm import layout
from mstore.workers.changeover import Changeover, State
from mstore.workers.definitions import changes_grids, follow_configuration
from mstore.workers.removal_ground import StoreGround

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_STEP_S = 0.002
_LOG_RETRY_S = 0.2
_HOLD_S_MAX = 10.0
"""Senders are not held longer for a worker that does not move, or rings that do not drain; it takes milliseconds."""
_AGAIN_S = 60.0


class ChangeGround:
    """See changeover.Ground; every call is made between two drains, on the persister's one thread."""

    def __init__(self, persister: Persister) -> None:
        self._persister = persister
        self._rings = StoreGround(persister)
        self._to_follow = False

    def hold(self) -> None:
        self._persister.control.set_flag(layout.FLAG_HOLD, True)
        # SYNC POINT (full) worker-epoch: the flag is set before the epochs are read, as they enter theirs before they
        # look at it.
        fence_full()

    def let_go(self) -> None:
        self._persister.control.set_flag(layout.FLAG_HOLD, False)
        for ack_fd in self._persister.spec.ack_fds:
            os.eventfd_write(ack_fd, 1)

    def epochs(self) -> Mapping[int, int]:
        return self._rings.epochs()

    def heads(self) -> Sequence[int]:
        return self._rings.heads()

    def drained(self) -> Sequence[int]:
        return self._rings.drained()

    def changes_grids(self) -> bool:
        return changes_grids(self._persister.directory, self._persister.config)

    def change(self) -> None:
        self._to_follow = True
        self.changed()

    def changed(self) -> bool:
        persister = self._persister
        try:
            persister.log_the_unlogged()  # what an earlier configuration changed: eras that are not yet begun, too
            if self._to_follow:
                self._to_follow = False
                follow_configuration(persister)
                persister.log_the_unlogged()
            persister.directory.publish()  # a change that found no room may have begun, and logged nothing
        except (StorageError, Degraded) as error:
            log.debug("definitions wait for the log: %s", error)
            return False
        return True


class Follower:
    """Lets series follow the configuration, with the steps of the machine between two drains."""

    def __init__(self, persister: Persister) -> None:
        self._machine = Changeover(ChangeGround(persister))
        self._timer: asyncio.TimerHandle | None = None
        self._give_up_s = 0.0

    def follow(self) -> None:
        """The configuration has changed, or the store begins."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._machine.state is State.IDLE:
            self._give_up_s = clock.monotonic_s() + _HOLD_S_MAX
        self._machine.begin()
        self._go_on_later()

    def _go_on(self) -> None:
        self._timer = None
        self._machine.step()
        if self._machine.waits and clock.monotonic_s() > self._give_up_s:
            self._machine.give_up()
            log.warning(
                "series keep their types and steps for now: a worker, or what was sent before, did not move for %.0f s;"
                " tried again in %.0f s", _HOLD_S_MAX, _AGAIN_S,
            )  # fmt: skip
            self._timer = asyncio.get_running_loop().call_later(_AGAIN_S, self.follow)
            return
        self._go_on_later()

    def _go_on_later(self) -> None:
        if self._machine.state is not State.IDLE and self._timer is None:
            delay_s = _LOG_RETRY_S if self._machine.state is State.CHANGING else _STEP_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._go_on)
