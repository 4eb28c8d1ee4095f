"""Stores that people use, run for a comparison: VictoriaMetrics and InfluxDB 1, each a process over a directory of its own.

Both take the same lines over HTTP, as bodies that were made beforehand, on as many connections as suit them. They listen
on loopback alone, and are ended when the comparison is. What an acknowledgement means differs: VictoriaMetrics' means that
the lines are in its memory, InfluxDB's that they are in its log, fsynced.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import CLUSTER, METRIC

READY_S_MAX = 60.0
END_S_MAX = 60.0
REPLY_S_MAX = 300.0

Samples: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Unix seconds, values: of one series, by time."""


class Measured(Protocol):
    """A running store, as the comparison uses it."""

    name: str

    def write(self, bodies: Sequence[bytes]) -> float:
        """Seconds until all lines are acknowledged. raises AssertionError when any was refused"""
        ...

    def settle(self) -> None:
        """Return when what was acknowledged is visible."""
        ...

    def samples(self, host: str, thread: int, start: int, end: int) -> Samples:
        """Those of one series in [start, end)."""
        ...

    def memory_bytes(self) -> int:
        """Of all its processes, what they share counted once."""
        ...


def private_bytes(rollup: str) -> int:
    """Of the text of a /proc/PID/smaps_rollup: the process's proportional share of all that is not shared memory."""
    wanted = ("Pss_Anon:", "Pss_File:")
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(wanted)) * 1024


def process_bytes(pids: Sequence[int]) -> int:
    return sum(private_bytes(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in pids)


# --- one process, spoken to over HTTP


class HttpStore:
    """A program that answers on a port of 127.0.0.1.

    n_streams   connections that bodies are sent on
    write_path  where they are posted to
    """

    name: str
    n_streams: int
    write_path: str

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self._directory = directory
        self._process = process
        self._port = port
        self._asking = self._connection()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=REPLY_S_MAX)

    def get(self, path: str, **query: object) -> bytes:
        """The body of the answer. raises AssertionError with what the store says when it is none"""
        self._asking.request("GET", f"{path}?{urlencode(query, quote_via=quote)}")
        return answered(self._asking)

    def await_ready(self, path: str) -> None:
        until_s = time.monotonic() + READY_S_MAX
        while True:
            try:
                self.get(path)
                return
            except OSError as error:
                self._asking.close()
                if self._process.poll() is not None or time.monotonic() > until_s:
                    log = (self._directory / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{self.name} does not answer ({error}); it says:\n{log}") from error
                time.sleep(0.05)

    def write(self, bodies: Sequence[bytes]) -> float:
        """As Measured.write(): every stream takes the next body as soon as its last one is acknowledged."""
        left, lock, failed = iter(bodies), threading.Lock(), list[BaseException]()

        def stream() -> None:
            connection = self._connection()
            try:
                while not failed:
                    with lock:
                        body = next(left, None)
                    if body is None:
                        return
                    connection.request("POST", self.write_path, body)
                    answered(connection)
            except BaseException as error:
                failed.append(error)
            finally:
                connection.close()

        streams = [threading.Thread(target=stream) for _ in range(self.n_streams)]
        began_s = time.perf_counter()
        for one in streams:
            one.start()
        for one in streams:
            one.join()
        took_s = time.perf_counter() - began_s
        if failed:
            raise failed[0]
        return took_s

    def settle(self) -> None:
        return

    def memory_bytes(self) -> int:
        return process_bytes([self._process.pid])

    def close(self) -> None:
        self._asking.close()


def answered(connection: http.client.HTTPConnection) -> bytes:
    """The body of the next answer, which must be a good one."""
    response = connection.getresponse()
    body = response.read()
    if response.status >= 300:
        raise AssertionError(f"status {response.status}: {body[:300].decode(errors='replace')}")
    return body


class VictoriaMetrics(HttpStore):
    name = "VictoriaMetrics"
    n_streams = 4
    write_path = "/write?precision=s"

    def settle(self) -> None:
        self.get("/internal/force_flush")

    def samples(self, host: str, thread: int, start: int, end: int) -> Samples:
        """By /api/v1/export: raw samples, nothing interpolated."""
        match = (
            f'{METRIC}_value{{cluster="{CLUSTER}",hostname="{host}",type="hwthread",type\\-id="{thread}"}}'
        )
        return exported(self.get("/api/v1/export", **{"match[]": match, "start": start, "end": end - 1}))


def exported(body: bytes) -> Samples:
    """What VictoriaMetrics' /api/v1/export answers about one series: a line of JSON for each block of samples."""
    blocks = [json.loads(line) for line in body.splitlines()]
    times_ms = np.array([stamp for block in blocks for stamp in block["timestamps"]], np.int64)
    values = np.array([value for block in blocks for value in block["values"]], np.float64)
    order = np.argsort(times_ms, kind="stable")
    return times_ms[order] // 1000, values[order]


class InfluxDB(HttpStore):
    name = "InfluxDB"
    n_streams = 2
    write_path = "/write?db=bench&precision=s"

    def create(self) -> None:
        connection = self._connection()
        connection.request("POST", f"/query?q={quote('CREATE DATABASE bench')}")
        answered(connection)
        connection.close()

    def samples(self, host: str, thread: int, start: int, end: int) -> Samples:
        question = (
            f"SELECT value FROM {METRIC} WHERE cluster='{CLUSTER}' AND hostname='{host}' AND type='hwthread' "
            f"AND \"type-id\"='{thread}' AND time>={start}s AND time<{end}s"
        )
        return selected(self.get("/query", db="bench", epoch="s", q=question))


def selected(body: bytes) -> Samples:
    """What InfluxDB's /query answers to one SELECT of one series."""
    (result,) = json.loads(body)["results"]
    if "error" in result:
        raise AssertionError(result["error"])
    rows = [row for series in result.get("series", []) for row in series["values"]]
    return np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float64)


INFLUXDB_CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc_port}"
[meta]
dir = "{directory}/meta"
[data]
dir = "{directory}/data"
wal-dir = "{directory}/wal"
query-log-enabled = false
[retention]
enabled = false
[shard-precreation]
enabled = false
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
pprof-enabled = false
[ifql]
enabled = false
[logging]
level = "error"
[subscriber]
enabled = false
[continuous_queries]
enabled = false
"""
"""What is not named here is the package's default: every write is fsynced, the index is in memory, nothing else listens."""


# --- starting and ending them


@contextlib.contextmanager
def victoria_metrics(program: str) -> Iterator[VictoriaMetrics]:
    with _directory() as directory:
        (port,) = free_ports(1)
        command = [
            program, f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={directory}/data",
            "-retentionPeriod=12", "-loggerLevel=ERROR",
        ]  # fmt: skip
        with _running(directory, command) as process:
            running = VictoriaMetrics(directory, process, port)
            running.await_ready("/health")
            with contextlib.closing(running):
                yield running


@contextlib.contextmanager
def influxdb(program: str) -> Iterator[InfluxDB]:
    with _directory() as directory:
        port, rpc_port = free_ports(2)
        config = directory / "influxdb.conf"
        config.write_text(INFLUXDB_CONFIG.format(directory=directory, port=port, rpc_port=rpc_port))
        with _running(directory, [program, "run", "-config", str(config)]) as process:
            running = InfluxDB(directory, process, port)
            running.await_ready("/ping")
            running.create()
            with contextlib.closing(running):
                yield running


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="mstore-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _running(directory: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The program, with its words in a file; ended afterwards."""
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(n: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
