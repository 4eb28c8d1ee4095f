"""Which nodes running jobs use, as ClusterCockpit tells it over HTTP, or a file of the same shape.

GET URL/api/jobs/used_nodes?ts=N, N = now - retention: jobs that began before it are those whose data is in danger.
Both shapes of the answer are understood, {"fritz": ["f0101"]} and {"usedNodes": {"fritz": ["f0101"]}}. A redirect is
not followed: it could carry the token elsewhere. All of this may take its time: it belongs in a process of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mstore import limits
from mstore.model import is_name

ANSWER_S_MAX = 10.0
"""For a connection, and for each piece of the answer."""
WHOLE_ANSWER_S_MAX = 60.0
"""For the whole answer, however slowly its pieces come."""
ANSWER_BYTES_MAX = 16 << 20
TOKEN_BYTES_MAX = 64 << 10

Hosts = dict[str, list[str]]
"""{cluster: hosts}"""


class Unanswered(Exception):
    """No list of hosts; the text says why."""


def ask(url: str, token: str, before_s: int) -> Hosts:
    """The nodes that running jobs use which began before a second. raises Unanswered"""
    parts = urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=ANSWER_S_MAX)
    headers = {"Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.connect()
        with _ended_after(connection, WHOLE_ANSWER_S_MAX) as ended:
            connection.request("GET", f"{parts.path}/api/jobs/used_nodes?ts={before_s}", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise Unanswered(f"{url} answered {response.status} {response.reason}")
            body = response.read(ANSWER_BYTES_MAX + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unanswered(f"{url} does not answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if ended.is_set():  # what came until then may look like a whole list
        raise Unanswered(f"{url}: no whole answer within {WHOLE_ANSWER_S_MAX:g} s")
    return _hosts(url, body)


@contextlib.contextmanager
def _ended_after(connection: http.client.HTTPConnection, seconds: float) -> Iterator[threading.Event]:
    """Inside, the connection ends after so long; then the event is set, and whoever reads finds an end or an OSError.

    The time limit of a socket begins anew with every byte: it does not end a server that sends one now and then.
    """
    # By a socket of its own: SSLSocket.shutdown() would take away what the reader is using.
    with socket.socket(fileno=os.dup(connection.sock.fileno())) as line:
        ended = threading.Event()

        def end() -> None:
            ended.set()
            with contextlib.suppress(OSError):  # the other side was faster
                line.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield ended
        finally:
            timer.cancel()
            timer.join()  # before `line` is closed: its number may then be another's


def read(path: Path) -> Hosts:
    """The hosts in a file. raises Unanswered"""
    try:
        with open(path, "rb") as stream:
            body = stream.read(ANSWER_BYTES_MAX + 1)
    except OSError as error:
        raise Unanswered(f"{path} cannot be read: {error.strerror}") from error
    return _hosts(str(path), body)


def token_of(path: str) -> str:
    """The token in a file; "" without one. raises Unanswered"""
    if not path:
        return ""
    try:
        with open(path, encoding="ascii") as stream:
            token = stream.read(TOKEN_BYTES_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise Unanswered(f"the token in {path} cannot be read: {reason}") from error
    if not token or not token.isprintable() or " " in token:
        raise Unanswered(f"{path} holds no token: expected one word")
    return token


def hosts_of(said: Any) -> Hosts:
    """{cluster: hosts} from either shape, each host once. raises ValueError for anything else"""
    if isinstance(said, dict) and isinstance(said.get("usedNodes"), dict):
        said = said["usedNodes"]
    if not isinstance(said, dict):
        raise ValueError('expected {"cluster": ["host", ...]}')
    found: Hosts = {}
    for cluster, hosts in said.items():
        if not isinstance(hosts, list | None) or not all(map(is_name, (cluster, *(hosts or ())))):
            raise ValueError(f"cluster {cluster[:100]!r}: expected a list of names of hosts")
        found[cluster] = list(dict.fromkeys(hosts or ()))
    if (n := sum(map(len, found.values()))) > limits.PROTECTED_HOSTS_MAX:
        raise ValueError(f"{n} hosts; at most {limits.PROTECTED_HOSTS_MAX}")
    return found


def _hosts(where: str, body: bytes) -> Hosts:
    if len(body) > ANSWER_BYTES_MAX:
        raise Unanswered(f"{where}: more than {ANSWER_BYTES_MAX} bytes")
    try:
        return hosts_of(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise Unanswered(f"{where}: no list of hosts: {error}") from error
