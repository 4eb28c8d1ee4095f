"""Clients of an ingest worker: what they are told and when, on both kinds of loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mstore import clock, errors
from mstore.ingest.engine import Engine
from mstore.ipc import messages as m
from mstore.workers import ingest
from tests.ingest_rig import NOW_S
from tests.worker_rig import HELLO, LOOPS, WorkerRig, frames, lines, play, quiet

MakeRig = Callable[..., WorkerRig]


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRig:
    monkeypatch.setattr(clock, "now_s", lambda: NOW_S)
    return lambda **options: WorkerRig(tmp_path, monkeypatch, **options)


# --- text


def test_the_reply_line_comes_when_everything_is_durable_and_not_before(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            store.syncing = False
            client = store.connect()
            await client.send(lines(3) + b"nonsense\n")
            client.finish()
            await store.until(lambda: len(store.stored) == 3, "three samples applied")
            await quiet()
            with pytest.raises(BlockingIOError):
                client.sock.recv(1)
            store.syncing = True
            store.drain()
            assert await client.rest() == b"written=3 rejected=1 ignored=0 durable=yes bad_syntax=1\n"

    play(loop, scene)


def test_at_level_memory_the_reply_does_not_wait_for_the_disk(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            store.syncing = False
            client = store.connect()
            await client.send(b"# mstore ack=memory\n" + lines(2))
            client.finish()
            assert await client.rest() == b"written=2 rejected=0 ignored=0 durable=no\n"

    play(loop, scene)


def test_a_last_line_of_a_new_series_without_newline_is_answered_once(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            store.syncing = False
            client = store.connect()
            await client.send(lines(1).strip())
            client.finish()
            await store.until(lambda: store.stored, "the line applied")
            await quiet()
            assert store.counter("batches") == 1
            assert len(store.worker._acks) == 1
            store.syncing = True
            store.drain()
            assert await client.rest() == b"written=1 rejected=0 ignored=0 durable=yes\n"

    play(loop, scene)


def test_a_connection_that_sends_nothing_is_answered_too(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = store.connect()
            client.finish()
            assert await client.rest() == b"written=0 rejected=0 ignored=0 durable=yes\n"

    play(loop, scene)


def test_the_unfinished_line_of_a_peer_that_is_gone_is_not_stored(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = store.connect()
            await client.send(lines(2) + lines(1, "b").strip())
            client.close()
            await store.until(lambda: store.counter("connections_open") == 0 and store.stored, "the end")
            assert store.stored == [0.0, 1.0]

    play(loop, scene)


def test_text_in_any_pieces_is_stored_in_order(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            clients = [store.connect() for _ in range(3)]
            texts = [lines(200, f"h{i}", 1000 * i) for i in range(3)]
            for at in range(0, len(texts[0]), 997):
                for client, text in zip(clients, texts, strict=True):
                    await client.send(text[at : at + 997])
            for client, text in zip(clients, texts, strict=True):
                await client.send(text[len(texts[0]) // 997 * 997 + 997 :])
                client.finish()
                assert await client.rest() == b"written=200 rejected=0 ignored=0 durable=yes\n"
            for i in range(3):
                mine = [value for value in store.stored if value // 1000 == i]
                assert mine == [1000.0 * i + k for k in range(200)]

    play(loop, scene)


def test_an_error_line_ends_a_connection_whose_header_is_wrong(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = store.connect()
            await client.send(b"# mstore colour=red\n" + lines(1))
            said = await client.rest()
            assert said.startswith(b"error=protocol 'colour=red' in the header line")
            assert said.endswith(b"\n")
            assert store.counter("errors") == 1
            assert store.stored == []

    play(loop, scene)


def test_a_full_ring_holds_the_sender_back_and_loses_nothing(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig(ring_bytes=4096) as store:
            store.applying = False
            client = store.connect(send_buffer=4096)
            text = b"".join(lines(1, f"h{i % 50}", i) for i in range(60_000))
            sending = asyncio.create_task(client.send(text))
            await store.until(lambda: store.counter("ring_full_waits"), "a full ring")
            await quiet()
            assert not sending.done(), "the socket's buffers hold it all: nothing was held back"
            store.applying = True
            store.drain()
            await sending
            client.finish()
            assert await client.rest() == b"written=60000 rejected=0 ignored=0 durable=yes\n"
            assert store.stored == [float(i) for i in range(60_000)]

    play(loop, scene)


def test_an_error_of_the_persister_is_told_and_ends_a_text_connection(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            store.persister.directory.set_metric_source(_raise)
            client = store.connect()
            await client.send(lines(1))
            assert (await client.rest()).startswith(b"error=")
            store.persister.directory.set_metric_source(None)
            assert store.stored == []
            client = store.connect()
            await client.send(lines(1))
            client.finish()
            assert await client.rest() == b"written=1 rejected=0 ignored=0 durable=yes\n"

    play(loop, scene)


def _raise(cluster: bytes, metric: bytes) -> Any:
    raise RuntimeError(f"no answer about {metric!r}")


# --- frames


def test_frames_are_answered_in_order_and_before_the_connection_half_closed(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            store.syncing = False
            client = store.connect()
            await client.send(frames(HELLO, (2, m.Lines(lines(2))), (3, m.Ping()), (4, m.Lines(lines(1)))))
            client.finish()
            replies = [await client.reply() for _ in range(2)]
            assert [request_id for request_id, _ in replies] == [1, 3]
            await store.until(lambda: len(store.stored) == 3, "all applied")
            store.syncing = True
            store.drain()
            assert await client.reply() == (2, m.Written(2, 0, 0, {}, True))
            assert await client.reply() == (4, m.Written(1, 0, 0, {}, True))
            assert await client.closed()

    play(loop, scene)


def test_a_half_closed_connection_without_requests_is_closed(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = store.connect()
            await client.hello()
            client.finish()
            assert await client.closed()

    play(loop, scene)


def test_frames_cut_anywhere_are_the_same_frames(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            data = frames(HELLO, *((i, m.Lines(lines(3, f"h{i}"))) for i in range(2, 30)))
            client = store.connect()
            for at in range(0, len(data), 101):
                await client.send(data[at : at + 101])
                await asyncio.sleep(0)
            replies = [await client.reply() for _ in range(29)]
            assert [request_id for request_id, _ in replies] == list(range(1, 30))
            assert len(store.stored) == 28 * 3

    play(loop, scene)


def test_what_comes_before_a_broken_frame_is_carried_out(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            for rubbish in (b"\x00" * 16, frames((9, m.Info())), m.encode(m.Ping(), 3)[:-1] + b"\xc1"):
                client = store.connect()
                await client.send(frames(HELLO, (2, m.Lines(lines(1)))) + rubbish)
                await client.reply()
                found = [await client.reply()]
                while found[-1][0] != 0:
                    found.append(await client.reply())
                _, error = found[-1]
                assert isinstance(error, m.Error)
                assert error.code in ("protocol", "unknown_message")
                assert await client.closed()
            await store.until(lambda: len(store.stored) == 3, "the good frames applied")

    play(loop, scene)


def test_a_version_no_longer_spoken_is_refused_with_those_that_are(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with rig() as store:
            monkeypatch.setattr(m, "OLDEST_VERSION", 2)
            client = store.connect()
            await client.send(frames(HELLO))
            request_id, error = await client.reply()
            assert request_id == 0
            assert isinstance(error, m.Error)
            assert (error.code, error.details) == ("version_mismatch", {"oldest": 2, "newest": 1})
            assert await client.closed()
            monkeypatch.undo()

    play(loop, scene)


def test_a_failure_nobody_thought_of_is_told_and_ends_only_its_connection(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with rig() as store:
            client, other = store.connect(), store.connect()
            await other.hello()
            monkeypatch.setattr(Engine, "take_lines", _broken)
            await client.send(frames(HELLO, (2, m.Lines(lines(1)))))
            await client.reply()
            request_id, error = await client.reply()
            assert (request_id, error) == (0, m.Error("error", "the ingest worker failed: ValueError: a bug"))
            assert await client.closed()
            assert (await other.ask(m.Ping()), m.Done({})) == await other.reply()

    play(loop, scene)


def _broken(*_: object, **__: object) -> None:
    raise ValueError("a bug")


# --- the end


def test_what_was_taken_before_a_stop_is_stored_and_acknowledged(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            store.syncing = False
            store.persister.refusal = errors.StorageError("no space left")
            framed, text = store.connect(), store.connect()
            await framed.hello()
            asked = await framed.ask(m.Lines(lines(1)))
            await text.send(lines(1, "b"))
            await store.until(lambda: len(store.persister.unlogged) > 0, "the definitions")
            stopping = asyncio.create_task(store.stop())
            await quiet()
            await framed.ask(m.Lines(lines(1, "never")))
            store.persister.refusal = None
            await store.until(lambda: len(store.stored) == 2, "both applied")
            store.syncing = True
            store.drain()
            assert await framed.reply() == (asked, m.Written(1, 0, 0, {}, True))
            assert await framed.closed()
            assert await text.rest() == b""
            await stopping
            assert len(store.stored) == 2

    play(loop, scene)


def test_at_a_stop_that_takes_too_long_what_waits_is_told_to_go_elsewhere(
    rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_STOP_S_MAX", 0.05)

    async def scene() -> None:
        async with rig(ring_bytes=4096) as store:
            asking, filling = store.connect(), store.connect()
            await asking.hello()
            await filling.hello()
            assert await filling.ask(m.Lines(lines(1, "b"))) == (await filling.reply())[0]
            store.applying = False
            store.persister.refusal = errors.StorageError("no space left")
            text = b"".join(lines(1, "b", i) for i in range(2000))
            waiting = [await asking.ask(m.Lines(lines(1))), await asking.ask(m.Lines(lines(1)))]
            data = frames((30, m.Lines(text)), (31, m.Lines(text)))
            sending = asyncio.create_task(filling.send(data))
            await store.until(lambda: store.counter("ring_full_waits"), "a full ring")
            await store.stop()
            request_id, error = await asking.reply()
            assert (request_id, error.code) == (waiting[0], "unavailable")
            assert (await filling.reply())[1].code == "unavailable"
            sending.cancel()

    play(loop, scene)


def test_lines_of_a_peer_that_went_away_while_they_waited_are_stored(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            store.persister.refusal = errors.StorageError("no space left")
            client = store.connect()
            await client.send(lines(2))
            await store.until(lambda: store.persister.unlogged, "the definitions")
            client.close()
            store.persister.refusal = None
            await store.until(lambda: len(store.stored) == 2, "both lines applied")
            await store.until(lambda: store.counter("connections_open") == 0, "the connection closed")
            assert store.stored == [0.0, 1.0]

    play(loop, scene)


def test_handles_of_a_closed_connection_are_counted_no_more(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            client = store.connect()
            await client.hello()
            await client.ask(m.Open([["c", "a", "load", "", "", "", ""]] * 3))
            await client.reply()
            assert store.counter("handles_open") == 3
            client.close()
            await store.until(lambda: store.counter("connections_open") == 0, "the connection closed")
            assert store.counter("handles_open") == 0

    play(loop, scene)


def test_a_configuration_that_is_broken_meanwhile_holds_no_acknowledgement_back(
    rig: MakeRig, loop: str
) -> None:
    async def scene() -> None:
        async with rig(config='max_future = "2h"\n') as store:
            client = store.connect()
            await client.hello()
            store.config_path.write_text("max_future = nonsense\n")
            store.control.config_version = 2
            asked = await client.ask(m.Lines(lines(1)))
            assert await client.reply() == (asked, m.Written(1, 0, 0, {}, True))
            assert store.worker.engine.rules.config_version == 2
            assert store.worker.engine.rules.max_future_s == 7200
            store.channels[0].send(["reload"])
            await quiet()
            store.config_path.write_text('max_future = "3h"\n')
            store.channels[0].send(["reload"])
            await store.until(
                lambda: store.worker.engine.rules.max_future_s == 10_800, "the new configuration"
            )

    play(loop, scene)


def test_a_socket_that_is_gone_before_it_is_served_harms_nobody(rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with rig() as store:
            for how in ("close", "reset"):
                client = store.connect()
                if how == "reset":
                    await client.send(b"\xc1")
                client.close()
            listener = socket.socket(socket.AF_UNIX)
            with listener:
                store.channels[0].send(["serve"], listener)
                await quiet()
            client = store.connect()
            await client.send(lines(1))
            client.finish()
            assert (await client.rest()).startswith(b"written=1 ")

    play(loop, scene)
