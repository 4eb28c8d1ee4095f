"""Clients of an ingest worker that have no time: deadlines, cancelled requests, frames and readers that stall."""

from __future__ import annotations

import asyncio

import pytest

from mstore import clock, errors, limits
from mstore.ipc import messages as m
from tests.worker_rig import Client, WorkerRig, frames, lines, only, scene

# --- deadlines


@scene()
async def test_a_write_that_is_not_durable_in_time_is_a_timeout_and_gets_no_second_reply(
    store: WorkerRig,
) -> None:
    store.syncing = False
    client = await store.framed()
    late = await client.ask(m.Lines(lines(1), deadline_ms=50))
    patient = await client.ask(m.Lines(lines(1, "b"), deadline_ms=100_000))
    request_id, error = await client.reply()
    assert request_id == late
    assert isinstance(error, m.Error)
    assert isinstance(error.exception(), errors.Timeout)
    store.syncing = True
    store.drain()
    assert await client.reply() == (patient, m.Written(1, 0, 0, {}, True))
    assert (await client.ask(m.Ping()), m.Done({})) == await client.reply()
    assert store.stored == [0.0, 0.0], "a write that was answered too late may be stored"
    assert only(store)._open == {}


@scene()
async def test_the_deadline_of_hello_holds_for_requests_without_one(store: WorkerRig) -> None:
    store.syncing = False
    client = store.connect()
    await client.send(frames((1, m.Hello(1, "ingest", deadline_ms=50)), (2, m.Lines(lines(1)))))
    assert isinstance((await client.reply())[1], m.Welcome)
    request_id, error = await client.reply()
    assert request_id == 2
    assert isinstance(error, m.Error)
    assert error.code == "timeout"


@scene()
async def test_a_request_behind_one_that_waits_is_told_in_time_and_never_begun(store: WorkerRig) -> None:
    store.persister.refusal = errors.StorageError("no space left")
    client = await store.framed()
    handles = m.Columns(b"", b"", b"", 1, 50)
    requests = [(2, m.Lines(lines(1))), (3, m.Lines(lines(1, "b"), deadline_ms=50)), (4, handles)]
    await client.send(frames(*requests))
    told = [await client.reply() for _ in range(2)]
    assert [(request_id, reply.code) for request_id, reply in told] == [
        (3, "timeout"),
        (4, "timeout"),
    ]
    store.persister.refusal = None
    assert await client.reply() == (2, m.Written(1, 0, 0, {}, True))
    assert (await client.ask(m.Ping()), m.Done({})) == await client.reply()
    assert len(store.stored) == 1


@scene()
async def test_a_request_that_waits_for_a_reference_is_told_in_time(store: WorkerRig) -> None:
    store.persister.refusal = errors.Degraded("the disk fails")
    client = await store.framed()
    late = await client.ask(m.Lines(lines(1), deadline_ms=50))
    request_id, error = await client.reply()
    assert (request_id, error.code) == (late, "timeout")
    store.persister.refusal = None
    assert (await client.ask(m.Ping()), m.Done({})) == await client.reply()


# --- cancelling


@scene()
async def test_a_request_cancelled_before_it_begins_is_never_carried_out(store: WorkerRig) -> None:
    client = await store.framed()
    await client.send(frames((5, m.Lines(lines(1))), (6, m.Lines(lines(1, "b", 7))), (7, m.Cancel(5))))
    assert await client.reply() == (5, m.Error("cancelled", "cancelled by its sender"))
    assert await client.reply() == (6, m.Written(1, 0, 0, {}, True))
    assert store.stored == [7.0]
    assert store.counter("cancelled") == 1


@scene()
async def test_a_write_cancelled_while_it_waits_for_the_disk_is_answered_at_once_and_once(
    store: WorkerRig,
) -> None:
    store.syncing = False
    client = await store.framed()
    first = await client.ask(m.Lines(lines(1)))
    await store.until(lambda: store.stored, "the line applied")
    await client.send(frames((99, m.Cancel(first))))
    assert await client.reply() == (first, m.Error("cancelled", "cancelled by its sender"))
    store.syncing = True
    store.drain()
    assert (await client.ask(m.Ping()), m.Done({})) == await client.reply()


@scene()
async def test_cancelling_what_is_answered_or_was_never_asked_has_no_answer(store: WorkerRig) -> None:
    client = await store.framed()
    ping = await client.ask(m.Ping())
    assert await client.reply() == (ping, m.Done({}))
    await client.send(frames((50, m.Cancel(ping)), (51, m.Cancel(1234)), (52, m.Ping())))
    assert await client.reply() == (52, m.Done({}))
    assert store.counter("cancelled") == 0


@scene()
async def test_cancel_cannot_be_the_first_message(store: WorkerRig) -> None:
    client = store.connect()
    await client.send(frames((1, m.Cancel(1))))
    request_id, error = await client.reply()
    assert (request_id, error.code) == (0, "protocol")
    assert await client.closed()


# --- time limits


@scene()
async def test_a_frame_that_stays_unfinished_is_an_error_and_the_end(
    store: WorkerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNFINISHED_FRAME_S_MAX", 0.1)
    for cut in (7, 16, 30):
        client = await store.framed()
        await client.send(m.encode(m.Lines(lines(1)), 2)[:cut])
        request_id, error = await client.reply()
        assert (request_id, error.code) == (0, "timeout")
        assert await client.closed()
    assert store.stored == []


@scene()
async def test_an_idle_connection_has_no_timer(store: WorkerRig) -> None:
    client, text = store.connect(), store.connect()
    await client.hello()
    data = m.encode(m.Lines(lines(1), deadline_ms=60_000), 2)
    await client.send(data[:20])
    await store.until(lambda: any(one._watch for one in store.worker._connections), "half a frame")
    await client.send(data[20:])
    assert await client.reply() == (2, m.Written(1, 0, 0, {}, True))
    await text.send(b"load,cluster=c,host")
    await store.until(lambda: any(one._carry for one in store.worker._connections), "half a line")
    for connection in store.worker._connections:
        assert (connection._watch, connection._stalled, connection._open) == (None, None, {})
    await text.send(b"name=a value=1\n")
    text.finish()
    assert (await text.rest()).startswith(b"written=1 ")
    assert (await client.ask(m.Ping()), m.Done({})) == await client.reply()


@scene()
async def test_a_frame_that_the_worker_itself_does_not_read_on_is_not_held_against_its_sender(
    store: WorkerRig,
) -> None:
    store.persister.refusal = errors.StorageError("no space left")
    client = await store.framed()
    second = m.encode(m.Lines(lines(1, "b")), 3)
    await client.send(m.encode(m.Lines(lines(1)), 2) + second[:20])
    await store.until(lambda: not only(store).idle, "the first request, waiting")
    decoder = only(store)._decoder
    assert decoder is not None
    decoder.pending_since = clock.monotonic_s() - 1000
    only(store)._check_unfinished()
    assert only(store)._watch is not None, "looked at again, when somebody reads"
    store.persister.refusal = None
    assert await client.reply() == (2, m.Written(1, 0, 0, {}, True))
    assert decoder.pending_since is not None
    assert decoder.pending_since > clock.monotonic_s() - 900, "counted from when it could be sent"
    await client.send(second[20:])
    assert await client.reply() == (3, m.Written(1, 0, 0, {}, True))
    assert only(store)._watch is None


async def ask_without_reading(client: Client, n: int) -> None:
    """Pings until the socket takes no more, or n of them."""
    pings = memoryview(b"".join(m.encode(m.Ping(), i) for i in range(2, n)))
    full = 0
    while pings and full < 3:
        try:
            pings = pings[client.sock.send(pings[:65536]) :]
            full = 0
        except BlockingIOError:
            full += 1
        except BrokenPipeError:
            return
        await asyncio.sleep(0.005)


@scene()
async def test_a_reader_that_takes_nothing_is_disconnected(
    store: WorkerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STALLED_READER_S_MAX", 0.1)
    client = await store.framed(send_buffer=4096)
    await ask_without_reading(client, 100_000)
    await store.until(lambda: store.counter("connections_open") == 0, "the connection closed")
    assert store.counter("connections_total") == 1


@scene()
async def test_a_reader_that_takes_a_little_is_kept(store: WorkerRig) -> None:
    client = await store.framed(send_buffer=4096)
    await ask_without_reading(client, 100_000)
    connection = only(store)
    assert connection._stalled is not None
    taken = connection._n_taken()
    while connection._n_taken() == taken:
        await client.receive(1000)
        await asyncio.sleep(0)
    before = connection._stalled
    before.cancel()
    connection._check_reader(taken)  # what the timer would do
    assert connection._stalled not in (None, before), "looked at again later"
    reading = asyncio.create_task(client.rest())
    await store.until(lambda: connection._stalled is None, "replies taken")
    client.finish()
    await reading
    assert store.counter("connections_open") == 0
