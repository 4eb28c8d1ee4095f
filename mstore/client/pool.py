"""Connections at rest: one request or write at a time has a connection to itself, then it is kept for the
next.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from mstore import paths
from mstore.client.session import Adapt, Restore, Session
from mstore.errors import InvalidRequest
from mstore.ipc import messages

IDLE_MAX = 16
"""Connections kept for each (role, cluster); those beyond it are closed when they come back."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all connections of one client have in common."""

    directory: Path
    ack: str = "durable"
    timeout_s: float = 30.0
    cluster: str = ""
    client: str = field(default_factory=lambda: f"python-{os.getpid()}")

    def hello(self, role: str, cluster: str, precision: str = "") -> messages.Hello:
        return messages.Hello(
            version=messages.VERSION,
            role=role,
            ack=self.ack,
            cluster=cluster,
            precision=precision,
            client=self.client,
            deadline_ms=min(int(self.timeout_s * 1000), 0xFFFF_FFFF),
        )

    def session(
        self, role: str, cluster: str = "", restore: Restore | None = None, adapt: Adapt | None = None
    ) -> Session:
        return Session(paths.socket_path(self.directory, role), self.hello(role, cluster), restore, adapt)


class Pool:
    """Idle sessions by role and default cluster. Safe between threads.

    Fork safety: a child shares its parent's sockets and must not use them, or both would read each other's
    replies. The first call in another process than the last one drops all sessions (closing only this
    process's descriptors) and starts with an empty pool and a new lock: the old one may be held by a thread
    that is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], list[Session]] = {}
        self._closed = False

    def take(self, role: str, cluster: str = "") -> Session:
        """An idle session, or a new one that will connect when it is first used."""
        if self._pid != os.getpid():
            self._forked()
        if self._closed:
            raise InvalidRequest("this client was closed: connect again")
        # No lock: two threads cannot pop the same one, and what is taken while close() runs is closed by give().
        try:
            return self._idle[role, cluster].pop()
        except LookupError:
            return self.settings.session(role, cluster)

    def give(self, session: Session, role: str, cluster: str = "") -> None:
        """Put a session back; one with anything unanswered is closed instead."""
        if session.unanswered or not session.link.connected or self._pid != os.getpid():
            session.forget()
            return
        with self._lock:
            if not self._closed:
                idle = self._idle.get((role, cluster))
                if idle is None:
                    idle = self._idle[role, cluster] = []
                if len(idle) < IDLE_MAX:
                    idle.append(session)
                    return
        session.forget()

    def close(self) -> None:
        """Close the idle connections and refuse further use; connections in use close when they come back."""
        if self._pid != os.getpid():
            self._forked()
        with self._lock:
            self._closed = True
            idle_lists = list(self._idle.values())
        for idle in idle_lists:
            with contextlib.suppress(IndexError):  # empty: what others took is theirs to close
                while True:
                    idle.pop().forget()

    def _forked(self) -> None:
        inherited, closed = self._idle, self._closed
        self._start()
        self._closed = closed
        for idle in inherited.values():
            for session in idle:
                session.link.abort()
