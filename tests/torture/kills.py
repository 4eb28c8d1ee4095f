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
from pathlib import Path
from unittest import mock

import mstore
from mstore.shm.segment import name_prefix, stale, unlink
from tests.stores import Server, until
from tests.torture.kill_chores import Chores, Subscriber
from tests.torture.kill_plans import ORDER_S_MAX, Plan
from tests.torture.kill_points import (
    AT_A_STOP,
    points_of,
)
from tests.torture.kill_setups import Setup, setup_of
from tests.torture.kill_tally import Tally
from tests.torture.kill_writers import HOSTS, Asker, Writer

KILLS_A_ROUND = (20, 45)
"""Of workers and helpers, then the supervisor's turn has come."""
LOOK_S = 0.01

MODULES = {"mstore.workers.providers": "protect", "mstore.workers.archive_reader": "archive-reader"}
"""What is started by exec, and not forked, shows its module."""


class Run:
    """One store, its writers, and the killer."""

    def __init__(
        self, directory: Path, seed: int, until_s: float = float("inf"), setup: Setup | None = None
    ) -> None:
        """setup: which kind of store; None: the seed says"""
        self.seed = seed
        self.rng = random.Random(seed)
        self.until_s = until_s
        """On the monotonic clock: no further kill after that."""
        self.setup = setup or setup_of(seed)
        self.orders = directory / "orders"
        self.orders.mkdir()
        self.server = Server(directory, self.setup.config)
        self.writers = self.setup.writers(directory)
        self.asker = Asker(directory, self.writers, random.Random(seed), 10.0 if self.setup.archives else 2.0)
        self.chores: Chores | None = None
        self.subscriber: Subscriber | None = None
        if self.setup.chores:
            self.chores = Chores(directory, self.setup, self.writers, random.Random(seed))
            self.subscriber = Subscriber(directory, self.writers[2])
        self.tally = Tally()
        self._tried: Counter[str] = Counter()
        self._asking: dict[str, threading.Thread] = {}

    @property
    def threads(self) -> list[Writer | Asker | Chores | Subscriber]:
        others = [one for one in (self.chores, self.subscriber) if one is not None]
        return [*self.writers, self.asker, *others]

    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    # --- the store

    def start(self) -> None:
        """Until it is ready: it may be killed while it starts."""
        no_backup = self.chores.copying if self.chores is not None else contextlib.nullcontext()
        with no_backup, mock.patch.dict(os.environ, MSTORE_FAULT=str(self.orders)):
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
        plans = [Plan(self, kind) for kind in self.setup.processes]
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
        points = points_of(kind, chores=self.setup.chores)
        least = min(self._tried[f"{kind} {point}"] for point in points)
        point = self.rng.choice([one for one in points if self._tried[f"{kind} {one}"] == least])
        self._tried[f"{kind} {point}"] += 1
        return point

    def _end_supervisor(self) -> None:
        plan = Plan(self, "mstore")
        at_start = ""
        if self.alive() and self.rng.random() < 0.25:
            self._stop()
        elif self.alive() and self.rng.random() < 0.5:
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

    def _stop(self) -> None:
        """Ask it to end; its persister dies before it has closed the log."""
        plan = Plan(self, "persister")
        for point in AT_A_STOP:
            plan.order(point, 1)
        assert self.server.process is not None
        self.server.process.terminate()
        until(lambda: not self.alive(), "a stop", 60)
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
            if found.get("persister") == pid or found.get("query-0") == pid:
                for helper in _children_of(pid):
                    found |= _named(helper)
        return found

    def prod(self, kind: str, point: str) -> None:
        """Ask for what makes such a process, or brings it to the point; one question of a kind at a time."""
        ask = self._question(kind, point)
        asking = self._asking.get(kind)
        if ask is None or (asking is not None and asking.is_alive()):
            return

        def run() -> None:
            with contextlib.suppress(mstore.MstoreError, OSError):
                ask()

        self._asking[kind] = thread = threading.Thread(target=run, daemon=True)
        thread.start()

    def _question(self, kind: str, point: str) -> Callable[[], None] | None:
        if kind == "snapshot":
            return self._ask_for_snapshot
        if self.chores is None:
            return None
        if kind == "archive":
            return self.chores.archive_a_day if point else self.chores.archive
        return {
            ("persister", "free.written"): self.chores.free_fodder,
            ("persister", "protect.written"): self.chores.protect_anew,
            ("archive-reader", ""): self.chores.look_back,
        }.get((kind, point))

    def _ask_for_snapshot(self) -> None:
        with self.server.client(timeout=20) as client:
            client.control("snapshot")

    # --- looking

    def _fail_early(self) -> None:
        faults = [one.fault for one in self.threads if one.fault]
        assert not faults, faults

    def check(self) -> None:
        """Every acknowledged sample; where there is an archive, also those that have left memory."""
        lost: list[str] = []
        with self.server.client(timeout=120) as client:
            if self.setup.archives:
                client.archive()
            for writer in self.writers:
                gone_before_s = 0 if self.setup.archives else writer.gone_before_s()
                compared = writer.compare(client, range(HOSTS), 0, writer.acknowledged, gone_before_s)
                self.tally.n_compared += compared.n
                self.tally.n_gone += compared.n_gone
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
        for thread in self.threads:
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
            for thread in self.threads:
                thread.halt.set()
            for thread in self.threads:
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
        chores = dict(self.chores.done) if self.chores else {}
        columns = {writer.name: writer.acknowledged for writer in self.writers}
        return (
            f"seed {self.seed}, {self.setup.name}: {self.tally.killed.total()} kills"
            f" {dict(sorted(self.tally.killed.items()))},"
            f" not come to {dict(sorted(self.tally.missed.items()))}, {self.tally.n_restarts} restarts, acknowledged"
            f" columns {columns}, {self.tally.n_compared} samples compared, {self.asker.n_looks} looks,"
            f" {self.tally.n_gone} freed or expired, chores {chores},"
            f" {self.subscriber.n_samples if self.subscriber else 0} samples followed"
        )

    def clean_up(self) -> None:
        for asking in self._asking.values():
            asking.join(30)
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
    """`mstore: NAME DIR` as forked processes call themselves, or one of MODULES."""
    if line.startswith(b"mstore: "):
        return {line.split()[1].decode(): pid}
    words = line.decode(errors="replace").split("\0")
    return {name: pid for module, name in MODULES.items() if module in words}


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
