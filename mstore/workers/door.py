"""The store's listening sockets: made or taken over, opened, shut, mended and removed; who comes in is the supervisor's
business.

A socket that this process made is its own: its name is removed at the end, if it still is this socket's, and bound
again when a cleaner of old files removed it. A socket that the service manager made stays the manager's: it is only
listened to, and outlives the process with all who wait in its backlog.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mstore import paths
from mstore.errors import ConfigError, StorageError
from mstore.workers.incarnation import give_to_group
from mstore.workers.ownership import Inode, inode_of, unlink_own

log = logging.getLogger(__name__)

_BACKLOG = 4096
_ACCEPTS_PER_WAKE = 64
_PAUSE_S = 0.05
_MODES = {"ingest": 0o660, "query": 0o660, "control": 0o600}


@dataclass
class _Listener:
    """One of DIR/run/*.sock."""

    sock: socket.socket
    inode: Inode | None
    own: bool
    former: list[socket.socket] = field(default_factory=list)
    """Sockets whose name was removed: nobody finds them any more, but somebody may wait in their backlog."""
    missed: bool = False
    """That it cannot be found was said already."""


class Door:
    """DIR/run/*.sock. A shut one still listens: connections wait in its backlog, which costs no descriptor.

    admit     takes an accepted connection; False: no more for now. OSError: that connection is lost
    may_open  whether one that was shut for a moment may be opened again
    passed    listening sockets of the service manager, by name; what is missing is made here
    """

    def __init__(
        self,
        store_dir: Path,
        admit: Callable[[str, socket.socket], bool],
        may_open: Callable[[str], bool],
        passed: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self._dir = store_dir
        self._admit = admit
        self._may_open = may_open
        self._passed = dict(passed or {})
        self._listeners: dict[str, _Listener] = {}
        self._opened: set[str] = set()

    def listen(self) -> None:
        """Make the sockets, with DIR/lock held: whatever has their names is left from a run that is gone.

        raises StorageError; ConfigError when a passed socket is not the one that clients of DIR connect to
        """
        for which in paths.SOCKETS:
            passed = self._passed.get(which)
            self._listeners[which] = self._bind(which) if passed is None else self._take_over(which, passed)

    def _bind(self, which: str) -> _Listener:
        path = paths.socket_path(self._dir, which)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            Path(path).unlink(missing_ok=True)
            sock.bind(path)
            os.chmod(path, _MODES[which])
            give_to_group(Path(path), self._dir)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise StorageError(
                f"cannot listen at {path}: {error.strerror}", path=path, errno=error.errno or 0
            ) from error
        return _Listener(sock, inode_of(path), own=True)

    def _take_over(self, which: str, sock: socket.socket) -> _Listener:
        path = paths.socket_path(self._dir, which)
        bound, inode = sock.getsockname(), inode_of(path)
        listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listens or not bound or inode is None or inode_of(bound) != inode:
            raise ConfigError(
                f"the socket passed as {which} is bound to {bound!r}{'' if listens else ' and does not listen'};"
                f" expected is a listening stream socket at {path}: correct ListenStream=, or restart the socket"
                " unit together with the store's",
                path=path,
            )
        sock.setblocking(False)
        return _Listener(sock, inode, own=False)

    def open(self, which: str) -> None:
        listener = self._listeners.get(which)
        if listener is not None:
            self._opened.add(which)
            asyncio.get_running_loop().add_reader(listener.sock.fileno(), self._accept, which)
            self._empty_former(which, listener)

    def shut(self, *which: str) -> None:
        for name in which:
            self._opened.discard(name)
            if name in self._listeners:
                asyncio.get_running_loop().remove_reader(self._listeners[name].sock.fileno())

    def close(self) -> None:
        """Remove the own sockets; who waits in the backlog of one is told by a closed connection.

        Who waits in the backlog of a passed one stays there: the manager holds it, the next start serves them.
        """
        self.shut(*self._listeners)
        for which, listener in self._listeners.items():
            if listener.own:
                unlink_own(paths.socket_path(self._dir, which), listener.inode)
            for sock in (listener.sock, *listener.former):
                sock.close()
        self._listeners = {}

    # --- names that others removed or took

    def strangers(self) -> list[str]:
        """Paths of sockets at which somebody else's file is now."""
        found = {
            paths.socket_path(self._dir, which): listener.inode for which, listener in self._listeners.items()
        }
        return [path for path, inode in found.items() if inode_of(path) not in (inode, None)]

    def mend(self) -> None:
        """Bind again what was removed. With DIR/lock held nobody else can mean to listen there.

        Not possible: said once, and tried again at the next call.
        """
        for which, listener in list(self._listeners.items()):
            path = paths.socket_path(self._dir, which)
            if inode_of(path) == listener.inode:
                listener.missed = False
            elif not listener.own:
                text = f"{path} is gone and nobody can connect: restart its socket unit together with the store's"
                _say_once(listener, text)
            else:
                self._bind_again(which, listener)

    def _bind_again(self, which: str, listener: _Listener) -> None:
        try:
            newer = self._bind(which)
        except StorageError as error:
            _say_once(listener, f"a socket was removed and cannot be made again: {error}")
            return
        log.warning("%s was removed by somebody and is made again", paths.socket_path(self._dir, which))
        asyncio.get_running_loop().remove_reader(listener.sock.fileno())
        newer.former = [*listener.former, listener.sock]
        self._listeners[which] = newer
        if which in self._opened:
            self.open(which)

    def _empty_former(self, which: str, listener: _Listener) -> None:
        """Serve who waits at a name that was removed. A pause ends it; open() goes on."""
        while listener.former and which in self._opened:
            if self._accept_some(which, listener.former[0]):
                listener.former.pop(0).close()

    # --- connections

    def _accept(self, which: str) -> None:
        self._accept_some(which, self._listeners[which].sock)

    def _accept_some(self, which: str, listening: socket.socket) -> bool:
        """Take connections, a limited number at a time; whether nobody waits any more."""
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                sock, _ = listening.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                # No descriptor left, mostly. The socket stays readable: looking again at once would spin.
                log.warning("cannot accept at %s.sock: %s", which, error)
                self._pause(which)
                return False
            try:
                more = self._admit(which, sock)
            except OSError as error:
                log.warning("a connection at %s.sock is lost: %s", which, error)
                more = False
            if not more:
                self._pause(which)
                return False
        return False

    def _pause(self, which: str) -> None:
        self.shut(which)
        asyncio.get_running_loop().call_later(_PAUSE_S, self._resume, which)

    def _resume(self, which: str) -> None:
        if self._may_open(which):
            self.open(which)


def _say_once(listener: _Listener, text: str) -> None:
    if not listener.missed:
        log.error("%s", text)
    listener.missed = True
