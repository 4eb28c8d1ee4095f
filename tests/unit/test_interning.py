"""A worker's questions to the persister: in slices, asked again until they are answered, answered after the log."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore import errors, limits
from mstore.ingest.effects import NeedPaths, NeedReferences, References
from mstore.ipc import framing
from mstore.ipc import messages as m
from mstore.shm import layout
from mstore.workers import interning
from mstore.workers.intern_connection import InternConnection
from mstore.workers.interning import Interner
from tests import directory_rig
from tests.worker_rig import PATIENCE_S, TestPersister, play


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interning, "_RETRY_S", 0.01)


class Scripted(asyncio.Protocol):
    """A persister that says what the test tells it to."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.decoder = framing.FrameDecoder(limits.CONTROL_FRAME_BYTES_MAX, m.TAGS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or transport
        self.transport: Any = transport
        self.server.connections.append(self)

    def data_received(self, data: bytes) -> None:
        for frame in self.decoder.feed(data):
            message = m.decode_frame(frame)
            self.server.heard.append(message)
            reply = self.server.answer(message)
            if reply is not None:
                self.transport.write(m.encode(reply, frame.request_id))


class Server:
    """control.sock; `answer` makes the reply of each message, None = no reply."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "control.sock"
        self.connections: list[Scripted] = []
        self.heard: list[m.Message] = []
        self.answer: Callable[[m.Message], m.Message | None] = self.numbered

    def numbered(self, message: m.Message) -> m.Message | None:
        """References that are the first times asked about."""
        if isinstance(message, m.Hello):
            return m.Welcome(1, 7, {}, "durable")
        assert isinstance(message, m.Intern | m.InternPaths)
        n = len(message.times) // 8
        return m.Interned(bytes(message.times), bytes([1] * n), bytes([2] * n))

    def asked(self) -> list[m.Message]:
        return [one for one in self.heard if not isinstance(one, m.Hello)]

    async def __aenter__(self) -> Server:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Scripted(self), str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.drop()
        await asyncio.sleep(0.01)
        self.path.unlink(missing_ok=True)

    def drop(self) -> None:
        for one in self.connections:
            one.transport.abort()
        self.connections.clear()


async def wait_for(question: Any) -> References:
    found = await asyncio.wait_for(question, PATIENCE_S)
    assert isinstance(found, References)
    return found


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


def keys(n: int, first: int = 1) -> NeedReferences:
    names = [b"load,hostname=h%d" % i for i in range(n)]
    offsets = np.cumsum([0, *map(len, names)]).astype("<i8")
    return NeedReferences(
        b"c", b"".join(names), offsets.tobytes(), np.arange(first, first + n, dtype="<i8").tobytes()
    )


def paths(n: int, specs: list[Any] | None = None) -> NeedPaths:
    names = [["c", f"h{i}", "load", "", "", "", ""] for i in range(n)]
    return NeedPaths(names, np.arange(1, n + 1, dtype="<i8").tobytes(), specs)


async def end(*interners: Interner) -> None:
    for one in interners:
        one.close()
    await asyncio.sleep(0.01)


def test_a_batch_is_asked_about_in_slices_and_answered_in_its_order(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            interner = Interner(server.path)
            n = 2 * limits.INTERN_KEYS_MAX + 7
            found, others = await asyncio.gather(
                wait_for(interner.references(keys(n))), wait_for(interner.paths(paths(n, [None] * n)))
            )
            assert np.frombuffer(found.refs, "<u8").tolist() == list(range(1, n + 1))
            assert (found.types, found.kinds) == (bytes([1] * n), bytes([2] * n))
            assert others == found
            asked = server.asked()
            assert sorted(len(one.times) // 8 for one in asked) == [7, 7, 256, 256, 256, 256]
            names = []
            for one in asked:
                if isinstance(one, m.Intern):
                    assert bytes(one.cluster) == b"c"
                    offsets = np.frombuffer(one.offsets, "<i8")
                    assert (offsets[0], offsets[-1]) == (0, len(one.keys))
                    names += [bytes(one.keys[a:b]) for a, b in itertools.pairwise(offsets)]
            assert names == [b"load,hostname=h%d" % i for i in range(n)]
            assert sum(isinstance(one, m.Hello) for one in server.heard) == 1
            await end(interner)

    play(loop, scene)


def test_nothing_asked_is_nothing_answered(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        interner = Interner(tmp_path / "none.sock")
        assert await wait_for(interner.paths(paths(0))) == References(b"", b"", b"")
        await end(interner)

    play(loop, scene)


def test_what_was_under_way_when_the_persister_went_away_is_asked_again(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            interner = Interner(server.path)
            server.answer = lambda message: server.numbered(message) if isinstance(message, m.Hello) else None
            questions = [
                asyncio.create_task(wait_for(interner.references(keys(300, 10 * i)))) for i in range(3)
            ]
            await until(lambda: len(server.asked()) == 6)
            server.drop()
            await until(lambda: len(server.asked()) == 12)
            assert server.asked()[6:] == server.asked()[:6]
            server.answer = server.numbered
            server.drop()
            for i, question in enumerate(questions):
                refs = np.frombuffer((await question).refs, "<u8")
                assert refs.tolist() == list(range(10 * i, 10 * i + 300))
            await end(interner)

    play(loop, scene)


def test_a_persister_that_is_not_there_yet_is_waited_for(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        server = Server(tmp_path)
        interner = Interner(server.path)
        question = asyncio.create_task(wait_for(interner.references(keys(1))))
        await asyncio.sleep(0.03)
        assert not question.done()
        async with server:
            assert len((await question).refs) == 8
            await end(interner)

    play(loop, scene)


def test_a_connection_lost_before_its_greeting_is_made_again(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            hung_up = 0

            def hang_up(message: m.Message) -> m.Message | None:
                nonlocal hung_up
                if hung_up == 3:
                    return server.numbered(message)
                hung_up += 1
                server.drop()
                return None

            server.answer = hang_up
            interner = Interner(server.path)
            assert len((await wait_for(interner.references(keys(1)))).refs) == 8
            assert hung_up == 3
            await end(interner)

    play(loop, scene)


def test_a_connection_lost_while_it_is_being_made_is_made_again(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            interner = Interner(server.path)
            made = interner.connection_made
            n_made = 0

            def broken(transport: asyncio.BaseTransport) -> None:
                nonlocal n_made
                n_made += 1
                made(transport)
                if n_made == 1:
                    interner.connection_lost(None)  # before create_unix_connection() returns
                    transport.abort()  # type: ignore[attr-defined]  # a socket's transport has it

            interner.connection_made = broken  # type: ignore[method-assign]  # stands in for a race
            assert len((await wait_for(interner.references(keys(1)))).refs) == 8
            assert n_made == 2
            await end(interner)

    play(loop, scene)


@pytest.mark.parametrize("reply", [m.Error("version_mismatch", "no"), m.Done({}), None])
def test_a_greeting_that_is_refused_is_tried_again(
    tmp_path: Path, loop: str, reply: m.Message | None
) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            interner = Interner(server.path)

            def refuse(message: m.Message) -> m.Message | None:
                server.answer = server.numbered
                if reply is None:
                    server.connections[-1].transport.write(b"\x00" * 16)
                return reply

            server.answer = refuse
            assert len((await wait_for(interner.references(keys(1)))).refs) == 8
            await end(interner)

    play(loop, scene)


@pytest.mark.parametrize("error", [errors.StorageError, errors.Degraded, errors.Unavailable])
def test_what_the_persister_cannot_log_now_is_asked_again_until_it_can(
    tmp_path: Path, loop: str, error: type[errors.MstoreError]
) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            refusals = 5

            def refuse(message: m.Message) -> m.Message | None:
                nonlocal refusals
                if isinstance(message, m.Hello) or not refusals:
                    return server.numbered(message)
                refusals -= 1
                if refusals == 2:
                    server.drop()  # it may go away meanwhile, too
                return m.Error.of(error("not now"))

            server.answer = refuse
            interner = Interner(server.path)
            found = await wait_for(interner.references(keys(300)))
            assert np.frombuffer(found.refs, "<u8").tolist() == list(range(1, 301))
            assert refusals == 0
            await end(interner)

    play(loop, scene)


@pytest.mark.parametrize(
    ("reply", "raised"),
    [
        (m.Error.of(errors.StoreFull("no room")), errors.StoreFull),
        (m.Error.of(errors.ConfigError("no such type")), errors.ConfigError),
        (m.Interned(bytes(8), bytes(1), bytes(1)), errors.MstoreError),
        (m.Interned(bytes(16), bytes(2), bytes(1)), errors.MstoreError),
        (m.Done({}), errors.MstoreError),
    ],
)
def test_any_other_answer_is_an_error_where_the_question_was_asked(
    tmp_path: Path, loop: str, reply: m.Message, raised: type[Exception]
) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            server.answer = lambda message: (
                server.numbered(message) if isinstance(message, m.Hello) else reply
            )
            interner = Interner(server.path)
            with pytest.raises(raised):
                await wait_for(interner.references(keys(2)))
            server.answer = server.numbered
            assert len((await wait_for(interner.references(keys(2)))).refs) == 16
            await end(interner)

    play(loop, scene)


def test_a_question_nobody_waits_for_any_more_harms_no_other(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            interner = Interner(server.path)
            server.answer = lambda message: server.numbered(message) if isinstance(message, m.Hello) else None
            given_up = asyncio.create_task(interner.references(keys(1)))
            await until(lambda: server.asked())
            given_up.cancel()
            server.answer = server.numbered
            server.drop()
            assert len((await wait_for(interner.references(keys(1)))).refs) == 8
            await until(lambda: len(server.asked()) == 3)
            await until(lambda: not interner._waiting)
            await end(interner)

    play(loop, scene)


def test_a_closed_interner_answers_unavailable_and_connects_no_more(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        async with Server(tmp_path) as server:
            server.answer = lambda message: server.numbered(message) if isinstance(message, m.Hello) else None
            connected, waiting = Interner(server.path), Interner(tmp_path / "none.sock")
            questions = [asyncio.create_task(one.references(keys(1))) for one in (connected, waiting)]
            await until(lambda: server.asked())
            await end(connected, waiting)
            for question in questions:
                with pytest.raises(errors.Unavailable):
                    await question
            with pytest.raises(errors.Unavailable):
                await connected.references(keys(1))
            await asyncio.sleep(0.05)
            assert len(server.heard) == 2

    play(loop, scene)


# --- the persister's end


@pytest.fixture
def directory() -> Iterator[directory_rig.Rig]:
    rig = directory_rig.Rig()
    yield rig
    rig.close()


@pytest.fixture
def persister(directory: directory_rig.Rig) -> Iterator[TestPersister]:
    persister = TestPersister(directory.writer)
    yield persister
    vars(persister.interner).clear()
    vars(persister).clear()  # a logged traceback must not keep the memory


class Conversation:
    """An InternConnection without a socket."""

    def __init__(self, persister: TestPersister) -> None:
        self.connection = InternConnection(persister)  # type: ignore[arg-type]  # all that it needs of one
        self.replies: list[tuple[int, m.Message]] = []
        self.aborted = False
        self.connection.connection_made(self)  # type: ignore[arg-type]
        self.decoder = framing.FrameDecoder(1 << 30, m.TAGS)

    def write(self, data: bytes) -> None:
        self.replies += [(frame.request_id, m.decode_frame(frame)) for frame in self.decoder.feed(data)]

    def abort(self) -> None:
        self.aborted = True

    def ask(self, *messages: m.Message) -> list[m.Message]:
        """Several requests that arrive together; their replies."""
        self.replies.clear()
        self.connection.data_received(b"".join(m.encode(one, i) for i, one in enumerate(messages)))
        assert [request_id for request_id, _ in self.replies] == list(range(len(self.replies)))
        return [reply for _, reply in self.replies]


def question(*names: bytes, cluster: bytes = b"c") -> m.Intern:
    offsets = np.cumsum([0, *map(len, names)]).astype("<i8").tobytes()
    return m.Intern(cluster, b"".join(names), offsets, np.full(len(names), 1000, "<i8").tobytes())


KEY = b"load,hostname=a"


def test_definitions_are_logged_before_they_are_published_and_answered(
    directory: directory_rig.Rig, persister: TestPersister
) -> None:
    talk = Conversation(persister)
    published: list[int] = []
    append = persister.append_catalog

    def look_then_append(records: bytes) -> None:
        published.append(directory.reader.counts()["n_series"])
        assert not talk.replies
        append(records)

    persister.append_catalog = look_then_append  # type: ignore[method-assign]  # to look at the moment before
    first, second = talk.ask(question(KEY, b"load,hostname=b"), question(KEY))
    assert isinstance(first, m.Interned)
    assert isinstance(second, m.Interned)
    assert bytes(first.refs)[:8] == bytes(second.refs)
    assert published == [0], "one block for all that arrived together"
    assert directory.reader.counts()["n_series"] == 2
    directory.writer.validate()


def test_while_the_log_refuses_nothing_is_published_and_repeating_adds_nothing(
    directory: directory_rig.Rig, persister: TestPersister
) -> None:
    talk = Conversation(persister)
    persister.refusal = errors.StorageError("no space left")
    waiting = set()
    for _ in range(5):
        (reply,) = talk.ask(question(KEY))
        assert isinstance(reply, m.Error)
        assert reply.code == "storage"
        assert directory.reader.counts()["n_series"] == 0
        assert directory.reader.lookup_key(KEY, 0) == 0
        waiting.add(sum(map(len, persister.unlogged)))
    assert len(waiting) == 1
    persister.refusal = None
    (reply,) = talk.ask(question(KEY))
    assert isinstance(reply, m.Interned)
    assert directory.reader.counts()["n_series"] == 1
    directory.writer.validate()
    replica = directory_rig.Rig()
    for block in persister.log:
        replica.writer.apply_definition(block)
    replica.writer.publish()
    assert directory_rig.contents(replica.reader) == directory_rig.contents(directory.reader)
    replica.close()


def test_a_request_that_fails_half_way_is_answered_and_what_it_made_is_logged(
    directory: directory_rig.Rig, persister: TestPersister
) -> None:
    talk = Conversation(persister)

    def source(cluster: bytes, metric: bytes) -> None:
        if metric == b"broken":
            raise RuntimeError("no idea")

    directory.writer.set_metric_source(source)
    for reply in talk.ask(question(KEY, b"broken,hostname=a")):
        assert reply == m.Error("error", "the persister failed: RuntimeError: no idea")
    assert persister.log
    directory.writer.publish()
    (reply,) = talk.ask(question(KEY))
    assert isinstance(reply, m.Interned)
    assert directory.reader.counts()["n_series"] == 1
    directory.writer.validate()


@pytest.mark.parametrize(
    "request_",
    [
        m.Intern(b"c", b"load", b"123", bytes(8)), m.Intern(b"c", KEY, bytes(8), bytes(8)),
        m.Intern(b"c", b"", np.array([0, 9], "<i8").tobytes(), bytes(8)),
        m.InternPaths([["c", "a", "load", "", "", "", ""]], b"", None),
        m.InternPaths([["c", "a", "load", "", "", "", ""]], bytes(8), [None, None]),
        m.InternPaths([["c", "a", "load", "", "", "", ""]], bytes(8), [[60, "max", "f32", "", []]]),
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_an_error_and_the_next_is_answered(
    directory: directory_rig.Rig, persister: TestPersister, request_: m.Message
) -> None:
    talk = Conversation(persister)
    refused, found = talk.ask(request_, question(KEY))
    assert isinstance(refused, m.Error)
    assert isinstance(found, m.Interned)
    assert not talk.aborted
    directory.writer.validate()


def test_what_is_no_request_ends_the_connection_after_those_before_it(
    directory: directory_rig.Rig, persister: TestPersister
) -> None:
    talk = Conversation(persister)
    (found,) = talk.ask(question(KEY), m.Ping())
    assert isinstance(found, m.Interned)
    assert talk.aborted


def test_ignored_keys_are_answered_with_their_reason(
    directory: directory_rig.Rig, persister: TestPersister
) -> None:
    directory.writer.set_policy(False, 60, 1, 1000, 4000)
    (reply,) = Conversation(persister).ask(question(KEY, b"load", cluster=b""))
    assert isinstance(reply, m.Interned)
    refs = np.frombuffer(reply.refs, "<u8")
    assert (refs & np.uint64(0xFFFF_FFFF)).tolist() == [layout.IGNORE_SLOT] * 2
    assert (refs >> np.uint64(56)).tolist() == [8, 7]
