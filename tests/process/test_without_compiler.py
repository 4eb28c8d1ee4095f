"""Building where no C compiler is installed: one line that says which package to install, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = ("setup.py", "build_ext", "--inplace")
PIP = (
    "-m",
    "pip",
    "install",
    "--no-build-isolation",
    "--no-deps",
    "--no-index",
    "--disable-pip-version-check",
)


def python(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """This interpreter in the project's directory, with programs from `path` alone."""
    environment = {name: value for name, value in os.environ.items() if name != "CC"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**environment, "PATH": str(path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["setup.py", "pip"])
def test_a_build_without_a_compiler_says_in_one_line_which_package_to_install(
    tmp_path: Path, how: str
) -> None:
    nothing = tmp_path / "bin"
    nothing.mkdir()
    before = sorted((ROOT / "mstore" / "kernels").iterdir())
    target = tmp_path / "installed"
    done = (
        python(*SETUP, path=nothing)
        if how == "setup.py"
        else python(*PIP, "--target", str(target), ".", path=nothing)
    )
    told = [line.strip() for line in done.stdout.splitlines() if "compiler" in line]
    assert told == [
        "mstore needs a C compiler to build its kernels: install one, e.g. `apt-get install gcc libc6-dev python3-dev`"
    ]
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    if how == "setup.py":
        assert done.stdout.count("\n") == 1, "that line and no other"
    assert sorted((ROOT / "mstore" / "kernels").iterdir()) == before
    assert not target.exists()
