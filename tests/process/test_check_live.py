"""`mstore check` beside a store that is written to: no false alarm, and real damage is found."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import mstore
from mstore.limits import WORKERS_MAX
from mstore.paths import run_dir
from mstore.shm import layout, segment
from mstore.shm.control import Control
from mstore.shm.note import read_note
from tests.stores import Server, until

Serve = Callable[..., Server]


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mstore", "check", "--dir", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_busy_store_is_sound_and_its_damaged_files_are_found_while_it_runs(serve: Serve, now: int) -> None:
    server = serve('default_step = 10\nretention = "0"\n')
    first_s = (now - 100_000) // 10 * 10
    halt, n_written = threading.Event(), [0]

    def write() -> None:
        with mstore.connect(server.directory) as client:
            while not halt.is_set():
                t = first_s + 10 * n_written[0]
                client.write("".join(f"m,cluster=c,hostname=h{i} value={i} {t}\n" for i in range(50)))
                n_written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: n_written[0] > 50, "some samples")
        with server.client() as client:
            client.control("snapshot")
        for _ in range(3):
            done = check(server.directory)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "every rule holds" in done.stdout
            assert "snapshot of block" in done.stdout
        segment = min((server.directory / "wal").glob("*.wal"))
        with open(segment, "r+b") as stream:
            stream.seek(4096 + 70)
            byte = stream.read(1)[0]
            stream.seek(4096 + 70)
            stream.write(bytes([byte ^ 1]))
        done = check(server.directory)
        assert done.returncode == 1
        assert f"WRONG: log: {segment} at 4096" in done.stdout
        assert "nothing while the store runs" in done.stdout
        refused = subprocess.run(
            [sys.executable, "-m", "mstore", "check", "--repair", "--yes", "--dir", str(server.directory)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert refused.returncode == 2
        assert "stop it" in refused.stderr
    finally:
        halt.set()
        writer.join()


def test_a_broken_word_of_the_control_segment_is_told_by_a_check_beside_the_store(serve: Serve) -> None:
    server = serve()
    instance, names = read_note(run_dir(server.directory) / "instance.json")
    with segment.attach(names["control"], layout.SEG_CONTROL, instance, writable=True) as mapping:
        last = Control(mapping).worker(WORKERS_MAX - 1)
        last.set("followers", 3)
        done = check(server.directory)
        last.set("followers", 0)
        del last
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"control: worker slot {WORKERS_MAX - 1} is free, and counts {{'followers': 3}}" in done.stdout
    assert check(server.directory).returncode == 0
