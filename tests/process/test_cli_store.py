"""The command line as its users run it: processes of its own against a real store."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mstore
from mstore.limits import MIB
from mstore.shm.segment import huge_pages
from tests.stores import Server, until

Serve = Callable[..., Server]
CONFIG = '[metrics.load]\nstep = 10\naggregation = "avg"\n[metrics.power]\nstep = 10\naggregation = "sum"\nunit = "W"\n'


def run(*argv: str, text: str = "", directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`mstore ARGV` to its end; no command may ever show a traceback."""
    environment = {**os.environ, "MSTORE_DIR": str(directory or "/nowhere"), "TZ": "UTC", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "mstore", *argv], input=text, capture_output=True, text=True, env=environment,
        timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def good(*argv: str, text: str = "", directory: Path | None = None) -> str:
    done = run(*argv, text=text, directory=directory)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def bad(*argv: str, status: int = 1, text: str = "", directory: Path | None = None) -> str:
    """The one line of an error."""
    done = run(*argv, text=text, directory=directory)
    assert done.returncode == status, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("mstore")
    return done.stderr


def lines_of(now: int, n: int = 30) -> str:
    """Every 10 s up to now, n times: load of a host, power of its two sockets."""
    first = now // 10 * 10 - 10 * n + 10
    return "".join(
        f"load,cluster=c,hostname=h1 value={i}.5 {first + 10 * i}\n"
        f"power,cluster=c,hostname=h1,type=socket,type-id=0 value={100 + i} {first + 10 * i}\n"
        f"power,cluster=c,hostname=h1,type=socket,type-id=1 value={200 + i} {first + 10 * i}\n"
        for i in range(n)
    )


def digest(directory: Path) -> dict[str, str]:
    """Contents of every file below a directory but its lock."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("lock", "server.log")
    }


# --- writing and asking


@pytest.mark.parametrize("by", ["file", "pipe"])
def test_lines_written_by_file_or_pipe_are_answered_in_every_format(
    serve: Serve, now: int, tmp_path: Path, by: str
) -> None:
    directory = serve(CONFIG).directory
    lines = lines_of(now)
    (tmp_path / "lines.lp").write_text(lines)
    source = ("-", lines) if by == "pipe" else (str(tmp_path / "lines.lp"), "")
    out = good("write", source[0], text=source[1], directory=directory)
    assert out.startswith("90 lines written in ")

    table = good("query", "c", "h1", "load", "--from", "-10m", directory=directory).splitlines()
    assert table[0].startswith("c/h1  load  every 10 s")
    # Up to now: a slot that has begun since the lines were made is empty.
    assert [row.split()[1] for row in table if row.split()[1] != "-"][-1] == "29.5"
    csv = good(
        "query", "c", "h1", "load", "--from", "-10m", "--format", "csv", directory=directory
    ).splitlines()
    values = [row.split(",")[1] for row in csv[1:]]
    assert csv[0] == "time,value"
    assert [value for value in values if value] == [f"{i}.5" for i in range(30)]
    power = json.loads(
        good("query", "c", "h1", "power", "--from", "-10m", "--format", "json", directory=directory)
    )
    assert [(one["aggregation"], one["unit"], one["step"]) for one in power] == [("sum", "W", 10)]
    assert [value for value in power[0]["values"] if value is not None] == [300 + 2 * i for i in range(30)]
    sockets = json.loads(
        good("query", "c", "h1", "power", "--type", "socket", "--format", "json", directory=directory)
    )
    assert [one["type_id"] for one in sockets] == ["0", "1"]
    plot = good("query", "c", "h1", "load", "--format", "plot", directory=directory).splitlines()
    assert any("┤" in line for line in plot)
    assert max(map(len, plot)) <= 80


def test_refused_lines_are_told_by_reason_and_make_the_status_1(serve: Serve, now: int) -> None:
    directory = serve(CONFIG).directory
    text = (
        lines_of(now, 1)
        + "load,cluster=c,hostname=h1 value=x\nload,cluster=c value=1\nother,cluster=c,hostname=h1 value=1\n"
    )
    done = run("write", "-", text=text, directory=directory)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("3 of 6 lines written; all sent in ")
    told = done.stdout.splitlines()[1]
    assert told.startswith("2 rejected and 1 ignored: ")
    assert set(told.split(": ")[1].split(", ")) == {"bad_value 1", "no_host 1", "unknown_metric 1"}
    refused = good("info", directory=directory)
    assert re.search(r"^ +1 +bad_value$", refused, re.MULTILINE)
    assert re.search(r"^ +1 +unknown_metric \(ignored\)$", refused, re.MULTILINE)


def test_ls_walks_the_tree_and_lists_metrics(serve: Serve, now: int) -> None:
    directory = serve(CONFIG).directory
    good("write", "-", text=lines_of(now, 2), directory=directory)
    assert good("ls", directory=directory) == "c\n"
    assert good("ls", "c", directory=directory) == "h1\n"
    assert good("ls", "c/h1", directory=directory) == "socket0\nsocket1\n"
    assert json.loads(good("ls", "c", "--json", directory=directory)) == ["h1"]
    rows = [line.split() for line in good("ls", "--metrics", "c", directory=directory).splitlines()[2:]]
    assert rows == [["c", "load", "10", "s", "f32", "avg"], ["c", "power", "10", "s", "f32", "sum", "W"]]
    assert "c has no 'h2'; it has h1" in bad("ls", "c/h2", directory=directory)


def test_info_shows_what_the_store_holds_and_how_it_runs(serve: Serve, now: int) -> None:
    directory = serve(CONFIG).directory
    good("write", "-", text=lines_of(now), directory=directory)
    out = good("info", directory=directory)
    assert out.startswith(f"mstore {mstore.__version__}  ready  {directory}\nrunning for ")
    assert "holds  3 series (room for 4,000,000)" in out
    for segment in ("control", "ring-0", "directory", "samples"):
        assert re.search(rf"^  {segment} .* [KMG]iB +[\d.]+ [KMG]iB$", out, re.MULTILINE), segment
    assert "all on disk" in out
    assert "no snapshot yet" in out
    assert re.search(r"^  lines +90 ", out, re.MULTILINE)
    found = json.loads(good("info", "--json", directory=directory))
    assert found["counters"]["written"] == 90
    assert {one["kind"] for one in found["workers"]} == {"persister", "ingest", "query"}
    allocated = {role: one["allocated_bytes"] for role, one in found["memory"]["segments"].items()}
    # /dev/shm may be mounted with pages of 2 MiB.
    committed = found["memory"]["samples_committed_bytes"]
    assert committed <= allocated["samples"] <= committed + (0 if huge_pages() == "never" else 2 * MIB)
    good("snapshot", directory=directory)
    assert re.search(
        r"1 snapshot: [\d.]+ KiB; the newest is of block \d+, ", good("info", directory=directory)
    )


# --- the store's life


def test_info_tells_the_used_memory_of_a_store_that_has_only_read_its_files(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    server.send_text(lines_of(now).encode())
    used = server.info()["memory"]["samples_used_bytes"]
    server.stop()
    server.start()
    assert server.info()["memory"]["samples_used_bytes"] == used > 0


def test_stop_restart_reload_and_snapshot_say_what_they_did(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    directory = server.directory
    good("write", "-", text=lines_of(now), directory=directory)
    assert re.fullmatch(
        r"snapshot written in .*\nup to block \d+: 3 series, 3 chunks, [\d.]+ [KM]?i?B\n",
        good("snapshot", directory=directory),
    )
    (directory / "mstore.toml").write_text(CONFIG + "[metrics.other]\n")
    assert good("reload", directory=directory).startswith("configuration reloaded in ")
    good("write", "-", text="other,cluster=c,hostname=h1 value=1\n", directory=directory)
    (directory / "mstore.toml").write_text("max_series = 1000\n" + CONFIG)
    assert "not taken over until `mstore restart`: max_series" in good("reload", directory=directory)
    assert good("restart", directory=directory).startswith("restarted in ")
    assert "room for 1,000" in good("info", directory=directory)
    csv = good("query", "c", "h1", "load", "--from", "-10m", "--format", "csv", directory=directory)
    assert len(re.findall(r"\.5$", csv, re.MULTILINE)) == 30
    (directory / "mstore.toml").write_text("retenton = 5\n")
    assert "unknown key retenton" in bad("reload", status=2, directory=directory)
    assert good("stop", directory=directory).startswith("stopped in ")
    assert server.process is not None
    assert server.process.stdout is not None
    assert server.process.wait(30) == 0
    server.process.stdout.close()
    for command in (["stop"], ["info"], ["ls"], ["write", "-"], ["query", "c", "h1", "load"]):
        assert "`mstore serve` starts one" in bad(*command, directory=directory)


@pytest.mark.parametrize("command", ["restart", "stop"])
def test_a_command_whose_supervisor_is_killed_meanwhile_says_so_at_once_and_leaves_its_successor_alone(
    serve: Serve, now: int, command: str
) -> None:
    server = serve(CONFIG)
    server.send_text(lines_of(now).encode())
    first = server.worker_pid("ingest")
    os.kill(server.worker_pid("query"), signal.SIGSTOP)  # so the order takes its seconds
    asked = subprocess.Popen(
        [sys.executable, "-m", "mstore", command, "--dir", str(server.directory)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: not Path(f"/proc/{first}").exists(), "the order to be under way")
    server.kill()
    server.start()
    instance = server.info()["instance"]
    answer, complaint = asked.communicate(timeout=60)
    assert (asked.returncode, answer) == (1, "")
    assert complaint.count("\n") == 1
    assert "supervisor ended before it answered" in complaint
    assert server.info()["instance"] == instance


def test_check_of_a_running_a_stopped_and_a_copied_store_finds_it_sound_and_changes_nothing(
    serve: Serve, now: int, tmp_path: Path
) -> None:
    server = serve(CONFIG)
    good("write", "-", text=lines_of(now), directory=server.directory)
    running = good("check", directory=server.directory)
    assert "3 series" in running
    assert running.endswith("check: everything is sound\n")
    server.stop()
    before = digest(server.directory)
    stopped = good("check", directory=server.directory)
    assert re.search(r"^snapshot of block \d+: 3 series, 3 chunks", stopped, re.MULTILINE)
    assert stopped.endswith("check: everything is sound\n")
    subprocess.run(["cp", "-r", str(server.directory), str(tmp_path / "copy")], check=True)
    (tmp_path / "copy" / "lock").unlink()
    assert good("check", "--dir", str(tmp_path / "copy")) == stopped
    assert digest(server.directory) == before == digest(tmp_path / "copy")
    assert not (tmp_path / "copy" / "lock").exists()


def test_check_of_a_killed_store_finds_its_log_sound(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    good("write", "-", text=lines_of(now), directory=server.directory)
    server.kill()
    found = until(
        lambda: "log up to block" in (out := run("check", directory=server.directory).stdout) and out,
        "the last process to be gone",
    )
    assert re.search(r"^log up to block \d+: [1-9]\d* blocks", found, re.MULTILINE)
    assert "the memory of the last run is in /dev/shm" in found
    assert found.endswith("check: everything is sound\n")
    server.start()  # removes the segments
    server.stop()


@pytest.mark.parametrize(("place", "told"), [(300, "lost: nothing"), (4096 + 100, "lost: block")])
def test_check_names_the_damaged_file_and_changes_nothing(
    serve: Serve, now: int, place: int, told: str
) -> None:
    server = serve(CONFIG)
    with server.client() as client:
        for i in range(4):
            client.write(lines_of(now, 5 + i))
    server.kill()
    segment = next((server.directory / "wal").glob("*.wal"))
    content = bytearray(segment.read_bytes())
    content[place] ^= 0xFF  # the header page, or an early block: others that are whole follow it
    segment.write_bytes(content)
    until(lambda: "WRONG" in run("check", directory=server.directory).stdout, "the last process to be gone")
    before = digest(server.directory)
    done = run("check", directory=server.directory)
    assert done.returncode == 1
    assert re.search(rf"^WRONG: log: .*{segment.name}.*({told})", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.endswith("check: 1 fault\n")
    assert digest(server.directory) == before
    server.start()  # removes the segments
    server.stop()


def test_check_names_a_snapshot_that_is_none(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    good("write", "-", text=lines_of(now, 5), directory=server.directory)
    server.stop()
    snapshot = next((server.directory / "snapshots").iterdir())
    snapshot.write_bytes(snapshot.read_bytes()[:-100])
    done = run("check", directory=server.directory)
    assert done.returncode == 1
    assert re.search(rf"^WRONG: .*{snapshot.name}", done.stdout, re.MULTILINE), done.stdout


def test_check_of_what_is_no_store_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    assert "there is no store in it" in bad("check", "--dir", str(tmp_path), status=2)
    assert list(tmp_path.iterdir()) == []


# --- samples to play with


def test_simulated_text_piped_into_a_store_is_stored_line_by_line(serve: Serve) -> None:
    directory = serve().directory
    text = good("simulate", "--text", "--span", "10m", "--step", "60", "--nodes", "3", "--seed", "3")
    n = text.count("\n")
    assert n > 1000
    assert good("write", "-", text=text, directory=directory).startswith(f"{n:,} lines written in ")
    assert good("ls", "demo", directory=directory).count("\n") == 3


@pytest.mark.parametrize("how", [[], ["--columns"]])
def test_a_simulation_brings_its_metrics_steps_and_units_to_an_unconfigured_store(
    serve: Serve, how: list[str]
) -> None:
    server = serve()
    out = good("simulate", "--span", "5m", "--nodes", "2", *how, "--dir", str(server.directory))
    n = int(out.split()[0].replace(",", ""))
    rows = [line.split() for line in good("ls", "--metrics", directory=server.directory).splitlines()]
    assert "the store has no 'nosuch'" in bad("ls", "--metrics", "nosuch", directory=server.directory)
    assert ["demo", "cpu_power", "1", "s", "f32", "sum", "W"] in rows
    assert ["demo", "node_temp", "30", "s", "f32", "avg", "°C"] in rows
    with server.client() as client:
        host = client.children("demo")[0]
        found = client.query("demo", host, "cpu_power", "-10m", int(time.time()) + 1, type="socket")
        assert isinstance(found, list)
        assert [int(one.valid.sum()) for one in found] == [300] * len(found)
        counters = client.info()["counters"]
    assert counters["written"] >= n
    assert not any(n for name, n in counters.items() if name.startswith("rejected_") and n)


def test_the_same_simulation_is_the_same_text() -> None:
    argv = ("simulate", "--text", "--span", "2m", "--nodes", "1", "--seed", "9", "--step", "60")
    first, second = good(*argv), good(*argv)
    assert (
        re.sub(r" \d+$", "", first, flags=re.MULTILINE).splitlines()[:5]
        == (re.sub(r" \d+$", "", second, flags=re.MULTILINE).splitlines()[:5])
    )


def test_this_machine_is_collected_once(serve: Serve) -> None:
    server = serve()
    out = good("collect", "host", "--once", "--host", "box", directory=server.directory)
    assert re.fullmatch(r"\d+ samples of \d+ series written to local/box\n", out)
    assert "mem_used" in good("ls", "--metrics", "local", directory=server.directory)
    table = good("query", "local", "box", "mem_total", "--from", "-1m", directory=server.directory)
    assert float(table.splitlines()[-1].split()[1]) > 1e6
    text = good("collect", "host", "--once", "--host", "box", "--text")
    assert all(",hostname=box" in line for line in text.splitlines())


def test_the_demo_runs_from_nothing_to_nothing() -> None:
    out = good("demo", "--span", "5m", "--live", "1")
    assert re.findall(r"^ (\d)  ", out, re.MULTILINE) == list("123456")
    directory = Path(out.split("a store in ")[1].split()[0])
    assert not directory.exists()
    assert max(map(len, out.splitlines())) <= 80


def test_ctrl_c_ends_a_live_simulation_with_what_it_wrote(serve: Serve) -> None:
    server = serve()
    process = subprocess.Popen(
        [sys.executable, "-m", "mstore", "simulate", "--rate", "real", "--nodes", "1", "--dir", str(server.directory)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: server.info()["counters"]["lines"], "the first live lines")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert re.match(r"[\d,]+ samples of \d+ series in ", out)
    assert "Traceback" not in err


# --- everything else


def test_version_and_the_example_configuration_need_no_store(tmp_path: Path) -> None:
    assert good("--version") == f"mstore {mstore.__version__}\n"
    (tmp_path / "example.toml").write_text(good("config", "--example"))
    assert 'retention = "48h"' in good("config", "--config", str(tmp_path / "example.toml"))


def test_a_pipe_that_is_closed_early_is_no_error_message(serve: Serve, now: int) -> None:
    directory = serve(CONFIG).directory
    good("write", "-", text=lines_of(now), directory=directory)
    command = (
        f"{sys.executable} -m mstore query c h1 load --from -48h --format csv --dir {directory} | head -n 1"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("time,value\n", "")


ERRORS = (
    (["query", "c", "h1", "load", "--from", "yesterdayish"], 2, "yesterdayish"),
    (["query", "c", "h1", "load", "--from", "-1h", "--to", "-2h"], 2, "is after"),
    (["query", "c", "h1", "nope"], 1, "nope"),
    (["query", "c", "h1", "load", "--resolution", "7"], 2, "7"),
    (["query", "c", "h[1-", "load"], 2, "h[1-"),
    (["query", "c", "h9", "load"], 1, "no such host"),
    (["ls", "d"], 1, "it has c"),
    (["write", "no-such-file.lp"], 1, "no-such-file.lp"),
    (["write", "/"], 1, "directory"),
    (["simulate", "--cluster", "no-such.json"], 2, "no-such.json"),
    (["simulate", "--gaps", "2"], 2, "gaps"),
    (["collect", "nothing"], 2, "nothing"),
    (["config", "--config", "no-such.toml"], 2, "no-such.toml"),
    (["serve", "--ingest-workers", "0"], 2, "0"),
    (["serf"], 2, "did you mean 'serve'"),
)


def test_every_error_is_one_line_and_a_status(serve: Serve, now: int) -> None:
    directory = serve(CONFIG).directory
    good("write", "-", text=lines_of(now, 3), directory=directory)
    for argv, status, told in ERRORS:
        assert told in bad(*argv, status=status, directory=directory), argv


def test_a_range_of_years_and_a_file_cut_short_are_clear_errors(
    serve: Serve, now: int, tmp_path: Path
) -> None:
    server = serve(CONFIG)
    good("write", "-", text=lines_of(now), directory=server.directory)
    said = bad("query", "c", "h1", "load", "--from", "-800d", status=2, directory=server.directory)
    assert "too many to print" in said
    whole = gzip.compress(lines_of(now, 3000).encode())
    cut = tmp_path / "cut.lp.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "cut short" in bad("write", str(cut), directory=server.directory)
