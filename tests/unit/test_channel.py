"""Packets and descriptors between supervisor and children."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from mstore.workers.channel import Channel
from tests.worker_rig import descriptors_left


def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)


def collect(channel: Channel, n: int) -> list[tuple[list[Any], int | None]]:
    async def run() -> list[tuple[list[Any], int | None]]:
        got: list[tuple[list[Any], int | None]] = []
        done = asyncio.Event()

        def handler(packet: list[Any], fd: int | None) -> None:
            got.append((packet, fd))
            if len(got) == n:
                done.set()

        channel.serve(asyncio.get_running_loop(), handler, done.set)
        await asyncio.wait_for(done.wait(), 5)
        channel.stop()
        return got

    return asyncio.run(run())


def test_packets_arrive_whole_and_in_order_with_their_descriptors() -> None:
    sender, receiver = pair()
    passed, other = socket.socketpair()
    with passed, other:
        sender.send(["serve"], passed)
        sender.send(["reload"])
        got = collect(receiver, 2)
    assert [packet for packet, _ in got] == [["serve"], ["reload"]]
    assert got[0][1] is not None
    assert got[1][1] is None
    os.close(got[0][1])
    for one in (sender, receiver):
        one.sock.close()


def test_what_a_slow_peer_cannot_take_yet_waits_and_arrives_in_order() -> None:
    sender, receiver = pair()

    async def run() -> list[list[Any]]:
        loop = asyncio.get_running_loop()
        got: list[list[Any]] = []
        done = asyncio.Event()
        sender.serve(loop, lambda _packet, _fd: None, lambda: None)
        for i in range(2000):
            sender.send(["n", i, "x" * 200])

        def handler(packet: list[Any], _fd: int | None) -> None:
            got.append(packet)
            if len(got) == 2000:
                done.set()

        receiver.serve(loop, handler, done.set)
        await asyncio.wait_for(done.wait(), 10)
        sender.stop()
        receiver.stop()
        return got

    got = asyncio.run(run())
    assert [packet[1] for packet in got] == list(range(2000))
    for one in (sender, receiver):
        one.sock.close()


def test_a_vanished_peer_is_told_once() -> None:
    sender, receiver = pair()
    sender.sock.close()

    async def run() -> int:
        closed = 0
        gone = asyncio.Event()

        def on_closed() -> None:
            nonlocal closed
            closed += 1
            gone.set()

        receiver.serve(asyncio.get_running_loop(), lambda _packet, _fd: None, on_closed)
        await asyncio.wait_for(gone.wait(), 5)
        await asyncio.sleep(0.01)
        return closed

    assert asyncio.run(run()) == 1
    receiver.sock.close()


def test_packets_wait_in_the_pair_for_the_successor_of_a_dead_child() -> None:
    sender, receiver = pair()
    sender.send(["serve", 1])
    successor = Channel(socket.socket(fileno=os.dup(receiver.sock.fileno())))
    receiver.sock.close()
    assert [packet for packet, _ in collect(successor, 1)] == [["serve", 1]]
    sender.sock.close()
    successor.sock.close()


def test_packets_wait_in_the_pair_while_no_descriptor_is_left_for_what_they_carry() -> None:
    sender, receiver = pair()
    got: list[tuple[list[Any], int | None]] = []
    looks: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def handler(packet: list[Any], fd: int | None) -> None:
            got.append((packet, fd))
            if len(got) == 2:
                done.set()

        passed = socket.socketpair()
        sender.send(["serve"], passed[0])
        sender.send(["serve"], passed[1])
        for one in passed:
            one.close()
        with descriptors_left(1):
            receiver.serve(loop, handler, done.set, waiting=lambda: looks.append(len(got)))
            async with asyncio.timeout(5):
                while len(looks) < 3:
                    await asyncio.sleep(0.01)
            assert set(looks) == {1}, "one fits, the other waits"
            os.close(got[0][1] or -1)
            await asyncio.wait_for(done.wait(), 5)
        receiver.stop()

    asyncio.run(run())
    assert [packet for packet, _ in got] == [["serve"], ["serve"]]
    assert got[1][1] is not None
    os.close(got[1][1])
    for one in (sender, receiver):
        one.sock.close()
