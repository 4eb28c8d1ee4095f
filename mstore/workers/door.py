"""The store's listening sockets: made, opened, shut and removed; who comes in is the supervisor's business."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from mstore import paths
from mstore.errors import StorageError
from mstore.workers.incarnation import give_to_group

log = logging.getLogger(__name__)

_BACKLOG = 4096
_ACCEPTS_PER_WAKE = 64
_PAUSE_S = 0.05
_MODES = {"ingest": 0o660, "query": 0o660, "control": 0o600}


class Door:
    """DIR/run/*.sock. A shut one still listens: connections wait in its backlog, which costs no descriptor.

    admit     takes an accepted connection; False: no more for now. OSError: that connection is lost
    may_open  whether one that was shut for a moment may be opened again
    """

    def __init__(
        self,
        store_dir: Path,
        admit: Callable[[str, socket.socket], bool],
        may_open: Callable[[str], bool],
    ) -> None:
        self._dir = store_dir
        self._admit = admit
        self._may_open = may_open
        self._listeners: dict[str, socket.socket] = {}

    def listen(self) -> None:
        """Make the sockets, with DIR/lock held: whatever has their names is left from a run that is gone."""
        for which in paths.SOCKETS:
            path = paths.socket_path(self._dir, which)
            sock = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
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
            self._listeners[which] = sock

    def open(self, which: str) -> None:
        if which in self._listeners:
            asyncio.get_running_loop().add_reader(self._listeners[which].fileno(), self._accept, which)

    def shut(self, *which: str) -> None:
        for name in which:
            if name in self._listeners:
                asyncio.get_running_loop().remove_reader(self._listeners[name].fileno())

    def close(self) -> None:
        """Remove the sockets; who waits in a backlog is told by a closed connection."""
        self.shut(*self._listeners)
        for which, listener in self._listeners.items():
            with contextlib.suppress(OSError):
                Path(paths.socket_path(self._dir, which)).unlink(missing_ok=True)
            listener.close()
        self._listeners = {}

    def _accept(self, which: str) -> None:
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                sock, _ = self._listeners[which].accept()
            except BlockingIOError:
                return
            except OSError as error:
                # No descriptor left, mostly. The socket stays readable: looking again at once would spin.
                log.warning("cannot accept at %s.sock: %s", which, error)
                self._pause(which)
                return
            try:
                more = self._admit(which, sock)
            except OSError as error:
                log.warning("a connection at %s.sock is lost: %s", which, error)
                more = False
            if not more:
                self._pause(which)
                return

    def _pause(self, which: str) -> None:
        self.shut(which)
        asyncio.get_running_loop().call_later(_PAUSE_S, self._resume, which)

    def _resume(self, which: str) -> None:
        if self._may_open(which):
            self.open(which)
