"""What goes on in a store beside writing and asking: freeing, protecting, archiving, backups, a subscriber."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import mstore
from mstore.workers.backup import backup
from tests.torture.kill_setups import PROTECTED, Setup
from tests.torture.kill_writers import HOSTS, STEP_S, Writer

PATIENCE_S = 20.0
FODDER_HOSTS = 8
FODDER_DAYS = 40
"""Samples that nobody compares lie so far back, on the days before those of the writers."""
DAY_S = 86_400


class Chores(threading.Thread):
    """Gives one order after the other; what fails because somebody was killed is not done.

    Its random numbers are its own: how often it gets its turn must not change who is killed.
    """

    def __init__(self, directory: Path, setup: Setup, writers: Sequence[Writer], rng: random.Random) -> None:
        super().__init__(name="chores", daemon=True)
        self._directory = directory
        self._setup = setup
        self._writers = {writer.name: writer for writer in writers}
        self._rng = rng
        self.halt = threading.Event()
        self.copying = threading.Lock()
        """Held by a backup: of a store that is down it holds DIR/lock, and a start would be refused."""
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.fault: BaseException | None = None
        self.protect_by_file()

    def run(self) -> None:
        orders = [self.free, self.protect, self.protect_by_file, self.reload, self.back_up]
        if self._setup.archives:
            orders += [self.archive, self.look_back]
        try:
            while not self.halt.wait(self._rng.random()):
                order = self._rng.choice(orders)
                try:
                    order()
                    self.done[order.__name__] += 1
                except (mstore.MstoreError, OSError) as failure:
                    self.failed[f"{order.__name__}: {failure}"[:100]] += 1
        except BaseException as fault:  # shown by the test
            self.fault = fault

    def _client(self) -> mstore.Client:
        return mstore.connect(self._directory, timeout=PATIENCE_S)

    # --- orders

    def free(self) -> None:
        """The older half of what was acknowledged in one cluster."""
        writer = self._writers["freed"]
        before_s = writer.time_s(writer.acknowledged // 2)
        writer.freed_before_s = max(before_s, writer.freed_before_s)
        with self._client() as client:
            client.free("freed", before_s)

    def free_fodder(self) -> None:
        """Something that can be freed, and then is: a free of nothing passes no point."""
        with self._client() as client:
            now_s = self._write_fodder(client)
            client.free("fodder", now_s + DAY_S)

    def protect(self) -> None:
        name, hosts = self._rng.choice([*self._writers]), [f"h{host}" for host in range(HOSTS)]
        until = self._rng.choice(("clear", None))
        with self._client() as client:
            client.protect(name, self._rng.sample(hosts, 3), until)

    def protect_anew(self) -> None:
        """Hosts that nobody has named yet, so that there is something to log."""
        with self._client() as client:
            client.protect("nobody", [f"x{self._rng.getrandbits(40)}"])

    def protect_by_file(self) -> None:
        path = self._directory / PROTECTED
        whole = path.with_suffix(".tmp")
        hosts = self._rng.sample([f"h{host}" for host in range(HOSTS)], 4)
        whole.write_text(json.dumps({self._rng.choice([*self._writers]): hosts}))
        whole.rename(path)

    def reload(self) -> None:
        with self._client() as client:
            client.control("reload")

    def back_up(self) -> None:
        """Beside the store, as an operator does it."""
        target = self._directory.with_name(f"{self._directory.name}-backup")
        try:
            with self.copying:
                backup(self._directory, target)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def archive(self) -> None:
        with self._client() as client:
            client.archive(delete=self._rng.random() < 0.3)

    def archive_a_day(self) -> None:
        """A day of much that nobody needs: after a few times the archive has more than it may, and the oldest go."""
        with self._client() as client:
            self._write_fodder(client)
            client.archive(["fodder"], delete=True)

    def look_back(self) -> None:
        """As far as only the archive reaches."""
        writer = self._writers[self._rng.choice([*self._writers])]
        with self._client() as client:
            writer.compare(client, range(1), 0, writer.acknowledged, gone_before_s=1 << 40)

    def _write_fodder(self, client: mstore.Client) -> int:
        """A day's samples of a few hosts; the time of the first."""
        day_s = (int(time.time()) // DAY_S - 10 - self._rng.randrange(FODDER_DAYS)) * DAY_S
        times = np.arange(day_s, day_s + DAY_S, STEP_S)
        with contextlib.closing(client.writer()) as writer:
            hosts = [("fodder", f"x{host}", "fodder") for host in range(FODDER_HOSTS)]
            handles = writer.open(hosts, mstore.MetricSpec("fodder", STEP_S, type="f64"))
            values = np.random.default_rng(self._rng.getrandbits(32)).normal(size=(len(times), len(hosts)))
            writer.write(handles, times, values)
            writer.flush()
        return day_s


class Subscriber(threading.Thread):
    """Follows one writer: what it is told is what was written, whatever died meanwhile."""

    def __init__(self, directory: Path, writer: Writer) -> None:
        super().__init__(name="subscriber", daemon=True)
        self._directory = directory
        self._writer = writer
        self.halt = threading.Event()
        self.n_samples = 0
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.halt.wait(0.1):
                with (
                    contextlib.suppress(mstore.MstoreError),
                    mstore.connect(self._directory, timeout=5) as client,
                    client.follow(self._writer.name, "m") as follow,
                ):
                    while not self.halt.is_set():
                        self._look(follow.next(0.5))
        except BaseException as fault:  # shown by the test
            self.fault = fault

    def _look(self, batch: mstore.client.following.FollowBatch | None) -> None:
        for series, times_ms, values in batch.runs() if batch is not None else ():
            host = int(series.path.rpartition("/h")[2])
            ticks = (times_ms // 1000 - self._writer.first_s) // self._writer.step_s
            right = [self._writer.value(host, int(tick)) for tick in ticks]
            assert values.tolist() == right, (series.path, ticks.tolist(), values.tolist())
            self.n_samples += len(values)
