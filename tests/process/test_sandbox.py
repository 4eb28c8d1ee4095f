"""A store in what deploy/mstore.service leaves it: no right to write but to DIR and /dev/shm, no network, no capability.

The service manager's own sandbox is not here; namespaces, a read-only file system and setpriv stand for it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mstore
from mstore.shm.segment import name_prefix, stale
from tests.stores import Server

SERVICE = (Path(__file__).parents[2] / "deploy" / "mstore.service").read_text()
CONFINE = (
    'mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro / && '
    'exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all {capabilities} -- "$@"'
)


LAUNCHER = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # Linux 6.3; earlier ones go without
ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""No memory is ever both written and executed: MemoryDenyWriteExecute=."""


class Confined(Server):
    """Started in mount and network namespaces of its own, where only DIR and /dev/shm can be written."""

    def start(self) -> Server:
        root = os.geteuid() == 0
        script = CONFINE.format(capabilities="" if root else "--ambient-caps=-all")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", *([] if root else ["-r"]), "-m", "-n", "sh", "-c", script, str(self.directory),
                 sys.executable, "-c", LAUNCHER, "-m", "mstore", "serve", *self.arguments],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._first_line() == f"mstore ready {self.directory}\n", self.log_text()
        return self


@pytest.fixture
def confined(short_dir: Path) -> Iterator[Confined]:
    server = Confined(short_dir, None, "--keep-memory")
    yield server
    print(server.log_text()[-4000:] if server.log.exists() else "")
    if server.process is not None and server.process.poll() is None:
        server.stop()
    Server(short_dir).start().stop()  # takes the kept memory, and gives it back


def test_a_store_needs_no_more_than_its_sandbox_leaves(confined: Confined, now: int) -> None:
    server = confined.start()
    assert server.process is not None
    status = Path(f"/proc/{server.worker_pid('persister')}/status").read_text()
    assert re.search(r"^CapBnd:\s0+$", status, re.MULTILINE), "no capability can come back"
    assert re.search(r"^NoNewPrivs:\s1$", status, re.MULTILINE)
    sockets = Path(f"/proc/{server.process.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in sockets] == ["lo"], "there is no network"
    outside = Path(f"/proc/{server.process.pid}/mounts").read_text()
    assert re.search(r"^\S+ / \S+ ro[, ]", outside, re.MULTILINE)

    assert server.send_text(f"m,cluster=c,hostname=h value=1.5 {now}\n".encode()).startswith(b"written=1 ")
    with server.client() as client:
        assert client.control("snapshot")["series"] == 1
        client.control("restart")
        assert client.query("c", "h", "m", now, now + 60).values.tolist() == [1.5]
    with mstore.attach(server.directory) as store:  # from outside of its namespaces
        assert store.query("c", "h", "m", now, now + 60).values.tolist() == [1.5]
    assert server.stop() == 0
    assert stale(name_prefix(server.directory)), "kept for the next start"
    server.start()
    assert "memory adopted" in server.log_text()
    with server.client() as client:
        assert client.query("c", "h", "m", now, now + 60).values.tolist() == [1.5]


def test_the_unit_asks_for_that_sandbox() -> None:
    wanted = {
        "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
        "PrivateNetwork": "yes", "RestrictAddressFamilies": "AF_UNIX", "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "", "MemoryDenyWriteExecute": "yes", "RestrictNamespaces": "yes",
        "SystemCallFilter": "@system-service",
    }  # fmt: skip
    found = dict(
        line.split("=", 1) for line in SERVICE.splitlines() if "=" in line and not line.startswith("#")
    )
    assert {key: found.get(key) for key in wanted} == wanted
