"""`mstore top` beside a served store that is written to, killed and started again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

import mstore
from mstore import clock
from mstore.cli.top_frame import frame, plain
from mstore.cli.top_looks import Model, take
from mstore.errors import Unavailable
from tests.stores import Server

Serve = Callable[..., Server]


def screen(model: Model) -> str:
    return "\n".join(plain(line) for line in frame(model, 100, 30, utc=True))


def write(server: Server, now: int, n_hosts: int = 5) -> None:
    with server.client() as client:
        lines = (
            f"cpu_load,cluster=c,hostname=h{i} value={i} {now - 60 * k}\n"
            for i in range(n_hosts)
            for k in range(9)
        )
        assert client.write(lines).written == 9 * n_hosts


def test_what_is_written_is_seen_and_a_store_that_was_killed_is_found_again(serve: Serve, now: int) -> None:
    server = serve()
    write(server, now)
    model = Model()
    with server.client(timeout=20.0) as client:
        model.add(take(client, model.choice))
        write(server, now)
        model.add(take(client, model.choice))
        assert model.rate("lines") > 0
        shown = screen(model)
        assert "5 hosts:  5 full" in shown
        assert "cpu_load of c, 30 min" in shown
        server.kill()
        with mstore.Client(server.directory, timeout=0.5) as late, pytest.raises(Unavailable) as error:
            take(late, model.choice)
        model.failed(error.value.message, clock.monotonic_s())
        assert "trying again" in screen(model)
        server.start()
        model.add(take(client, model.choice))
    assert model.note
    assert "5 hosts:  5 full" in screen(model)


def test_once_prints_a_frame_and_ends(serve: Serve, now: int) -> None:
    server = serve()
    write(server, now)
    command = [sys.executable, "-m", "mstore", "top", "--once", "--dir", str(server.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "h4         4" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
