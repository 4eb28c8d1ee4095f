"""Supervisor <-> child: one SOCK_SEQPACKET pair a child, one small msgpack list a packet, perhaps a descriptor beside it.

Packets keep their bounds, so a child that is killed in the middle of a send leaves no half message for its
successor, which inherits the same pair. Connections that wait in the pair when a child dies are served by the next one.

    down   ["serve"] + fd          a client's connection
           ["worker", hello] + fd  an ingest worker's connection for the persister; hello is its first message
           ["reload"] + fd         the configuration accepted by now (settings.hand_over)
           ["snapshot", id], ["hold", id, limit_s], ["release", hold], ["alive"], ["stop"]
           ["state", id] + fd      a memfd to write its state to (states.py)
           ["order", id, tag] + fd a memfd with the body of a message for the persister (orders.py)
    up     ["ready"], ["alive"], ["progress", text], ["done", id, details], ["failed", id, code, message, details]
"""

from __future__ import annotations

import array
import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack

log = logging.getLogger(__name__)

_PACKET_BYTES = 65536
_PACKETS_PER_WAKE = 64
_FULL_RETRY_S = 0.05
_WARN_EVERY_S = 60.0
_SYSTEM_FULL = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
"""Too many descriptors are under way between processes, or no memory: goes by itself, but no event says when."""
Handler = Callable[[list[Any], int | None], None]


class Channel:
    """One end of the pair. What the peer is too slow to take waits here, in order."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._later: asyncio.TimerHandle | None = None
        self._read_later: asyncio.TimerHandle | None = None
        self._reads: Callable[[], None]
        self._warn_again_s = 0.0

    @property
    def n_waiting(self) -> int:
        """Packets the peer was too slow to take; each may hold a descriptor."""
        return len(self._waiting)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        return cls(socket.socket(fileno=fd))

    def serve(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        closed: Callable[[], None],
        *,
        waiting: Callable[[], None] | None = None,
    ) -> None:
        """Call `handler(packet, fd or None)` for every packet; `closed` when the other end is gone.

        waiting  for an end that is sent descriptors: while this process may open no more of them, packets stay in the
                 pair, where they cost none (read now, what they carry would be lost), and this is called at every look
        """
        self._loop = loop
        self._reads = partial(self._read, handler, closed, waiting)
        loop.add_reader(self.sock.fileno(), self._reads)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self.sock.fileno())
            self._loop.remove_writer(self.sock.fileno())
            self._loop = None
        for timer in (self._later, self._read_later):
            if timer is not None:
                timer.cancel()
        self._later = self._read_later = None

    def close(self) -> None:
        """Give up the pair's end and what waits for the peer: a connection nobody will serve must not stay open."""
        self.stop()
        self.sock.close()
        while self._waiting:
            _, fd = self._waiting.popleft()
            if fd is not None:
                os.close(fd)

    def send(self, packet: list[Any], fd: socket.socket | int | None = None) -> None:
        """Send one packet, with a duplicate of `fd` if given; the caller's own stays open and is the caller's."""
        number = fd if fd is None or isinstance(fd, int) else fd.fileno()
        data = msgpack.packb(packet)
        if self._waiting or not self._try(data, number):
            # A duplicate of our own: the caller may close its socket before the peer reads.
            self._waiting.append((data, None if number is None else os.dup(number)))
            if self._loop is not None and self._later is None:
                self._loop.add_writer(self.sock.fileno(), self._flush)

    def _try(self, data: bytes, fd: int | None) -> bool:
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self.sock.sendmsg([data], ancillary)
        except (BlockingIOError, ConnectionError):
            return False
        except OSError as error:
            if error.errno not in _SYSTEM_FULL:
                raise
            self._wait_for_the_system()
            return False
        return True

    def _wait_for_the_system(self) -> None:
        """The socket counts as writable while the system is full: look again a little later instead of at once."""
        if self._loop is not None and self._later is None:
            self._loop.remove_writer(self.sock.fileno())
            self._later = self._loop.call_later(_FULL_RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._later = None
        if self._loop is not None:
            self._loop.add_writer(self.sock.fileno(), self._flush)

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

    def _read_again(self) -> None:
        self._read_later = None
        if self._loop is not None:
            self._loop.add_reader(self.sock.fileno(), self._reads)

    def _wait_for_a_descriptor(self, waiting: Callable[[], None]) -> None:
        assert self._loop is not None
        if self._loop.time() >= self._warn_again_s:
            log.warning("this process may open no more descriptors: new connections wait until others end")
            self._warn_again_s = self._loop.time() + _WARN_EVERY_S
        self._loop.remove_reader(self.sock.fileno())
        self._read_later = self._loop.call_later(_FULL_RETRY_S, self._read_again)
        waiting()

    def _read(self, handler: Handler, closed: Callable[[], None], waiting: Callable[[], None] | None) -> None:
        for _ in range(_PACKETS_PER_WAKE):
            if waiting is not None and not _may_open(self.sock.fileno()):
                self._wait_for_a_descriptor(waiting)
                return
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
            for fd in (
                fds
            ):  # recvmsg leaves them inheritable: a helper process would keep a client's connection open
                os.set_inheritable(fd, False)
            handler(msgpack.unpackb(packet), fds[0] if fds else None)


def _may_open(fd: int) -> bool:
    """Whether this process may have one more descriptor now; `fd` is any that is open."""
    try:
        os.close(os.dup(fd))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return False
    return True
