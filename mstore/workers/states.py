"""What a process says of itself when it is asked: its connections, what it waits for, its last messages.

    supervisor  ["state", id] + memfd  ->  child writes JSON into it, answers ["done", id, {}]

A memfd, because a packet of the channel has an end and a busy worker's connections have none. A child that is
stuck answers nothing: it is missing from the reply, and its stack (stacks.py) says why.
"""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from mstore import clock
from mstore.log import recent

if TYPE_CHECKING:
    from mstore.workers.channel import Channel

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 500
"""Told one by one; more are only counted: those that wait longest come first."""
STATE_BYTES_MAX = 4 << 20
ANSWER_S_MAX = 2.0

_SO_PEERCRED_INTS = 3


class Told(Protocol):
    """A connection that can say how it is."""

    def state(self) -> dict[str, Any]: ...


def peer(transport: asyncio.Transport | None) -> dict[str, int]:
    """Process and user at the other end of a Unix socket, as the kernel noted them when it connected."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return {}
    words = array.array("i")
    try:
        words.frombytes(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED_INTS * words.itemsize)
        )
    except OSError:
        return {}
    return {"pid": words[0], "uid": words[1], "gid": words[2]}


def connections(several: Iterable[Told]) -> dict[str, Any]:
    """The states of connections, those with most bytes waiting first, and their number."""
    states = sorted(
        (one.state() for one in several), key=lambda state: (-state["waiting_bytes"], -state["age_s"])
    )
    return {"n_connections": len(states), "connections": states[:CONNECTIONS_MAX]}


def answer(channel: Channel, number: int, fd: int, describe: Callable[[], dict[str, Any]]) -> None:
    """Write what `describe` says and the last messages into `fd`, close it, say that it is done.

    A question must not end the process it is about: what goes wrong becomes the answer.
    """
    try:
        text = _text(describe)
        if len(text) > STATE_BYTES_MAX:
            text = json.dumps({"pid": os.getpid(), "error": f"its state has {len(text)} bytes"}).encode()
        with open(fd, "wb") as stream:
            stream.write(text)
    except OSError as error:  # no memory for it: the asker finds none, or half of it
        log.warning("cannot hand over the state of this process: %s", error)
    channel.send(["done", number, {}])


def _text(describe: Callable[[], dict[str, Any]]) -> bytes:
    now = {"pid": os.getpid(), "at_s": clock.now_s()}
    try:
        return json.dumps({**now, **describe(), "log": recent()}, default=str).encode()
    except Exception as error:
        log.exception("cannot tell the state of this process")
        return json.dumps({**now, "error": f"{type(error).__name__}: {error}", "log": recent()}).encode()


async def gather(
    asks: Mapping[str, Callable[[int], asyncio.Future[Any]]], wait_s: float = ANSWER_S_MAX
) -> dict[str, Any]:
    """Ask all children at once: name -> state of those that answered within wait_s.

    asks  name -> send the question with this memfd; the future is done when the child has written to it
    """
    memory: dict[str, int] = {}
    futures: dict[str, asyncio.Future[Any]] = {}
    try:
        for name, ask in asks.items():
            memory[name] = os.memfd_create(f"state-{name}")
            futures[name] = ask(memory[name])
        if futures:
            await asyncio.wait(futures.values(), timeout=wait_s)
        return {
            name: _read(memory[name])
            for name, future in futures.items()
            if future.done() and not future.cancelled() and future.exception() is None
        }
    finally:
        for future in futures.values():
            future.cancel()
        for fd in memory.values():
            os.close(fd)


def _read(fd: int) -> Any:
    try:
        return json.loads(os.pread(fd, STATE_BYTES_MAX + 1, 0))
    except ValueError as error:
        return {"error": f"unreadable: {error}"}
