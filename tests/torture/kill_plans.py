"""Who dies next, and where: one plan for each kind of process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.torture.kill_points import AT_A_START, MANY_HITS, between, points_of

if TYPE_CHECKING:
    from tests.torture.kills import Run

ORDER_S_MAX = 10.0
"""How long an order stands; some points are not on the way of every life."""
PAUSE_S = 0.3
HELPER_S = {"snapshot": 0.1, "archive": 0.2, "export": 0.3, "archive-reader": 1.0}
"""Helpers live about so long: they are killed at a moment of that."""


class Plan:
    """What comes next for one kind of process: an order that stands, or a death by number when it is there."""

    def __init__(self, run: Run, kind: str) -> None:
        self._run = run
        self.kind = kind
        self._file = run.orders / kind
        self._point = ""
        self._hunting = False
        self._since = 0.0
        self._not_before = 0.0
        self._wait()

    def step(self) -> None:
        """Look whether the order was carried out; else go on to the next when its time has come."""
        overdue = time.monotonic() - self._since > ORDER_S_MAX
        if self._point or self._hunting:
            self._run.prod(self.kind, self._point)
        if self._point:
            if self._hit():
                self._died(f"{self.kind} {self._point}")
            elif overdue:
                self.withdraw()
        elif self._hunting:
            if self._in_the_middle() and self._run.kill_by_number(self.kind):
                self._died(self.kind)
            self._hunting = self._hunting and not overdue
        elif self._may_die():
            self._begin()

    def _in_the_middle(self) -> bool:
        """A helper is there before it does anything: it is given some time from when it was first seen."""
        if self.kind not in HELPER_S:
            return True
        now = time.monotonic()
        if not self._run.is_there(self.kind):
            self._not_before = 0.0
        elif self._not_before == 0.0:
            self._not_before = now + self._run.rng.random() * HELPER_S[self.kind]
        return 0.0 < self._not_before <= now

    def withdraw(self) -> None:
        """The order stands no longer; carried out at the last moment, it counts."""
        self._hunting = False
        if not self._point:
            return
        try:
            self._file.unlink()
            self._run.tally.missed[f"{self.kind} {self._point}"] += 1
            self._point = ""
            self._wait()
        except FileNotFoundError:
            self._died(f"{self.kind} {self._point}")

    def _wait(self) -> None:
        """Until others have died, and samples were acknowledged: else nothing would be at stake. Not always."""
        rng, (n_others, n_columns) = self._run.rng, between(self.kind, chores=self._run.setup.chores)
        hasty = rng.random() < 0.15
        self._after_kills = self._run.tally.killed.total() + (0 if hasty else rng.randint(0, n_others))
        self._after_columns = self._run.acknowledged() + (0 if hasty else rng.randint(0, n_columns))
        self._pause_until = time.monotonic() + rng.random() * PAUSE_S

    def _may_die(self) -> bool:
        return (
            time.monotonic() >= self._pause_until
            and self._run.tally.killed.total() >= self._after_kills
            and self._run.acknowledged() >= self._after_columns
        )

    def _begin(self) -> None:
        rng = self._run.rng
        self._since = time.monotonic()
        if rng.random() < 0.5 or not points_of(self.kind, chores=self._run.setup.chores):
            self._hunting = True
            return
        point = self._run.least_tried(self.kind)
        self.order(point, rng.randint(1, 20) if point in MANY_HITS else 1)
        if self.kind == "persister" and point in AT_A_START and self._run.kill_by_number(self.kind):
            self._run.tally.killed[self.kind] += 1

    def order(self, point: str, n: int) -> None:
        self._file.with_suffix(".hit").unlink(missing_ok=True)
        whole = self._file.with_suffix(".tmp")
        whole.write_text(f"{point} {n}")
        whole.rename(self._file)
        self._point, self._since = point, time.monotonic()

    def _hit(self) -> bool:
        return self._file.with_suffix(".hit").exists()

    def _died(self, name: str) -> None:
        self._run.tally.killed[name] += 1
        self._point, self._hunting, self._not_before = "", False, 0.0
        self._wait()
