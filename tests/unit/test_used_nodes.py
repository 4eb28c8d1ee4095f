"""Asking ClusterCockpit, or a file, who is protected: both shapes, the token, and everything that may go wrong."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mstore import clock
from mstore.shm.protection import Source
from mstore.workers import used_nodes
from mstore.workers.provider_job import ProviderJob
from mstore.workers.providers import Providers
from mstore.workers.used_nodes import Unanswered

Reply = Callable[[BaseHTTPRequestHandler], None]


def says(body: Any, status: int = 200, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return reply


@contextmanager
def backend(reply: Reply) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(its address, the (path, authorization) of every request) of a server on the loopback."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", "")))
            reply(self)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


HOSTS = {"fritz": ["f0101", "f0102"], "alex": []}


@pytest.mark.parametrize("body", [HOSTS, {"usedNodes": HOSTS}, {"usedNodes": {**HOSTS, "alex": None}}])
def test_both_shapes_of_the_answer_are_understood_and_the_token_is_sent(body: Any) -> None:
    with backend(says(body)) as (url, asked):
        assert used_nodes.ask(url, "abc.def", 1_700_000_000) == HOSTS
        assert used_nodes.ask(f"{url}/below", "", 5) == HOSTS
    assert asked == [
        ("/api/jobs/used_nodes?ts=1700000000", "Bearer abc.def"), ("/below/api/jobs/used_nodes?ts=5", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (says({}, 401), "answered 401"),
        (says({}, 500), "answered 500"),
        (says(b"<html>"), "no list of hosts"),
        (says([1]), 'expected {"cluster"'),
        (says({"fritz": "f0101"}), "expected a list of names"),
        (says({"fritz": [7]}), "expected a list of names"),
        (says({"fritz": [""]}), "expected a list of names"),
        (says({"fritz": ["a\nb"]}), "expected a list of names"),
        (says({"fritz": ["x" * 256]}), "expected a list of names"),
        (says(b'{"fritz": ["\\ud800"]}'), "expected a list of names"),
        (says(b"[" * 100_000), "no list of hosts"),
        (says({"c": [f"h{n}" for n in range(200_001)]}), "at most 200000"),
    ],
)
def test_what_is_no_answer_is_told(reply: Reply, what: str) -> None:
    with backend(reply) as (url, _), pytest.raises(Unanswered, match=what):
        used_nodes.ask(url, "t", 0)


def test_a_redirect_is_not_followed_so_that_the_token_goes_nowhere_else() -> None:
    with backend(says(HOSTS)) as (elsewhere, asked):
        with backend(says({}, 302, Location=elsewhere)) as (url, _), pytest.raises(Unanswered, match="302"):
            used_nodes.ask(url, "secret", 0)
        assert asked == []


def test_an_answer_without_end_is_not_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_nodes, "ANSWER_BYTES_MAX", 1000)
    with backend(says(b" " * 5000)) as (url, _), pytest.raises(Unanswered, match="more than 1000 bytes"):
        used_nodes.ask(url, "", 0)


def test_nobody_there_and_one_who_never_answers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_nodes, "ANSWER_S_MAX", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unanswered, match="does not answer: timed out"):
            used_nodes.ask(f"http://127.0.0.1:{port}", "", 0)
    with pytest.raises(Unanswered, match="does not answer"):
        used_nodes.ask(f"http://127.0.0.1:{port}", "", 0)


def test_the_token_is_a_word_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert used_nodes.token_of("") == ""
    with pytest.raises(Unanswered, match="No such file"):
        used_nodes.token_of(str(path))
    path.write_text("abc.def\n")
    assert used_nodes.token_of(str(path)) == "abc.def"
    for bad in ("", "two words", "a\x00b", "ü"):
        path.write_text(bad)
        with pytest.raises(Unanswered, match="token"):
            used_nodes.token_of(str(path))


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_server_that_trickles_for_ever_is_ended(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used_nodes, "WHOLE_ANSWER_S_MAX", 0.3)
    ended = threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        if where == "body":
            request.send_response(200)
            request.end_headers()
            request.wfile.write(json.dumps(HOSTS).encode())  # a whole list, as far as anybody can tell
        try:
            while not ended.wait(0.01):
                request.wfile.write(b" ")
        except OSError:
            ended.set()

    with backend(trickle) as (url, _):
        with pytest.raises(Unanswered, match=r"within 0\.3 s|does not answer"):
            used_nodes.ask(url, "", 0)
        assert ended.wait(30), "the connection was closed"


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [1000.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: seconds[0])
    monkeypatch.setattr(clock, "now_s", lambda: 1_700_000_000)
    return seconds


def job(directory: Path, **more: Any) -> ProviderJob:
    return ProviderJob(**{
        "store_dir": str(directory), "parent_pid": os.getpid(), "file": "", "url": "", "token_file": "",
        "interval_s": 60, "retention_s": 3600, **more,
    })  # fmt: skip


def test_a_file_is_read_when_it_changes_and_told_missing_once_an_interval(
    tmp_path: Path, clocks: list[float]
) -> None:
    path = tmp_path / "running.json"
    providers = Providers(job(tmp_path, file=str(path)))
    (missing,) = providers.news()
    assert missing["source"] == Source.FILE
    assert "cannot be read" in missing["failed"]
    assert list(providers.news()) == []
    path.write_text(json.dumps(HOSTS))
    assert list(providers.news()) == [{"source": 1, "hosts": HOSTS}]
    assert list(providers.news()) == []
    path.write_text("{")
    (broken,) = providers.news()
    assert "no list of hosts" in broken["failed"]
    other = tmp_path / "new"
    other.write_text(json.dumps({"fritz": ["f1"]}))
    other.rename(path)
    assert list(providers.news()) == [{"source": 1, "hosts": {"fritz": ["f1"]}}]
    path.unlink()
    clocks[0] += 60
    assert len(list(providers.news())) == 1
    assert list(providers.news()) == []


def test_a_file_that_could_not_be_read_is_tried_again_once_an_interval_without_a_change(
    tmp_path: Path, clocks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "running.json"
    path.write_text(json.dumps(HOSTS))
    providers = Providers(job(tmp_path, file=str(path)))
    read = used_nodes.read

    def refused(path: Path) -> used_nodes.Hosts:
        raise Unanswered(f"{path} cannot be read: Permission denied")

    monkeypatch.setattr(used_nodes, "read", refused)
    assert [set(line) for line in providers.news()] == [{"source", "failed"}]
    monkeypatch.setattr(used_nodes, "read", read)
    assert list(providers.news()) == []
    clocks[0] += 60
    assert list(providers.news()) == [{"source": 1, "hosts": HOSTS}]
    clocks[0] += 60
    assert list(providers.news()) == []


def test_the_address_is_asked_once_an_interval_for_jobs_that_are_older_than_retention(
    tmp_path: Path, clocks: list[float]
) -> None:
    (tmp_path / "token").write_text("t")
    with backend(says(HOSTS)) as (url, asked):
        providers = Providers(job(tmp_path, url=url, token_file=str(tmp_path / "token")))
        assert list(providers.news()) == [{"source": 2, "hosts": HOSTS}]
        assert list(providers.news()) == []
        clocks[0] += 60
        (tmp_path / "token").unlink()
        (failed,) = providers.news()
        assert "token" in failed["failed"]
    assert asked == [("/api/jobs/used_nodes?ts=1699996400", "Bearer t")]
