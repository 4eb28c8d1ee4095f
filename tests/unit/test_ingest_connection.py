"""Clients of an ingest worker: what they are told and when, on both kinds of loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from mstore import errors
from mstore.ingest.engine import Engine
from mstore.ipc import messages as m
from mstore.shm import layout
from mstore.workers import ingest
from tests.ingest_rig import NOW_S
from tests.worker_rig import HELLO, MakeRig, descriptors_left, frames, lines, only, play, quiet

# --- text


def test_the_reply_line_comes_when_everything_is_durable_and_not_before(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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


def test_at_level_memory_the_reply_does_not_wait_for_the_disk(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            store.syncing = False
            client = store.connect()
            await client.send(b"# mstore ack=memory\n" + lines(2))
            client.finish()
            assert await client.rest() == b"written=2 rejected=0 ignored=0 durable=no\n"

    play(loop, scene)


def test_a_last_line_of_a_new_series_without_newline_is_answered_once(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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


def test_a_connection_that_ends_after_the_worker_changes_no_counter_of_its_successor(
    make_rig: MakeRig, loop: str
) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            client = store.connect()
            await client.send(lines(1))
            await store.until(lambda: store.counter("connections_open") == 1, "a connection")
            connection = only(store)
            await store.stop()
            assert store.counter("connections_open") == 0
            store.worker.closed(connection)
            assert store.counter("connections_open") == 0

    play(loop, scene)


def test_a_connection_that_sends_nothing_is_answered_too(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            client = store.connect()
            client.finish()
            assert await client.rest() == b"written=0 rejected=0 ignored=0 durable=yes\n"

    play(loop, scene)


def test_the_unfinished_line_of_a_peer_that_is_gone_is_not_stored(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            client = store.connect()
            await client.send(lines(2) + lines(1, "b").strip())
            client.close()
            await store.until(lambda: store.counter("connections_open") == 0 and store.stored, "the end")
            assert store.stored == [0.0, 1.0]

    play(loop, scene)


def test_text_in_any_pieces_is_stored_in_order(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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


def test_an_error_line_ends_a_connection_whose_header_is_wrong(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            client = store.connect()
            await client.send(b"# mstore colour=red\n" + lines(1))
            said = await client.rest()
            assert said.startswith(b"error=protocol 'colour=red' in the header line")
            assert said.endswith(b"\n")
            assert store.counter("errors") == 1
            assert store.stored == []

    play(loop, scene)


def test_a_full_ring_holds_the_sender_back_and_loses_nothing(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig(ring_bytes=4096) as store:
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


def test_room_that_comes_before_anybody_waits_for_it_wakes_who_does(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig(ring_bytes=4096) as store:
            client = store.connect()
            await client.send(b"".join(lines(1, f"h{i}") for i in range(50)))
            await store.until(lambda: len(store.stored) == 50, "series that are known")
            connection = only(store)
            text = b"".join(lines(1, f"h{i % 50}", i) for i in range(3000))
            connection.get_buffer(-1)[: len(text)] = text
            connection.buffer_updated(len(text))
            assert not connection.idle, "the ring holds all of it"
            store.drain()
            store.worker._position_moved()
            await store.until(lambda: connection.idle, "the rest")
            assert len(store.stored) + store.undrained() == 3050

    play(loop, scene)


@pytest.mark.parametrize("kind", ["text", "lines", "columns"])
def test_senders_wait_while_types_are_changed_and_lose_nothing(
    make_rig: MakeRig, loop: str, kind: str
) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            client = store.connect()
            if kind != "text":
                await client.hello()
                opened = await client.ask(m.Open([["c", "a", "load", "", "", "", ""]]))
                assert await client.reply() == (opened, m.Opened(bytes(4), b"\1", []))
            store.control.set_flag(layout.FLAG_HOLD, True)
            if kind == "text":
                await client.send(lines(3))
                client.finish()
            elif kind == "lines":
                asked = await client.ask(m.Lines(lines(3)))
            else:
                asked = await client.ask(
                    m.Columns(bytes(4), (NOW_S).to_bytes(8, "little"), bytes.fromhex("0000803f"), m.TYPE_F32)
                )
            await store.until(lambda: store.worker._connections and not only(store).idle, "the request")
            store.drain()  # wakes it: still not its turn
            await quiet()
            assert not only(store).idle
            assert store.control.worker(1).epoch % 2 == 0
            assert (store.stored, store.counter("lines")) == ([], 0)
            store.control.set_flag(layout.FLAG_HOLD, False)
            store.drain()
            if kind == "text":
                assert await client.rest() == b"written=3 rejected=0 ignored=0 durable=yes\n"
            else:
                assert await client.reply() == (asked, m.Written(len(store.stored), 0, 0, {}, True))
            assert store.stored == ([1.0] if kind == "columns" else [0.0, 1.0, 2.0])
            assert store.counter("ring_full_waits") == 0

    play(loop, scene)


def test_who_has_written_nothing_is_told_so_while_what_others_wrote_waits(
    make_rig: MakeRig, loop: str
) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            store.syncing = False
            first, second, text = (store.connect() for _ in range(3))
            await first.hello()
            await second.hello()
            asked = await first.ask(m.Lines(lines(1)))
            await store.until(lambda: store.stored, "the line")
            store.control.set_flag(layout.FLAG_FULL, True)
            refused = await second.ask(m.Lines(lines(1, "a", 5)))
            assert await second.reply() == (refused, m.Written(0, 1, 0, {"store_full": 1}, True))
            await text.send(lines(2, "a"))
            text.finish()
            assert await text.rest() == b"written=0 rejected=2 ignored=0 durable=yes store_full=2\n"
            store.syncing = True
            store.drain()
            assert await first.reply() == (asked, m.Written(1, 0, 0, {}, True))

    play(loop, scene)


def test_connections_beyond_the_limit_of_descriptors_wait_until_others_end(
    make_rig: MakeRig, loop: str
) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            first = store.connect()
            await first.send(lines(1))
            await store.until(lambda: store.stored, "the line to the persister")
            clients = [store.connect() for _ in range(5)]
            with descriptors_left(2):
                for i, client in enumerate(clients):
                    await client.send(lines(1, "a", i + 1))
                    client.finish()
                for client in clients:
                    assert await client.rest() == b"written=1 rejected=0 ignored=0 durable=yes\n"
                    assert store.counter("connections_open") <= 3
                    client.close()
                assert store.stored == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
            await first.send(lines(1, "a", 6))
            first.finish()
            assert await first.rest() == b"written=2 rejected=0 ignored=0 durable=yes\n"

    play(loop, scene)


def test_a_worker_without_descriptors_hears_that_the_store_stops(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            first = store.connect()
            await first.send(lines(1))
            await store.until(lambda: store.stored, "the line to the persister")
            waiting = store.connect()
            with descriptors_left(0):
                await quiet()
                store.control.state = layout.STATE_STOPPING
                assert await first.rest() == b""
                await asyncio.wait_for(asyncio.shield(store._task), 10)
            waiting.close()

    play(loop, scene)


def test_the_error_line_says_what_was_stored_before_it_once_that_is_durable(
    make_rig: MakeRig, loop: str
) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            client = store.connect()
            await client.send(lines(3) + b"nonsense\n")
            await store.until(lambda: len(store.stored) == 3, "the lines before")
            store.syncing = False
            await client.send(lines(2))
            await store.until(lambda: len(store.stored) == 5, "two more, in a batch of their own")
            store.persister.refusal = errors.InvalidRequest("no such thing")
            await client.send(lines(1, "b"))
            await store.until(lambda: store.counter("errors"), "the error")
            await quiet()
            with pytest.raises(BlockingIOError):
                client.sock.recv(1)
            store.persister.refusal = None
            store.syncing = True
            store.drain()
            said = b"error=invalid_request written=5 rejected=1 ignored=0 durable=yes bad_syntax=1 no such thing\n"
            assert await client.rest() == said

    play(loop, scene)


def test_an_error_of_the_persister_is_told_and_ends_a_text_connection(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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


def test_frames_are_answered_in_order_and_before_the_connection_half_closed(
    make_rig: MakeRig, loop: str
) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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


def test_a_half_closed_connection_without_requests_is_closed(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            client = store.connect()
            await client.hello()
            client.finish()
            assert await client.closed()

    play(loop, scene)


def test_frames_cut_anywhere_are_the_same_frames(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            data = frames(HELLO, *((i, m.Lines(lines(3, f"h{i}"))) for i in range(2, 30)))
            client = store.connect()
            for at in range(0, len(data), 101):
                await client.send(data[at : at + 101])
                await asyncio.sleep(0)
            replies = [await client.reply() for _ in range(29)]
            assert [request_id for request_id, _ in replies] == list(range(1, 30))
            assert len(store.stored) == 28 * 3

    play(loop, scene)


def test_what_comes_before_a_broken_frame_is_carried_out(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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
    make_rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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
    make_rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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


def test_what_was_taken_before_a_stop_is_stored_and_acknowledged(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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
    make_rig: MakeRig, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_STOP_S_MAX", 0.05)

    async def scene() -> None:
        async with make_rig(ring_bytes=4096) as store:
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


def test_lines_of_a_peer_that_went_away_while_they_waited_are_stored(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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


def test_handles_of_a_closed_connection_are_counted_no_more(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            client = store.connect()
            await client.hello()
            await client.ask(m.Open([["c", "a", "load", "", "", "", ""]] * 3))
            await client.reply()
            assert store.counter("handles_open") == 3
            client.close()
            await store.until(lambda: store.counter("connections_open") == 0, "the connection closed")
            assert store.counter("handles_open") == 0

    play(loop, scene)


def test_a_new_version_without_a_new_configuration_holds_no_acknowledgement_back(
    make_rig: MakeRig, loop: str
) -> None:
    async def scene() -> None:
        async with make_rig(config='max_future = "2h"\n') as store:
            client = store.connect()
            await client.hello()
            store.control.config_version = 2
            asked = await client.ask(m.Lines(lines(1)))
            assert await client.reply() == (asked, m.Written(1, 0, 0, {}, True))
            assert store.worker.engine.rules.config_version == 2
            assert store.worker.engine.rules.max_future_s == 7200
            store.reload('max_future = "3h"\n')
            await store.until(
                lambda: store.worker.engine.rules.max_future_s == 10_800, "the new configuration"
            )

    play(loop, scene)


def test_a_connection_that_comes_after_the_stop_is_closed_and_not_begun(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
            await store.stop()
            client = store.connect()
            assert await client.rest() == b""
            assert not store.stored

    play(loop, scene)


def test_a_socket_that_is_gone_before_it_is_served_harms_nobody(make_rig: MakeRig, loop: str) -> None:
    async def scene() -> None:
        async with make_rig() as store:
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
