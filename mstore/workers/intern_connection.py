"""One ingest worker's connection to the persister: interning requests, answered at once and in order."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from mstore import __version__, limits
from mstore.errors import MstoreError, ProtocolError, UnknownMessage
from mstore.ipc import framing
from mstore.ipc import messages as m

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)


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
        try:
            for frame in self._decoder.feed(data):
                reply = self._answer(m.decode_frame(frame))
                self._transport.write(m.encode(reply, frame.request_id))
        except ProtocolError as error:
            log.error("a worker sent what is no message: %s", error)
            self._transport.abort()

    def _answer(self, message: m.Message) -> m.Message:
        try:
            if isinstance(message, m.Intern):
                directory = self._persister.directory
                return self._interned(
                    directory.intern(
                        bytes(message.keys),
                        bytes(message.offsets),
                        bytes(message.times),
                        bytes(message.cluster),
                    )
                )
            if isinstance(message, m.InternPaths):
                return self._interned(
                    self._persister.interner.paths(message.paths, bytes(message.times), message.specs)
                )
            if isinstance(message, m.Hello):
                return m.Welcome(
                    m.VERSION, self._persister.spec.instance, {}, message.ack, [], f"mstore {__version__}"
                )
        except ProtocolError:
            raise
        except MstoreError as error:
            return m.Error.of(error)
        raise UnknownMessage(f"{type(message).__name__} is not a message for the persister")

    def _interned(self, found: tuple[bytes, bytes, bytes, bytes]) -> m.Message:
        refs, types, kinds, records = found
        if records:
            self._persister.append_catalog(records)
        self._persister.directory.publish()
        return m.Interned(refs, types, kinds)
