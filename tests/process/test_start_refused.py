"""A start that cannot succeed ends with one clear line and leaves nothing: no right to write, no room in /dev/shm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mstore.shm.segment import name_prefix, stale
from tests.stores import Server, SmallServer

LAUNCHER = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
    sys.exit("cannot give up CAP_DAC_OVERRIDE")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""From here on root, too, is held to the modes of files."""


def serve_without_rights(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LAUNCHER, "-m", "mstore", "serve", "--dir", str(directory)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("which", ["above it", "of its own", "of its log"])
def test_a_directory_without_the_right_to_write_is_one_clear_line(short_dir: Path, which: str) -> None:
    directory = short_dir / "store"
    locked = {"above it": short_dir, "of its own": directory, "of its log": directory / "wal"}[which]
    locked.mkdir(parents=True, exist_ok=True)
    locked.chmod(0o550)
    try:
        done = serve_without_rights(directory)
    finally:
        locked.chmod(0o750)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Permission denied" in done.stderr
    assert str(directory) in done.stderr
    assert "Traceback" not in done.stderr
    assert stale(name_prefix(directory)) == []
    if which != "of its log":  # nothing has run yet that keeps a diary
        (line,) = done.stderr.splitlines()
        assert line.startswith("mstore: cannot use the directory ")
        assert "--dir" in line


def test_a_dev_shm_without_room_for_control_and_rings_is_one_clear_line(short_dir: Path) -> None:
    server = SmallServer(short_dir, 'ring_bytes = "4MiB"\n', 3)
    with pytest.raises(AssertionError) as ended:
        server.start()
    assert server.wait() == 1
    told = str(ended.value)
    assert "/dev/shm" in told
    assert "Traceback" not in told
    assert [line for line in told.splitlines() if line.startswith("mstore: ")], told
    Server(short_dir, 'ring_bytes = "4MiB"\n').start().stop()
