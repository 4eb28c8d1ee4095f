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
from numpy.typing import NDArray

import mstore
from mstore.errors import ArchiveError, NoData, UnknownMetric, UnknownSelector
from tests.stores import read_all

STEP_S = 10
HOSTS = 20
OTHER = 0.25
"""So much larger are values that are overwritten."""
AGO_S = 400_000
"""A writer's first sample is so old; each later one is a step newer."""


def first_s() -> int:
    return (int(time.time()) - AGO_S) // STEP_S * STEP_S


@dataclass
class Compared:
    """Samples that were read back, and those of them that were not as they were acknowledged."""

    n: int = 0
    lost: list[str] = field(default_factory=list)
    n_gone: int = 0
    """Not there, as they may be: freed, or expired."""


class Writer(threading.Thread):
    """Sends one column of HOSTS samples after another, each again until it is acknowledged.

    churns       new series for every few columns
    overwrites   before a column another one of other values, to the same slots; the worker may be another one
    anchor       this column is sent first, before all older ones: with it a chunk begins, so theirs ends there
    retention_s  what the store keeps of this writer's cluster; 0 = everything
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        first_s: int,
        ack: str,
        *,
        framed: bool = False,
        churns: bool = False,
        overwrites: bool = False,
        anchor: int = 0,
        step_s: int = STEP_S,
        retention_s: int = 0,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._directory = directory
        self.first_s = first_s
        self._ack = ack
        self._framed = framed
        self._churns = churns
        self._overwrites = overwrites
        self._anchor = anchor
        self._doubtful: set[int] = set()
        """Columns whose other values were not acknowledged: they may come late, and win."""
        self.step_s = step_s
        self.retention_s = retention_s
        self.freed_before_s = 0
        """An order to free what is older was given, at least."""
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
            while self._anchor and not self.halt.is_set() and not self.send(self._anchor):
                time.sleep(0.02)
            while not self.halt.is_set():
                if self._overwrites and not self.send(self.acknowledged, OTHER):
                    self._doubtful.add(self.acknowledged)
                if self.send(self.acknowledged):
                    self.acknowledged += 1
                    time.sleep(0.004)
                else:
                    time.sleep(0.02)
        except BaseException as fault:  # shown by the test; a thread's own report would be lost
            self.fault = fault
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def time_s(self, tick: int) -> int:
        return self.first_s + tick * self.step_s

    def gone_before_s(self) -> int:
        """What is older may have left memory: it was freed by order, or has expired."""
        expired_s = int(time.time()) + 1 - self.retention_s if self.retention_s else 0
        return max(self.freed_before_s, expired_s)

    def _text(self, tick: int, more: float) -> str:
        metric = self.metric(tick)
        return "".join(
            f"{metric},cluster={self.name},hostname=h{host} value={self.value(host, tick) + more}"
            f" {self.time_s(tick)}\n"
            for host in range(HOSTS)
        )

    def send(self, tick: int, more: float = 0.0) -> bool:
        """One column, its values larger by `more`; whether it was acknowledged."""
        if self._framed:
            try:
                if self._client is None:
                    self._client = mstore.connect(self._directory, ack=self._ack, timeout=5)
                result = self._client.write(self._text(tick, more))
            except mstore.MstoreError:
                self.hang_up()
                return False
            assert (result.written, result.rejected) == (HOSTS, 0), result
            return True
        try:
            reply = exchange(self._directory, f"# mstore ack={self._ack}\n{self._text(tick, more)}")
        except OSError:
            return False
        if not reply.startswith(b"written="):
            return False
        assert reply.startswith(f"written={HOSTS} rejected=0 ".encode()), reply
        return True

    def compare(
        self, client: mstore.Client, hosts: range, first: int, stop: int, gone_before_s: int = 0
    ) -> Compared:
        """Every value of columns first .. stop - 1 of these hosts, at its time, bit for bit.

        gone_before_s  samples before that may be missing; no other value may be in their place
        raises         ArchiveError when a part of the answer could not be read
        """
        compared = Compared()
        metrics: dict[str, list[int]] = {}
        for tick in range(first, stop):
            metrics.setdefault(self.metric(tick), []).append(tick)
        for host in hosts:
            for metric, ticks in metrics.items():
                compared.n += len(ticks)
                found, why = self._found(client, host, metric, ticks)
                for tick, value in zip(ticks, found.tolist(), strict=True):
                    if self._is_right(host, tick, value):
                        continue
                    if np.isnan(value) and self.time_s(tick) < gone_before_s:
                        compared.n_gone += 1
                    else:
                        compared.lost.append(
                            f"{self.name} h{host} {metric}, tick {tick} of {stop}: {value} {why}"
                        )
        return compared

    def _is_right(self, host: int, tick: int, value: float) -> bool:
        right = self.value(host, tick)
        return value == right or (tick in self._doubtful and value == right + OTHER)

    def _found(
        self, client: mstore.Client, host: int, metric: str, ticks: Sequence[int]
    ) -> tuple[NDArray[np.float64], str]:
        """float64[len(ticks)], NaN where nothing is; and why not."""
        values = np.full(len(ticks), np.nan)
        start_s, stop_s = self.time_s(ticks[0]), self.time_s(ticks[-1] + 1)
        try:
            found = client.query(self.name, f"h{host}", metric, start_s, stop_s)
        except (UnknownSelector, UnknownMetric, NoData) as missing:
            return values, str(missing)
        assert isinstance(found, mstore.Series), (self.name, host, metric)
        if "archive" in found.why:
            raise ArchiveError(found.why)
        if not len(found.times):
            return values, "no slots"
        assert found.step == self.step_s
        at = (np.array([self.time_s(tick) for tick in ticks]) - int(found.times[0])) // self.step_s
        there = (at >= 0) & (at < len(found.values))
        values[there] = found.values[at[there]]
        return values, ""


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

    def __init__(
        self, directory: Path, writers: Sequence[Writer], rng: random.Random, patience_s: float
    ) -> None:
        super().__init__(daemon=True)
        self._patience_s = patience_s
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
                    mstore.connect(self._directory, timeout=self._patience_s) as client,
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
                gone_before_s = writer.gone_before_s()
                compared = writer.compare(client, range(host, host + 2), looked, upto, gone_before_s)
                assert not compared.lost, compared.lost[:20]
                self.n_compared += compared.n
                self._looked[writer] = upto
        client.info()
        self.n_looks += 1
