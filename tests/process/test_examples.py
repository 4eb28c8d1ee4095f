"""examples/: every script and the notebook, run against a served store."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stores import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
Serve = Callable[..., Server]
EXPECTED = {
    "write_lines.py": r"40 written, on disk: True\n1 rejected: \{'bad_value': 1\}\nn04: 10 samples, mean 1\.0\n",
    "write_columns.py": r"1920 samples of 320 series\n(n\d\d \d\d\.\d\d GF/s\n){3}",
    "job_view.py": (
        r"cpu_load   n01  min +90\.\d\d .*\n(.*\n)*mem_bw     n03  no such series\n(.*\n)*cpu_power  n99  no such host\n"
    ),
    "follow.py": r"(example/n01 pulse \d\.0 at \d+\n){5}",
    "attach.py": r"120 written\ncopied: 120 samples, mean 59\.5\nin place: 120 samples, mean 59\.5\n",
    "lustre_rates.py": (
        r"counter  +\[1152921504606846977, 1152921511049297921, 3221225472, 9663676416\]\n"
        r"increase \[6442450944, 3221225472, 6442450944\] B\n"
        r"rate     +\[51\.2, 25\.6, 51\.2\] MiB/s\nin all   15 GiB read\n"
    ),
}


def environment(server: Server, **more: str) -> dict[str, str]:
    return {**os.environ, "MSTORE_DIR": str(server.directory), **more}


def test_every_script_prints_what_it_says(serve: Serve) -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(EXPECTED)
    server = serve()
    for name, expected in EXPECTED.items():
        command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
        done = subprocess.run(
            command, env=environment(server), capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), name
        assert re.fullmatch(expected, done.stdout), (name, done.stdout)


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert all(f"]({path.name})" in text for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads((EXAMPLES / "job_view.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_the_notebook_runs_and_shows_tables_and_a_picture(serve: Serve, tmp_path: Path) -> None:
    for name in ("nbclient", "ipykernel", "matplotlib", "pandas"):
        pytest.importorskip(name)
    server = serve()
    program = (
        "import sys, nbformat, nbclient\n"
        "notebook = nbformat.read(sys.argv[1], 4)\n"
        "nbclient.NotebookClient(notebook, timeout=200, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, sys.argv[2])\n"
    )
    homes = {name: str(tmp_path / name) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLES / "job_view.ipynb"), str(tmp_path / "done.ipynb")],
        env=environment(server, **homes, PYTHONWARNINGS="ignore"), capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = [output for cell in _cells(tmp_path / "done.ipynb") for output in cell["outputs"]]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert "image/png" in kinds
    assert kinds.count("text/html") >= 2  # the table of statistics, and a series
    text = json.dumps(shown)
    assert "JobData of notebook: 3" in text
    assert "below the mean" in text


def _cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
