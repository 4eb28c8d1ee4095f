"""A client's connection to a store in the same process: the frames that would go through a socket, handled at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from mstore import __version__, clock, limits
from mstore.client.pool import Settings
from mstore.client.session import Adapt, Restore, Session
from mstore.errors import InvalidRequest, MstoreError, ProtocolError
from mstore.ingest.framed import FramedSession
from mstore.ipc import failure, framing, greeting
from mstore.ipc import messages as m
from mstore.ipc.checks import Bin
from mstore.ipc.transport import Link, LinkBroken, Received
from mstore.model import Ack
from mstore.query.budget import Budget, finished
from mstore.query.following import Following
from mstore.selector import Selector
from mstore.testing.memory import INSTANCE, Memory
from mstore.workers.subscriber import Subscriber

_POLL_S = 0.005
Send = Callable[[int, m.Message], None]


@dataclass(frozen=True, slots=True)
class LocalSettings(Settings):
    """Settings whose connections lead to a store in this process."""

    memory: Memory | None = None

    def session(
        self, role: str, cluster: str = "", restore: Restore | None = None, adapt: Adapt | None = None
    ) -> Session:
        assert self.memory is not None
        found = Session(role, self.hello(role, cluster), restore, adapt)
        found.link = LocalLink(self.memory)
        return found


class LocalLink(Link):
    """A Link without a socket: what is sent is answered before send() returns."""

    __slots__ = ("_arrived", "_bytes", "_end", "_frames", "_memory")

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory
        self._end: _IngestEnd | _QueryEnd | _ControlEnd | None = None
        self._bytes = bytearray()
        self._frames = framing.FrameDecoder(limits.FRAME_BYTES_MAX, m.TAGS)
        self._arrived = threading.Condition(memory.lock)

    @property
    def connected(self) -> bool:
        return self._end is not None and not self._spoiled

    def open(self, path: str, until_s: float) -> None:
        """path: the name of a socket: ingest, query, control."""
        self.abort()
        self._spoiled = False
        self.decoder = framing.FrameDecoder(self._limit, m.TAGS)
        self._frames = framing.FrameDecoder(limits.FRAME_BYTES_MAX, m.TAGS)
        self._end = _ENDS[path](self._memory, self._answer)

    async def open_async(self, path: str) -> None:
        self.open(path, 0.0)

    def send(self, parts: list[Bin], until_s: float) -> None:
        end = self._end
        if end is None:
            raise LinkBroken("not connected")
        with self._arrived:
            try:
                for frame in self._frames.feed(b"".join(parts)):
                    end.take(frame.request_id, m.decode_frame(frame))
            except ProtocolError as error:
                self._answer(0, m.Error.of(error))

    async def send_async(self, parts: list[Bin]) -> None:
        self.send(parts, 0.0)

    def receive(self, until_s: float) -> Received:
        with self._arrived:
            # Only what is followed comes later, by another thread's write.
            if not self._arrived.wait_for(lambda: self._bytes, until_s - clock.monotonic_s()):
                raise TimeoutError
            return self._received()

    async def receive_async(self) -> Received:
        await self.readable_async()
        with self._arrived:
            return self._received()

    async def readable_async(self) -> None:
        import asyncio

        while not self._bytes:
            await asyncio.sleep(_POLL_S)

    def abort(self, farewell: bytes = b"") -> None:
        end, self._end = self._end, None
        self._bytes.clear()
        if end is not None:
            with self._arrived:
                end.close()

    def _answer(self, request_id: int, message: m.Message) -> None:
        self._bytes += m.encode(message, request_id)
        self._arrived.notify_all()

    def _received(self) -> Received:
        data = bytes(self._bytes)
        self._bytes.clear()
        return [(frame.request_id, m.decode_frame(frame)) for frame in self.decoder.feed(data)]


class _IngestEnd:
    """ingest.sock of a framed connection."""

    def __init__(self, memory: Memory, send: Send) -> None:
        self._memory = memory
        self._send = send
        self._replies: list[tuple[int, m.Message]] = []
        self._session = FramedSession(
            memory.engine, self._reply, lambda hello: greeting.welcome(hello, "ingest", INSTANCE, __version__)
        )

    def take(self, request_id: int, message: m.Message) -> None:
        if not isinstance(message, m.Cancel):
            self._memory.drive(self._session.handle(request_id, message))
        for reply in self._replies:
            self._send(*reply)
        self._replies.clear()

    def close(self) -> None:
        self._session.close()

    def _reply(self, request_id: int, _level: Ack | None, message: m.Message) -> None:
        self._replies.append((request_id, message))


class _QueryEnd:
    """query.sock."""

    def __init__(self, memory: Memory, send: Send) -> None:
        self._memory = memory
        self._send = send
        self._greeted = False
        self._subscribers: dict[int, Subscriber] = {}

    def take(self, request_id: int, message: m.Message) -> None:
        if not self._greeted:
            hello = greeting.accept_hello(message, "query")
            self._greeted = True
            self._send(request_id, greeting.welcome(hello, "query", INSTANCE, __version__))
            return
        try:
            if isinstance(message, m.Cancel):
                self._forget(message.target)
            elif isinstance(message, m.Follow):
                self._follow(request_id, message)
            else:
                self._send(request_id, _answer(self._memory, message))
        except MstoreError as error:
            self._send(request_id, failure.reply_to(message, error, "the query worker"))

    def close(self) -> None:
        for request_id in list(self._subscribers):
            self._forget(request_id)

    def _follow(self, request_id: int, message: m.Follow) -> None:
        reader, selector = self._memory.reader, Selector.parse(message.selector)
        following = Following(reader.directory, lambda: reader.matching(selector, message.metrics))
        following.refresh()
        since_s = None if message.since_ms is None else message.since_ms // 1000
        subscriber = Subscriber(
            following, reader.gatherer, lambda reply: self._send(request_id, reply), lambda: 0, since_s,
            clock.now_s() + self._memory.config.max_future_s,
        )  # fmt: skip
        self._send(request_id, m.FollowBegun(0, following.n_series))
        self._subscribers[request_id] = subscriber
        self._memory.subscribers.append(subscriber)
        while subscriber.work():
            pass

    def _forget(self, request_id: int) -> None:
        subscriber = self._subscribers.pop(request_id, None)
        if subscriber in self._memory.subscribers:
            self._memory.subscribers.remove(subscriber)


class _ControlEnd:
    """control.sock, of which there is only a refusal."""

    def __init__(self, memory: Memory, send: Send) -> None:
        self._memory = memory
        self._send = send

    def take(self, request_id: int, message: m.Message) -> None:
        if isinstance(message, m.Hello):
            self._send(request_id, greeting.welcome(message, "control", INSTANCE, __version__))
        elif isinstance(message, m.Info):
            self._send(request_id, _answer(self._memory, message))
        else:
            what = (
                f"{type(message).__name__}: a store of mstore.testing has no processes, no log and no files"
            )
            self._send(request_id, m.Error.of(InvalidRequest(f"{what}; make a new one instead")))

    def close(self) -> None:
        pass


def _answer(memory: Memory, message: m.Message) -> m.Message:
    answer = memory.answers.answer(message, Budget())
    return answer if isinstance(answer, m.Message) else finished(answer)


_ENDS: dict[str, type[_IngestEnd | _QueryEnd | _ControlEnd]] = {
    "ingest": _IngestEnd, "query": _QueryEnd, "control": _ControlEnd,
}  # fmt: skip
