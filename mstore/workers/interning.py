"""An ingest worker's line to the persister: unknown keys and paths in, references out."""

from __future__ import annotations

import asyncio
import itertools
import logging
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from mstore import limits
from mstore.errors import Degraded, MstoreError, ProtocolError, StorageError, Unavailable
from mstore.ingest.effects import NeedPaths, NeedReferences, References
from mstore.ipc import framing
from mstore.ipc import messages as m

log = logging.getLogger(__name__)

_RETRY_S = 0.1
_ASKED_AGAIN = frozenset((StorageError.code, Degraded.code, Unavailable.code))
"""Errors that say nothing about the question: the log refuses at the moment, or the persister is going away."""


class _Asked(NamedTuple):
    frame: bytes
    """The request, encoded."""
    n: int
    """How many references it asks for."""
    answer: asyncio.Future[References]


class Interner(asyncio.Protocol):
    """Requests of at most INTERN_KEYS_MAX keys, many under way at once.

    Interning is idempotent, so whatever was under way when the persister went away, and whatever it could not log
    just now, is asked again after a pause, until it works: the senders wait, and nothing is half stored. Any other
    error is raised where the question was asked.
    """

    def __init__(self, control_path: Path) -> None:
        self._path = str(control_path)
        self._transport: asyncio.Transport | None = None
        self._decoder = framing.FrameDecoder(limits.CONTROL_FRAME_BYTES_MAX, m.TAGS)
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Asked] = {}
        self._greeted = False
        self._connecting: asyncio.Task[None] | None = None
        self._pause_s = 0.0
        self._refusing = False
        self._closed = False

    async def references(self, effect: NeedReferences) -> References:
        """All references of one batch, in the order of its keys."""
        offsets = np.frombuffer(effect.offsets, dtype=np.int64)
        n, step = len(offsets) - 1, limits.INTERN_KEYS_MAX
        parts: list[tuple[m.Message, int]] = []
        for first in range(0, n, step):
            cut = offsets[first : first + step + 1]
            request = m.Intern(
                effect.cluster,
                effect.keys[cut[0] : cut[-1]],
                (cut - cut[0]).tobytes(),
                effect.times[8 * first : 8 * (first + step)],
            )
            parts.append((request, len(cut) - 1))
        return _join(await self._ask_all(parts))

    async def paths(self, effect: NeedPaths) -> References:
        """All references of some paths, in their order."""
        step = limits.INTERN_KEYS_MAX
        parts: list[tuple[m.Message, int]] = []
        for first in range(0, len(effect.paths), step):
            cut = slice(first, first + step)
            request = m.InternPaths(
                effect.paths[cut],
                effect.times[8 * first : 8 * (first + step)],
                None if effect.specs is None else effect.specs[cut],
            )
            parts.append((request, len(effect.paths[cut])))
        return _join(await self._ask_all(parts))

    async def _ask_all(self, requests: list[tuple[m.Message, int]]) -> list[References]:
        if self._closed:
            raise Unavailable("the worker is stopping")
        loop = asyncio.get_running_loop()
        answers = []
        for request, n in requests:
            request_id = next(self._ids)
            asked = _Asked(m.encode(request, request_id), n, loop.create_future())
            self._waiting[request_id] = asked
            answers.append(asked.answer)
            self._send(request_id)
        self._ensure_connected()
        return list(await asyncio.gather(*answers))

    def _send(self, request_id: int) -> None:
        """Ask, if there is somebody to ask; else the next greeting does."""
        asked = self._waiting.get(request_id)
        if asked is not None and self._greeted and self._transport is not None:
            self._transport.write(asked.frame)

    def _ensure_connected(self) -> None:
        if self._transport is None and (self._connecting is None or self._connecting.done()):
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while self._transport is None and not self._closed:
            # Not in a tight loop, when every connection is closed again at once.
            await asyncio.sleep(self._pause_s)
            self._pause_s = _RETRY_S
            try:
                await loop.create_unix_connection(lambda: self, self._path)
            except OSError as error:
                log.debug("the persister is not there: %s", error)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio.Transport but are used as one.
        self._transport = cast(asyncio.Transport, transport)
        self._decoder = framing.FrameDecoder(limits.CONTROL_FRAME_BYTES_MAX, m.TAGS)
        self._transport.write(m.encode(m.Hello(m.VERSION, "worker"), 0))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._answered(frame.request_id, m.decode_frame(frame))
        except MstoreError as error:
            log.error("the connection to the persister is broken: %s", error)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._greeted = False
        self._transport = None
        if self._waiting:
            self._ensure_connected()

    def _answered(self, request_id: int, message: m.Message) -> None:
        if request_id == 0:
            self._welcomed(message)
            return
        asked = self._waiting.get(request_id)
        if asked is None:
            return  # asked twice, for a reconnect came between a refusal and its repetition
        if isinstance(message, m.Error) and message.code in _ASKED_AGAIN and not asked.answer.done():
            if not self._refusing:
                log.warning("unknown series wait, for the persister cannot log them now: %s", message.message)
            self._refusing = True
            asyncio.get_running_loop().call_later(_RETRY_S, self._send, request_id)
            return
        del self._waiting[request_id]
        self._refusing = False
        if asked.answer.done():
            return  # whoever asked has been cancelled
        if isinstance(message, m.Error):
            asked.answer.set_exception(message.exception())
        elif not isinstance(message, m.Interned) or not _fits(message, asked.n):
            asked.answer.set_exception(
                MstoreError(
                    f"the persister answered {type(message).__name__} to a question for {asked.n} references"
                )
            )
        else:
            asked.answer.set_result(
                References(bytes(message.refs), bytes(message.types), bytes(message.kinds))
            )

    def _welcomed(self, message: m.Message) -> None:
        if not isinstance(message, m.Welcome):
            raise (
                message.exception()
                if isinstance(message, m.Error)
                else ProtocolError("no Welcome after Hello")
            )
        self._greeted = True
        for request_id in self._waiting:
            self._send(request_id)

    def close(self) -> None:
        """Answer nothing more: what is under way is Unavailable."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
        for asked in self._waiting.values():
            if not asked.answer.done():
                asked.answer.set_exception(Unavailable("the worker is stopping"))
        self._waiting.clear()


def _fits(message: m.Interned, n: int) -> bool:
    return len(message.refs) == 8 * n and len(message.types) == len(message.kinds) == n


def _join(parts: list[References]) -> References:
    return References(
        b"".join(part.refs for part in parts),
        b"".join(part.types for part in parts),
        b"".join(part.kinds for part in parts),
    )
