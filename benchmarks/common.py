"""What every end-to-end benchmark needs: a store of its own, and one table of results."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.references import machine

READY_S_MAX = 60.0


@dataclass
class Store:
    """A running store in a temporary directory."""

    directory: Path
    process: subprocess.Popen[str]

    def pids(self) -> list[int]:
        import psutil

        parent = psutil.Process(self.process.pid)
        return [parent.pid, *(child.pid for child in parent.children(recursive=True))]


@contextlib.contextmanager
def store(
    config: str = 'retention = "0"\n', base: Path | None = None, files: Mapping[str, str] | None = None
) -> Iterator[Store]:
    """`mstore serve` on a fresh directory, with these files in it; stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="mstore-bench-", dir=base))
    for name, text in (files or {}).items():
        (directory / name).write_text(text)
    path = directory / "mstore.toml"
    path.write_text(config)
    process = subprocess.Popen(
        [sys.executable, "-m", "mstore", "serve", "--dir", str(directory), "--config", str(path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "MSTORE_LOG": "warning"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("mstore ready"):
            raise RuntimeError(f"the store did not start: {line!r}")
        yield Store(directory, process)
    finally:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Result:
    """One line of the table."""

    name: str
    value: float
    unit: str
    budget: float | None = None
    at_least: bool = True
    reference: str = ""

    @property
    def verdict(self) -> str:
        if self.budget is None:
            return ""
        kept = self.value >= self.budget if self.at_least else self.value <= self.budget
        return "kept" if kept else "MISSED"

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        budget = "" if self.budget is None else f"{sign} {number(self.budget)}"
        return f"{self.name:<52} {number(self.value):>10} {self.unit:<14} {budget:>12} {self.verdict:<7} {self.reference}"


@dataclass
class Report:
    """Prints results as they come, and keeps them for --json."""

    results: list[Result] = field(default_factory=list)

    def add(self, *results: Result) -> None:
        for result in results:
            self.results.append(result)
            print(result.line(), flush=True)

    def missed(self) -> list[Result]:
        return [result for result in self.results if result.verdict == "MISSED"]

    def to_json(self) -> str:
        return json.dumps(
            {"machine": machine(), "results": [vars(result) for result in self.results]}, indent=1
        )


def number(value: float) -> str:
    for scale, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.4g} {suffix}"
    return f"{value:.4g}"
