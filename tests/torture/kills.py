"""SIGKILL of every kind of process, at any time and at every named point, while acknowledged writers go on.

    writers   each sends a column after the other, again until it is acknowledged
    killer    chooses a process and how: by its number, now; or at a point (mstore/faults.py), when it comes there
    end       every acknowledged sample is read back and compared; no process is left, and no segment

One unit is one store's life: some rounds of kills, each ended by the death of the supervisor, by which memory
is lost as well, sometimes. A unit has a seed; what it decides is who is killed, where and in which order.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

import mstore
from mstore.shm.segment import name_prefix, stale, unlink
from tests.stores import Server, read_all, until

STEP_S = 10
HOSTS = 20
DEATHS_A_ROUND = {"persister": 2, "ingest-0": 4, "query-0": 4, "snapshot": 5}
"""At most; the supervisor gives a store up whose worker dies more than five times within a minute."""
POINT_S_MAX = 3.0
"""How long a process may take to come to a point; some are not on the way of every round."""

POINTS = {
    "persister": (
        "drain.begin", "drain.written", "drain.applied", "drain.noted", "catalog.written", "intern.made",
        "intern.published", "recovery.read", "persister.opened", "files.fsync", "files.rename", "files.renamed",
        "files.fdatasync", "files.create", "files.unlink",
    ),
    "ingest-0": ("ingest.published", "ingest.asking", "ingest.waiting", "ingest.reply"),
    "query-0": ("query.reply",),
    "snapshot": (
        "files.create", "files.fdatasync", "snapshot.copied", "files.rename", "files.renamed", "files.fsync",
        "files.unlink",
    ),
    "mstore": ("supervisor.handing_out", "supervisor.made", "supervisor.spawned", "supervisor.renewing"),
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


class Writer(threading.Thread):
    """Sends one column of HOSTS samples after another, each again until it is acknowledged."""

    def __init__(
        self,
        directory: Path,
        name: str,
        first_s: int,
        ack: str,
        *,
        framed: bool = False,
        churns: bool = False,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._directory = directory
        self.first_s = first_s
        self._ack = ack
        self._framed = framed
        self._churns = churns
        self.halt = threading.Event()
        self.acknowledged = 0
        """Columns 0 .. acknowledged - 1 are in the store, whatever was killed since."""
        self.fault: BaseException | None = None

    def value(self, host: int, tick: int) -> float:
        return float(tick * HOSTS + host) + 0.5

    def metric(self, tick: int) -> str:
        """One that churns has new series for every few columns."""
        return f"m{tick // 4}" if self._churns else "m"

    def run(self) -> None:
        try:
            while not self.halt.is_set():
                if self._send(self.acknowledged):
                    self.acknowledged += 1
                    time.sleep(0.004)
                else:
                    time.sleep(0.02)
        except BaseException as fault:  # shown by the test; a thread's own report would be lost
            self.fault = fault

    def _text(self, tick: int) -> str:
        t = self.first_s + tick * STEP_S
        metric = self.metric(tick)
        return "".join(
            f"{metric},cluster={self.name},hostname=h{host} value={self.value(host, tick)} {t}\n"
            for host in range(HOSTS)
        )

    def _send(self, tick: int) -> bool:
        if self._framed:
            try:
                with mstore.connect(self._directory, ack=self._ack, timeout=5) as client:
                    result = client.write(self._text(tick))
            except mstore.MstoreError:
                return False
            assert (result.written, result.rejected) == (HOSTS, 0), result
            return True
        try:
            reply = exchange(self._directory, f"# mstore ack={self._ack}\n{self._text(tick)}")
        except OSError:
            return False
        if not reply.startswith(b"written="):
            return False
        assert reply.startswith(f"written={HOSTS} rejected=0 ".encode()), reply
        return True

    def assert_all_there(self, client: mstore.Client) -> None:
        """Every acknowledged value, at its time, bit for bit."""
        n = self.acknowledged
        stop = self.first_s + n * STEP_S
        metrics = sorted({self.metric(tick) for tick in range(n)}, key=lambda metric: int(metric[1:] or 0))
        chosen = metrics if len(metrics) < 50 else [*metrics[:10], *metrics[-10:], *metrics[10:-10:7]]
        for host in range(0, HOSTS, 1 if len(metrics) == 1 else 7):
            for metric in chosen:
                ticks = [tick for tick in range(n) if self.metric(tick) == metric]
                found = client.query(self.name, f"h{host}", metric, self.first_s, stop)
                assert isinstance(found, mstore.Series), (self.name, host, metric)
                assert found.step == STEP_S
                at = [(self.first_s + tick * STEP_S - int(found.times[0])) // STEP_S for tick in ticks]
                values = np.array([self.value(host, tick) for tick in ticks], np.float32)
                lost = [tick for tick, place, value in zip(ticks, at, values, strict=True)
                        if not 0 <= place < len(found.values) or found.values[place] != value]  # fmt: skip
                assert not lost, f"{self.name} h{host} {metric}: ticks {lost[:20]} of {n}"


def exchange(directory: Path, text: str) -> bytes:
    """What a sender without any library does; empty when the connection was closed. raises OSError"""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(directory / "run" / "ingest.sock"))
        sock.sendall(text.encode())
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


class Asker(threading.Thread):
    """Queries all the time: query workers have something to die of."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self.halt = threading.Event()
        self.answers = 0

    def run(self) -> None:
        while not self.halt.is_set():
            with (
                contextlib.suppress(mstore.MstoreError),
                mstore.connect(self._directory, timeout=2) as client,
            ):
                while not self.halt.is_set():
                    client.info()
                    self.answers += 1
                    time.sleep(0.02)
            time.sleep(0.02)


class Run:
    """One store, its writers, and the killer."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.order = directory / "fault"
        config = f'default_step = {STEP_S}\nretention = "0"\ningest_workers = 1\nquery_workers = 1\n'
        self.server = Server(directory, config)
        first_s = (int(time.time()) - 400_000) // STEP_S * STEP_S
        self.writers = [
            Writer(directory, "frames", first_s, "durable", framed=True),
            Writer(directory, "text", first_s, "durable"),
            Writer(directory, "memory", first_s, "memory"),
            Writer(directory, "churn", first_s, "durable", churns=True),
        ]
        self.asker = Asker(directory)
        self.killed: Counter[str] = Counter()
        """By process, or process and point."""
        self.missed: Counter[str] = Counter()
        """Points that nobody came to in time."""
        self.restarts = 0

    # --- the store

    def start(self) -> None:
        """Until it is ready: it may be killed while it starts."""
        with mock.patch.dict(os.environ, MSTORE_FAULT=str(self.order)):
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
                    self.killed["mstore at a start"] += not self._disarm()
                    self.bury()
        raise AssertionError(f"the store does not start; its log says:\n{self.server.log_text()[-4000:]}")

    def bury(self) -> None:
        """The supervisor is dead: so are its children, soon."""
        assert self.server.process is not None
        self.server.process.wait()
        if self.server.process.stdout is not None:
            self.server.process.stdout.close()
        until(lambda: not processes_of(self.server.directory), "the children of a dead supervisor to end")

    def alive(self) -> bool:
        assert self.server.process is not None
        return self.server.process.poll() is None

    def ready(self) -> bool:
        """All workers serve, as they say themselves; False while nobody answers."""
        with contextlib.suppress(mstore.MstoreError), self.server.client(timeout=1) as client:
            info = client.info()
            return info["state"] == "ready" and len(info["workers"]) == 3
        return False

    # --- killing

    def round(self) -> None:
        """Some deaths of workers, then the supervisor's; with or without the memory."""
        kinds = [kind for kind, most in DEATHS_A_ROUND.items() for _ in range(self.rng.randint(1, most))]
        self.rng.shuffle(kinds)
        for kind in kinds:
            if not self.alive():
                break
            if self.rng.random() < 0.5:
                self.kill_now(kind)
            else:
                self.kill_at(kind, self.rng.choice(POINTS[kind]))
            if self.rng.random() < 0.4 and self.alive():
                until(lambda: self.ready() or not self.alive(), "the store to serve again", 60)
            else:
                time.sleep(self.rng.random() * 0.2)
        self.kill_supervisor()
        self.start()

    def kill_supervisor(self) -> None:
        if self.alive() and self.rng.random() < 0.5:
            point = self.rng.choice(POINTS["mstore"])
            if point == "supervisor.renewing":
                self.arm("mstore", point, 1)
                self.kill_now("persister")
                self.wait_hit("mstore", point)
            elif point == "supervisor.handing_out":
                self.arm("mstore", point, self.rng.randint(1, 5))
                self.wait_hit("mstore", point)
        if self.alive():
            assert self.server.process is not None
            self.server.process.kill()
            self.killed["mstore"] += 1
        self.restarts += 1
        self.bury()
        if self.rng.random() < 0.3:
            for name in stale(name_prefix(self.server.directory)):
                unlink(name)
        if self.rng.random() < 0.3:
            self.arm("mstore", self.rng.choice(("supervisor.made", "supervisor.spawned")), 1)

    def kill_now(self, kind: str) -> None:
        """At any moment; a helper that is not there is made."""
        if kind == "snapshot":
            self._ask_for_snapshot()
        with contextlib.suppress(AssertionError):
            until(lambda: self._kill_by_pid(kind) or not self.alive(), kind, 5)

    def _kill_by_pid(self, kind: str) -> bool:
        pid = processes_of(self.server.directory).get(kind)
        if pid is None:
            return False
        if kind == "snapshot":
            time.sleep(self.rng.random() * 0.3)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[kind] += 1
        return True

    def kill_at(self, kind: str, point: str) -> None:
        self.arm(kind, point, self.rng.randint(1, 20) if point in MANY_HITS else 1)
        if kind == "snapshot":
            self._ask_for_snapshot()
        elif kind == "persister" and point in AT_A_START:
            self.kill_now("persister")
        self.wait_hit(kind, point)

    def arm(self, kind: str, point: str, n: int) -> None:
        self._hit.unlink(missing_ok=True)
        whole = self.order.with_name("fault.tmp")
        whole.write_text(f"{kind} {point} {n}")
        whole.rename(self.order)

    @property
    def _hit(self) -> Path:
        return self.order.with_name("fault.hit")

    def wait_hit(self, kind: str, point: str) -> None:
        deadline = time.monotonic() + POINT_S_MAX
        while time.monotonic() < deadline and not self._hit.exists():
            time.sleep(0.005)
        if self._disarm():
            self.missed[f"{kind} {point}"] += 1
        else:
            self.killed[f"{kind} {point}"] += 1

    def _disarm(self) -> bool:
        """Whether the order was still there: nobody came."""
        try:
            self.order.unlink()
        except FileNotFoundError:
            self._hit.unlink(missing_ok=True)
            return False
        return True

    def _ask_for_snapshot(self) -> None:
        def ask() -> None:
            with contextlib.suppress(mstore.MstoreError), self.server.client(timeout=3) as client:
                client.control("snapshot")

        threading.Thread(target=ask, daemon=True).start()

    # --- everything

    def run(self, n_kills: int) -> None:
        self.start()
        threads = [*self.writers, self.asker]
        for thread in threads:
            thread.start()
        try:
            while self.killed.total() < n_kills:
                self.round()
            self._disarm()
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
        assert [writer.fault for writer in self.writers] == [None] * len(self.writers), self.told()
        self.check()
        self.server.kill()
        self.bury()
        for name in stale(name_prefix(self.server.directory)):
            unlink(name)
        self.start()  # once more from the files alone
        self.check()
        assert self.server.stop() == 0
        assert stale(name_prefix(self.server.directory)) == [], self.told()
        assert not processes_of(self.server.directory), self.told()

    def check(self) -> None:
        with self.server.client(timeout=30) as client:
            for writer in self.writers:
                writer.assert_all_there(client)

    def told(self) -> str:
        columns = {writer.name: writer.acknowledged for writer in self.writers}
        return (
            f"seed {self.seed}: {self.killed.total()} kills {dict(sorted(self.killed.items()))},"
            f" not come to {dict(sorted(self.missed.items()))}, {self.restarts} restarts, acknowledged columns"
            f" {columns}, {self.asker.answers} answers"
        )

    def clean_up(self) -> None:
        if self.server.process is not None and self.alive():
            self.server.kill()
            self.bury()
        for name in stale(name_prefix(self.server.directory)):
            unlink(name)


def processes_of(directory: Path) -> dict[str, int]:
    """Pid by name of the workers and helpers of the store in `directory`, also of one whose supervisor is dead."""
    found: dict[str, int] = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if str(directory).encode() not in line or b"mstore.workers." not in line:
                continue
            if path.with_name("stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                continue
            kind = line.split(b"mstore.workers.")[1].split(b"\0")[0].decode()
            name = f"{kind}-0" if kind in ("ingest", "query") else kind
            found[name] = int(path.parent.name)
    return found


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ms-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def torture(first_seed: int, count: int, kills_a_store: int = 200) -> int:
    """Stores one after the other until `count` kills; the exit status."""
    done, began, seed = 0, time.monotonic(), first_seed
    while done < count:
        with short_directory() as directory:
            run = Run(directory, seed)
            try:
                run.run(min(kills_a_store, count - done))
            except AssertionError as failure:
                print(f"VIOLATION {run.told()}: {failure}\n{run.server.log_text()[-8000:]}", flush=True)
                return 1
            finally:
                run.clean_up()
        done += run.killed.total()
        seconds = time.monotonic() - began
        print(run.told(), flush=True)
        print(f"{done} kills, 0 lost; {done / seconds:.2f} kills/s; go on with --seed {seed + 1}", flush=True)
        seed += 1
    return 0
