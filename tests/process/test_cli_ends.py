"""How commands end that are interrupted, or whose standard input, output or error is closed, full or not read."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stores import Server, until

Serve = Callable[..., Server]
Start = Callable[..., "subprocess.Popen[str]"]
MSTORE = f"{sys.executable} -m mstore"
ENDLESS = ("simulate", "--text", "--rate", "real")


def shell(
    command: str, directory: Path | str = "/nowhere", unbuffered: str = ""
) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `mstore` is the command; it may never show a traceback."""
    environment = {**os.environ, "MSTORE_DIR": str(directory), "PYTHONUNBUFFERED": unbuffered}
    line = f'mstore() {{ {MSTORE} "$@"; }}; {command}'
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done


@pytest.fixture
def start() -> Iterator[Start]:
    """start(*argv, directory=...) -> a running command, which ends with the test at the latest."""
    processes = []

    def run(*argv: str, directory: Path | str = "/nowhere") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "mstore", *argv],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "MSTORE_DIR": str(directory), "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], number: int) -> tuple[int, str, str]:
    """Send a signal; status, what was printed, what was said."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return process.returncode, out, err


# --- signals


@pytest.mark.parametrize(
    ("number", "status", "argv"),
    [
        (signal.SIGINT, 130, ("--step", "60", "--span", "400d", "--columns")),
        (signal.SIGTERM, 143, ("--step", "60", "--span", "400d")),
        (signal.SIGHUP, 129, ("--rate", "real")),
        (signal.SIGINT, 130, ("--rate", "real", "--columns")),
    ],
)
def test_an_interrupted_simulation_says_what_it_wrote_and_how_it_ended(
    serve: Serve, start: Start, number: int, status: int, argv: tuple[str, ...]
) -> None:
    server = serve('retention = "0"')
    process = start("simulate", "--nodes", "1", *argv, directory=server.directory)
    until(lambda: server.info()["counters"]["samples"], "the first samples")
    code, out, err = ended(process, number)
    assert (code, err) == (status, "mstore: interrupted\n")
    assert " samples of " in out


def test_an_interrupted_write_says_what_was_written(serve: Serve, start: Start, now: int) -> None:
    server = serve()
    process = start("write", "-", directory=server.directory)

    def send(n: int) -> None:
        assert process.stdin is not None
        process.stdin.write(f"load,cluster=c,hostname=h value=1 {now + n}\n")
        process.stdin.flush()
        until(lambda: server.info()["counters"]["lines"] == n, "the line")

    send(1)
    send(2)  # not before the first was acknowledged; the second may itself still wait for that
    code, out, err = ended(process, signal.SIGTERM)
    assert (code, err) == (143, "mstore: interrupted\n")
    assert out.startswith(("1 line written", "2 lines written"))


def test_an_interrupted_collector_says_what_it_wrote(serve: Serve, start: Start) -> None:
    server = serve()
    process = start("collect", "host", "--interval", "1", directory=server.directory)
    until(lambda: server.info()["counters"]["samples"], "the first reading")
    code, out, err = ended(process, signal.SIGTERM)
    assert (code, err) == (143, "mstore: interrupted\n")
    assert " written to local/" in out


def test_an_interrupted_text_is_cut_after_a_line(start: Start) -> None:
    process = start(*ENDLESS)
    assert process.stdout is not None
    first = process.stdout.readline()
    code, out, err = ended(process, signal.SIGINT)
    assert (code, err) == (130, "mstore: interrupted\n")
    assert (first + out).endswith("\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing_behind(start: Start, number: int) -> None:
    process = start("demo", "--span", "5m", "--live", "60")
    assert process.stdout is not None
    directory = Path(process.stdout.readline().split("a store in ")[1].split()[0])
    assert directory.exists()
    process.send_signal(number)
    time.sleep(0.1)
    code, _, err = ended(process, number)  # impatience does not cut the cleaning up short
    assert (code, err) == (128 + number, "mstore: interrupted\n")
    assert not directory.exists()


def test_the_store_itself_ends_in_order_and_with_success(serve: Serve) -> None:
    assert serve().stop(signal.SIGTERM) == 0


# --- pipes


@pytest.mark.parametrize(
    "argv", ["simulate --text --span 2h", "simulate --text --span 10s", "config --example", "--help"]
)
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(argv: str) -> None:
    assert shell(f"mstore {argv} | head -n 1 > /dev/null").stderr == ""
    gone = shell(f"set -o pipefail; {{ sleep 0.3; mstore {argv}; }} | true")
    assert (gone.returncode, gone.stderr) == (141, "")


def test_a_live_simulation_ends_when_nobody_reads_it() -> None:
    gone = shell("set -o pipefail; mstore simulate --text --rate real | head -n 1")
    assert (gone.returncode, gone.stderr) == (141, "")
    assert gone.stdout.count("\n") == 1


# --- closed and full


TELLERS = ("--version", "config --example", "simulate --text --span 10s", "ls --help")
ASKERS = ("ls", "info --json", "query c h load --format csv", "query c h load", "stop")


@pytest.mark.parametrize("argv", TELLERS)
@pytest.mark.parametrize(
    ("where", "why"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
def test_output_that_cannot_be_written_is_one_line_and_status_1(argv: str, where: str, why: str) -> None:
    for unbuffered in ("", "1"):
        done = shell(f"mstore {argv} {where}", unbuffered=unbuffered)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"mstore: write error: {why}\n")


def test_commands_to_a_store_notice_a_closed_output(serve: Serve, now: int) -> None:
    server = serve()
    server.send_text(f"load,cluster=c,hostname=h value=1 {now}\n".encode())
    for argv in ASKERS:
        done = shell(f"mstore {argv} >&-", server.directory)
        assert (done.returncode, done.stderr) == (1, "mstore: write error: Bad file descriptor\n"), argv
    assert server.process is not None
    assert server.process.wait(60) == 0
    server.stop()


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_errors_that_nobody_hears_still_make_the_status(where: str) -> None:
    assert shell(f"mstore ls {where}").returncode == 1
    assert shell(f"mstore ls --nonsense {where}").returncode == 2
    assert shell(f"mstore config --config /no/such.toml {where}").returncode == 2
    assert shell(f"mstore ls >&- {where}").returncode == 1


def test_a_command_that_does_not_need_a_closed_stream_works_without(serve: Serve, now: int) -> None:
    server = serve()
    server.send_text(f"load,cluster=c,hostname=h value=1 {now}\n".encode())
    for where in ("<&-", "2>&-", "<&- 2>&-"):
        done = shell(f"mstore ls {where}", server.directory)
        assert (done.returncode, done.stdout, done.stderr) == (0, "c\n", "")
        assert shell(f"mstore query c h load --format json {where}", server.directory).stdout.startswith("[{")
    assert shell("mstore write --quiet /dev/null >&-", server.directory).returncode == 0


def test_reading_from_a_closed_input_is_one_line(serve: Serve) -> None:
    done = shell("mstore write - <&-", serve().directory)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mstore: cannot read standard input: Bad file descriptor\n"


def test_a_store_started_without_any_open_stream_serves(short_dir: Path) -> None:
    line = f"exec {MSTORE} serve --dir {short_dir} <&- >&- 2>&-"
    with subprocess.Popen(["bash", "-c", line]) as process:
        try:
            until(lambda: shell("mstore ls", short_dir).returncode == 0, "the store to answer")
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_terminal_that_lacks_a_character_is_shown_its_escape(tmp_path: Path) -> None:
    (tmp_path / "mstore.toml").write_text('[clusters.c.metrics.temp]\nunit = "°C"\n', encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mstore",
        "config",
        "--config",
        str(tmp_path / "mstore.toml"),
        "--cluster",
        "c",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "NO_COLOR": "1"}
    ours, theirs = pty.openpty()
    try:
        status = subprocess.run(command, stdout=theirs, env=environment, timeout=60, check=False).returncode
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert (status, "\\xb0C" in shown) == (0, True), shown
