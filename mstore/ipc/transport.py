"""The client's end of a connection: a Unix socket, and the effects that protocol code asks for on it.

Protocol code (mstore/client) is written once, as generators that yield effects and get their results sent
back:

    steps  --yield Connect | Send | Receive | Exchange | Sleep-->  run(): blocking calls
                                                                   run_async(): the same on an asyncio loop
           <--result, or an exception thrown in------------------

Sockets never block: a blocking call tries first and waits in poll() when it must. A question to a store that
answers at once costs three system calls so: send, poll, recv.

After an effect that fails, for whatever reason (the peer, a time-out, Ctrl-C, a cancelled task), its link is
no longer connected: bytes may have been sent or received in part, and what is left of the stream could not
be trusted.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mstore import clock, limits
from mstore.errors import NotPermitted, Timeout
from mstore.ipc import framing, messages
from mstore.ipc.checks import Bin
from mstore.ipc.messages.tags import TAG_OF

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

# The system caps it at net.core.wmem_max; more of a frame fits in one system call.
SEND_BUFFER_BYTES = 1 * limits.MIB
# poll() counts milliseconds in an int; a longer wait is several.
POLL_S_MAX = 86_400.0
# Values, and whatever stamps and coverage go with them.
REPLY_BYTES_MAX = 2 * limits.ANSWER_BYTES_MAX
_OPENED = TAG_OF["Opened"]


Received: TypeAlias = list[tuple[int, messages.Message]]
"""Messages with the ids of their requests."""


class LinkBroken(Exception):
    """The socket cannot be reached or was closed; the caller may connect again. Never leaves the client."""


class Link:
    """One socket and the decoder of what arrives on it; reusable after abort()."""

    __slots__ = ("_limit", "_poll", "_spoiled", "decoder", "sock")

    def __init__(self, limit: int = REPLY_BYTES_MAX) -> None:
        self._limit = limit
        self.sock: socket.socket | None = None
        self._poll: select.poll | None = None
        self._spoiled = False
        self.decoder = framing.FrameDecoder(limit, messages.TAGS)

    @property
    def connected(self) -> bool:
        return self.sock is not None and not self._spoiled

    def attach(self, sock: socket.socket) -> None:
        """Use a connected socket; it is made non-blocking."""
        self.abort()
        sock.setblocking(False)
        self.sock = sock
        self._poll = None
        self._spoiled = False
        self.decoder = framing.FrameDecoder(self._limit, messages.TAGS)

    def open(self, path: str, until_s: float) -> None:
        """Connect to a socket. raises TimeoutError at the monotonic time until_s, OSError"""
        sock = _new_socket()
        try:
            sock.settimeout(_remaining_s(until_s))
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        self.attach(sock)

    async def open_async(self, path: str) -> None:
        sock = _new_socket()
        try:
            sock.setblocking(False)
            await _running_loop().sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        self.attach(sock)

    def send(self, parts: list[Bin], until_s: float) -> None:
        """Send buffers, in order, all of them. raises TimeoutError at the monotonic time until_s, OSError"""
        sock, left = self.connected_sock(), parts.copy()
        while left:
            _remaining_s(until_s)
            try:
                n = sock.send(left[0]) if len(left) == 1 else sock.sendmsg(left)
            except BlockingIOError:
                _wait(_poll_for(sock, select.POLLOUT), until_s)
                continue
            while left and n >= len(left[0]):
                n -= len(left.pop(0))
            if n:
                left[0] = memoryview(left[0])[n:]

    async def send_async(self, parts: list[Bin]) -> None:
        sock, loop = self.connected_sock(), _running_loop()
        for part in parts:
            await loop.sock_sendall(sock, part)

    def receive(self, until_s: float) -> Received:
        """Wait for bytes; the frames they complete. raises TimeoutError at the monotonic time until_s, OSError"""
        sock = self.connected_sock()
        if self._poll is None:
            self._poll = _poll_for(sock, select.POLLIN)
        while True:
            _wait(self._poll, until_s)
            try:
                n = sock.recv_into(self.decoder.receive_buffer())
            except BlockingIOError:
                continue  # what poll() saw is gone
            return self._decode(n)

    async def receive_async(self) -> Received:
        loop = _running_loop()
        return self._decode(await loop.sock_recv_into(self.connected_sock(), self.decoder.receive_buffer()))

    async def readable_async(self) -> None:
        """Until there is something to receive; takes nothing."""
        import asyncio

        loop, sock = _running_loop(), self.connected_sock()
        readable = asyncio.Event()
        loop.add_reader(sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(sock)

    def connected_sock(self) -> socket.socket:
        if self.sock is None:
            raise LinkBroken("not connected")
        return self.sock

    def _decode(self, n: int) -> Received:
        if n == 0:
            raise LinkBroken("the store closed the connection")
        found = []
        for tag, request_id, body in self.decoder.received(n):
            # The fields of Opened would be views of a buffer that is received into again.
            own = bytes(body) if tag == _OPENED else body
            found.append((request_id, messages.decode(tag, own)))
        return found

    def spoil(self) -> None:
        """Nothing more is to be received; whole frames may still be sent, as a farewell."""
        self._spoiled = True

    def abort(self, farewell: bytes = b"") -> None:
        """Close the socket, after `farewell` if that can be sent without waiting."""
        sock, self.sock = self.sock, None
        if sock is None:
            return
        if farewell:
            with contextlib.suppress(OSError):
                sock.send(farewell, socket.MSG_DONTWAIT)
        sock.close()


def _new_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return sock


def _poll_for(sock: socket.socket, event: int) -> select.poll:
    poll = select.poll()
    poll.register(sock, event)
    return poll


def _remaining_s(until_s: float) -> float:
    remaining = until_s - clock.monotonic_s()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _wait(poll: select.poll, until_s: float) -> None:
    # Rounded up to milliseconds; signals that are handled do not prolong it.
    while not poll.poll(min(_remaining_s(until_s), POLL_S_MAX) * 1000):
        pass


class Effect(ABC):
    """Something to do that takes time. Raises LinkBroken, Timeout, or what interrupted it."""

    __slots__ = ()

    @abstractmethod
    def perform(self) -> Any: ...

    @abstractmethod
    async def perform_async(self) -> Any: ...


Steps: TypeAlias = Generator[Effect, Any, T]


class _OnLink(Effect):
    """An effect on a link, to be done by the monotonic time until_s."""

    __slots__ = ("link", "until_s")

    def __init__(self, link: Link, until_s: float) -> None:
        self.link = link
        self.until_s = until_s

    def perform(self) -> Any:
        try:
            return self._blocking()
        except OSError as error:
            raise self._failed(error) from error
        except BaseException:
            self._end_link()
            raise

    async def perform_async(self) -> Any:
        try:
            import asyncio  # here and not above: the blocking client starts in half the time without it

            async with asyncio.timeout(_remaining_s(self.until_s)):
                return await self._waiting()
        except OSError as error:
            raise self._failed(error) from error
        except BaseException:
            self._end_link()
            raise

    def _end_link(self) -> None:
        self.link.abort()

    def _failed(self, error: OSError) -> Exception:
        self._end_link()
        if isinstance(error, TimeoutError):
            return Timeout("no answer in time")
        if isinstance(error, PermissionError):
            return NotPermitted(f"this user may not connect: {error}")
        return LinkBroken(str(error))

    @abstractmethod
    def _blocking(self) -> Any: ...

    @abstractmethod
    async def _waiting(self) -> Any: ...


class Connect(_OnLink):
    """Connect the link to the socket at `path`."""

    __slots__ = ("path",)

    def __init__(self, link: Link, path: str, until_s: float) -> None:
        super().__init__(link, until_s)
        self.path = path

    def _blocking(self) -> None:
        self.link.open(self.path, self.until_s)

    async def _waiting(self) -> None:
        await self.link.open_async(self.path)


class Send(_OnLink):
    """Send buffers, in order, all of them."""

    __slots__ = ("parts",)

    def __init__(self, link: Link, parts: list[Bin], until_s: float) -> None:
        super().__init__(link, until_s)
        self.parts = parts

    def _blocking(self) -> None:
        self.link.send(self.parts, self.until_s)

    async def _waiting(self) -> None:
        await self.link.send_async(self.parts)


class Receive(_OnLink):
    """Wait for bytes; the frames they complete (perhaps none), decoded at once, as (request id, message)."""

    __slots__ = ()

    def _end_link(self) -> None:
        # What goes out is intact: the store can still be told which requests nobody waits for any more.
        self.link.spoil()

    def _blocking(self) -> Received:
        return self.link.receive(self.until_s)

    async def _waiting(self) -> Received:
        return await self.link.receive_async()


class AwaitMessages(_OnLink):
    """As Receive, for what comes when it comes: a time-out takes nothing off the link, which stays connected."""

    __slots__ = ()

    async def perform_async(self) -> Any:
        try:
            return await self._waiting()
        except OSError as error:
            raise self._failed(error) from error
        except BaseException:
            self._end_link()
            raise

    def _failed(self, error: OSError) -> Exception:
        if isinstance(error, TimeoutError):
            return Timeout("nothing came in time; the next call waits on")
        return super()._failed(error)

    def _blocking(self) -> Received:
        return self.link.receive(self.until_s)

    async def _waiting(self) -> Received:
        # Readable first, then read at once: a wait that is cut short must not lose what was just read.
        import asyncio

        async with asyncio.timeout(_remaining_s(self.until_s)):
            await self.link.readable_async()
        return self.link.receive(self.until_s)


class Exchange(_OnLink):
    """Send, then Receive: what a question takes whose answer comes in one piece."""

    __slots__ = ("_sent", "parts")

    def __init__(self, link: Link, parts: list[Bin], until_s: float) -> None:
        self.link = link
        self.until_s = until_s
        self.parts = parts
        self._sent = False

    def _end_link(self) -> None:
        if self._sent:
            self.link.spoil()
        else:
            self.link.abort()

    def _blocking(self) -> Received:
        self.link.send(self.parts, self.until_s)
        self._sent = True
        return self.link.receive(self.until_s)

    async def _waiting(self) -> Received:
        await self.link.send_async(self.parts)
        self._sent = True
        return await self.link.receive_async()


class Sleep(Effect):
    """A pause before another attempt."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def perform(self) -> None:
        time.sleep(self.seconds)

    async def perform_async(self) -> None:
        import asyncio

        await asyncio.sleep(self.seconds)


def _running_loop() -> asyncio.AbstractEventLoop:
    import asyncio

    return asyncio.get_running_loop()


def run(steps: Steps[T]) -> T:
    """Carry out steps with blocking calls; their result."""
    try:
        effect = next(steps)
        while True:
            try:
                result = effect.perform()
            except BaseException as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        # An interrupt between two effects leaves the steps unfinished: let them clean up now.
        steps.close()


async def run_async(steps: Steps[T]) -> T:
    """Carry out steps on the running asyncio loop; their result."""
    try:
        effect = next(steps)
        while True:
            try:
                result = await effect.perform_async()
            except BaseException as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        steps.close()
