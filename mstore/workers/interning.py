"""An ingest worker's line to the persister: unknown keys and paths in, references out."""

from __future__ import annotations

import asyncio
import itertools
import logging
from pathlib import Path
from typing import cast

import numpy as np

from mstore import limits
from mstore.errors import MstoreError, ProtocolError, Unavailable
from mstore.ingest.effects import NeedPaths, NeedReferences, References
from mstore.ipc import framing
from mstore.ipc import messages as m

log = logging.getLogger(__name__)

_RETRY_S = 0.1


class Interner(asyncio.Protocol):
    """Requests of at most INTERN_KEYS_MAX keys, many under way at once.

    Interning is idempotent, so whatever was under way when the persister went away is simply asked again.
    """

    def __init__(self, control_path: Path) -> None:
        self._path = str(control_path)
        self._transport: asyncio.Transport | None = None
        self._decoder = framing.FrameDecoder(limits.CONTROL_FRAME_BYTES_MAX, m.TAGS)
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[m.Message, asyncio.Future[References]]] = {}
        self._greeted = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._lost = True

    async def references(self, effect: NeedReferences) -> References:
        """All references of one batch, in the order of its keys."""
        offsets = np.frombuffer(effect.offsets, dtype=np.int64)
        n, step = len(offsets) - 1, limits.INTERN_KEYS_MAX
        parts: list[m.Message] = []
        for first in range(0, n, step):
            cut = offsets[first : first + step + 1]
            parts.append(
                m.Intern(
                    effect.cluster,
                    effect.keys[cut[0] : cut[-1]],
                    (cut - cut[0]).tobytes(),
                    effect.times[8 * first : 8 * (first + step)],
                )
            )
        return _join(await self._ask_all(parts))

    async def paths(self, effect: NeedPaths) -> References:
        step = limits.INTERN_KEYS_MAX
        return _join(
            await self._ask_all(
                [
                    m.InternPaths(
                        effect.paths[first : first + step],
                        effect.times[8 * first : 8 * (first + step)],
                        None if effect.specs is None else effect.specs[first : first + step],
                    )
                    for first in range(0, len(effect.paths), step)
                ]
            )
        )

    async def _ask_all(self, requests: list[m.Message]) -> list[References]:
        loop = asyncio.get_running_loop()
        futures = []
        for request in requests:
            future: asyncio.Future[References] = loop.create_future()
            request_id = next(self._ids)
            self._waiting[request_id] = (request, future)
            futures.append(future)
            if self._greeted.is_set() and self._transport is not None:
                self._transport.write(m.encode(request, request_id))
        self._ensure_connected()
        return list(await asyncio.gather(*futures))

    def _ensure_connected(self) -> None:
        if self._lost and (self._connecting is None or self._connecting.done()):
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while self._lost:
            try:
                await loop.create_unix_connection(lambda: self, self._path)
                self._lost = False
            except OSError:
                await asyncio.sleep(_RETRY_S)

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
        except ProtocolError as error:
            log.error("the persister sent what is no message: %s", error)
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._greeted.clear()
        self._transport = None
        if self._waiting:
            self._ensure_connected()

    def _answered(self, request_id: int, message: m.Message) -> None:
        if isinstance(message, m.Welcome):
            self._greeted.set()
            assert self._transport is not None
            for waiting_id, (request, _) in self._waiting.items():
                self._transport.write(m.encode(request, waiting_id))
            return
        entry = self._waiting.pop(request_id, None)
        if entry is None or entry[1].done():
            return
        future = entry[1]
        if isinstance(message, m.Interned):
            future.set_result(References(bytes(message.refs), bytes(message.types), bytes(message.kinds)))
        elif isinstance(message, m.Error):
            future.set_exception(message.exception())
        else:
            future.set_exception(
                MstoreError(f"the persister answered {type(message).__name__} to an interning request")
            )

    def close(self) -> None:
        self._lost = False
        if self._transport is not None:
            self._transport.abort()
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the worker is stopping"))


def _join(parts: list[References]) -> References:
    return References(
        b"".join(part.refs for part in parts),
        b"".join(part.types for part in parts),
        b"".join(part.kinds for part in parts),
    )
