"""Supervisor <-> child: one SOCK_SEQPACKET pair a child, one small msgpack list a packet, perhaps a descriptor beside it.

Packets keep their bounds, so a child that is killed in the middle of a send leaves no half message for its
successor, which inherits the same pair. Connections that wait in the pair when a child dies are served by the next one.

    down   ["serve"] + fd          a client's connection
           ["worker", hello] + fd  an ingest worker's connection for the persister; hello is its first message
           ["reload"], ["snapshot", id], ["stop"]
    up     ["ready"], ["progress", text], ["done", id, details], ["failed", id, code, message]
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack

_PACKET_BYTES = 65536
_PACKETS_PER_WAKE = 64
Handler = Callable[[list[Any], int | None], None]


class Channel:
    """One end of the pair. What the peer is too slow to take waits here, in order."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[bytes, int | None]] = deque()

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        return cls(socket.socket(fileno=fd))

    def serve(self, loop: asyncio.AbstractEventLoop, handler: Handler, closed: Callable[[], None]) -> None:
        """Call `handler(packet, fd or None)` for every packet; `closed` when the other end is gone."""
        self._loop = loop
        loop.add_reader(self.sock.fileno(), self._read, handler, closed)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self.sock.fileno())
            self._loop.remove_writer(self.sock.fileno())
            self._loop = None

    def send(self, packet: list[Any], fd: socket.socket | None = None) -> None:
        """Send one packet, with a duplicate of `fd` if given; the caller's own stays open and is the caller's."""
        sock_fd = None if fd is None else fd.fileno()
        data = msgpack.packb(packet)
        if self._waiting or not self._try(data, sock_fd):
            # A duplicate of our own: the caller may close its socket before the peer reads.
            self._waiting.append((data, None if fd is None else os.dup(fd.fileno())))
            if self._loop is not None:
                self._loop.add_writer(self.sock.fileno(), self._flush)

    def _try(self, data: bytes, fd: int | None) -> bool:
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self.sock.sendmsg([data], ancillary)
        except (BlockingIOError, ConnectionError):
            return False
        return True

    def _flush(self) -> None:
        while self._waiting:
            data, fd = self._waiting[0]
            if not self._try(data, fd):
                return
            self._waiting.popleft()
            if fd is not None:
                os.close(fd)
        if self._loop is not None:
            self._loop.remove_writer(self.sock.fileno())

    def _read(self, handler: Handler, closed: Callable[[], None]) -> None:
        for _ in range(_PACKETS_PER_WAKE):
            try:
                packet, fds, _flags, _address = socket.recv_fds(self.sock, _PACKET_BYTES, 1)
            except BlockingIOError:
                return
            except ConnectionError:
                packet, fds = b"", []
            if not packet:
                self.stop()
                closed()
                return
            handler(msgpack.unpackb(packet), fds[0] if fds else None)
