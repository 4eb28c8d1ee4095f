"""What may be asked at control.sock: commands, questions about the store, and an ingest worker's way to the persister.

Whatever changes processes or memory is the supervisor's own (stop, restart, reload); this is the room in front of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from mstore import config as configuration
from mstore.errors import Unavailable
from mstore.ipc import messages as m
from mstore.log import recent
from mstore.shm.directory import DirectoryReader
from mstore.workers import states
from mstore.workers.control_connection import ControlConnection
from mstore.workers.info import Place, store_info
from mstore.workers.tasks import Tasks, take_connection

if TYPE_CHECKING:
    from mstore.workers.family import Child
    from mstore.workers.supervisor import Supervisor

_ANSWERS_S_MAX = 2.0
"""For commands of a store that has ended: they only send their answers."""


class Commands:
    """Serves the connections of control.sock."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.control_connections: set[ControlConnection] = set()
        self.tasks = Tasks()

    @property
    def instance(self) -> int:
        return self._supervisor.instance

    def serve(self, sock: socket.socket) -> None:
        """Take an accepted connection over."""
        self.tasks.start(take_connection(sock, lambda: ControlConnection(self)))

    async def close(self) -> None:
        """End the connections, once the commands under way have said how they ended."""
        await self.tasks.finish(_ANSWERS_S_MAX)
        for connection in list(self.control_connections):
            connection.close()

    def info(self) -> dict[str, Any]:
        """What `info` answers while the workers that usually do are not there yet. raises Unavailable"""
        life, control = self._supervisor.life, self._supervisor.control
        if life is None or control is None:
            raise Unavailable("the store has no memory at the moment: it starts or stops")
        place = Place(str(self._supervisor.store_dir), life.instance, life.names, self._supervisor.started_s)
        directory = DirectoryReader(life.mappings["directory"].segment)
        return store_info(place, control, directory, life.mappings["samples"])

    async def command(self, message: m.Message) -> dict[str, Any]:
        """Carry out an operator's command; the details of its Done."""
        if isinstance(message, m.Stop):
            await self._supervisor.stop(message.memory)
            return {"pid": os.getpid()}
        if isinstance(message, m.Reload):
            return self._supervisor.reload()
        if isinstance(message, m.Restart):
            await self._supervisor.restart(keep=message.memory != "free")
            return {"instance": self.instance}
        if isinstance(message, m.Snapshot):
            return await self._ask_persister("snapshot")
        if isinstance(message, m.Hold):
            return await self._ask_persister("hold", message.limit_s)
        if isinstance(message, m.Protect | m.Free | m.ForceFree):
            return await self._order(message)
        if isinstance(message, m.ArchiveNow):
            return await self._ask_persister("archive", message.clusters, message.delete)
        if isinstance(message, m.States):
            return await self._states()
        return {}

    def pass_to_persister(self, sock: Any, hello: bytes) -> None:
        """Hand an ingest worker's connection on; raises Unavailable"""
        self._persister().channel.send(["worker", hello], sock)

    def release_hold(self, hold: int) -> None:
        """The connection that held the log is gone. A persister that was started meanwhile knows no such hold."""
        if self._supervisor.children:
            self._persister().channel.send(["release", hold])

    def _persister(self) -> Child:
        if not self._supervisor.children:
            raise Unavailable("the store is stopping")
        return self._supervisor.children[0]

    async def _ask_persister(self, verb: str, *arguments: Any) -> dict[str, Any]:
        return await self._supervisor.questions.ask(self._persister().channel, verb, *arguments)

    async def _order(self, message: m.Message) -> dict[str, Any]:
        """Hand a message on to the persister, in a memfd: it may be longer than a packet."""
        fd = os.memfd_create("mstore-order")
        try:
            with open(fd, "wb", closefd=False) as stream:
                stream.write(m.encode_body(message))
            asked = self._supervisor.questions.ask(self._persister().channel, "order", message.TAG, fd=fd)
        finally:
            os.close(fd)
        return await asked

    async def _states(self) -> dict[str, Any]:
        """What this process and every child that answers in time says of itself, by name."""
        supervisor = self._supervisor
        own = {
            "children": [
                {
                    "name": child.name,
                    "pid": child.process.pid if child.process is not None else 0,
                    "alive": child.alive,
                    "ready": child.ready,
                    "handed_out": child.handed_out,
                    "packets_waiting": child.channel.n_waiting,
                }
                for child in supervisor.children
            ],
            "control_connections": len(self.control_connections),
            "commands_under_way": len(supervisor.questions),
            "renewing": supervisor.renewing,
            "stopping": supervisor.is_stopping,
            "config": configuration.render(supervisor.config),
            "log": recent(),
        }
        # One that has not even taken what was sent before would only collect questions.
        able = [child for child in supervisor.children if child.alive and not child.channel.n_waiting]
        ask = {child.name: partial(self._ask_state, child) for child in able}
        return {"supervisor": {"pid": os.getpid(), **own}, **await states.gather(ask)}

    def _ask_state(self, child: Child, memory_fd: int) -> asyncio.Future[dict[str, Any]]:
        return self._supervisor.questions.ask(child.channel, "state", fd=memory_fd)
