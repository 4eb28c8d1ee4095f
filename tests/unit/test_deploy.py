"""The files in deploy/ say what the program accepts, and agree with each other."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mstore import paths
from mstore.cli.main import build_parser
from mstore.config import Config
from mstore.workers import door, heartbeat
from mstore.workers.family import STOP_S_MAX

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SOCKETS = ["mstore-ingest.socket", "mstore-query.socket"]
DIRECTORY = Path("/var/lib/mstore")


def unit(name: str) -> configparser.ConfigParser:
    """A unit file. Keys are told apart by case as systemd does; none may come twice."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    assert parser.read(DEPLOY / name)
    return parser


SERVICE = unit("mstore.service")["Service"]


def seconds(text: str) -> float:
    number, mark = re.fullmatch(r"(\d+)(s|min)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "min": 60}[mark]


@pytest.mark.parametrize("key", ["ExecStart", "ExecReload"])
def test_every_command_line_is_one_that_mstore_takes(key: str) -> None:
    program, *arguments = shlex.split(SERVICE[key])
    assert program == "/opt/mstore/bin/mstore"
    args = build_parser().parse_args(arguments)
    if key == "ExecStart":
        assert (args.command, args.keep_memory, args.config) == (
            "serve",
            True,
            Path("/etc/mstore/mstore.toml"),
        )
    else:
        assert args.command == "reload"


def test_the_directory_is_the_one_that_the_manager_keeps_for_the_service() -> None:
    assert SERVICE["Environment"] == f"MSTORE_DIR={DIRECTORY}"
    assert DIRECTORY.name == SERVICE["StateDirectory"]
    tmpfiles = (DEPLOY / "mstore.tmpfiles").read_text()
    user = SERVICE["User"]
    for path in (DIRECTORY, paths.run_dir(DIRECTORY)):
        assert re.search(rf"^d {path} +0750 {user} {user} -$", tmpfiles, re.MULTILINE)
    assert re.search(rf"^u {user} ", (DEPLOY / "mstore.sysusers").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", SOCKETS)
def test_each_socket_is_the_one_the_store_expects_at_its_place(name: str) -> None:
    section = unit(name)["Socket"]
    which = section["FileDescriptorName"]
    assert which in paths.SOCKETS
    assert section["ListenStream"] == paths.socket_path(DIRECTORY, which)
    assert int(section["SocketMode"], 8) == door._MODES[which]
    assert int(section["Backlog"]) == door._BACKLOG
    assert section["Service"] == "mstore.service"
    assert (section["SocketUser"], section["SocketGroup"]) == (SERVICE["User"], SERVICE["Group"])


def test_the_service_takes_all_sockets_and_installs_them() -> None:
    assert SERVICE["Sockets"].split() == SOCKETS
    assert unit("mstore.service")["Install"]["Also"].split() == SOCKETS
    assert sorted(path.name for path in DEPLOY.glob("*.socket")) == SOCKETS


def test_the_manager_waits_longer_than_the_store_takes() -> None:
    slowest_stop_s = sum(STOP_S_MAX.values()) + Config().snapshot_stop_limit_s
    assert seconds(SERVICE["TimeoutStopSec"]) > slowest_stop_s
    assert seconds(SERVICE["TimeoutStartSec"]) > heartbeat.EXTEND_S > 2 * heartbeat.EXTEND_EVERY_S
    assert seconds(SERVICE["RestartSec"]) * 5 > 10, "the start limit would close the sockets"
    assert (SERVICE["Type"], SERVICE["NotifyAccess"], SERVICE["KillMode"]) == ("notify", "main", "mixed")


def test_kept_memory_survives_a_stop_of_the_service() -> None:
    assert SERVICE["RemoveIPC"] == "no"
    assert "DynamicUser" not in SERVICE, "it would imply RemoveIPC=yes"
    assert "--keep-memory" in SERVICE["ExecStart"]


def test_the_manager_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """Where systemd-analyze is installed; the program's path is not on this machine, so another stands for it."""
    for path in (*DEPLOY.glob("*.service"), *DEPLOY.glob("*.socket")):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/mstore/bin/mstore", "/bin/true"))
    if program := shutil.which("systemd-analyze"):
        checked = subprocess.run(
            [program, "verify", *(str(tmp_path / name) for name in ("mstore.service", *SOCKETS))],
            capture_output=True, text=True,
        )  # fmt: skip
        assert (checked.returncode, checked.stderr) == (0, "")
    assert len(list(tmp_path.iterdir())) == 1 + len(SOCKETS)
