"""The service manager's side of a process: what it passes by the environment, and what it is told.

    $NOTIFY_SOCKET                         datagrams of KEY=VALUE lines go there (sd_notify)
    $WATCHDOG_USEC, $WATCHDOG_PID          it wants WATCHDOG=1 at least so often
    $LISTEN_FDS, $LISTEN_PID, $LISTEN_FDNAMES   listening sockets are open from descriptor 3 on (sd_listen_fds)

All of it is for this process alone, and taken out of the environment: a child that inherited it would speak for it.
Without a service manager there is nobody to tell, and nothing is passed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from mstore import clock, paths

log = logging.getLogger(__name__)

_FIRST_FD = 3
_SEND_S_MAX = 0.5
"""The manager reads at once; should its queue be full, the store goes on rather than wait for it."""
_USEC = 1_000_000


class Notifier:
    """Tells the service manager how this process is.

    address       of a datagram socket: a path, or "@name" for an abstract one; "" = nobody is told
    watchdog_us   the manager's limit between two alive(), 0 = it has none
    """

    def __init__(self, address: str = "", watchdog_us: int = 0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_us / _USEC
        self._failed = False

    @property
    def present(self) -> bool:
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is done."""
        self.tell(READY=1, STATUS=status)

    def status(self, text: str) -> None:
        self.tell(STATUS=text)

    def reloading(self) -> None:
        """ready() must follow. The time tells the manager which of its requests this answers."""
        self.tell(RELOADING=1, MONOTONIC_USEC=clock.monotonic_us())

    def stopping(self, status: str) -> None:
        self.tell(STOPPING=1, STATUS=status)

    def alive(self) -> None:
        self.tell(WATCHDOG=1)

    def extend(self, seconds: float) -> None:
        """Starting or stopping takes this much longer from now, at least; to be repeated within that time."""
        self.tell(EXTEND_TIMEOUT_USEC=int(seconds * _USEC))

    def tell(self, **states: str | int) -> None:
        if not self.present:
            return
        lines = [f"{key}={' '.join(str(value).split())}" for key, value in states.items()]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(_SEND_S_MAX)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._failed:
                log.warning("cannot tell the service manager %s: %s", lines[0], error)
            self._failed = True
        else:
            self._failed = False


@dataclass(frozen=True, slots=True)
class Service:
    """What the service manager has to do with this run of the store; nothing, unless it says otherwise."""

    notifier: Notifier
    sockets: dict[str, socket.socket]
    """Listening sockets by name: ingest, query, control."""

    @classmethod
    def none(cls) -> Service:
        return cls(Notifier(), {})

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Service:
        """Take everything that is meant for this process out of the environment."""
        return cls(_notifier(environ), _sockets(environ))


def _notifier(environ: MutableMapping[str, str]) -> Notifier:
    address = environ.pop("NOTIFY_SOCKET", "")
    watchdog_us = _number(environ.pop("WATCHDOG_USEC", ""))
    watchdog_pid = environ.pop("WATCHDOG_PID", "")
    if watchdog_pid and _number(watchdog_pid) != os.getpid():
        watchdog_us = 0
    if address and address[0] not in "/@":
        log.warning("$NOTIFY_SOCKET is %s, neither a path nor abstract: nobody is told", address)
        address = ""
    return Notifier(address, watchdog_us if address else 0)


def _sockets(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """Passed sockets by the name that their unit gives (FileDescriptorName=), else by that of their path."""
    count, pid = _number(environ.pop("LISTEN_FDS", "")), _number(environ.pop("LISTEN_PID", ""))
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count or pid != os.getpid():
        return {}
    found: dict[str, socket.socket] = {}
    for i in range(count):
        fd = _FIRST_FD + i
        os.set_inheritable(fd, False)
        name = names[i] if i < len(names) else ""
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            log.warning("descriptor %d, passed by the service manager as %s, is no socket: closed", fd, name)
            continue
        which = name if name in paths.SOCKETS else _name_by_path(sock)
        if which in paths.SOCKETS and which not in found:
            found[which] = sock
        else:
            sock.close()
            log.warning("a socket passed by the service manager as %s is not used: closed", name or "unnamed")
    return found


def _name_by_path(sock: socket.socket) -> str:
    with contextlib.suppress(OSError, TypeError, ValueError):
        return Path(os.fsdecode(sock.getsockname())).stem
    return ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
