"""What is looked at before anything is made: the platform, and whether the parent is still there."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mstore.cli.main import main
from mstore.errors import MstoreError
from mstore.workers import scarce
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


@pytest.mark.parametrize(
    ("which", "uid", "line"),
    [
        (resource.RLIMIT_NOFILE, 0, "too few open files: the limit is 40, and 2 ingest and 3 query workers need 76"),
        (resource.RLIMIT_NPROC, 1000, "too many processes and threads: the limit for all of this user is 40"),
        (resource.RLIMIT_NPROC, 0, ""),
    ],
)  # fmt: skip
def test_too_low_a_limit_is_refused_in_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, which: int, uid: int, line: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(resource, "getrlimit", lambda one: (40, 40) if one == which else (4096, 4096))
    n_ingest = 2 if which == resource.RLIMIT_NOFILE else 40
    if not line:
        scarce.refuse_too_few(n_ingest, 3)  # nobody asks root for it
        return
    with pytest.raises(MstoreError, match=rf"^{line}.*raise it \(ulimit -.*$"):
        scarce.refuse_too_few(n_ingest, 3)


def test_errors_of_the_system_are_told_as_the_limit_they_come_from() -> None:
    assert "ulimit -n" in scarce.told(OSError(errno.EMFILE, "Too many open files"))
    assert "ulimit -u" in scarce.told(RuntimeError("can't start new thread"))
    assert scarce.told(BlockingIOError(errno.EAGAIN, "try again")) == "", "a socket's, mostly"
    assert "ulimit -u" in scarce.told_of_start(BlockingIOError(errno.EAGAIN, "try again"))
    assert scarce.told_of_start(OSError("the order was cut short")) == "the order was cut short"
