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
DOCS = DEPLOY.parent / "docs"
DROP_INS = sorted(DEPLOY.glob("*.conf"))
SOCKETS = ["mstore-ingest.socket", "mstore-query.socket"]
DIRECTORY = Path("/var/lib/mstore")


def unit(name: str) -> configparser.ConfigParser:
    """A unit file or a drop-in. Keys are told apart by case as systemd does; none may come twice."""
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


def test_a_drop_in_opens_the_network_and_leaves_the_rest_of_the_sandbox_shut() -> None:
    assert (SERVICE["PrivateNetwork"], SERVICE["RestrictAddressFamilies"], SERVICE["IPAddressDeny"]) == (
        "yes", "AF_UNIX", "any",
    )  # fmt: skip
    opened = dict(unit("mstore-network.conf")["Service"])
    allowed = opened.pop("IPAddressAllow").split()
    assert opened == {"PrivateNetwork": "no", "RestrictAddressFamilies": "AF_INET AF_INET6"}
    assert allowed == ["localhost"], "whoever installs it says whom else the store may ask"


def test_a_drop_in_lets_directories_of_archive_and_export_be_written_to() -> None:
    assert SERVICE["ProtectSystem"] == "strict"
    parts = unit("mstore-paths.conf")
    assert {name: list(parts[name]) for name in parts.sections()} == {
        "Unit": ["RequiresMountsFor"], "Service": ["ReadWritePaths"],
    }  # fmt: skip
    path = Path(parts["Service"]["ReadWritePaths"])
    assert parts["Unit"]["RequiresMountsFor"] == str(path)
    assert not path.is_relative_to(DIRECTORY), "which can be written to anyway"
    assert f'directory = "{path}"' in (DOCS / "archive.md").read_text(), "the page's example"


@pytest.mark.parametrize("path", DROP_INS, ids=lambda path: path.name)
def test_every_drop_in_says_where_it_belongs_and_is_described(path: Path) -> None:
    place = re.match(r"# (/etc/systemd/system/mstore\.service\.d/\w+\.conf):", path.read_text())
    assert place
    page = (DOCS / "operations.md").read_text()
    assert f"install -D -m 644 deploy/{path.name} {place[1]}\n" in page
    assert f"](../deploy/{path.name})" in page


def test_the_manager_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """Where systemd-analyze is installed; the program's path is not on this machine, so another stands for it."""
    for path in (*DEPLOY.glob("*.service"), *DEPLOY.glob("*.socket")):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/mstore/bin/mstore", "/bin/true"))
    drop_ins = tmp_path / "mstore.service.d"
    drop_ins.mkdir()
    for path in DROP_INS:
        text = path.read_text()
        (drop_ins / path.name).write_text(text)
        (drop_ins / f"more-{path.name}").write_text(re.sub(r"^#(?=[A-Z]\w+=)", "", text, flags=re.MULTILINE))
    if program := shutil.which("systemd-analyze"):
        checked = verified(program, tmp_path)
        assert (checked.returncode, checked.stderr) == (0, "")
        (drop_ins / "wrong.conf").write_text("[Service]\nReadWritePath=/data\n")
        assert "ReadWritePath" in verified(program, tmp_path).stderr, "drop-ins are read, too"
    assert len(list(tmp_path.glob("mstore*"))) == 2 + len(SOCKETS)


def verified(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "verify", *(str(directory / name) for name in ("mstore.service", *SOCKETS))],
        capture_output=True, text=True,
    )  # fmt: skip
