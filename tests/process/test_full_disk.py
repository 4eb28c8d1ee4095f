"""A store on a disk of its own that is really full: a small tmpfs, mounted for the test.

Where the tests may not mount (no root), the same story is told to the simulated disk of tests/torture, which refuses
allocations instead; the last lines of the test run say which of the two it was.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import mstore
from mstore.limits import MIB, WAL_SEGMENT_BYTES
from mstore.shm.segment import name_prefix, stale, unlink
from tests.stores import Server, until
from tests.torture.faults import held_back_until_there_is_room

N_SERIES = 20_000
STEP_S = 10
ROOM_FOR_ONE_SEGMENT = WAL_SEGMENT_BYTES + 8 * MIB
ROOM_FOR_SEVERAL = 4 * WAL_SEGMENT_BYTES


class SmallDisk:
    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, n_bytes: int) -> None:
        self._mount("remount", n_bytes)

    def _mount(self, how: str, n_bytes: int) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"{how},size={n_bytes}", "tmpfs", str(self.path)]
        subprocess.run(command, check=True, capture_output=True)

    def mount(self, n_bytes: int) -> str:
        """Why it cannot be; empty when it is."""
        try:
            self._mount("rw", n_bytes)
        except (OSError, subprocess.CalledProcessError) as error:
            return str(error)
        return ""

    def fill(self) -> None:
        """To the last byte."""
        with open(self.path / "ballast", "ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=False, capture_output=True)


@pytest.fixture
def small_disk(short_dir: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(short_dir)
    yield disk
    disk.unmount()


class Columns(threading.Thread):
    """Writes one column after the other until told to stop; the store may hold it back as long as it likes."""

    def __init__(self, directory: Path, first_s: int) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._first_s = first_s
        self.halt = threading.Event()
        self.acknowledged = 0
        self.fault: BaseException | None = None

    def column(self, tick: int) -> np.ndarray:
        return np.arange(N_SERIES, dtype=np.float32) + tick

    def run(self) -> None:
        try:
            while not self.halt.is_set():
                try:
                    self._send()
                except mstore.MstoreError:
                    time.sleep(0.05)
        except BaseException as fault:
            self.fault = fault

    def _send(self) -> None:
        """Everything not acknowledged is sent again: same slot, same value."""
        with mstore.connect(self._directory, timeout=10) as client, client.writer(window=1) as writer:
            handles = writer.open([mstore.SeriesPath("c", f"h{i}", "m") for i in range(N_SERIES)])
            while not self.halt.is_set():
                tick = self.acknowledged
                writer.write(handles, [self._first_s + tick * STEP_S], self.column(tick)[None, :])
                writer.flush()
                self.acknowledged = tick + 1


def assert_all_there(server: Server, columns: Columns, first_s: int) -> None:
    n = columns.acknowledged
    with server.client(timeout=30) as client:
        for host in (0, 1, N_SERIES // 2, N_SERIES - 1):
            found = client.query("c", f"h{host}", "m", first_s, first_s + n * STEP_S)
            assert isinstance(found, mstore.Series)
            expected = np.arange(n, dtype=np.float32) + host
            assert np.array_equal(found.values[:n], expected), f"h{host} of {n} columns"


def test_a_full_disk_holds_senders_back_and_loses_nothing_and_room_is_found_by_itself(
    small_disk: SmallDisk, tmp_path: Path, now: int, seed: int, say: Callable[[str], None]
) -> None:
    refused = small_disk.mount(ROOM_FOR_ONE_SEGMENT)
    say(
        f"full disk: simulated, nothing may be mounted here: {refused}"
        if refused
        else "full disk: a real tmpfs"
    )
    if refused:
        assert held_back_until_there_is_room(seed) > 0
        return
    first_s = (now - 200_000) // STEP_S * STEP_S
    config = f'default_step = {STEP_S}\nretention = "0"\ningest_workers = 1\nquery_workers = 1\n'
    server = Server(small_disk.path, config)
    server.log = tmp_path / "server.log"
    columns = Columns(small_disk.path, first_s)
    try:
        server.start()
        columns.start()
        until(lambda: server.info()["degraded"], "a log that has no room", 120)
        held_at = columns.acknowledged
        assert held_at * N_SERIES * 4 > WAL_SEGMENT_BYTES // 2, "the segment had room"
        time.sleep(0.5)
        assert columns.acknowledged <= held_at + 1, "nothing is acknowledged on a full disk"
        assert_all_there(server, columns, first_s)

        for memory_is_lost in (False, True):
            server.kill()
            if memory_is_lost:
                for name in stale(name_prefix(small_disk.path)):
                    unlink(name)
                small_disk.fill()
            server.start()
            assert server.info()["degraded"], "it starts, and says that it cannot write"
            assert_all_there(server, columns, first_s)
            n_spares = len(list((small_disk.path / "wal").glob("*.spare")))
            assert n_spares == 0, "half-made spare segments are no use to anybody"

        before = columns.acknowledged
        small_disk.resize(ROOM_FOR_SEVERAL)
        until(lambda: columns.acknowledged > before + 3 or columns.fault, "writing to go on by itself", 60)
        assert not server.info()["degraded"]
    finally:
        columns.halt.set()
        columns.join(60)
        if server.process is not None and server.process.poll() is None:
            assert columns.fault is None
            assert_all_there(server, columns, first_s)
            server.stop()
        print(server.log_text()[-3000:])
    server.start()
    assert_all_there(server, columns, first_s)
    assert server.stop() == 0
