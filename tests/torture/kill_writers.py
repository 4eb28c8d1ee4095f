"""Who goes on while processes are killed: writers that know what was acknowledged, and one that asks."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import mstore
from mstore.errors import NoData, UnknownMetric, UnknownSelector
from tests.stores import read_all

STEP_S = 10
HOSTS = 20
AGO_S = 400_000
"""A writer's first sample is so old; each later one is a step newer."""


def first_s() -> int:
    return (int(time.time()) - AGO_S) // STEP_S * STEP_S


@dataclass
class Compared:
    """Samples that were read back, and those of them that were not as they were acknowledged."""

    n: int = 0
    lost: list[str] = field(default_factory=list)


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
        self._client: mstore.Client | None = None

    def value(self, host: int, tick: int) -> float:
        return float(tick * HOSTS + host) + 0.5

    def metric(self, tick: int) -> str:
        """One that churns has new series for every few columns."""
        return f"m{tick // 4}" if self._churns else "m"

    def run(self) -> None:
        try:
            while not self.halt.is_set():
                if self.send(self.acknowledged):
                    self.acknowledged += 1
                    time.sleep(0.004)
                else:
                    time.sleep(0.02)
        except BaseException as fault:  # shown by the test; a thread's own report would be lost
            self.fault = fault
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _text(self, tick: int) -> str:
        t = self.first_s + tick * STEP_S
        metric = self.metric(tick)
        return "".join(
            f"{metric},cluster={self.name},hostname=h{host} value={self.value(host, tick)} {t}\n"
            for host in range(HOSTS)
        )

    def send(self, tick: int) -> bool:
        """One column; whether it was acknowledged."""
        if self._framed:
            try:
                if self._client is None:
                    self._client = mstore.connect(self._directory, ack=self._ack, timeout=5)
                result = self._client.write(self._text(tick))
            except mstore.MstoreError:
                self._hang_up()
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

    def compare(self, client: mstore.Client, hosts: range, first: int, stop: int) -> Compared:
        """Every value of columns first .. stop - 1 of these hosts, at its time, bit for bit."""
        compared = Compared()
        metrics: dict[str, list[int]] = {}
        for tick in range(first, stop):
            metrics.setdefault(self.metric(tick), []).append(tick)
        for host in hosts:
            for metric, ticks in metrics.items():
                start_s, stop_s = (self.first_s + tick * STEP_S for tick in (ticks[0], ticks[-1] + 1))
                compared.n += len(ticks)
                try:
                    found = client.query(self.name, f"h{host}", metric, start_s, stop_s)
                except (UnknownSelector, UnknownMetric, NoData) as missing:
                    compared.lost += [
                        f"{self.name} h{host} {metric}, tick {tick}: {missing}" for tick in ticks
                    ]
                    continue
                assert isinstance(found, mstore.Series), (self.name, host, metric)
                assert found.step == STEP_S
                at = [(self.first_s + tick * STEP_S - int(found.times[0])) // STEP_S for tick in ticks]
                values = np.array([self.value(host, tick) for tick in ticks], np.float32)
                compared.lost += [
                    f"{self.name} h{host} {metric}, tick {tick} of {stop}"
                    for tick, place, value in zip(ticks, at, values, strict=True)
                    if not 0 <= place < len(found.values) or found.values[place] != value
                ]
        return compared


def exchange(directory: Path, text: str) -> bytes:
    """What a sender without any library does; empty when the connection was closed. raises OSError"""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(directory / "run" / "ingest.sock"))
        sock.sendall(text.encode())
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


class Asker(threading.Thread):
    """Reads back all the time what was acknowledged since its last look, of two hosts: query workers have something to
    die of, and a loss shows soon."""

    def __init__(self, directory: Path, writers: Sequence[Writer], rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._looked = dict.fromkeys(writers, 0)
        self._rng = rng
        self.halt = threading.Event()
        self.n_looks = 0
        self.n_compared = 0
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.halt.is_set():
                with (
                    contextlib.suppress(mstore.MstoreError),
                    mstore.connect(self._directory, timeout=2) as client,
                ):
                    while not self.halt.is_set():
                        self._look(client)
                        time.sleep(0.03)
                time.sleep(0.03)
        except BaseException as fault:  # shown by the test
            self.fault = fault

    def _look(self, client: mstore.Client) -> None:
        host = self._rng.randrange(HOSTS - 1)
        for writer, looked in self._looked.items():
            upto = writer.acknowledged
            if upto > looked:
                compared = writer.compare(client, range(host, host + 2), looked, upto)
                assert not compared.lost, compared.lost[:20]
                self.n_compared += compared.n
                self._looked[writer] = upto
        client.info()
        self.n_looks += 1
