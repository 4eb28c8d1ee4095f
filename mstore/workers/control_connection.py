"""One connection to control.sock: the store's own workers, and operators' commands."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, cast

from mstore import __version__, limits
from mstore.errors import MstoreError, NotPermitted, UnknownMessage
from mstore.ipc import failure, framing, greeting
from mstore.ipc import messages as m
from mstore.workers import states

if TYPE_CHECKING:
    from mstore.workers.commands import Commands

log = logging.getLogger(__name__)

_COMMANDS = (
    m.Stop, m.Restart, m.Reload, m.Snapshot, m.Hold, m.States, m.Protect, m.Free, m.ForceFree,
    m.ArchiveNow, m.Ping,
)  # fmt: skip


class ControlConnection(asyncio.Protocol):
    """Reads the Hello. A worker's connection is passed on to the persister, an operator's is served here."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._decoder = framing.FrameDecoder(limits.CONTROL_FRAME_BYTES_MAX, m.TAGS)
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._watch: asyncio.TimerHandle | None = None
        self._holds: list[int] = []
        """Of the log, which end with this connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio.Transport but are used as one.
        self._transport = cast(asyncio.Transport, transport)
        self._commands.control_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._commands.control_connections.discard(self)
        self._end_holds()

    def _end_holds(self) -> None:
        while self._holds:
            self._commands.release_hold(self._holds.pop())

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._handle(frame.request_id, m.decode_frame(frame))
        except MstoreError as error:
            log.info("control connection closed: %s", error)
            self.send(m.Error.of(error), 0)
            self.close()
            return
        if self._decoder.pending_since is not None and self._watch is None:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(limits.UNFINISHED_FRAME_S_MAX, self._unfinished)
        elif self._decoder.pending_since is None and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _unfinished(self) -> None:
        log.info(
            "control connection closed: a frame stayed unfinished for %d s", limits.UNFINISHED_FRAME_S_MAX
        )
        self.close()

    def _handle(self, request_id: int, message: m.Message) -> None:
        if not self._greeted:
            self._greet(request_id, greeting.accept_hello(message, "control"))
            return
        if isinstance(message, m.Info):
            self._answer_info(request_id, message)
            return
        if not isinstance(message, _COMMANDS):
            raise UnknownMessage(f"{type(message).__name__} is not a message of control.sock")
        self._commands.tasks.start(self._carry_out(request_id, message))

    def _greet(self, request_id: int, hello: m.Hello) -> None:
        assert self._transport is not None
        self._greeted = True
        sock = self._transport.get_extra_info("socket")
        if hello.role == "worker":
            uid = states.peer(self._transport).get("uid", -1)
            if uid != os.geteuid():
                raise NotPermitted(f"user {uid} is not this store's user {os.geteuid()}", uid=uid)
            # Nothing follows a Hello before its answer, so the connection can change hands here.
            self._commands.pass_to_persister(sock, m.encode(hello, request_id))
            self._transport.abort()
            return
        self.send(greeting.welcome(hello, "control", self._commands.instance, __version__), request_id)

    def _answer_info(self, request_id: int, message: m.Info) -> None:
        """From the first second of a start on, when nobody serves query.sock yet."""
        try:
            self.send(m.InfoReply(self._commands.info()), request_id)
        except Exception as error:
            self.send(failure.reply_to(message, error, "the supervisor"), request_id)

    async def _carry_out(self, request_id: int, message: m.Message) -> None:
        try:
            details = await self._commands.command(message)
            if isinstance(message, m.Hold):
                self._holds.append(details["hold"])
                if self._transport is None or self._transport.is_closing():  # nobody is there to end it
                    self._end_holds()
            self.send(m.Done(details), request_id)
        except Exception as error:
            self.send(failure.reply_to(message, error, "the supervisor"), request_id)

    def send(self, message: m.Message, request_id: int) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(m.encode(message, request_id))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
