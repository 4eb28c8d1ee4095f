"""A stand-in for a store, for the tests of the clients: real sockets, real frames, answers from a script.

It runs on an asyncio loop in a thread of its own, so that blocking and asyncio clients can both be tested.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mstore import paths
from mstore.frames import Series
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.workers.selecting import stack_of

Answer = Callable[[m.Message], "m.Message | str | None"]


class FakeStore:
    """Listens on all three sockets of `directory`.

    received   (connection number, message) of all requests but Hello
    answer     may be replaced: a message to reply, None for no reply, "drop" to close the connection at once
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.received: list[tuple[int, m.Message]] = []
        self.hellos: list[m.Hello] = []
        self.answer: Answer = self.usual
        self.first_handle = 0
        self.handle_type = m.TYPE_F32
        self.text: bytes = b""
        self.n_connections = 0
        self._connections: set[asyncio.StreamWriter] = set()
        self._handles: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []

    def start(self) -> None:
        paths.run_dir(self.directory).mkdir(parents=True, exist_ok=True)
        if not self._thread.is_alive():
            self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)

    def refuse(self) -> None:
        """Close all connections and listen no more, as a store that went away."""
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(5)

    def stop(self) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def drop_connections(self) -> None:
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(5)

    def requests(self, kind: type[m.Message]) -> list[Any]:
        return [message for _, message in self.received if isinstance(message, kind)]

    def usual(self, message: m.Message) -> "m.Message | str | None":
        match message:
            case m.Lines():
                text = bytes(message.data)
                self.text += text if text.endswith(b"\n") else text + b"\n"
                return m.Written(text.rstrip(b"\n").count(b"\n") + 1, 0, 0, {}, True)
            case m.Columns():
                return m.Written(len(message.values) // m.TYPE_BYTES[message.type], 0, 0, {}, True)
            case m.Rows():
                return m.Written(len(message.stamps) // 8, 0, 0, {}, True)
            case m.Query():
                return self._query(message)
            case m.Children():
                return m.Names(["a", "b"] if message.path else ["fritz"])
            case m.Paths():
                return m.Names([["fritz", "f0201"], ["fritz", "f0202"]])
            case m.HostSeries():
                return m.SeriesPaths([[message.cluster, message.host, "mem_bw", "socket", "0", "", ""]])
            case m.Metrics():
                entry = {"cluster": "fritz", "name": "mem", "step_s": 60, "aggregation": "sum", "type": "f64"}
                return m.MetricList([entry | {"unit": "GB", "columns": [], "newer": 1}])
            case m.Info():
                return m.InfoReply({"state": "ready"})
            case m.Cancel():
                return None
            case _:
                return m.Done({"did": type(message).__name__})

    def _many(self, message: m.QueryMany) -> "m.Message | str | None":
        """Each question as the script answers it; the first that is not answered decides."""
        found: list[Series | list[Series]] = []
        for fields in message.questions:
            reply = self.answer(m.of_fields(m.Query, fields))
            if not isinstance(reply, m.Answer):
                return reply
            series = [Series.from_wire(entry) for entry in reply.series]
            found.append(series if reply.many else series[0])
        return stack_of(found)

    def _query(self, query: m.Query) -> m.Message:
        n = (query.end - query.start) // 60
        ids = query.type_ids if isinstance(query.type_ids, list) else [query.type_ids or ""]
        series = [
            Series(np.arange(n, dtype=np.float32), query.start, 60, "W", metric=query.metric, type_id=one)
            for one in ids
        ]
        return m.Answer(isinstance(query.type_ids, list), [one.to_wire() for one in series])

    def _opened(self, number: int, message: m.Open) -> m.Opened:
        first = self._handles.get(number, self.first_handle)
        self._handles[number] = first + len(message.series)
        handles = np.arange(first, first + len(message.series), dtype="<u4")
        errors = [[i, "unknown_metric"] for i, path in enumerate(message.series) if path[2] == "nope"]
        handles[[i for i, _ in errors]] = m.HANDLE_NONE
        return m.Opened(handles.tobytes(), bytes([self.handle_type]) * len(handles), errors)

    async def _listen(self) -> None:
        for which in paths.SOCKETS:
            path = paths.socket_path(self.directory, which)
            Path(path).unlink(missing_ok=True)
            self._servers.append(await asyncio.start_unix_server(self._serve, path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        number = self.n_connections
        self._connections.add(writer)
        decoder = framing.FrameDecoder(tags=m.TAGS)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(1 << 20):
                for tag, request_id, body in decoder.feed(data):
                    reply = self._reply(number, m.decode(tag, bytes(body)))
                    if reply == "drop":
                        writer.transport.abort()
                        return
                    if isinstance(reply, m.Message):
                        writer.write(m.encode(reply, request_id))
        self._connections.discard(writer)
        writer.close()

    def _reply(self, number: int, message: m.Message) -> "m.Message | str | None":
        if isinstance(message, m.Hello):
            self.hellos.append(message)
            return m.Welcome(1, 42, {"frame_bytes": 1 << 24}, message.ack, [], "fake")
        self.received.append((number, message))
        if isinstance(message, m.QueryMany):
            return self._many(message)
        if isinstance(message, m.Open) and self.answer == self.usual:
            return self._opened(number, message)
        return self.answer(message)

    async def _hang_up(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self._drop()

    async def _drop(self) -> None:
        for writer in list(self._connections):
            writer.transport.abort()
        self._connections.clear()
        await asyncio.sleep(0)
        for task in [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]:
            await asyncio.wait([task], timeout=1)


@contextlib.contextmanager
def fake_store(directory: Path) -> Iterator[FakeStore]:
    store = FakeStore(directory)
    store.start()
    try:
        yield store
    finally:
        store.stop()


def test_stand_in_greets_and_answers_over_a_real_socket(tmp_path: Path) -> None:
    import socket

    with fake_store(tmp_path) as store, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(paths.socket_path(tmp_path, "query"))
        sock.sendall(m.encode(m.Hello(1, "query"), 1) + m.encode(m.Ping(), 2))
        decoder = framing.FrameDecoder()
        found: list[m.Message] = []
        while len(found) < 2:
            found += [m.decode_frame(frame) for frame in decoder.feed(sock.recv(4096))]
        assert isinstance(found[0], m.Welcome)
        assert found[1] == m.Done({"did": "Ping"})
        assert store.hellos == [m.Hello(1, "query")]
