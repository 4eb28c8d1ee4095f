"""SIGKILL of every kind of process, at any time and at every named point, while acknowledged writers go on.

    writers   each sends a column after the other, again until it is acknowledged
    killer    has a plan for each kind of process, all at once: kill it by its number after a while, or give it an order
              (mstore/faults.py) to die at a point. Nobody is waited for, but that samples are acknowledged in between
    asker     reads back all the time what was acknowledged since its last look, of some hosts
    end       every acknowledged sample is read back and compared, once more from the files alone; no process is left,
              and no segment

One unit is one store's life. The supervisor's death ends a round of it, by which memory is lost as well, sometimes. A
unit has a seed; what it decides is who is killed, where and in which order.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import mstore
from mstore.shm.segment import name_prefix, stale, unlink
from tests.stores import Server, until
from tests.torture.kill_writers import HOSTS, STEP_S, Asker, Writer, first_s

KILLS_A_ROUND = (20, 45)
"""Of workers and helpers, then the supervisor's turn has come."""
ORDER_S_MAX = 10.0
"""How long an order stands; some points are not on the way of every life."""
LOOK_S = 0.01

POINTS = {
    "persister": (
        "drain.begin", "drain.written", "drain.applied", "drain.noted", "catalog.written", "intern.made",
        "intern.published", "recovery.read", "persister.opened", "files.fsync", "files.rename", "files.renamed",
        "files.fdatasync", "files.create", "files.unlink", "births.ordered",
    ),
    "ingest-0": ("ingest.published", "ingest.asking", "ingest.waiting", "ingest.reply"),
    "query-0": ("query.reply",),
    "snapshot": (
        "files.create", "files.fdatasync", "snapshot.copied", "files.rename", "files.renamed", "files.fsync",
        "files.unlink",
    ),
    "mstore": (
        "supervisor.handing_out", "supervisor.made", "supervisor.spawned", "supervisor.renewing", "births.ordered",
    ),
    "nursery": ("nursery.forked",),
    "helpers": ("nursery.forked",),
}  # fmt: skip
AT_A_START = {
    "recovery.read", "persister.opened", "files.fsync", "files.rename", "files.renamed", "files.fdatasync",
    "files.create", "files.unlink",
}  # fmt: skip
"""Points that a persister passes when it starts: it is made to."""
MANY_HITS = {
    "drain.begin",
    "drain.written",
    "drain.applied",
    "drain.noted",
    "ingest.published",
    "ingest.reply",
}
BETWEEN = {
    "persister": (10, 40),
    "ingest-0": (1, 40),
    "query-0": (2, 0),
    "snapshot": (0, 0),
    "nursery": (2, 10),
    "helpers": (2, 10),
}
"""At most so many deaths of others, and so many columns acknowledged, between two deaths: a persister's takes all workers
along, and the memory is adopted anew."""
PAUSE_S = 0.3
HELPER_S = 0.1
"""A snapshot helper lives about so long: it is killed at a moment of that."""


@dataclass
class Tally:
    """What happened, over all stores of a run."""

    killed: Counter[str] = field(default_factory=Counter)
    """By process, or process and point."""
    missed: Counter[str] = field(default_factory=Counter)
    """Orders that nobody carried out in time."""
    n_restarts: int = 0
    n_acknowledged: int = 0
    n_compared: int = 0
    n_lost: int = 0
    n_orphans: int = 0
    """Processes that were left when their store had ended."""
    n_segments_left: int = 0

    def add(self, other: Tally) -> None:
        self.killed.update(other.killed)
        self.missed.update(other.missed)
        self.n_restarts += other.n_restarts
        self.n_acknowledged += other.n_acknowledged
        self.n_compared += other.n_compared
        self.n_lost += other.n_lost
        self.n_orphans += other.n_orphans
        self.n_segments_left += other.n_segments_left

    def to_plain(self) -> dict[str, object]:
        by_kind: Counter[str] = Counter()
        for name, n in self.killed.items():
            by_kind[name.split()[0]] += n
        return {
            "kills": self.killed.total(),
            "by_kind": dict(sorted(by_kind.items())),
            "by_point": dict(sorted((name, n) for name, n in self.killed.items() if "." in name)),
            "at_any_moment": dict(sorted((name, n) for name, n in self.killed.items() if "." not in name)),
            "not_come_to": dict(sorted(self.missed.items())),
            "restarts": self.n_restarts,
            "samples_acknowledged": self.n_acknowledged,
            "samples_compared": self.n_compared,
            "lost": self.n_lost,
            "orphans": self.n_orphans,
            "segments_left": self.n_segments_left,
        }


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
        if self.kind == "snapshot" and (self._point or self._hunting):
            self._run.ask_for_snapshot()
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
        if self.kind != "snapshot":
            return True
        now = time.monotonic()
        if not self._run.is_there(self.kind):
            self._not_before = 0.0
        elif self._not_before == 0.0:
            self._not_before = now + self._run.rng.random() * HELPER_S
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
        rng, (n_others, n_columns) = self._run.rng, BETWEEN.get(self.kind, (0, 0))
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
        if rng.random() < 0.5:
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


class Run:
    """One store, its writers, and the killer."""

    def __init__(self, directory: Path, seed: int, until_s: float = float("inf")) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.until_s = until_s
        """On the monotonic clock: no further kill after that."""
        self.orders = directory / "orders"
        self.orders.mkdir()
        config = f'default_step = {STEP_S}\nretention = "0"\ningest_workers = 1\nquery_workers = 1\n'
        self.server = Server(directory, config)
        began_s = first_s()
        self.writers = [
            Writer(directory, "frames", began_s, "durable", framed=True),
            Writer(directory, "text", began_s, "durable"),
            Writer(directory, "memory", began_s, "memory"),
            Writer(directory, "churn", began_s, "durable", churns=True),
        ]
        self.asker = Asker(directory, self.writers, random.Random(seed))
        self.tally = Tally()
        self._tried: Counter[str] = Counter()
        self._asking: threading.Thread | None = None

    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    # --- the store

    def start(self) -> None:
        """Until it is ready: it may be killed while it starts."""
        with mock.patch.dict(os.environ, MSTORE_FAULT=str(self.orders)):
            for _ in range(5):
                try:
                    self.server.start()
                    return
                except AssertionError:
                    assert self.server.process is not None
                    status = self.server.process.wait(30)
                    assert self.server.process.stdout is not None
                    self.server.process.stdout.close()
                    if status != -signal.SIGKILL:
                        raise
                    self.bury()
        raise AssertionError(f"the store does not start; its log says:\n{self.server.log_text()[-4000:]}")

    def bury(self) -> None:
        """The supervisor is dead: so are its children, soon."""
        assert self.server.process is not None
        self.server.process.wait()
        if self.server.process.stdout is not None:
            self.server.process.stdout.close()
        try:
            until(lambda: not processes_of(self.server.directory), "the children of a dead supervisor to end")
        except AssertionError:
            self.tally.n_orphans = len(processes_of(self.server.directory))
            raise

    def alive(self) -> bool:
        assert self.server.process is not None
        return self.server.process.poll() is None

    # --- killing

    def round(self, n_kills_max: int) -> None:
        """Deaths of workers and helpers, many of them at once, then the supervisor's; with or without the memory."""
        plans = [Plan(self, kind) for kind in BETWEEN]
        enough = self.tally.killed.total() + min(self.rng.randint(*KILLS_A_ROUND), n_kills_max)
        while self.alive() and self.tally.killed.total() < enough and time.monotonic() < self.until_s:
            for plan in plans:
                plan.step()
            self._fail_early()
            time.sleep(LOOK_S)
        for plan in plans:
            plan.withdraw()
        self._end_supervisor()

    def least_tried(self, kind: str) -> str:
        """A point of that kind that no other was tried less often than: every one has its turn."""
        least = min(self._tried[f"{kind} {point}"] for point in POINTS[kind])
        point = self.rng.choice([one for one in POINTS[kind] if self._tried[f"{kind} {one}"] == least])
        self._tried[f"{kind} {point}"] += 1
        return point

    def _end_supervisor(self) -> None:
        plan = Plan(self, "mstore")
        at_start = ""
        if self.alive() and self.rng.random() < 0.5:
            point = self.least_tried("mstore")
            if point in ("supervisor.handing_out", "supervisor.renewing"):
                plan.order(point, self.rng.randint(1, 5) if point.endswith("out") else 1)
                if point.endswith("renewing") and self.kill_by_number("persister"):
                    self.tally.killed["persister"] += 1
                with contextlib.suppress(AssertionError):
                    until(lambda: not self.alive(), point, ORDER_S_MAX)
                plan.withdraw()
            else:
                at_start = point
        if self.alive():
            assert self.server.process is not None
            self.server.process.kill()
            self.tally.killed["mstore"] += 1
        self.tally.n_restarts += 1
        self.bury()
        if self.rng.random() < 0.3:
            for name in stale(name_prefix(self.server.directory)):
                unlink(name)
        if at_start:
            plan.order(at_start, 1)
        self.start()
        plan.withdraw()

    def kill_by_number(self, kind: str) -> bool:
        """Now, if it is there."""
        pid = self._children().get(kind)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def is_there(self, kind: str) -> bool:
        return kind in self._children()

    def _children(self) -> dict[str, int]:
        """Pid by name of workers and helper: what the supervisor has started, and its children."""
        assert self.server.process is not None
        found: dict[str, int] = {}
        for pid in _children_of(self.server.process.pid):
            found |= _named(pid)
            if "persister" in found and found["persister"] == pid:
                for helper in _children_of(pid):
                    found |= _named(helper)
        return found

    def ask_for_snapshot(self) -> None:
        if self._asking is not None and self._asking.is_alive():
            return

        def ask() -> None:
            with contextlib.suppress(mstore.MstoreError), self.server.client(timeout=20) as client:
                client.control("snapshot")

        self._asking = threading.Thread(target=ask, daemon=True)
        self._asking.start()

    # --- looking

    def _fail_early(self) -> None:
        faults = [one.fault for one in (*self.writers, self.asker) if one.fault]
        assert not faults, faults

    def check(self) -> None:
        """Every acknowledged sample."""
        lost: list[str] = []
        with self.server.client(timeout=30) as client:
            for writer in self.writers:
                compared = writer.compare(client, range(HOSTS), 0, writer.acknowledged)
                self.tally.n_compared += compared.n
                lost += compared.lost
        self.tally.n_lost = max(self.tally.n_lost, len(lost))
        assert not lost, lost[:20]

    def check_nothing_is_left(self) -> None:
        """Of a store that has ended: no process, no segment."""
        self.tally.n_orphans = len(processes_of(self.server.directory))
        self.tally.n_segments_left = len(stale(name_prefix(self.server.directory)))
        assert not self.tally.n_orphans, self.told()
        assert not self.tally.n_segments_left, self.told()

    # --- everything

    def run(self, n_kills: int) -> None:
        self.start()
        threads = [*self.writers, self.asker]
        for thread in threads:
            thread.start()
        try:
            while (left := n_kills - self.tally.killed.total()) > 0 and time.monotonic() < self.until_s:
                self.round(left)
            at_last = [writer.acknowledged for writer in self.writers]
            until(
                lambda: all(
                    w.acknowledged > n or w.fault for w, n in zip(self.writers, at_last, strict=True)
                ),
                "one more acknowledgement of each writer",
                60,
            )
        finally:
            for thread in threads:
                thread.halt.set()
            for thread in threads:
                thread.join(30)
        self.tally.n_acknowledged = self.acknowledged() * HOSTS
        self.tally.n_compared += self.asker.n_compared
        self._fail_early()
        self.check()
        self.server.kill()
        self.bury()
        for name in stale(name_prefix(self.server.directory)):
            unlink(name)
        self.start()  # once more from the files alone
        self.check()
        assert self.server.stop() == 0
        self.check_nothing_is_left()

    def told(self) -> str:
        columns = {writer.name: writer.acknowledged for writer in self.writers}
        return (
            f"seed {self.seed}: {self.tally.killed.total()} kills {dict(sorted(self.tally.killed.items()))},"
            f" not come to {dict(sorted(self.tally.missed.items()))}, {self.tally.n_restarts} restarts, acknowledged"
            f" columns {columns}, {self.tally.n_compared} samples compared, {self.asker.n_looks} looks"
        )

    def clean_up(self) -> None:
        if self.server.process is not None and self.alive():
            self.server.kill()
            self.bury()
        for name in stale(name_prefix(self.server.directory)):
            unlink(name)


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _named(pid: int) -> dict[str, int]:
    with contextlib.suppress(OSError):
        return _name_in(Path(f"/proc/{pid}/cmdline").read_bytes(), pid)
    return {}


def _name_in(line: bytes, pid: int) -> dict[str, int]:
    """`mstore: NAME DIR` as forked processes call themselves; the helpers are forked, too."""
    if not line.startswith(b"mstore: "):
        return {}
    return {line.split()[1].decode(): pid}


def processes_of(directory: Path) -> dict[str, int]:
    """Pid by name of the workers and helpers of the store in `directory`, also of one whose supervisor is dead."""
    found: dict[str, int] = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if str(directory).encode() not in line:
                continue
            if path.with_name("stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                continue
            found |= _name_in(line, int(path.parent.name))
    return found


def _cpu_s() -> dict[str, float]:
    """What it took beside busy neighbours, too: of the torture itself, and of the stores' processes but the last ones of
    each dead supervisor, which nobody here waits for."""
    times = os.times()
    return {
        "cpu_s": round(times.user + times.system, 1),
        "cpu_s_of_stores": round(times.children_user + times.children_system, 1),
    }


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ms-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def torture(
    first_seed: int,
    n_kills: int,
    seconds: float = float("inf"),
    kills_a_store: int = 200,
    tell: Callable[[str], None] = lambda text: print(text, flush=True),
) -> int:
    """Stores one after the other until n_kills, or until the seconds are over; the exit status.

    The last line is JSON: counts by kind of process and by point, samples compared, violations, the next seed.
    """
    whole, began, seed, violation = Tally(), time.monotonic(), first_seed, ""
    until_s = began + seconds
    while whole.killed.total() < n_kills and time.monotonic() < until_s and not violation:
        with short_directory() as directory:
            run = Run(directory, seed, until_s)
            try:
                run.run(min(kills_a_store, n_kills - whole.killed.total()))
            except AssertionError as failure:
                violation = f"{failure}"
                tell(f"VIOLATION {run.told()}: {failure}\n{run.server.log_text()[-8000:]}")
            finally:
                run.clean_up()
        whole.add(run.tally)
        took_s = time.monotonic() - began
        tell(run.told())
        seed += 1
        n = whole.killed.total()
        tell(
            f"{n} kills, {'a violation' if violation else '0 lost'}; {n / took_s:.2f} kills/s; go on with --seed {seed}"
        )
    found = {"seed": first_seed, "next_seed": seed, "seconds": round(time.monotonic() - began, 1), **_cpu_s()}
    tell(
        json.dumps(
            {**found, **whole.to_plain(), "violations": int(bool(violation)), "violation": violation[:500]}
        )
    )
    return 1 if violation else 0
