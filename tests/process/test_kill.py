"""SIGKILL of every kind of process at random moments while acknowledged writers go on: nothing acknowledged is lost.

Writers send again whatever was not acknowledged. In the end every acknowledged sample is read back and compared with
the writers' own record; no process and no segment is left. MSTORE_SEED repeats a run's kills.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import mstore
from mstore.shm.segment import name_prefix, stale
from tests.stores import Server, until

Serve = Callable[..., Server]

ROUNDS = 10
KILLS_PER_ROUND = 5  # of workers; the supervisor's own death ends a round
STEP_S = 10
HOSTS = 40
KINDS = ("ingest", "query", "persister")


class Writer(threading.Thread):
    """Sends one column of HOSTS samples after another, each again until it is acknowledged."""

    def __init__(self, directory: Path, name: str, first_s: int, ack: str, framed: bool) -> None:
        super().__init__(name=name, daemon=True)
        self._directory = directory
        self._first_s = first_s
        self._ack = ack
        self._framed = framed
        self.halt = threading.Event()
        self.acknowledged = 0
        """Columns 0 .. acknowledged - 1 are in the store, whatever was killed since."""
        self.fault: BaseException | None = None

    def value(self, host: int, tick: int) -> float:
        return float(tick * HOSTS + host) + 0.5

    def run(self) -> None:
        try:
            while not self.halt.is_set():
                if self._send(self.acknowledged):
                    self.acknowledged += 1
                else:
                    time.sleep(0.02)
        except BaseException as fault:  # shown by the test; a thread's own report would be lost
            self.fault = fault

    def _text(self, tick: int) -> str:
        t = self._first_s + tick * STEP_S
        return "".join(
            f"m,cluster={self.name},hostname=h{host} value={self.value(host, tick)} {t}\n"
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
        header = f"# mstore ack={self._ack}\n"
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(str(self._directory / "run" / "ingest.sock"))
                sock.sendall((header + self._text(tick)).encode())
                sock.shutdown(socket.SHUT_WR)
                reply = b""
                while piece := sock.recv(4096):
                    reply += piece
        except OSError:
            return False
        if not reply.startswith(b"written="):
            return False
        assert reply.startswith(f"written={HOSTS} rejected=0 ".encode()), reply
        return True


def processes(server: Server) -> dict[str, int]:
    """Pid by kind of the supervisor's children as they are now, also while the store answers nobody."""
    assert server.process is not None
    found: dict[str, int] = {}
    for path in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
        for pid in path.read_text().split():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                found.update({kind: int(pid) for kind in KINDS if f"mstore.workers.{kind}".encode() in line})
    return found


def kill_one(server: Server, kind: str) -> bool:
    """Whether there was one: during a renewal the supervisor itself may have been quicker."""
    pid = processes(server).get(kind)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def kill_some(server: Server, rng: random.Random, killed: dict[str, int]) -> None:
    """A persister dies once a round, at any time: its death ends the others' lives, too."""
    order = ["persister", *rng.choices(("ingest", "query"), k=KILLS_PER_ROUND - 1)]
    rng.shuffle(order)
    for kind in order:
        time.sleep(rng.random() * 0.3)
        until(partial(kill_one, server, kind), f"a process to kill: {kind}")
        killed[kind] += 1


def assert_all_there(server: Server, writer: Writer) -> None:
    expected = np.array(
        [[writer.value(host, t) for t in range(writer.acknowledged)] for host in range(HOSTS)]
    )
    stop = writer._first_s + writer.acknowledged * STEP_S
    with server.client() as client:
        for host in range(HOSTS):
            series = client.query(writer.name, f"h{host}", "m", writer._first_s, stop)
            assert isinstance(series, mstore.Series)
            assert series.step == STEP_S
            lost = np.flatnonzero(series.values != expected[host])
            assert not len(lost), f"{writer.name} h{host}: ticks {lost[:20]} of {writer.acknowledged}"


def test_no_acknowledged_sample_is_lost_whatever_is_killed_and_when(
    serve: Serve, now: int, seed: int
) -> None:
    rng = random.Random(seed)
    server = serve(f'default_step = {STEP_S}\nretention = "0"\n', start=False)
    first_s = (now - 400_000) // STEP_S * STEP_S
    writers = [
        Writer(server.directory, "frames", first_s, "durable", framed=True),
        Writer(server.directory, "text", first_s, "durable", framed=False),
        Writer(server.directory, "memory", first_s, "memory", framed=False),
    ]
    killed = dict.fromkeys((*KINDS, "supervisor"), 0)
    server.start()
    for writer in writers:
        writer.start()
    try:
        for _ in range(ROUNDS):
            kill_some(server, rng, killed)
            time.sleep(rng.random() * 0.25)
            server.kill()
            killed["supervisor"] += 1
            server.start()
        at_last = [writer.acknowledged for writer in writers]
        until(
            lambda: all(w.acknowledged > n or w.fault for w, n in zip(writers, at_last, strict=True)),
            "one more acknowledgement of each writer",
        )
    finally:
        for writer in writers:
            writer.halt.set()
        for writer in writers:
            writer.join(30)
    print(f"kills: {killed}, acknowledged columns: {[writer.acknowledged for writer in writers]}")
    assert [writer.fault for writer in writers] == [None] * len(writers)
    assert sum(killed.values()) == ROUNDS * (KILLS_PER_ROUND + 1)
    for writer in writers:
        assert_all_there(server, writer)
    server.kill()
    server.start()
    for writer in writers:
        assert_all_there(server, writer)
    assert server.stop() == 0
    assert stale(name_prefix(server.directory)) == []
