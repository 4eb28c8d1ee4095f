"""The demo's parts, with stand-ins for the store's process and client."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import mstore
from mstore import config
from mstore.cli import demo
from mstore.cli import main as cli
from mstore.client.results import WriteResult
from mstore.errors import InvariantBroken, Unavailable
from mstore.frames import Series


class FakeStore:
    """Counts lines; answers every query with a sine."""

    def __init__(self) -> None:
        self.n_lines = 0

    def __enter__(self) -> FakeStore:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def write(self, lines: bytes) -> WriteResult:
        n = lines.count(b"\n")
        self.n_lines += n
        return WriteResult(n)

    def children(self, *path: str) -> list[str]:
        assert path == ("demo",)
        return ["n10", "n9"]

    def query(self, cluster: str, host: str, metric: str, start: int, end: int) -> Series:
        values = (np.sin(np.arange(float(end - start)) / 100) * 90 + 200).astype(np.float32)
        return Series(values, start, 1, unit="W", cluster=cluster, host=host, metric=metric)


READY = "print('mstore ready X', flush=True); time.sleep(60)"


def spawn(code: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        command = [sys.executable, "-c", f"import signal, time; {code}"]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


class FakeDemoStore:
    directory = Path("/tmp/mstore-demo-x")
    started_s = 0.25
    life: ClassVar[list[str]] = []

    def crash(self) -> None:
        self.life.append("crash")

    def start(self) -> None:
        self.life.append("start")


def test_the_demo_shows_six_steps_a_table_and_a_plot_within_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeStore()

    @contextmanager
    def temporary_store() -> Iterator[FakeDemoStore]:
        yield FakeDemoStore()

    monkeypatch.setattr(demo, "temporary_store", temporary_store)
    monkeypatch.setattr(mstore, "connect", lambda directory: fake)
    monkeypatch.setattr(mstore, "attach", lambda directory: fake)
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["demo", "--span", "2m", "--live", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in lines if line[:3].strip().isdigit()] == [f" {n} " for n in range(1, 7)]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("    n")] == ["n9", "n10"]
    assert any("┤" in line for line in lines)
    assert fake.n_lines > 614
    assert FakeDemoStore.life == ["crash", "start"]


def test_the_demo_does_not_pass_over_answers_that_differ() -> None:
    one = FakeStore().query("demo", "n9", "cpu_power", 0, 100)
    other = FakeStore().query("demo", "n9", "cpu_power", 0, 100)
    demo.check_equal([one], [other])
    other.values[50] += 1
    with pytest.raises(InvariantBroken, match="n9"):
        demo.check_equal([one], [other])


@pytest.mark.parametrize(
    ("found", "called", "shown"),
    [
        ("/usr/bin/mstore", "/usr/bin/mstore", "mstore"),
        (None, ".venv/bin/mstore", ".venv/bin/mstore"),
        (None, "/x/mstore/__main__.py", "python -m mstore"),
    ],
)
def test_the_demo_ends_with_commands_that_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, found: str | None, called: str, shown: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: found)
    monkeypatch.setattr(sys, "argv", [called, "demo"])
    assert demo.called_as() == shown


def test_the_demos_store_gets_the_builtin_clusters_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    found: list[config.Config] = []

    class FakePopen:
        returncode = 0

        def __init__(self, command: list[str], **options: Any) -> None:
            commands.append(command)
            found.append(config.load(command[command.index("--config") + 1]))
            options["stdout"].write(b"mstore ready\nmstore ready somewhere\n")

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", FakePopen)
    with demo.temporary_store() as store:
        assert store.directory.is_dir()
        assert store.started_s >= 0
    assert not store.directory.exists()
    assert commands[0][1:5] == ["-P", "-m", "mstore", "serve"]
    spec = found[0].metric("demo", "cpu_power")
    assert spec is not None
    assert (spec.step_s, spec.unit) == (1, "W")


def test_a_store_that_says_ready_is_waited_for(tmp_path: Path) -> None:
    process = spawn(f"print('starting'); time.sleep(.1); {READY}", tmp_path / "log")
    try:
        demo.wait_ready(process, tmp_path / "log", 30)
        assert process.poll() is None
    finally:
        demo.stop(process)
    assert process.returncode is not None


def test_a_store_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    process = spawn("print('hello'); print('mstore: no room\\n'); raise SystemExit(3)", tmp_path / "log")
    with pytest.raises(Unavailable, match=r"\(status 3\): mstore: no room$"):
        demo.wait_ready(process, tmp_path / "log", 30)
    assert process.returncode == 3


def test_a_store_that_never_gets_ready_is_not_waited_for_forever(tmp_path: Path) -> None:
    process = spawn("time.sleep(60)", tmp_path / "log")
    try:
        with pytest.raises(Unavailable, match="not ready within 0 s"):
            demo.wait_ready(process, tmp_path / "log", 0.1)
    finally:
        demo.stop(process)
    assert process.returncode is not None


def test_a_store_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    process = spawn(f"signal.signal(15, signal.SIG_IGN); {READY}", tmp_path / "log")
    demo.wait_ready(process, tmp_path / "log", 30)
    demo.stop(process, 0.2)
    assert process.returncode == -9
