"""What is looked at before anything is made: the platform, and whether the parent is still there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mstore.cli.main import main
from mstore.workers.process import EXIT_ORPHANED


@pytest.mark.parametrize(
    ("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64"), ("win32", "AMD64")]
)
def test_a_server_elsewhere_than_on_linux_is_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    system: str,
    machine: str,
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    assert main(["serve", "--dir", str(tmp_path / "store")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mstore: the mstore server runs on Linux on x86-64 and aarch64, not on ")
    assert f"{system} {machine}" in line
    assert "the client library works everywhere" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("parent", "status"), [("os.getppid()", 0), ("os.getppid() + 1", EXIT_ORPHANED)])
def test_a_child_whose_parent_ended_before_it_could_watch_it_ends_at_once(parent: str, status: int) -> None:
    code = f"import os; from mstore.workers.process import die_with_parent; die_with_parent({parent})"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == status
