"""One ingest worker's connection to the persister: interning requests, answered at once and in order."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from mstore import __version__, faults, limits
from mstore.errors import MstoreError, ProtocolError, UnknownMessage
from mstore.ipc import failure, framing, greeting
from mstore.ipc import messages as m
from mstore.shm.directory import Interned

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_Answer = m.Message | Interned


class InternConnection(asyncio.Protocol):
    """Definitions are in the log before their keys are published, and so before any sample that uses them."""

    def __init__(self, persister: Persister) -> None:
        self._persister = persister
        self._decoder = framing.FrameDecoder(limits.CONTROL_FRAME_BYTES_MAX, m.TAGS)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio.Transport but are used as one.
        self._transport = cast(asyncio.Transport, transport)
        self._persister.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._persister.closed(self)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        answers: list[tuple[int, _Answer]] = []
        try:
            for frame in self._decoder.feed(data):
                answers.append((frame.request_id, self._answer(m.decode_frame(frame))))
        except ProtocolError as error:
            log.error("a worker sent what is no message: %s", error)
            self._send(answers)
            self._transport.abort()
            return
        self._send(answers)

    def _send(self, answers: list[tuple[int, _Answer]]) -> None:
        """Log the definitions of all requests that arrived together as one block, publish them, then reply."""
        assert self._transport is not None
        failure: m.Message | None = None
        try:
            self._log([answer[3] for _, answer in answers if isinstance(answer, tuple)])
        except MstoreError as error:
            failure = m.Error.of(error)
        for request_id, answer in answers:
            reply = answer if isinstance(answer, m.Message) else failure or m.Interned(*answer[:3])
            self._transport.write(m.encode(reply, request_id))

    def _log(self, records: list[bytes]) -> None:
        directory = self._persister.directory
        # What a request that failed half way has made is named by no reply, but the directory holds it.
        records.append(directory.take_log())
        faults.hit("intern.made")
        if found := b"".join(records):
            self._persister.append_catalog(found)
        else:
            self._persister.log_the_unlogged()
        directory.publish()
        faults.hit("intern.published")

    def _answer(self, message: m.Message) -> _Answer:
        try:
            if isinstance(message, m.Intern | m.InternPaths):
                # Nothing new while the log refuses what is there: every retry would add to it.
                self._persister.log_the_unlogged()
                self._persister.admit()
            if isinstance(message, m.Intern):
                return self._persister.directory.intern(
                    bytes(message.keys), bytes(message.offsets), bytes(message.times), bytes(message.cluster)
                )
            if isinstance(message, m.InternPaths):
                return self._persister.interner.paths(message.paths, bytes(message.times), message.specs)
            if isinstance(message, m.Hello):
                return greeting.welcome(message, "control", self._persister.spec.instance, __version__)
        except Exception as error:
            return failure.reply_to(message, error, "the persister")
        raise UnknownMessage(f"{type(message).__name__} is not a message for the persister")
